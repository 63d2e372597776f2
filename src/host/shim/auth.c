/* What auth exports, but not in its table of functions: modules are not in the global symbol scope. */
#include <dlfcn.h>
#include "core/sr_module.h"
#include "modules/auth/challenge.h"
#include "bindings.h"

static void *exported(const char *name)
{
	const struct sr_module *auth = find_module_by_name("auth");
	return auth ? dlsym(auth->handle, name) : NULL;
}

void shim_strip_realm(str *realm)
{
	static __typeof__(&strip_realm) strip = NULL;

	if(!strip)
		strip = (__typeof__(&strip_realm))exported("strip_realm");
	if(strip)
		strip(realm);
}

int shim_challenge(struct sip_msg *msg, int stale, str *realm, str *algorithm, int qop, int header_type, str *line)
{
	static __typeof__(&get_challenge_hf) make = NULL;
	struct qp auth = {STR_STATIC_INIT("auth"), QOP_AUTH};
	struct qp auth_int = {STR_STATIC_INIT("auth-int"), QOP_AUTHINT};
	struct qp *offered[] = {NULL, &auth, &auth_int};

	if(!make)
		make = (__typeof__(&get_challenge_hf))exported("get_challenge_hf");
	if(!make || qop < 0 || qop > 2)
		return -1;
	return make(msg, stale, realm, NULL, algorithm, offered[qop], header_type, line);
}
