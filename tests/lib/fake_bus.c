#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "broker/lib/file.h"
#include "tests/lib/fake_bus.h"

struct bus {
	struct fake_call *first;
};

struct fake_call {
	struct fake_call *next;
	struct bus *bus;
	char *method, *namespace;
	uint8_t id[16];
	void *body;
	size_t size;
	bus_reply_fn fn;
	void *userdata;
	void *typed; /* owned; NULL: an untyped call */
};

static struct fake_call *call_free(struct fake_call *call)
{
	struct fake_call **at = &call->bus->first;

	while (*at != call)
		at = &(*at)->next;
	*at = call->next;
	free(call->method);
	free(call->namespace);
	free(call->body);
	free(call->typed);
	free(call);
	return NULL;
}

int bus_new(struct loop *loop, const char *bus_path, const char *events_path, struct bus **ret_bus)
{
	(void)loop;
	(void)bus_path;
	(void)events_path;
	*ret_bus = calloc(1, sizeof(**ret_bus));
	return *ret_bus ? 0 : -ENOMEM;
}

struct bus *bus_free(struct bus *bus)
{
	while (bus && bus->first)
		call_free(bus->first);
	free(bus);
	return NULL;
}

void bus_freep(struct bus **bus)
{
	*bus = bus_free(*bus);
}

int bus_call(struct bus *bus, const char *method, const struct bus_options *options,
	     const void *body, size_t size, bus_reply_fn fn, void *userdata,
	     struct bus_call **ret_call)
{
	struct fake_call *call = calloc(1, sizeof(*call)), **last = &bus->first;

	assert(call);
	call->bus = bus;
	call->method = strdup(method);
	call->namespace = strdup(options && options->namespace ? options->namespace : "default");
	if (options && options->id)
		memcpy(call->id, options->id, sizeof(call->id));
	else
		id_make(call->id);
	call->body = malloc(size + 1);
	assert(call->method && call->namespace && call->body);
	if (size)
		memcpy(call->body, body, size);
	call->size = size;
	call->fn = fn;
	call->userdata = userdata;
	while (*last)
		last = &(*last)->next;
	*last = call;
	if (ret_call)
		*ret_call = (struct bus_call *)call;
	return 0;
}

void bus_call_cancel(struct bus_call *call)
{
	call_free((struct fake_call *)call);
}

/* What a typed call is made of: lives as long as its call, in call->typed. */
struct typed {
	const struct schema_method *method;
	bus_typed_fn fn;
	void *userdata;
};

static void typed_replied(void *userdata, enum bus_status status, const char *text,
			  const void *body, size_t size)
{
	struct typed *typed = userdata;
	const struct schema_message *schema = typed->method->reply();
	void *reply = NULL;

	if (status == BUS_OK) {
		reply = calloc(1, schema->size + 1);
		if (!reply || schema_unpack(schema, body, size, reply, NULL))
			abort();
	}
	typed->fn(typed->userdata, status, text, reply);
	if (reply)
		schema_clear(schema, reply);
	free(reply);
}

int bus_call_typed(struct bus *bus, const struct schema_method *method,
		   const struct bus_options *options, const void *request, bus_typed_fn fn,
		   void *userdata, struct bus_call **ret_call)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	_cleanup_(cleanup_free) struct typed *typed = malloc(sizeof(*typed));
	_cleanup_(cleanup_free) char *name = text_format("%s.%s", method->service, method->name);
	struct bus_call *call;
	int r;

	if (!typed || !name)
		return -ENOMEM;
	*typed = (struct typed){.method = method, .fn = fn, .userdata = userdata};
	r = schema_pack(method->request(), request, &buffer, NULL);
	if (r)
		return r < 0 ? r : -EINVAL;
	r = bus_call(bus, name, options, buffer.data, buffer.size, typed_replied, typed, &call);
	if (r)
		return r;
	((struct fake_call *)call)->typed = TAKE(typed);
	if (ret_call)
		*ret_call = call;
	return 0;
}

/* Nothing under test here subscribes; a test that does needs the real bus. */
int bus_subscribe(struct bus *bus, const struct bus_filter *filter, bus_event_fn fn, void *userdata,
		  struct bus_subscription **ret_subscription)
{
	(void)bus;
	(void)filter;
	(void)fn;
	(void)userdata;
	(void)ret_subscription;
	return -ENOTSUP;
}

struct bus_subscription *bus_subscription_free(struct bus_subscription *subscription)
{
	(void)subscription;
	return NULL;
}

struct fake_call *fake_bus_find(struct bus *bus, const char *method)
{
	struct fake_call *call = bus->first;

	while (call && method && strcmp(call->method, method) != 0)
		call = call->next;
	return call;
}

unsigned fake_bus_count(struct bus *bus)
{
	unsigned n = 0;

	for (struct fake_call *call = bus->first; call; call = call->next)
		n++;
	return n;
}

const char *fake_call_method(const struct fake_call *call)
{
	return call->method;
}

const char *fake_call_namespace(const struct fake_call *call)
{
	return call->namespace;
}

const uint8_t *fake_call_id(const struct fake_call *call)
{
	return call->id;
}

const void *fake_call_body(const struct fake_call *call, size_t *ret_size)
{
	*ret_size = call->size;
	return call->body;
}

void fake_call_answer(struct fake_call *call, enum bus_status status, const char *text,
		      const struct schema_message *schema, const void *reply)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	void *typed = TAKE(call->typed);
	bus_reply_fn fn = call->fn;
	void *userdata = call->userdata;
	int r = 0;

	if (schema)
		r = schema_pack(schema, reply, &buffer, NULL);
	assert(!r);
	(void)r;
	call_free(call);
	fn(userdata, status, text, buffer.data, buffer.size);
	free(typed);
}
