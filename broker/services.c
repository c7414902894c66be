#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "broker/lib/bus_server.h"
#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/names.h"
#include "broker/pool.h"
#include "broker/services.h"
#include "schemas/check.h"

#define INSTANCES_MAX 128
#define CHORES_MS     1000
/* Instances keep theirs; the rest is for those that come and for the curious. */
#define REGISTRY_CONNECTIONS_MAX (4 * INSTANCES_MAX)

struct instance {
	struct route_instance route;
	struct services *services;
	pid_t pid;
	uint64_t start_time, since_ns, heard_ms;
	char *address, *program;
	bool is_kept;          /* its names are in the store, with their schema */
	struct loop_file file; /* its pidfd */
	int pidfd;
};

struct services {
	struct broker *broker;
	struct bus_server *server;
	struct loop_timer timer;
	struct instance *instances[INSTANCES_MAX];
	size_t n_instances;
};

/* ---- instances ---- */

static struct instance *find_instance(const struct services *services, const uint8_t *id)
{
	for (size_t i = 0; i < services->n_instances; i++)
		if (memcmp(services->instances[i]->route.id, id, ENVELOPE_ID_SIZE) == 0)
			return services->instances[i];
	return NULL;
}

bool services_has_pid(const struct services *services, uint32_t pid)
{
	for (size_t i = 0; services && i < services->n_instances; i++)
		if ((uint32_t)services->instances[i]->pid == pid)
			return true;
	return false;
}

static void instance_freep(struct instance **at)
{
	struct instance *instance = *at;

	if (!instance)
		return;
	loop_file_remove(&instance->file);
	close_fd(instance->pidfd);
	free(instance->address);
	free(instance->program);
	free(instance);
}

/* The instance ended, or said that it will: what it has goes to the next, or is answered. */
static void end_instance(struct instance *instance)
{
	struct services *services = instance->services;
	struct broker *broker = services->broker;
	struct route_connection *connections;
	struct route_actions actions = {};

	for (size_t i = 0; i < services->n_instances; i++)
		if (services->instances[i] == instance) {
			services->instances[i] = services->instances[--services->n_instances];
			break;
		}
	connections = route_instance_gone(&broker->router, &instance->route, &actions);
	broker_perform(broker, &actions);
	pool_retire(broker->pool, connections);
	log_info("instance pid=%d of %s is gone", instance->pid,
		 instance->program ? instance->program : "a service");
	instance_freep(&instance);
}

static void on_instance_end(struct loop_file *file, uint32_t events)
{
	(void)events;
	end_instance(container_of(file, struct instance, file));
}

static int watch_instance(struct instance *instance)
{
	instance->pidfd = (int)syscall(SYS_pidfd_open, instance->pid, 0);
	if (instance->pidfd < 0)
		return error_origin(-errno);
	return loop_file_add(instance->services->broker->loop, &instance->file, instance->pidfd,
			     EPOLLIN, on_instance_end);
}

static int make_instance(struct services *services, const struct registry_register_request *request,
			 struct instance **ret_instance)
{
	_cleanup_(instance_freep) struct instance *instance = calloc(1, sizeof(*instance));
	int r;

	if (!instance)
		return error_origin(-ENOMEM);
	instance->services = services;
	instance->pidfd = -1;
	instance->pid = (pid_t)request->pid;
	instance->start_time = request->start_time;
	instance->since_ns = time_real_ns();
	memcpy(instance->route.id, request->instance.data, ENVELOPE_ID_SIZE);
	instance->route.may_redeliver = request->redeliver;
	r = schema_set(&instance->address, request->address);
	if (!r)
		r = schema_set(&instance->program, request->program);
	if (!r)
		r = watch_instance(instance);
	if (r)
		return error_trace(r);
	*ret_instance = TAKE(instance);
	return 0;
}

/* ---- connections ---- */

static void grow_instance(struct instance *instance)
{
	struct broker *broker = instance->services->broker;
	size_t wanted;
	int r;

	wanted = route_wanted_connections(&instance->route);
	r = wanted > 0 ? pool_add(broker->pool, &instance->route, instance->address, wanted) : 0;
	if (r)
		log_warning("pid=%d: no more connections to %s: %s", instance->pid,
			    instance->address, strerror(-r));
}

void services_grow(struct services *services)
{
	for (size_t i = 0; i < services->n_instances; i++)
		grow_instance(services->instances[i]);
}

/* ---- registering ---- */

/* What is wrong with @request from a peer with @pid, or NULL. */
static const char *judge_register(const struct registry_register_request *request, pid_t pid)
{
	uint64_t start_time;

	if (request->instance.size != ENVELOPE_ID_SIZE)
		return "the instance's id must have 16 bytes";
	if (request->names.count == 0)
		return "an instance registers at least one name";
	for (size_t i = 0; i < request->names.count; i++) {
		const char *name = request->names.items[i];

		if (!check_identifier(name))
			return "a service's name must be an identifier of at most 76 bytes";
		if (strchr(name, '.'))
			return "a service's name has no dot: it would be taken for a method";
		if (strcmp(name, "bus") == 0 || strcmp(name, "event") == 0 ||
		    strcmp(name, "registry") == 0)
			return "bus, event and registry are the broker's own names";
	}
	if (request->address[0] != '/')
		return "the address must be an absolute path";
	if (request->protocol == 0)
		return "the protocol version must be at least 1";
	if ((pid_t)request->pid != pid)
		return "the pid is not that of the process that registers";
	if (process_start_time(pid, &start_time) || start_time != request->start_time)
		return "the start time is not that of the process that registers";
	return NULL;
}

/* @instance becomes the one for its names. */
static enum bus_status take_names(struct services *services, struct instance *instance,
				  const struct schema_strs *names)
{
	struct route_service *found[ROUTE_NAMES_MAX] = {};
	struct broker *broker = services->broker;
	struct route_actions actions = {};
	enum bus_status status = BUS_OK;

	if (services->n_instances == INSTANCES_MAX)
		status = BUS_RESOURCE_EXHAUSTED;
	for (size_t i = 0; i < names->count && status == BUS_OK; i++) {
		found[i] = route_add_service(&broker->router, names->items[i]);
		if (!found[i])
			status = BUS_RESOURCE_EXHAUSTED;
	}
	for (size_t i = 0; i < names->count && status == BUS_OK; i++)
		route_set_instance(&broker->router, found[i], &instance->route, &actions);
	if (status == BUS_OK)
		services->instances[services->n_instances++] = instance;
	broker_perform(broker, &actions);
	return status;
}

static void set_condition(struct instance *instance, bool is_draining, bool is_silent)
{
	struct broker *broker = instance->services->broker;
	struct route_actions actions = {};

	if (instance->route.is_draining == is_draining && instance->route.is_silent == is_silent)
		return;
	route_set_condition(&broker->router, &instance->route, is_draining, is_silent, &actions);
	broker_perform(broker, &actions);
}

static enum bus_status add_instance(struct services *services,
				    const struct registry_register_request *request,
				    struct instance **ret_instance)
{
	_cleanup_(instance_freep) struct instance *instance = NULL;
	enum bus_status status;
	int r;

	r = make_instance(services, request, &instance);
	if (r)
		return r == -ESRCH ? BUS_FAILED_PRECONDITION : BUS_RESOURCE_EXHAUSTED;
	status = take_names(services, instance, &request->names);
	if (status != BUS_OK)
		return status;
	*ret_instance = TAKE(instance);
	grow_instance(*ret_instance);
	log_info("instance pid=%d of %s registered as %s%s", (*ret_instance)->pid,
		 request->program ? request->program : "a service", request->names.items[0],
		 request->names.count > 1 ? " and others" : "");
	return BUS_OK;
}

/* ---- the registry's socket ---- */

static void reply(struct bus_server_request *handle, const uint8_t *id, enum bus_status status,
		  const char *text, const struct schema_message *schema, const void *message)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {}, buffer = {};
	struct envelope_reply envelope = {.status = status};
	int r;

	memcpy(envelope.id, id, sizeof(envelope.id));
	snprintf(envelope.text, sizeof(envelope.text), "%s", text);
	r = schema ? schema_pack(schema, message, &body, NULL) : 0;
	envelope.body = (struct schema_span){body.data, body.size};
	if (!r)
		r = envelope_write_reply(&envelope, &buffer);
	if (r)
		bus_server_drop(handle);
	else
		bus_server_reply(handle, buffer.data, buffer.size);
}

/* An answer that waits until the names are in the store. */
struct pending {
	struct services *services;
	struct bus_server_request *handle;
	uint8_t id[ENVELOPE_ID_SIZE];
	bool need_schema;
};

static void on_names_kept(void *userdata, int r)
{
	_cleanup_(cleanup_free) struct pending *pending = userdata;
	struct registry_register_reply message = {
		.heartbeat_ms = SERVICES_HEARTBEAT_MS,
		.log_id = {(uint8_t *)logthread_log_id(pending->services->broker->logthread),
			   ENVELOPE_ID_SIZE},
		.need_schema = pending->need_schema,
	};

	if (r)
		reply(pending->handle, pending->id, BUS_RESOURCE_EXHAUSTED,
		      "the names could not be stored; register again in 1 s", NULL, NULL);
	else
		reply(pending->handle, pending->id, BUS_OK, "", schema_registry_register_reply(),
		      &message);
}

/* Registered, or still there: stores what is new about the names, then answers. */
static void keep_names(struct instance *instance, struct bus_server_request *handle,
		       const struct envelope_request *envelope,
		       const struct registry_register_request *request)
{
	struct pending *pending = calloc(1, sizeof(*pending));
	int r = 0;

	if (!pending) {
		bus_server_drop(handle);
		return;
	}
	*pending = (struct pending){.services = instance->services, .handle = handle};
	memcpy(pending->id, envelope->id, sizeof(pending->id));
	if (!instance->is_kept || (request->schema && request->schema[0]))
		r = names_keep(instance->services->broker, request, &pending->need_schema,
			       on_names_kept, pending);
	instance->is_kept = r == 0 && !pending->need_schema;
	if (r <= 0)
		on_names_kept(pending, r);
}

static void handle_register(struct services *services, struct bus_server_request *handle,
			    const struct envelope_request *envelope,
			    const struct registry_register_request *request, pid_t pid)
{
	const char *wrong = judge_register(request, pid);
	struct instance *instance;
	enum bus_status status = BUS_OK;

	if (wrong) {
		reply(handle, envelope->id, BUS_INVALID_ARGUMENT, wrong, NULL, NULL);
		return;
	}
	instance = find_instance(services, request->instance.data);
	if (!instance)
		status = add_instance(services, request, &instance);
	if (status != BUS_OK) {
		reply(handle, envelope->id, status,
		      "the instance cannot be registered: too many, or it is gone", NULL, NULL);
		return;
	}
	instance->heard_ms = time_boot_ms();
	set_condition(instance, request->draining, false);
	keep_names(instance, handle, envelope, request);
}

static void handle_unregister(struct services *services, struct bus_server_request *handle,
			      const struct envelope_request *envelope,
			      const struct registry_unregister_request *request, pid_t pid)
{
	struct instance *instance = request->instance.size == ENVELOPE_ID_SIZE
					    ? find_instance(services, request->instance.data)
					    : NULL;

	if (!instance || instance->pid != pid) {
		reply(handle, envelope->id, BUS_NOT_FOUND, "this process has no such instance",
		      NULL, NULL);
		return;
	}
	end_instance(instance);
	reply(handle, envelope->id, BUS_OK, "", NULL, NULL);
}

static void dispatch(struct services *services, struct bus_server_request *handle,
		     const struct envelope_request *envelope, pid_t pid)
{
	_cleanup_(registry_register_request_clear) struct registry_register_request reg = {};
	_cleanup_(registry_unregister_request_clear) struct registry_unregister_request unreg = {};
	bool is_register = strcmp(envelope->method, "registry.register") == 0;
	struct schema_fault fault = {};
	int r;

	if (!is_register && strcmp(envelope->method, "registry.unregister") != 0) {
		reply(handle, envelope->id, BUS_NOT_FOUND,
		      "the registry has the methods registry.register and registry.unregister",
		      NULL, NULL);
		return;
	}
	r = is_register ? schema_unpack(schema_registry_register_request(), envelope->body.data,
					envelope->body.size, &reg, &fault)
			: schema_unpack(schema_registry_unregister_request(), envelope->body.data,
					envelope->body.size, &unreg, &fault);
	if (r)
		reply(handle, envelope->id, BUS_INVALID_ARGUMENT, fault.text, NULL, NULL);
	else if (is_register)
		handle_register(services, handle, envelope, &reg, pid);
	else
		handle_unregister(services, handle, envelope, &unreg, pid);
}

static void on_request(void *userdata, struct bus_server_request *handle)
{
	struct services *services = userdata;
	struct envelope_request envelope;
	struct schema_fault fault = {};
	const void *data;
	size_t size;

	data = bus_server_request_data(handle, &size);
	if (envelope_read_request(data, size, &envelope, &fault))
		reply(handle, envelope.id, BUS_INVALID_ARGUMENT, fault.text, NULL, NULL);
	else
		dispatch(services, handle, &envelope, bus_server_request_peer(handle)->pid);
}

/* ---- about services ---- */

static struct instance *instance_of(const struct route_service *service)
{
	return service->instance ? container_of(service->instance, struct instance, route) : NULL;
}

static int describe(const struct route_service *service, struct bus_service *item)
{
	struct instance *instance = instance_of(service);
	int r;

	r = schema_set(&item->name, service->name);
	if (!r)
		r = schema_set(&item->state, route_service_state(service));
	item->requests = service->n_requests;
	item->errors = service->n_errors;
	item->redelivered = service->n_redelivered;
	item->in_flight = service->n_in_flight;
	item->held = route_service_held(service);
	if (r || !instance)
		return r;
	item->pid = (uint64_t)instance->pid;
	item->since_ns = instance->since_ns;
	item->connections = instance->route.n_connections;
	r = schema_set(&item->program, instance->program);
	if (!r)
		r = schema_bytes_set(&item->instance, instance->route.id, ENVELOPE_ID_SIZE);
	return r;
}

int services_list(struct services *services, struct bus_list_reply *list)
{
	struct broker *broker = services->broker;
	int r = 0;

	for (size_t i = 0; i < broker->router.n_services && !r; i++) {
		struct bus_service *item = schema_list_add(&list->services);

		r = item ? describe(broker->router.services[i], item) : -ENOMEM;
	}
	return error_trace(r);
}

enum bus_status services_forget(struct services *services, const char *name, struct why *why,
				void (*done)(void *userdata, int r), void *userdata)
{
	struct broker *broker = services->broker;
	struct route_actions actions = {};
	struct route_service *service;
	bool is_busy = false;

	service = route_find_service(&broker->router, name);
	is_busy = service && (service->instance || service->n_in_flight > 0);
	if (service && !is_busy)
		route_forget_service(&broker->router, service, &actions);
	broker_perform(broker, &actions);
	if (!service) {
		why_set(why, 0, "no service '%s' is known", name);
		return BUS_NOT_FOUND;
	}
	if (is_busy) {
		why_set(why, 0, "service '%s' is not away; stop it first", name);
		return BUS_FAILED_PRECONDITION;
	}
	if (names_forget(broker, name, done, userdata)) {
		why_set(why, 0, "the broker is out of memory; try again in 1 s");
		return BUS_RESOURCE_EXHAUSTED;
	}
	return BUS_OK;
}

/* ---- chores and life ---- */

static void on_timer(struct loop_timer *timer)
{
	struct services *services = container_of(timer, struct services, timer);
	uint64_t now = time_boot_ms();

	for (size_t i = 0; i < services->n_instances; i++) {
		struct instance *instance = services->instances[i];

		set_condition(instance, instance->route.is_draining,
			      now > instance->heard_ms + SERVICES_SILENT_MS);
		pool_trim(services->broker->pool, &instance->route);
	}
	loop_timer_set(services->broker->loop, timer, now + CHORES_MS, on_timer);
}

int services_new(struct broker *broker, const char *path, struct services **ret_services,
		 struct why *why)
{
	struct services *services = calloc(1, sizeof(*services));
	struct bus_server_options options = {
		.path = path,
		.mode = 0600,
		.only_own_uid = true,
		.connections_max = REGISTRY_CONNECTIONS_MAX,
		.n_connections = &broker->n_plain_sockets,
	};
	int r;

	if (!services)
		return error_origin(-ENOMEM);
	services->broker = broker;
	*ret_services = services;
	r = names_load(broker);
	if (!r)
		r = loop_timer_set(broker->loop, &services->timer, time_boot_ms() + CHORES_MS,
				   on_timer);
	if (!r)
		r = bus_server_new(broker->loop, &options, on_request, services, &services->server,
				   why);
	return error_trace(r);
}
