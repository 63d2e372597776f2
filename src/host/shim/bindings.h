/* What src/host/ needs of Kamailio: the headers that bindgen reads, and the shim's own functions. */
#ifndef SHIM_BINDINGS_H
#define SHIM_BINDINGS_H

#include "core/sr_module.h"
#include "core/mod_fix.h"
#include "core/dset.h"
#include "core/route.h"
#include "core/pt.h"
#include "core/pvar.h"
#include "core/pvapi.h"
#include "core/rpc.h"
#include "core/kemi.h"
#include "core/counters.h"
#include "core/cfg/cfg_struct.h"
#include "core/data_lump_rpl.h"
#include "core/parser/msg_parser.h"
#include "core/parser/parse_from.h"
#include "core/parser/parse_to.h"
#include "core/parser/parse_cseq.h"
#include "core/parser/parse_expires.h"
#include "core/parser/parse_methods.h"
#include "core/globals.h"
#include "core/ip_addr.h"
#include "core/socket_info.h"
#include "core/forward.h"
#include "core/xavp.h"
#include "core/rand/fastrand.h"
#include "core/data_lump.h"
#include "core/parser/parse_allow.h"
#include "core/parser/digest/digest.h"
#include "core/parser/contact/parse_contact.h"
#include "modules/tm/tm_load.h"
#include "modules/sl/sl.h"
#include "modules/auth/api.h"
#include "version.h"

/* log.c: writes one line through the server's logger; `function` is the name shown before the text. */
void shim_log(int level, const char *function, const char *text, int length);
/* log.c: whether a line of this level would be written. */
int shim_log_enabled(int level);

/* log.c: the lines which follow belong to this message: the log's prefix is made of it. */
void shim_log_begin(struct sip_msg *message);
/* log.c: the lines which follow belong to none. */
void shim_log_end(void);

/* memory.c: zeroed shared memory that lives as long as the server; NULL when there is none left. */
void *shim_shared_alloc(unsigned long size);

/* event.c: whether the configuration has this event_route. */
int shim_has_event_route(char *name);
/* event.c: runs an event_route, or without one the KEMI script's callback. Returns -1 when there is neither. */
int shim_run_event_route(char *name, str *callback);

/* keepalive.c: an OPTIONS; empty texts are left out. `about` comes back with the answer. */
struct shim_options {
	str uri;
	str to;
	str from;
	str headers;
	str next_hop;
	str socket;
	str about;
};
int shim_send_options(const struct tm_binds *tm, const struct shim_options *options);
/* keepalive.c: what is called with the code of an OPTIONS' answer (408 for none) and its `about`, in whichever process it comes.
   Set before the fork. */
void shim_set_options_listener(void (*listener)(int code, const char *about));
/* keepalive.c: two CRLFs to the address of a URI, over UDP or over a connection that is there. */
int shim_send_crlf(str *uri, struct socket_info *from);

/* lump.c: adds a header line, with its line end, to the message. Returns -1 when memory is out. */
int shim_add_header(struct sip_msg *msg, const char *line, int length);

/* config.c: takes over changed runtime configuration, as every process's main loop must. */
void shim_cfg_update(void);
/* config.c: tm's fr_timer in milliseconds (after tm's mod_init), or -1 when tm is not loaded. */
long shim_tm_fr_timer_ms(void);

/* resume.c: continues a suspended transaction: runs `first` on the message, then the route at index `route`, or none when that
   is SHIM_NO_ROUTE. Returns what t_continue returns, or -3 when there is no such route or no such function. */
#define SHIM_NO_ROUTE (-1)
int shim_resume(const struct tm_binds *tm, unsigned int hash_index, unsigned int label, char *first, int route);

/* auth.c: takes auth's realm_prefix off a realm, as auth's own functions do. */
void shim_strip_realm(str *realm);
/* auth.c: makes a WWW- or Proxy-Authenticate line with a new nonce, in private memory; 0, or -1 when it cannot be made.
   qop: 0 none, 1 auth, 2 auth-int. */
int shim_challenge(struct sip_msg *msg, int stale, str *realm, str *algorithm, int qop, int header_type, str *line);

/* dialog.c: what happened to a dialog of the module dialog. */
enum shim_dialog_moment {
	SHIM_DIALOG_CREATED,
	SHIM_DIALOG_EARLY,
	SHIM_DIALOG_ANSWERED,
	SHIM_DIALOG_REQUEST,
	SHIM_DIALOG_FAILED,
	SHIM_DIALOG_ENDED,
	SHIM_DIALOG_EXPIRED,
};
enum shim_dialog_side {
	SHIM_DIALOG_NOBODY,
	SHIM_DIALOG_CALLER,
	SHIM_DIALOG_CALLEE,
};
struct shim_dialog {
	enum shim_dialog_moment moment;
	/* The message that it happened with; NULL for none, or none of this process. */
	struct sip_msg *message;
	/* Whose message that is. */
	enum shim_dialog_side from;
	/* Whether its time is over. */
	int has_expired;
	/* With SHIM_DIALOG_FAILED and no message: the status code that this server answered. */
	int own_answer;
	str call_id;
	str caller_uri;
	str callee_uri;
	str request_uri;
	str caller_tag;
	str callee_tag;
	/* For the two functions below. */
	void *cell;
};
/* dialog.c: has `listener` called for every dialog from now on, in whichever process. In mod_init. 0, or why not. */
#define SHIM_DIALOG_NOT_LOADED (-1)
#define SHIM_DIALOG_NO_CALLBACKS (-2)
#define SHIM_DIALOG_REFUSED (-3)
int shim_dialog_follow(const struct tm_binds *tm, void (*listener)(const struct shim_dialog *dialog));
/* dialog.c: sets and reads a variable of the dialog. 0, or -1. */
int shim_dialog_set(void *cell, str *name, str *value);
int shim_dialog_get(void *cell, str *name, str *value);

/* memory.c: gives private memory back. */
void shim_private_free(void *block);

/* xavp.c: the number that a value is. Returns 0 when it is none. */
int shim_xavp_number(const sr_xval_t *value, shim_number *number);
/* xavp.c: makes a value this number. */
void shim_xavp_set_number(sr_xval_t *value, shim_number number);

/* process.c: sends `sig` to every other process of this server instance. */
void shim_signal_siblings(int sig);

#endif
