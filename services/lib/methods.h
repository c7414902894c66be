/*
 * Binds a service's handlers to the methods of its .def file. A service's file starts with
 *
 *	#define SERVICE_TYPE	struct container_service
 *	#define SERVICE_DEF	"schemas/container.def"
 *	#include "services/lib/methods.h"
 *
 * which declares `static int container_create(struct container_service *, const struct
 * container_create_request *, struct container_reply *, struct call *)` and so on for every METHOD line,
 * and defines the table service_methods[]. A handler that is missing or has other types does not compile.
 * No include guard: used once, by the file that has the handlers (which may live elsewhere: see SERVICE_LINKAGE).
 */

#include "services/lib/service.h"

#ifndef SERVICE_LINKAGE
#define SERVICE_LINKAGE static
#endif

/* clang-format off */
#define METHOD(service_, name_, request_, reply_, effect_, doc_)						\
	SERVICE_LINKAGE int service_##_##name_(SERVICE_TYPE *, const struct request_ *, struct reply_ *,	\
					       struct call *);							\
	static int handle_##service_##_##name_(void *object, const void *request, void *reply, struct call *call) \
	{													\
		return service_##_##name_(object, request, reply, call);					\
	}													\
	static const struct schema_method *find_##service_##_##name_(void)					\
	{													\
		return schema_find_method(#service_, #name_);							\
	}
#include SERVICE_DEF
#include "schemas/end.h"

static const struct service_method service_methods[] = {
#define METHOD(service_, name_, request_, reply_, effect_, doc_)						\
	{ .find = find_##service_##_##name_, .handler = handle_##service_##_##name_ },
#include SERVICE_DEF
#include "schemas/end.h"
	{}
};
/* clang-format on */
