#pragma once
/*
 * runtime.process. A user is looked up in the files of a running container, which
 * may answer whenever they like (a file system of the container's own making), so
 * a child does it, beneath the root that it gets as fd 5.
 */

#include "services/lib/service.h"

/* The handler: as services/lib/service.h says of handlers. */
int process_make(struct service *service, const struct runtime_process_request *request,
		 struct runtime_process_reply *reply, struct call *call);
/* The child: davit-runtime --user USER. Returns its exit code. */
int process_user_main(const char *user);
