/*
 * Registration with the broker, over a plain SP connection to registry.sock: the
 * same message again and again is the heartbeat. A broker that went away is tried
 * for ever; that its socket was made anew is noticed at once (inotify).
 */

#include <string.h>
#include <sys/inotify.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/sp.h"
#include "services/lib/service_private.h"

#define REQUEST_MS       3000
#define DRAIN_MS         100 /* a broker that does not answer is not waited for */
#define RETRY_FIRST_MS   10
#define RETRY_MAX_MS     1000
#define HEARTBEAT_MAX_MS 60000

struct registration {
	struct service *service;
	struct sp_client *client;
	struct loop_timer timer; /* the next heartbeat or attempt */
	struct loop_file watch;
	int watch_fd;
	uint8_t instance[ID_SIZE];
	char *address;
	uint64_t start_time;
	unsigned n_failures;
	bool is_asking, is_registered, needs_schema, is_draining, is_drain_told;
	void (*registered_fn)(struct service *service);
	void (*drained_fn)(struct service *service);
};

static void ask(struct registration *registration);

static void tell_drained(struct registration *registration)
{
	void (*fn)(struct service *) = TAKE(registration->drained_fn);

	loop_timer_cancel(&registration->timer);
	if (fn)
		fn(registration->service);
}

static void on_timer(struct loop_timer *timer)
{
	struct registration *registration = container_of(timer, struct registration, timer);

	if (registration->is_draining)
		tell_drained(registration);
	else
		ask(registration);
}

static void ask_in(struct registration *registration, uint64_t ms)
{
	loop_timer_set(registration->service->loop, &registration->timer, time_boot_ms() + ms,
		       on_timer);
}

/* ---- the request ---- */

static int add_schema(struct registration *registration, struct registry_register_request *request)
{
	const char *const *names = registration->service->definition->names;
	_cleanup_(schema_buffer_clear) struct schema_buffer text = {};
	int r = 0;

	for (size_t i = 0; names[i] && !r; i++)
		r = schema_print_service(&text, names[i]);
	if (!r)
		r = schema_buffer_add(&text, "", 1);
	if (!r)
		r = schema_set(&request->schema, (const char *)text.data);
	return error_trace(r);
}

static int fill_request(struct registration *registration,
			struct registry_register_request *request)
{
	const struct service_definition *definition = registration->service->definition;
	_cleanup_(cleanup_free) char *program = NULL;
	int r;

	program = text_format("%s %s", definition->program, DAVIT_VERSION);
	if (!program)
		return error_origin(-ENOMEM);
	request->pid = (uint64_t)getpid();
	request->start_time = registration->start_time;
	request->protocol = ENVELOPE_VERSION;
	request->redeliver = true;
	request->draining = registration->is_draining;
	r = schema_set(&request->program, program);
	if (!r)
		r = schema_bytes_set(&request->instance, registration->instance, ID_SIZE);
	if (!r)
		r = schema_set(&request->address, registration->address);
	for (size_t i = 0; definition->names[i] && !r; i++)
		r = schema_strs_add(&request->names, definition->names[i]);
	if (!r && registration->needs_schema)
		r = add_schema(registration, request);
	return error_trace(r);
}

static int write_request(struct registration *registration, struct schema_buffer *buffer)
{
	_cleanup_(registry_register_request_clear) struct registry_register_request message = {};
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	_cleanup_(cleanup_free) struct envelope_request *envelope = calloc(1, sizeof(*envelope));
	struct schema_fault fault = {};
	int r;

	if (!envelope)
		return error_origin(-ENOMEM);
	r = fill_request(registration, &message);
	if (!r)
		r = schema_pack(schema_registry_register_request(), &message, &body, &fault);
	if (r) {
		log_error("cannot register: %s", r > 0 ? fault.text : strerror(-r));
		return error_fold(r);
	}
	id_make(envelope->id);
	envelope->deadline_ms = time_boot_ms() + REQUEST_MS;
	snprintf(envelope->namespace, sizeof(envelope->namespace), ENVELOPE_DEFAULT_NS);
	snprintf(envelope->method, sizeof(envelope->method), "registry.register");
	envelope->body = (struct schema_span){body.data, body.size};
	return error_trace(envelope_write_request(envelope, buffer));
}

/* ---- the answer ---- */

static void failed(struct registration *registration, const char *text)
{
	uint64_t wait_ms = (uint64_t)RETRY_FIRST_MS
			   << (registration->n_failures < 7 ? registration->n_failures : 7);

	if (registration->is_registered || registration->n_failures == 7)
		log_warning("not registered with the broker: %s; trying again", text);
	registration->n_failures++;
	registration->is_registered = false;
	registration->needs_schema = true;
	ask_in(registration, wait_ms < RETRY_MAX_MS ? wait_ms : RETRY_MAX_MS);
}

static void succeeded(struct registration *registration,
		      const struct registry_register_reply *reply)
{
	void (*fn)(struct service *) = TAKE(registration->registered_fn);
	uint64_t wait_ms = reply->heartbeat_ms / 2;

	if (!registration->is_registered)
		log_debug("registered with the broker");
	registration->n_failures = 0;
	registration->is_registered = true;
	registration->needs_schema = reply->need_schema;
	ask_in(registration, reply->need_schema           ? 0
			     : wait_ms < HEARTBEAT_MAX_MS ? wait_ms
							  : HEARTBEAT_MAX_MS);
	if (fn)
		fn(registration->service);
}

static void read_answer(struct registration *registration, const void *data, size_t size)
{
	_cleanup_(registry_register_reply_clear) struct registry_register_reply reply = {};
	_cleanup_(cleanup_free) struct envelope_reply *envelope = calloc(1, sizeof(*envelope));
	struct schema_fault fault = {};
	int r;

	r = envelope ? envelope_read_reply(data, size, envelope, &fault) : -ENOMEM;
	if (!r && envelope->status != BUS_OK) {
		failed(registration, envelope->text);
		return;
	}
	if (!r)
		r = schema_unpack(schema_registry_register_reply(), envelope->body.data,
				  envelope->body.size, &reply, &fault);
	if (r)
		failed(registration, r > 0 ? fault.text : strerror(-r));
	else
		succeeded(registration, &reply);
}

static void answered(void *userdata, int r, const void *data, size_t size)
{
	struct registration *registration = userdata;

	registration->is_asking = false;
	if (registration->is_draining && (r || registration->is_drain_told))
		tell_drained(registration);
	else if (registration->is_draining)
		ask(registration); /* what was answered was asked before */
	else if (!r)
		read_answer(registration, data, size);
	else
		failed(registration, r == SP_E_DEADLINE ? "it does not answer" : "it is away");
}

static void ask(struct registration *registration)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	int r;

	if (registration->is_asking)
		return;
	loop_timer_cancel(&registration->timer);
	r = write_request(registration, &buffer);
	if (!r)
		r = sp_client_request(registration->client, buffer.data, buffer.size,
				      time_boot_ms() + REQUEST_MS, answered, registration);
	if (r)
		failed(registration, r < 0 ? strerror(-r) : "the registration is too large");
	else
		registration->is_asking = true;
	if (!registration->is_draining)
		return;
	registration->is_drain_told = true;
	ask_in(registration, DRAIN_MS);
}

/* ---- a new broker ---- */

static void on_watch(struct loop_file *file, uint32_t events)
{
	struct registration *registration = container_of(file, struct registration, watch);
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	const char *name = strrchr(registration->service->paths.registry, '/') + 1;
	ssize_t size = read(file->fd, buffer, sizeof(buffer));
	bool is_new = false;

	(void)events;
	for (ssize_t at = 0; at < size;) {
		const struct inotify_event *event = (const void *)(buffer + at);

		is_new |= event->len && !strcmp(event->name, name);
		at += (ssize_t)sizeof(*event) + event->len;
	}
	if (!is_new || registration->is_draining)
		return;
	registration->n_failures = 0;
	ask(registration);
}

/* Without it the next heartbeat notices. */
static void watch(struct registration *registration)
{
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	if (fd < 0)
		return;
	if (inotify_add_watch(fd, registration->service->paths.state, IN_CREATE | IN_MOVED_TO) <
		    0 ||
	    loop_file_add(registration->service->loop, &registration->watch, fd, EPOLLIN,
			  on_watch)) {
		close_fd(fd);
		return;
	}
	registration->watch_fd = fd;
}

/* ---- life ---- */

int registration_new(struct service *service, const char *address,
		     void (*fn)(struct service *service), struct registration **ret_registration)
{
	struct registration *registration = calloc(1, sizeof(*registration));
	int r;

	if (!registration)
		return error_origin(-ENOMEM);
	registration->service = service;
	registration->watch_fd = -1;
	registration->registered_fn = fn;
	registration->needs_schema = true;
	id_make(registration->instance);
	r = schema_set(&registration->address, address);
	if (!r)
		r = process_start_time(getpid(), &registration->start_time);
	if (!r)
		r = sp_client_new(service->loop, service->paths.registry, &registration->client);
	if (r) {
		registration_free(registration);
		return error_fold(r);
	}
	watch(registration);
	ask(registration);
	*ret_registration = registration;
	return 0;
}

void registration_drain(struct registration *registration, void (*fn)(struct service *service))
{
	registration->is_draining = true;
	registration->registered_fn = NULL;
	registration->drained_fn = fn;
	if (registration->is_asking)
		ask_in(registration, DRAIN_MS);
	else
		ask(registration);
}

struct registration *registration_free(struct registration *registration)
{
	if (!registration)
		return NULL;
	loop_timer_cancel(&registration->timer);
	loop_file_remove(&registration->watch);
	close_fd(registration->watch_fd);
	sp_client_free(registration->client);
	free(registration->address);
	free(registration);
	return NULL;
}
