#include "shim/requests.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "shim/shim.h"

#define SPARE_SIZE 256 /* what the reply of a start, or of a deletion, takes at most */

void request_refuse(struct shim *shim, const struct call *call, enum bus_status status,
		    const char *format, ...)
{
	char text[ENVELOPE_TEXT_MAX + 1];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	control_answer(&shim->control, call, status, text, NULL);
}

/* ---- repeated ones ------------------------------------------------------- */

static void refuse_other_body(struct shim *shim, const struct call *call,
			      const struct schema_method *method)
{
	request_refuse(shim, call, BUS_INVALID_ARGUMENT,
		       "this request id was used for another request (shim.%s)", method->name);
}

static bool repeats_answer(struct shim *shim, const struct call *call)
{
	const struct answer *kept = answers_find(&shim->requests.answers, call->id);

	if (!kept)
		return false;
	/* The start of a create that was asked to start is journaled under the same id. */
	if (kept->method != call->method || (kept->body_crc && kept->body_crc != call->body_crc))
		refuse_other_body(shim, call, kept->method);
	else
		control_answer_packed(&shim->control, call, kept->status, kept->text ?: "",
				      (struct schema_span){kept->reply.data, kept->reply.size});
	return true;
}

static struct request *find(const struct shim *shim, const uint8_t id[ID_SIZE])
{
	struct request *request = shim->requests.first;

	while (request && memcmp(request->id, id, ID_SIZE))
		request = request->next;
	return request;
}

bool request_is_repeated(struct shim *shim, const struct call *call)
{
	struct request *request;

	if (repeats_answer(shim, call))
		return true;
	request = find(shim, call->id);
	if (!request)
		return false;
	if (request->method != call->method ||
	    (!request->is_taken_over && request->body_crc != call->body_crc))
		refuse_other_body(shim, call, request->method);
	else if (request->n_waiters == REQUEST_WAITERS)
		request_refuse(shim, call, BUS_RESOURCE_EXHAUSTED,
			       "too many wait for this request");
	else
		request->waiters[request->n_waiters++] = *call;
	return true;
}

/* ---- one of them --------------------------------------------------------- */

static struct request request_of(const struct call *call)
{
	struct request request = {.method = call->method,
				  .body_crc = call->body_crc,
				  .deadline_ms = call->deadline_ms,
				  .waiters = {*call},
				  .n_waiters = 1};

	memcpy(request.id, call->id, ID_SIZE);
	return request;
}

static void add(struct shim *shim, struct request *request)
{
	request->next = shim->requests.first;
	shim->requests.first = request;
}

/* Before anything is done. */
static void keep_spare(struct requests *requests)
{
	static const uint8_t room[SPARE_SIZE];

	if (!requests->spare.capacity)
		(void)schema_buffer_add(&requests->spare, room, sizeof(room));
	requests->spare.size = 0;
}

void request_begin(struct shim *shim, struct request *request, const struct call *call)
{
	keep_spare(&shim->requests);
	*request = request_of(call);
	add(shim, request);
}

void request_take_over(struct shim *shim, struct request *request,
		       const struct schema_method *method, const uint8_t id[ID_SIZE])
{
	*request = (struct request){.method = method, .is_taken_over = true};
	memcpy(request->id, id, ID_SIZE);
	add(shim, request);
}

bool request_has_id(const struct request *request)
{
	return request->n_waiters || request->is_taken_over;
}

static void forget(struct shim *shim, struct request *request)
{
	struct request **at = &shim->requests.first;

	while (*at && *at != request)
		at = &(*at)->next;
	if (*at)
		*at = request->next;
}

static void settle(struct shim *shim, const struct request *request, enum bus_status status,
		   const char *text, const void *message, bool is_final)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer reply = {};

	if (status == BUS_OK && message &&
	    schema_pack(request->method->reply(), message, &reply, NULL)) {
		schema_buffer_clear(&reply);
		reply = shim->requests.spare;
		shim->requests.spare = (struct schema_buffer){};
		/* One that is too large even so is empty: its caller cannot read it. */
		(void)schema_pack(request->method->reply(), message, &reply, NULL);
	}
	for (size_t i = 0; i < request->n_waiters; i++)
		control_answer_packed(&shim->control, &request->waiters[i], status, text,
				      (struct schema_span){reply.data, reply.size});
	if (is_final && request_has_id(request))
		answers_add(&shim->requests.answers, request->method, request->id,
			    request->body_crc, status, text, &reply);
}

void request_finish(struct shim *shim, struct request *request, enum bus_status status,
		    const char *text, const void *message, bool is_final)
{
	struct request copy = *request;

	forget(shim, request);
	*request = (struct request){};
	settle(shim, &copy, status, text, message, is_final);
}

void request_answer(struct shim *shim, const struct call *call, enum bus_status status,
		    const char *text, const void *message)
{
	struct request request = request_of(call);

	settle(shim, &request, status, text, message, true);
}
