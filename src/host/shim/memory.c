/* shm_malloc and pkg_free are macros over tables of function pointers with source locations. */
#include <string.h>
#include "core/mem/mem.h"
#include "core/mem/shm_mem.h"
#include "bindings.h"

void *shim_shared_alloc(unsigned long size)
{
	void *block = shm_malloc(size);
	if(block)
		memset(block, 0, size);
	return block;
}

void shim_private_free(void *block)
{
	if(block)
		pkg_free(block);
}
