/* Binds the handlers of container.c and namespace.c to their methods; opens and closes the service. */

#include "broker/lib/log.h"
#include "services/container/container.h"
#include "services/container/service.h"

#define SERVICE_LINKAGE
#define SERVICE_TYPE struct container_service
#define SERVICE_DEF  "schemas/container.def"
#include "services/lib/methods.h"

static int open_container(struct service *service, void **ret_object)
{
	struct container_service *container = calloc(1, sizeof(*container));

	if (!container)
		return error_origin(-ENOMEM);
	container->service = service;
	container->store = service_store(service);
	*ret_object = container;
	return 0;
}

static void ready(void *object)
{
	struct container_service *container = object;

	if (sweep_new(container, &container->sweep))
		log_error("out of memory: containers without a task are not removed");
}

static void close_container(void *object)
{
	struct container_service *container = object;

	sweep_free(container->sweep);
	free(container);
}

static const char *const names[] = {"container", "namespace", NULL};
static const char *const tables[] = {CONTAINER_TABLE, NAMESPACE_TABLE, AUTO_REMOVE_TABLE, NULL};
static const struct operation_type *const operations[] = {
	&container_run_operation, &container_remove_operation, &container_delete_operation, NULL};

const struct service_definition container_definition = {
	.program = "davit-container",
	.names = names,
	.methods = service_methods,
	.tables = tables,
	.directory = "container",
	.open = open_container,
	.ready = ready,
	.close = close_container,
	.operations = operations,
	.rebuild = container_rebuild,
};
