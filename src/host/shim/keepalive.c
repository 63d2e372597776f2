/* Sending without a script: tm's request structure is filled by a macro, destinations by inline functions. */
#include <string.h>
#include "core/forward.h"
#include "core/mem/shm_mem.h"
#include "core/parser/parse_uri.h"
#include "core/resolve.h"
#include "modules/tm/tm_load.h"
#include "bindings.h"

static void (*listener)(int code, const char *about) = NULL;

void shim_set_options_listener(void (*called)(int code, const char *about))
{
	listener = called;
}

/* Its parameter is a copy of ours in shared memory: whichever process gets the answer frees it. */
static void answered(struct cell *transaction, int type, struct tmcb_params *params)
{
	char *about = (char *)*params->param;

	if(!about)
		return;
	*params->param = NULL;
	if(listener)
		listener(params->code, about);
	shm_free(about);
}

int shim_send_options(const struct tm_binds *tm, const struct shim_options *options)
{
	static str method = str_init("OPTIONS");
	uac_req_t request;
	str uri = options->uri, to = options->to, from = options->from;
	str headers = options->headers, next_hop = options->next_hop, socket = options->socket;
	char *about = shm_malloc(options->about.len + 1);

	if(!about)
		return -1;
	memcpy(about, options->about.s, options->about.len);
	about[options->about.len] = '\0';
	set_uac_req(&request, &method, headers.len > 0 ? &headers : NULL, NULL, NULL, TMCB_LOCAL_COMPLETED, answered, about);
	if(socket.len > 0)
		request.ssock = &socket;
	if(tm->t_request(&request, &uri, &to, &from, next_hop.len > 0 ? &next_hop : NULL) > 0)
		return 0;
	shm_free(about);
	return -1;
}

int shim_send_crlf(str *uri, struct socket_info *from)
{
	static char crlf[] = "\r\n\r\n";
	struct sip_uri parsed;
	struct ip_addr *address;
	struct dest_info destination;
	unsigned short port;

	if(parse_uri(uri->s, uri->len, &parsed) < 0)
		return -1;
	/* names are not looked up: that would wait */
	address = str2ip(&parsed.host);
	if(!address)
		address = str2ip6(&parsed.host);
	if(!address)
		return -1;
	port = parsed.port_no ? parsed.port_no : SIP_PORT;
	init_dest_info(&destination);
	destination.proto = parsed.proto ? parsed.proto : PROTO_UDP;
	if(init_su(&destination.to, address, port) < 0)
		return -1;
	destination.send_sock = from ? from : get_send_socket(NULL, &destination.to, destination.proto);
	if(!destination.send_sock)
		return -1;
	if(destination.proto != PROTO_UDP)
		destination.send_flags.f |= SND_F_FORCE_CON_REUSE;
	/* 1: not a SIP message */
	return msg_send_buffer(&destination, crlf, sizeof(crlf) - 1, 1);
}
