/* The logging macros expand to a dozen globals; only C can use them. */
#define MOD_NAME "cassandra"
#include "core/action.h"
#include "core/dprint.h"
#include "bindings.h"

int shim_log_enabled(int level)
{
	return get_debug_level(LOG_MNAME, LOG_MNAME_LEN) >= level;
}

void shim_log(int level, const char *function, const char *text, int length)
{
	LOG_FX(DEFAULT_FACILITY, level, NULL, LOC_INFO, function, "%.*s\n", length, text);
}

void shim_log_begin(struct sip_msg *message)
{
	log_prefix_set(message);
}

void shim_log_end(void)
{
	log_prefix_set(NULL);
}
