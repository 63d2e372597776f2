/* Dialogs: dialog's callbacks hand out its own structures, whose layout only its headers know. */
#include <dlfcn.h>
#include <time.h>
#include "core/sr_module.h"
#include "modules/dialog/dlg_load.h"
#include "modules/dialog/dlg_hash.h"
#include "modules/tm/h_table.h"
#include "bindings.h"

#define FOLLOWED \
	(DLGCB_EARLY | DLGCB_CONFIRMED_NA | DLGCB_REQ_WITHIN | DLGCB_FAILED | DLGCB_TERMINATED | DLGCB_EXPIRED)

static struct dlg_binds api;
static const struct tm_binds *tm;
static void (*listener)(const struct shim_dialog *dialog);

static enum shim_dialog_moment moment_of(int type)
{
	switch(type) {
		case DLGCB_CREATED:
			return SHIM_DIALOG_CREATED;
		case DLGCB_EARLY:
			return SHIM_DIALOG_EARLY;
		case DLGCB_CONFIRMED_NA:
			return SHIM_DIALOG_ANSWERED;
		case DLGCB_FAILED:
			return SHIM_DIALOG_FAILED;
		case DLGCB_TERMINATED:
			return SHIM_DIALOG_ENDED;
		case DLGCB_EXPIRED:
			return SHIM_DIALOG_EXPIRED;
		default:
			return SHIM_DIALOG_REQUEST;
	}
}

/* What was answered without a response from the other side: by the script, or by tm when nobody answered. */
static int own_answer(void)
{
	struct cell *transaction = tm->t_gett();
	int code = transaction && transaction != T_UNDEFINED ? transaction->uas.status : 0;

	return code >= 300 ? code : 408;
}

/* The message that it happened with, if this process has it as it came from the network: tm's copy of a request is read by
   others, too, and must not be parsed here. */
static struct sip_msg *message_of(enum shim_dialog_moment moment, const struct dlg_cb_params *params)
{
	struct sip_msg *message = params->req;

	if(moment == SHIM_DIALOG_EARLY || moment == SHIM_DIALOG_ANSWERED || moment == SHIM_DIALOG_FAILED)
		message = params->rpl;
	return message == FAKED_REPLY ? NULL : message;
}

/* Whether nobody ended it in its time. The flag alone does not tell: a dialog in a profile has the same one. */
static int has_expired(const struct dlg_cell *cell, const struct dlg_cb_params *params)
{
	int is_flagged = (cell->dflags & DLG_FLAG_EXPIRED) != 0;
	int is_of_nobody = params->direction != DLG_DIR_DOWNSTREAM && params->direction != DLG_DIR_UPSTREAM;

	/* A second more: the clock of timers is another. */
	return is_flagged && is_of_nobody && time(NULL) + 1 >= (time_t)cell->start_ts + (time_t)cell->lifetime;
}

static void happened(struct dlg_cell *cell, int type, struct dlg_cb_params *params)
{
	enum shim_dialog_moment moment = moment_of(type);
	struct shim_dialog dialog = {
			.moment = moment,
			.message = message_of(moment, params),
			.from = params->direction == DLG_DIR_DOWNSTREAM ? SHIM_DIALOG_CALLER
					: params->direction == DLG_DIR_UPSTREAM ? SHIM_DIALOG_CALLEE
															: SHIM_DIALOG_NOBODY,
			.has_expired = has_expired(cell, params),
			.call_id = cell->callid,
			.caller_uri = cell->from_uri,
			.callee_uri = cell->to_uri,
			.request_uri = cell->req_uri,
			.caller_tag = cell->tag[DLG_CALLER_LEG],
			.callee_tag = cell->tag[DLG_CALLEE_LEG],
			.cell = cell,
	};

	if(moment == SHIM_DIALOG_FAILED && !dialog.message)
		dialog.own_answer = own_answer();
	if(moment == SHIM_DIALOG_CREATED)
		api.register_dlgcb(cell, FOLLOWED, happened, NULL, NULL);
	listener(&dialog);
}

/* A dialog that was stored before a restart. */
static void loaded(struct dlg_cell *cell, int type, struct dlg_cb_params *params)
{
	api.register_dlgcb(cell, FOLLOWED, happened, NULL, NULL);
}

int shim_dialog_follow(const struct tm_binds *tm_api, void (*called)(const struct shim_dialog *dialog))
{
	load_dlg_f load = (load_dlg_f)find_export("load_dlg", 0, 0);
	const struct sr_module *module = find_module_by_name("dialog");
	const int *in_script;

	if(!load || !module)
		return SHIM_DIALOG_NOT_LOADED;
	in_script = dlsym(module->handle, "initial_cbs_inscript");
	if(in_script && *in_script == 0)
		return SHIM_DIALOG_NO_CALLBACKS;
	tm = tm_api;
	listener = called;
	if(load(&api) < 0 || api.register_dlgcb(NULL, DLGCB_CREATED, happened, NULL, NULL) < 0
			|| api.register_dlgcb(NULL, DLGCB_LOADED, loaded, NULL, NULL) < 0)
		return SHIM_DIALOG_REFUSED;
	return 0;
}

int shim_dialog_set(void *cell, str *name, str *value)
{
	return api.set_dlg_var(cell, name, value);
}

int shim_dialog_get(void *cell, str *name, str *value)
{
	return api.get_dlg_varval(cell, name, value);
}
