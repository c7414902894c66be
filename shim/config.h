#pragma once
/* <bundle>/shim.msgpack: all that a shim is told. Read once; limits are the schema's. */

#include "broker/lib/error.h"
#include "schemas/messages.h"

/* @ret_config is set only on success; every failure names the file and the field. */
int config_read(const char *path, struct shim_config *ret_config, struct why *why);
/* The checks that the schema cannot make: absolute clean paths, ids of the right size. */
int config_check(const struct shim_config *config, struct why *why);
