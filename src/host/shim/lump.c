/* pkg_malloc is a macro over a table of function pointers; a lump owns the memory of its text. */
#include <string.h>
#include "core/data_lump.h"
#include "core/mem/mem.h"
#include "core/parser/msg_parser.h"
#include "bindings.h"

int shim_add_header(struct sip_msg *msg, const char *line, int length)
{
	struct lump *anchor;
	char *copy;

	if(parse_headers(msg, HDR_EOH_F, 0) == -1)
		return -1;
	anchor = anchor_lump(msg, msg->unparsed - msg->buf, 0, 0);
	if(!anchor)
		return -1;
	copy = pkg_malloc(length);
	if(!copy)
		return -1;
	memcpy(copy, line, length);
	if(!insert_new_lump_before(anchor, copy, length, 0)) {
		pkg_free(copy);
		return -1;
	}
	return 0;
}
