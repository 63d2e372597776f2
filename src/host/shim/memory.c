/* shm_malloc is a macro over a table of function pointers with source locations. */
#include <string.h>
#include "core/mem/shm_mem.h"
#include "bindings.h"

void *shim_shared_alloc(unsigned long size)
{
	void *block = shm_malloc(size);
	if(block)
		memset(block, 0, size);
	return block;
}
