/* t_continue runs a list of script actions. A resumed route must find the answer already applied to its message (Request-URI,
   branches, $cassandra(rc)), and that message exists only inside t_continue. So the list starts with a call of our own
   function, and the route's actions follow; for a KEMI script, whose callback is no list of actions, that function calls it. */
#include <string.h>
#include "core/route.h"
#include "core/route_struct.h"
#include "core/sr_module.h"
#include "bindings.h"

int shim_resume(const struct tm_binds *tm, unsigned int hash_index, unsigned int label, char *first, int route)
{
	struct action call;
	int result;
	/* looked up once: it is a search through the names of all functions of all modules */
	static ksr_cmd_export_t *function = NULL;

	if(!function)
		function = find_export_record(first, 0, 0);
	if(!function || route < SHIM_NO_ROUTE || route >= main_rt.entries)
		return -3;
	memset(&call, 0, sizeof(call));
	call.cfile = "cassandra";
	call.type = MODULE0_T;
	call.count = 2;
	call.val[0].type = MODEXP_ST;
	call.val[0].u.data = function;
	call.next = route == SHIM_NO_ROUTE ? NULL : main_rt.rlist[route];
	result = tm->t_continue(hash_index, label, &call);
	shim_log_end();
	return result;
}
