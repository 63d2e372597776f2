/* cfg_update is a macro; tm's defaults are a struct whose layout only its header knows. */
#include <dlfcn.h>
#include "core/cfg/cfg_struct.h"
#include "core/timer_ticks.h"
#include "modules/tm/config.h"
#include "bindings.h"

void shim_cfg_update(void)
{
	cfg_update();
}

long shim_tm_fr_timer_ms(void)
{
	const struct sr_module *tm = find_module_by_name("tm");
	const struct cfg_group_tm *defaults;

	if(!tm)
		return -1;
	/* modules are not in the global symbol scope */
	defaults = dlsym(tm->handle, "default_tm_cfg");
	return defaults ? (long)TICKS_TO_MS((unsigned long)defaults->fr_timeout) : -1;
}
