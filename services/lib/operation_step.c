/* What a step may use: calls to other services, effects after the commit, its failure. */

#include <stdarg.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/operation_private.h"

/* A call of an operation whose caller's deadline is near gets at least so long. */
#define CALL_MIN_MS 1000

void *operation_object(struct operation *operation)
{
	return operation->service->object;
}

struct service *operation_service(struct operation *operation)
{
	return operation->service;
}

const void *operation_request(struct operation *operation)
{
	return operation->request;
}

void *operation_context(struct operation *operation)
{
	return operation->context;
}

const uint8_t *operation_id(struct operation *operation)
{
	return operation->record.id.data;
}

const char *operation_namespace(struct operation *operation)
{
	return operation->record.namespace ? operation->record.namespace : ENVELOPE_DEFAULT_NS;
}

uint64_t operation_deadline(struct operation *operation)
{
	return operation->record.deadline_ms;
}

bool operation_is_cancelled(struct operation *operation)
{
	return operation->record.cancelled;
}

bool operation_lacks_secrets(struct operation *operation)
{
	return operation->lacks_secrets;
}

void operation_set_data(struct operation *operation, void *data, void (*free_fn)(void *))
{
	if (operation->data && operation->data_free && operation->data != data)
		operation->data_free(operation->data);
	operation->data = data;
	operation->data_free = free_fn;
}

void *operation_data(struct operation *operation)
{
	return operation->data;
}

static void __attribute__((format(printf, 3, 0)))
set_failure(struct operation *operation, enum bus_status status, const char *format,
	    va_list arguments)
{
	operation->fail_status = status == BUS_OK ? BUS_INTERNAL : status;
	vsnprintf(operation->fail_text, sizeof(operation->fail_text), format, arguments);
}

int operation_fail(struct operation *operation, enum bus_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	set_failure(operation, status, format, arguments);
	va_end(arguments);
	return OPERATION_FAILED;
}

/* ---- after the commit ---- */

struct operation_effect *operation_effect_free(struct operation_effect *effect)
{
	struct operation_effect **at;

	if (!effect)
		return NULL;
	for (at = &effect->operation->effects; *at; at = &(*at)->next)
		if (*at == effect) {
			*at = effect->next;
			break;
		}
	if (effect->call)
		bus_call_cancel(effect->call);
	schema_buffer_clear(&effect->request);
	operation_unref(effect->operation);
	free(effect);
	return NULL;
}

static void effect_drop(void *userdata)
{
	operation_effect_free(userdata);
}

static struct operation_effect *effect_new(struct operation *operation)
{
	struct operation_effect *effect = calloc(1, sizeof(*effect));

	if (!effect)
		return NULL;
	effect->operation = operation_ref(operation);
	effect->generation = operation->generation;
	effect->next = operation->effects;
	operation->effects = effect;
	return effect;
}

static bool is_stale(const struct operation_effect *effect)
{
	return effect->operation->is_gone || effect->generation != effect->operation->generation;
}

static void run_function(void *userdata)
{
	struct operation_effect *effect = userdata;
	struct operation *operation = operation_ref(effect->operation);
	void (*fn)(struct operation *) = is_stale(effect) ? NULL : effect->fn;

	operation_effect_free(effect);
	if (fn)
		fn(operation);
	operation_unref(operation);
}

int operation_after_commit(struct operation *operation, void (*fn)(struct operation *operation))
{
	struct operation_effect *effect = effect_new(operation);
	int r;

	if (!effect)
		return error_origin(-ENOMEM);
	effect->fn = fn;
	r = service_after_commit(operation->service, run_function, effect_drop, effect);
	if (r)
		operation_effect_free(effect);
	return error_trace(r);
}

/* ---- calls ---- */

/* "step", "step/what", and "undo:" before it: what the derived id is made of. */
static int derive_id(struct operation *operation, const char *what)
{
	bool is_undo = operation_is_undoing(operation);
	_cleanup_(cleanup_free) char *name = NULL;

	name = text_format("%s%s%s%s", is_undo ? "undo:" : "",
			   operation->record.step_name ? operation->record.step_name : "",
			   what ? "/" : "", what ? what : "");
	if (!name)
		return error_origin(-ENOMEM);
	id_derive(operation_id(operation), name, is_undo ? operation->n_attempts : 0,
		  operation->derived_id);
	return 0;
}

static uint64_t call_deadline_of(const struct operation *operation)
{
	uint64_t now = time_boot_ms(), deadline = operation->record.deadline_ms;

	if (operation_is_undoing(operation))
		return deadline > now + ENVELOPE_DEADLINE_DEFAULT ? deadline
								  : now + ENVELOPE_DEADLINE_DEFAULT;
	return deadline > now + CALL_MIN_MS ? deadline : now + ENVELOPE_DEADLINE_DEFAULT;
}

const struct bus_options *operation_call_options(struct operation *operation, const char *what)
{
	if (derive_id(operation, what))
		service_die(operation->service, -ENOMEM);
	operation->options = (struct bus_options){
		.namespace = operation_namespace(operation),
		.id = operation->derived_id,
		.parent = operation_id(operation),
		.deadline_ms = call_deadline_of(operation),
	};
	return &operation->options;
}

static void replied(void *userdata, enum bus_status status, const char *text, const void *body,
		    size_t size)
{
	struct operation_effect *effect = userdata;
	struct operation *operation = effect->operation;

	effect->call = NULL;
	if (is_stale(effect)) {
		operation_effect_free(effect);
		return;
	}
	operation->n_outstanding--;
	operation_queue_result(operation, effect, status, text, body, size);
}

static void send_call(void *userdata)
{
	struct operation_effect *effect = userdata;
	struct operation *operation = effect->operation;
	struct bus_options options = {
		.namespace = operation_namespace(operation),
		.id = effect->id,
		.parent = operation_id(operation),
		.deadline_ms = effect->deadline_ms,
	};
	char method[ENVELOPE_METHOD_MAX + 1];
	int r;

	if (is_stale(effect)) {
		operation_effect_free(effect);
		return;
	}
	snprintf(method, sizeof(method), "%s.%s", effect->method->service, effect->method->name);
	r = bus_call(operation->service->bus, method, &options, effect->request.data,
		     effect->request.size, replied, effect, &effect->call);
	if (r)
		replied(effect, BUS_INTERNAL, strerror(-r), NULL, 0);
}

static int pack_call(struct operation_effect *effect, const void *request)
{
	struct schema_fault fault = {};
	int r;

	r = schema_pack(effect->method->request(), request, &effect->request, &fault);
	if (r > 0)
		return operation_fail(effect->operation, BUS_INVALID_ARGUMENT, "%s", fault.text);
	if (!r)
		r = service_after_commit(effect->operation->service, send_call, effect_drop,
					 effect);
	return error_trace(r);
}

static int call(struct operation *operation, const struct schema_method *method, const char *what,
		const void *request, operation_reply_fn done, bool may_be_gone)
{
	const struct bus_options *options;
	struct operation_effect *effect;
	int r;

	effect = effect_new(operation);
	if (!effect)
		return error_origin(-ENOMEM);
	effect->method = method;
	effect->done = done;
	effect->may_be_gone = may_be_gone;
	options = operation_call_options(operation, what);
	memcpy(effect->id, options->id, sizeof(effect->id));
	effect->deadline_ms = options->deadline_ms;
	r = pack_call(effect, request);
	if (r) {
		operation_effect_free(effect);
		return r;
	}
	operation->n_outstanding++;
	return OPERATION_LATER;
}

int operation_call(struct operation *operation, const struct schema_method *method,
		   const char *what, const void *request, operation_reply_fn done)
{
	return call(operation, method, what, request, done, false);
}

int operation_call_if_any(struct operation *operation, const struct schema_method *method,
			  const char *what, const void *request, operation_reply_fn done)
{
	return call(operation, method, what, request, done, true);
}

/* ---- from later callbacks ---- */

void operation_step_done(struct operation *operation)
{
	operation_queue_result(operation, NULL, BUS_OK, "", NULL, 0);
}

void operation_step_failed(struct operation *operation, enum bus_status status, const char *format,
			   ...)
{
	char text[ENVELOPE_TEXT_MAX + 1];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	operation_queue_result(operation, NULL, status == BUS_OK ? BUS_INTERNAL : status, text,
			       NULL, 0);
}
