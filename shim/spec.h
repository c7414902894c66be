#pragma once
/*
 * The few values of config.json that the shim checks before it lets an OCI
 * runtime read it. A scanner for these paths only, so that no JSON library is
 * linked: strict, bounded in depth, allocates only what it returns. Keys are
 * compared without case, since some runtimes read them so; one that stands
 * twice is refused, since runtimes differ in which they take. Pure.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schemas/schema.h"

struct spec {
	char *root; /* root.path */
	char *cwd;  /* process.cwd */
	bool has_uid, has_gid;
	uint64_t uid, gid;
	bool has_inheritable; /* process.capabilities.inheritable is not empty */
};

enum {
	_SPEC_E_SUCCESS,
	SPEC_E_INVALID, /* not JSON, or one of the values has another type; see the fault */
};

int spec_parse(const char *text, size_t size, struct spec *ret_spec, struct schema_fault *fault);
void spec_clear(struct spec *spec);
