/* The process table is in shared memory, behind globals. */
#include <signal.h>
#include "core/pt.h"
#include "bindings.h"

void shim_signal_siblings(int sig)
{
	int i;

	if(!pt || !process_count)
		return;
	for(i = 1; i < *process_count; i++)
		if(i != process_no && pt[i].pid > 1)
			kill(pt[i].pid, sig);
}
