/* Numbers in XAVPs: which member of the union they are depends on the version. */
#include "core/xavp.h"
#include "bindings.h"

int shim_xavp_number(const sr_xval_t *value, shim_number *number)
{
	if(value->type != SHIM_XTYPE_NUMBER)
		return 0;
	*number = value->v.SHIM_XVAL_NUMBER;
	return 1;
}

void shim_xavp_set_number(sr_xval_t *value, shim_number number)
{
	value->type = SHIM_XTYPE_NUMBER;
	value->v.SHIM_XVAL_NUMBER = number;
}
