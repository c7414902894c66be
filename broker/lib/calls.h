#pragma once
/*
 * One typed client function for each METHOD line:
 *
 *	int task_start_call(struct bus *, const struct bus_options *, const struct task_start_request *,
 *			    void (*fn)(void *userdata, enum bus_status, const char *text,
 *				       struct task_start_reply *reply), void *userdata, struct bus_call **);
 *
 * Exists for callers on a loop (bus.h). The blocking twin for tools is ask.h.
 */

#include "broker/lib/bus.h"

/* clang-format off */
#define METHOD(service_, name_, request_, reply_, effect_, doc_)						\
	typedef void (*service_##_##name_##_fn)(void *userdata, enum bus_status status, const char *text,	\
						struct reply_ *reply);						\
	static inline __attribute__((unused)) int service_##_##name_##_call(					\
		struct bus *bus, const struct bus_options *options, const struct request_ *request,		\
		service_##_##name_##_fn fn, void *userdata, struct bus_call **ret_call)				\
	{													\
		return bus_call_typed(bus, schema_find_method(#service_, #name_), options, request,		\
				      (bus_typed_fn)(void (*)(void))fn, userdata, ret_call);			\
	}
/* clang-format on */
#include "schemas/all.def"
#include "schemas/end.h"
