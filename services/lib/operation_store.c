/* Operations are made, stored, taken up after a crash, listed and cancelled. */

#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/lib/operation_private.h"

#define OPERATIONS_MAX       4096
#define INTERNAL_DEADLINE_MS 600000 /* of an operation that nobody called for */

static void record_key(struct store_key *key, const struct operation *operation)
{
	store_key_bytes(key, operation->record.id.data, operation->record.id.size);
}

/* ---- packing ---- */

int operation_pack(struct operation *operation, struct schema_buffer *buffer)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer context = {};
	struct schema_fault fault = {};
	int r;

	r = schema_pack(operation->type->context(), operation->context, &context, &fault);
	if (!r)
		r = schema_bytes_set(&operation->record.context, context.data, context.size);
	if (!r)
		r = schema_pack(schema_operation_record(), &operation->record, buffer, &fault);
	if (r > 0)
		log_error("operation=%s error=\"%s\"", operation->record.method, fault.text);
	return error_fold(r);
}

static int unpack_context(struct operation *operation)
{
	const struct schema_message *schema = operation->type->context();
	struct schema_fault fault = {};
	int r;

	schema_clear(schema, operation->context);
	if (!operation->record.context.size)
		return 0;
	r = schema_unpack(schema, operation->record.context.data, operation->record.context.size,
			  operation->context, &fault);
	if (r > 0)
		log_error("operation=%s error=\"%s\"", operation->record.method, fault.text);
	return error_fold(r);
}

int operation_unpack(struct operation *operation, const struct schema_buffer *buffer)
{
	struct operation_record record = {};
	int r;

	r = schema_unpack(schema_operation_record(), buffer->data, buffer->size, &record, NULL);
	if (r)
		return error_fold(r);
	operation_record_clear(&operation->record);
	operation->record = record;
	return error_trace(unpack_context(operation));
}

int operation_put(struct operation *operation)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	struct store_key key;
	int r;

	/* Brings the packed context up to date. */
	r = operation_pack(operation, &packed);
	if (r)
		return error_trace(r);
	record_key(&key, operation);
	r = store_put(operation->service->store, STORE_OPERATIONS, &key, schema_operation_record(),
		      &operation->record);
	if (!r && operation->type->starts_unstored)
		r = reply_put(operation->service, operation->call, true);
	return r;
}

int operation_delete(struct operation *operation)
{
	struct store_key key;
	int r;

	record_key(&key, operation);
	r = store_delete(operation->service->store, STORE_OPERATIONS, &key);
	return r == STORE_E_NOT_FOUND ? 0 : error_trace(r);
}

/* ---- making ---- */

void operation_leave(struct operation *operation)
{
	struct operation **at = &operation->service->operations.first;

	while (*at && *at != operation)
		at = &(*at)->next;
	if (!*at)
		return;
	*at = operation->next;
	operation->service->operations.count--;
	operation->is_gone = true;
	loop_timer_cancel(&operation->retry);
	while (operation->effects) {
		struct operation_effect *effect = operation->effects;

		/* Calls that are under way are of no use any more; the others are dropped by who has them. */
		if (!effect->call) {
			operation->effects = effect->next;
			continue;
		}
		operation_effect_free(effect);
	}
	operation_unref(operation);
}

static unsigned count_steps(const struct operation_type *type)
{
	unsigned n = 0;

	while (type->steps[n].name)
		n++;
	return n;
}

/* Takes what @record owns. The operation is in the service's list. */
static int operation_new(struct service *service, const struct operation_type *type,
			 struct operation_record *record, struct operation **ret_operation)
{
	_cleanup_(cleanup_free) void *request = calloc(1, type->request()->size + 1);
	_cleanup_(cleanup_free) void *context = calloc(1, type->context()->size + 1);
	struct operation *operation = calloc(1, sizeof(*operation));
	struct schema_fault fault = {};
	int r;

	if (!operation || !request || !context) {
		free(operation);
		return error_origin(-ENOMEM);
	}
	r = schema_unpack(type->request(), record->request.data, record->request.size, request,
			  &fault);
	if (r) {
		log_error("operation=%s error=\"%s\"", record->method, fault.text);
		free(operation);
		return error_fold(r);
	}
	operation->n_refs = 1;
	operation->service = service;
	operation->type = type;
	operation->n_steps = count_steps(type);
	operation->request = TAKE(request);
	operation->context = TAKE(context);
	operation->record = *record;
	operation->job = operation_job;
	*record = (struct operation_record){};
	operation->next = service->operations.first;
	service->operations.first = operation;
	service->operations.count++;
	*ret_operation = operation;
	return 0;
}

static void begun(void *userdata)
{
	operation_unref(userdata);
}

/* The transaction that made it was not kept. */
static void never_begun(void *userdata)
{
	struct operation *operation = userdata;

	operation->call->operation = NULL;
	if (operation->is_call_silent)
		operation->call = call_free(operation->call);
	operation_leave(operation);
	operation_unref(operation);
}

/* As it may be stored. */
static int pack_request(const struct schema_message *schema, const void *request,
			struct schema_buffer *packed, bool *ret_had_secrets)
{
	_cleanup_(cleanup_free) void *stripped = NULL;
	size_t size;
	int r;

	r = schema_pack(schema, request, packed, NULL);
	if (r || !schema_has_secrets(schema))
		return error_fold(r);
	size = packed->size;
	explicit_bzero(packed->data, packed->size);
	packed->size = 0;
	stripped = calloc(1, schema->size);
	r = stripped ? schema_copy(schema, request, stripped) : error_origin(-ENOMEM);
	if (r)
		return error_fold(r);
	schema_clear_secrets(schema, stripped);
	r = schema_pack(schema, stripped, packed, NULL);
	schema_clear(schema, stripped);
	*ret_had_secrets = packed->size != size;
	return error_fold(r);
}

static int fill_record(struct operation_record *record, const struct operation_type *type,
		       const struct call *call, const void *request, const char *object)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	int r;

	r = pack_request(type->request(), request, &packed, &record->had_secrets);
	if (r)
		return error_fold(r);
	record->state = OPERATION_RUNNING;
	record->started_at_ns = time_real_ns();
	record->deadline_ms = call->deadline_ms;
	r = schema_bytes_set(&record->id, call->id, sizeof(call->id));
	if (!r)
		r = schema_set(&record->method, type->method);
	if (!r)
		r = schema_set(&record->namespace, call->namespace);
	if (!r && object && *object)
		r = schema_set(&record->object, object);
	if (!r && type->steps[0].name)
		r = schema_set(&record->step_name, type->steps[0].name);
	if (!r)
		r = schema_bytes_set(&record->request, packed.data, packed.size);
	return error_trace(r);
}

/* The memory has the secrets that the record has not. */
static int take_request(struct operation *operation, const void *request)
{
	const struct schema_message *schema = operation->type->request();

	if (!operation->record.had_secrets)
		return 0;
	schema_clear(schema, operation->request);
	return error_trace(schema_copy(schema, request, operation->request));
}

/* Record and running reply (those of starts_unstored come later) in the innermost transaction; the first step follows in the same turn. */
static int begin(struct call *call, bool is_call_silent, const struct operation_type *type,
		 const void *request, const char *object)
{
	_cleanup_(operation_record_clear) struct operation_record record = {};
	struct service *service = call->service;
	struct operation *operation;
	int r;

	r = fill_record(&record, type, call, request, object);
	if (!r)
		r = operation_new(service, type, &record, &operation);
	if (r)
		return error_trace(r);
	operation->call = call;
	r = take_request(operation, request);
	if (!r && !type->starts_unstored)
		r = operation_put(operation) ?: reply_put(service, call, true);
	if (!r)
		r = service_after_commit(service, begun, never_begun, operation_ref(operation));
	if (r) {
		operation_leave(operation);
		return error_trace(r);
	}
	operation->is_call_silent = is_call_silent;
	call->operation = operation;
	operation_queue(operation);
	return 0;
}

static const struct operation *find_running(const struct service *service, const char *namespace,
					    const char *object)
{
	for (const struct operation *operation = service->operations.first; operation;
	     operation = operation->next)
		if (!operation->is_ended && object && operation->record.object &&
		    !strcmp(operation->record.object, object) &&
		    !strcmp(operation->record.namespace, namespace))
			return operation;
	return NULL;
}

bool operation_is_any_running(struct service *service, const char *namespace, const char *object)
{
	return find_running(service, namespace ? namespace : ENVELOPE_DEFAULT_NS, object);
}

int operation_start(struct call *call, const struct operation_type *type, const void *request,
		    const char *object, bool exclusive)
{
	struct service *service = call->service;
	const struct operation *other = exclusive ? find_running(service, call->namespace, object)
						  : NULL;
	int r;

	if (other)
		return call_fail(call, BUS_ABORTED,
				 "%s of '%s' is under way (step '%s'): try again when it has ended",
				 other->record.method, object,
				 other->record.step_name ? other->record.step_name : "last");
	if (service->operations.count >= OPERATIONS_MAX)
		return call_fail(call, BUS_RESOURCE_EXHAUSTED,
				 "%s runs %d operations already: try again when some have ended",
				 service->definition->program, OPERATIONS_MAX);
	r = begin(call, false, type, request, object);
	return r ? error_trace(r) : CALL_LATER;
}

/* ---- of the service's own ---- */

struct internal {
	struct service *service;
	const struct operation_type *type;
	const uint8_t *id;
	const char *namespace;
	const void *request;
	const char *object;
};

static int internal_call(const struct internal *internal, struct call **ret_call)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	_cleanup_(call_freep) struct call *call = NULL;
	int r;

	r = schema_pack(internal->type->request(), internal->request, &body, NULL);
	if (!r)
		r = call_new_silent(internal->service, internal->type->method, internal->id,
				    internal->namespace, time_boot_ms() + INTERNAL_DEADLINE_MS,
				    NULL, &call);
	if (!r)
		r = schema_bytes_set(&call->body, body.data, body.size);
	if (!r)
		r = reply_hash(call, call->hash);
	if (r)
		return error_fold(r);
	*ret_call = TAKE(call);
	return 0;
}

static int start_internal(void *userdata)
{
	_cleanup_(reply_record_clear) struct reply_record record = {};
	_cleanup_(call_freep) struct call *call = NULL;
	struct internal *internal = userdata;
	int r;

	if (call_find_later(internal->service, internal->id))
		return 0;
	r = internal_call(internal, &call);
	if (r)
		return error_trace(r);
	r = reply_find(internal->service, call, &record);
	if (r != REPLY_E_NOT_FOUND)
		return r == REPLY_E_OTHER || r == REPLY_E_DAMAGED ? 0 : error_trace(r);
	r = begin(call, true, internal->type, internal->request, internal->object);
	if (r)
		return error_trace(r);
	call_make_later(TAKE(call));
	return 0;
}

int operation_start_internal(struct service *service, const struct operation_type *type,
			     const uint8_t id[16], const char *namespace, const void *request,
			     const char *object)
{
	struct internal internal = {
		.service = service,
		.type = type,
		.id = id,
		.namespace = namespace,
		.request = request,
		.object = object,
	};

	return service_transact(service, start_internal, &internal);
}

/* ---- after a crash ---- */

static const struct operation_type *find_type(const struct service *service, const char *method)
{
	const struct operation_type *const *types = service->definition->operations;

	for (size_t i = 0; types && types[i]; i++)
		if (!strcmp(types[i]->method, method))
			return types[i];
	return NULL;
}

/* Steps may have been added since: its name counts, not its number. */
static void find_step(struct operation *operation)
{
	struct operation_record *record = &operation->record;

	for (unsigned i = 0; record->step_name && i < operation->n_steps; i++)
		if (!strcmp(operation->type->steps[i].name, record->step_name)) {
			record->step = i;
			break;
		}
	if (record->step > operation->n_steps)
		record->step = operation->n_steps;
	if (operation_is_undoing(operation))
		operation->undo_left = record->step < operation->n_steps
					       ? (unsigned)record->step + 1
					       : operation->n_steps;
}

/* So that the same request joins it. */
static int make_call(struct operation *operation)
{
	_cleanup_(reply_record_clear) struct reply_record reply = {};
	struct service *service = operation->service;
	struct store_key key;
	int r;

	record_key(&key, operation);
	r = store_get(service->store, STORE_REPLIES, &key, schema_reply_record(), &reply);
	if (r && r != STORE_E_NOT_FOUND && r != STORE_E_DAMAGED)
		return error_trace(r);
	if (service->is_fresh_boot)
		operation->record.deadline_ms = time_boot_ms() + ENVELOPE_DEADLINE_DEFAULT;
	r = call_new_silent(service, operation->record.method, operation->record.id.data,
			    operation->record.namespace, operation->record.deadline_ms,
			    !r && reply.body_hash.size == 16 ? reply.body_hash.data : NULL,
			    &operation->call);
	if (r)
		return error_trace(r);
	operation->call->operation = operation;
	call_make_later(operation->call);
	return 0;
}

static int take_up(void *userdata, const struct store_key *key, void *record_)
{
	struct operation_record *record = record_;
	struct service *service = userdata;
	const struct operation_type *type = find_type(service, record->method);
	struct operation *operation;
	int r;

	if (key->size != 16 || record->id.size != 16 || !type) {
		log_error("operation=%s error=\"this %s does not know it: it is left as it is\"",
			  record->method, service->definition->program);
		return 0;
	}
	r = operation_new(service, type, record, &operation);
	if (r == -ENOMEM)
		return error_trace(r);
	if (r)
		return 0; /* was logged; it stays in the store */
	r = unpack_context(operation);
	if (!r)
		r = make_call(operation);
	if (r) {
		operation_leave(operation);
		return r == -ENOTRECOVERABLE ? 0 : error_trace(r);
	}
	find_step(operation);
	operation->lacks_secrets = operation->record.had_secrets;
	return 0;
}

static void rejoined(void *userdata)
{
	struct operation *operation = userdata;

	if (operation->type->has_secrets && operation->is_waiting && !operation->is_gone)
		operation->type->has_secrets(operation);
	operation_unref(operation);
}

static void not_rejoined(void *userdata)
{
	operation_unref(userdata);
}

int operation_rejoin(struct operation *operation, const struct schema_bytes *body)
{
	const struct schema_message *schema = operation->type->request();
	_cleanup_(cleanup_free) void *request = NULL;
	int r;

	if (!operation->lacks_secrets)
		return 0;
	request = calloc(1, schema->size + 1);
	r = request ? schema_unpack(schema, body->data, body->size, request, NULL)
		    : error_origin(-ENOMEM);
	if (r)
		return error_fold(r);
	schema_clear(schema, operation->request);
	memcpy(operation->request, request, schema->size);
	operation->lacks_secrets = false;
	return error_trace(service_after_commit(operation->service, rejoined, not_rejoined,
						operation_ref(operation)));
}

int operations_open(struct service *service)
{
	return store_walk(service->store, STORE_OPERATIONS, NULL, NULL, schema_operation_record(),
			  take_up, service);
}

void operations_resume(struct service *service)
{
	for (struct operation *operation = service->operations.first; operation;
	     operation = operation->next)
		operation_queue(operation);
}

void operations_close(struct service *service)
{
	while (service->operations.first)
		operation_leave(service->operations.first);
}

/* ---- listed and cancelled ---- */

static int compare_ids(const void *a, const void *b)
{
	const struct operation_record *left = a, *right = b;

	return memcmp(left->id.data, right->id.data, 16);
}

static int describe(const struct operation *operation, struct operation_record *ret)
{
	const struct operation_record *record = &operation->record;
	int r;

	*ret = (struct operation_record){
		.state = record->state,
		.step = record->step,
		.attempt = operation->n_attempts,
		.status = record->status,
		.started_at_ns = record->started_at_ns,
		.deadline_ms = record->deadline_ms,
		.cancelled = record->cancelled,
	};
	r = schema_bytes_set(&ret->id, record->id.data, record->id.size);
	if (!r)
		r = schema_set(&ret->method, record->method);
	if (!r)
		r = schema_set(&ret->namespace, record->namespace);
	if (!r)
		r = schema_set(&ret->object, record->object);
	if (!r)
		r = schema_set(&ret->step_name, record->step_name);
	if (!r)
		r = schema_set(&ret->error, record->error);
	return error_trace(r);
}

int operation_list(struct service *service, struct call *call, struct operation_list_reply *reply)
{
	int r;

	(void)call;
	for (struct operation *operation = service->operations.first;
	     operation && reply->operations.count < 1000; operation = operation->next) {
		struct operation_record *record;

		if (operation->is_ended)
			continue;
		record = schema_list_add(&reply->operations);
		r = record ? describe(operation, record) : -ENOMEM;
		if (r)
			return error_trace(r);
	}
	if (reply->operations.count)
		qsort(reply->operations.items, reply->operations.count,
		      sizeof(*reply->operations.items), compare_ids);
	return 0;
}

static struct operation *find_id(struct service *service, const struct schema_bytes *id)
{
	struct operation *operation = service->operations.first;

	for (; operation; operation = operation->next)
		if (!operation->is_ended && id->size == operation->record.id.size &&
		    !memcmp(id->data, operation->record.id.data, id->size))
			return operation;
	return NULL;
}

static void cancelled(void *userdata)
{
	struct operation *operation = userdata;

	operation->record.cancelled = true;
	if (operation->type->cancelled && operation->is_waiting && !operation->is_gone &&
	    !operation_is_undoing(operation))
		operation->type->cancelled(operation);
	operation_unref(operation);
}

static void not_cancelled(void *userdata)
{
	operation_unref(userdata);
}

/* The store has it before the memory: a request that is undone leaves no trace. */
static int store_cancelled(struct operation *operation)
{
	int r;

	operation->record.cancelled = true;
	r = operation_put(operation);
	operation->record.cancelled = false;
	if (!r)
		r = service_after_commit(operation->service, cancelled, not_cancelled,
					 operation_ref(operation));
	return error_trace(r);
}

int operation_cancel(struct service *service, struct call *call,
		     const struct operation_cancel_request *request)
{
	struct operation *operation = find_id(service, &request->id);
	char text[ID_TEXT_SIZE] = "(not 16 bytes)";
	int r;

	if (!operation) {
		if (request->id.size == ID_SIZE)
			id_format(request->id.data, text);
		return call_fail(call, BUS_NOT_FOUND, "%s runs no operation %s",
				 service->definition->program, text);
	}
	if (operation_is_undoing(operation) || operation->record.cancelled)
		return 0;
	r = store_cancelled(operation);
	return r > 0 ? call_fail_store(call, r, "the operation") : error_trace(r);
}
