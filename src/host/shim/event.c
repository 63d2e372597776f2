/* Event routes run on a message of the server's own; the context of a route is a macro's business. */
#include "core/action.h"
#include "core/fmsg.h"
#include "core/kemi.h"
#include "core/receive.h"
#include "core/route.h"
#include "bindings.h"

int shim_has_event_route(char *name)
{
	int index = route_lookup(&event_rt, name);
	return index >= 0 && event_rt.rlist[index] != NULL;
}

int shim_run_event_route(char *name, str *callback)
{
	int index = route_lookup(&event_rt, name);
	int has_route = index >= 0 && event_rt.rlist[index] != NULL;
	int type = get_route_type();
	struct run_act_ctx context;
	sr_kemi_eng_t *engine = sr_kemi_eng_get();
	str event = {name, strlen(name)};
	sip_msg_t *message;

	if(!has_route && (!engine || callback->len <= 0))
		return -1;
	if(faked_msg_init() < 0)
		return -1;
	message = faked_msg_next();
	set_route_type(EVENT_ROUTE);
	init_run_actions_ctx(&context);
	if(has_route)
		run_top_route(event_rt.rlist[index], message, &context);
	else
		sr_kemi_route(engine, message, EVENT_ROUTE, callback, &event);
	set_route_type(type);
	ksr_msg_env_reset();
	return 0;
}
