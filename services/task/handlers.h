#pragma once
/* Prototypes of all handlers, which lie in several files. */

#include "services/task/task.h"

/* clang-format off */
#define METHOD(service_, name_, request_, reply_, effect_, doc_)					\
	int service_##_##name_(struct task_service *service, const struct request_ *request,		\
			       struct reply_ *reply, struct call *call);
/* clang-format on */
#include "schemas/task.def"
#include "schemas/end.h"
