#include "broker/lib/ask.h"

#include <assert.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"

#define BACK_OFF_MIN_MS 5
#define BACK_OFF_MAX_MS 200
/* A broker that restarts is back sooner; one that was never there is reported without waiting long. */
#define FIRST_CONNECT_MS 5000
/* The broker answers at the deadline, and knows more than we do: so long its answer may still take. */
#define GRACE_MS 100
/* An answer "pending" that took so long came after a wait: ask again at once. */
#define PENDING_LONG_MS 1000

/* One logical request, asked as often as needed. */
struct question {
	struct ask *ask;
	const char *method;
	struct schema_buffer request; /* the packed envelope */
	uint8_t id[ENVELOPE_ID_SIZE];
	uint64_t started_ms, deadline_ms, back_off_ms;
	bool is_sent;
	void *answer; /* owned */
	size_t answer_size;
	struct envelope_reply reply; /* spans into the answer */
	/* ": " and what the last PENDING said that it waits for. */
	char waits[ENVELOPE_TEXT_MAX + 1];
};

static void question_deinit(struct question *question)
{
	schema_buffer_clear(&question->request);
	free(question->answer);
}

void ask_deinit(struct ask *ask)
{
	ask->sp = sp_free(ask->sp);
}

__attribute__((format(printf, 3, 4))) static int ask_fail(struct ask *ask, enum bus_status status,
							  const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(ask->text, sizeof(ask->text), format, arguments);
	va_end(arguments);
	ask->status = status;
	return (int)status;
}

static bool is_interrupted(const struct ask *ask)
{
	return ask->interrupted && *ask->interrupted;
}

/* The back-off between two attempts, cut at @until_ms; a signal ends it early. */
static void wait_back_off(struct question *question, uint64_t until_ms)
{
	uint64_t now_ms = time_boot_ms(), wait_ms = question->back_off_ms;

	if (wait_ms > until_ms - now_ms)
		wait_ms = until_ms - now_ms;
	poll(NULL, 0, (int)wait_ms);
	question->back_off_ms *= 2;
	if (question->back_off_ms > BACK_OFF_MAX_MS)
		question->back_off_ms = BACK_OFF_MAX_MS;
}

/* ---- one attempt: 0 answered, BUS_PENDING try again, else over (ask->status is set, or negative) ---- */

static int connect_bus(struct question *question)
{
	struct ask *ask = question->ask;
	int r;

	if (ask->sp)
		return 0;

	r = sp_connect(ask->bus_path, SP_REQ, question->deadline_ms, &ask->sp);
	if (r == SP_E_CLOSED || r == SP_E_DEADLINE)
		return BUS_PENDING;
	if (r == -EACCES || r == -EPERM)
		return ask_fail(ask, BUS_PERMISSION_DENIED, "may not connect to the broker at %s",
				ask->bus_path);
	if (r > 0)
		return ask_fail(ask, BUS_UNAVAILABLE, "what listens at %s is not a davit broker",
				ask->bus_path);
	if (r)
		return error_trace(r);
	return 0;
}

static int fail_request(struct question *question, int r)
{
	struct ask *ask = question->ask;

	switch (r) {
	case SP_E_CLOSED:
	case SP_E_DEADLINE: /* said with the deadline's sentence */
		return BUS_PENDING;
	case SP_E_LIMIT:
		return ask_fail(ask, BUS_INVALID_ARGUMENT,
				"the request for %s is over the limit of %u bytes",
				question->method, SP_MESSAGE_MAX);
	case SP_E_PROTOCOL:
		return ask_fail(ask, BUS_INTERNAL,
				"the answer to %s at %s is over the limit, or not of the bus",
				question->method, ask->bus_path);
	case -EINTR:
		return BUS_PENDING;
	default:
		return error_fold(r);
	}
}

/* An answer that cannot be read, or is to another question, counts as none. */
static int read_answer(struct question *question)
{
	int r;

	r = envelope_read_reply(question->answer, question->answer_size, &question->reply, NULL);
	if (r || memcmp(question->reply.id, question->id, ENVELOPE_ID_SIZE) != 0)
		return BUS_PENDING;
	if (question->reply.status != BUS_PENDING)
		return 0;
	question->waits[0] = '\0';
	if (!strncmp(question->reply.text, ENVELOPE_WAITS, strlen(ENVELOPE_WAITS)))
		snprintf(question->waits, sizeof(question->waits), ": %.*s",
			 (int)sizeof(question->waits) - 3, question->reply.text);
	return BUS_PENDING;
}

static int attempt(struct question *question)
{
	struct ask *ask = question->ask;
	uint64_t asked_ms;
	int r;

	r = connect_bus(question);
	if (r)
		return r;

	sp_set_interrupted(ask->sp, ask->interrupted);
	free(question->answer);
	question->answer = NULL;
	question->is_sent = true;
	asked_ms = time_boot_ms();
	r = sp_request(ask->sp, question->request.data, question->request.size,
		       question->deadline_ms + GRACE_MS, &question->answer, &question->answer_size);
	if (r) {
		if (r != SP_E_LIMIT)
			ask->sp = sp_free(ask->sp);
		return fail_request(question, r);
	}
	if (time_boot_ms() - asked_ms >= PENDING_LONG_MS)
		question->back_off_ms = BACK_OFF_MIN_MS;
	return read_answer(question);
}

/* ---- all attempts ---- */

static int fail_interrupted(struct question *question)
{
	return ask_fail(question->ask, BUS_CANCELED, "%s was interrupted; %s", question->method,
			question->is_sent ? "it had been sent and may still take effect"
					  : "it had not been sent");
}

static int fail_deadline(struct question *question)
{
	struct ask *ask = question->ask;

	if (!question->is_sent)
		return ask_fail(ask, BUS_UNAVAILABLE, "no broker answers at %s; is davit up?",
				ask->bus_path);
	return ask_fail(ask, BUS_DEADLINE_EXCEEDED,
			"%s was not answered within %llu ms; it may still take effect%s",
			question->method,
			(unsigned long long)(question->deadline_ms - question->started_ms),
			question->waits);
}

static uint64_t question_end(const struct question *question)
{
	uint64_t first_ms = question->started_ms + FIRST_CONNECT_MS;

	if (!question->is_sent && first_ms < question->deadline_ms)
		return first_ms;
	return question->deadline_ms;
}

static int repeat(struct question *question)
{
	uint64_t end_ms;
	int r;

	for (;;) {
		if (is_interrupted(question->ask))
			return fail_interrupted(question);
		r = attempt(question);
		if (r != BUS_PENDING)
			return r;
		if (is_interrupted(question->ask))
			return fail_interrupted(question);
		end_ms = question_end(question);
		if (time_boot_ms() >= end_ms)
			return fail_deadline(question);
		wait_back_off(question, end_ms);
	}
}

static int question_init(struct question *question, const void *body, size_t size,
			 const uint8_t *id)
{
	struct ask *ask = question->ask;
	struct envelope_request request = {
		.body = {.data = body, .size = size},
	};
	uint64_t timeout_ms = ask->timeout_ms > 0 ? ask->timeout_ms : ENVELOPE_DEADLINE_DEFAULT;
	const char *namespace = ask->namespace ? ask->namespace : ENVELOPE_DEFAULT_NS;

	if (strlen(namespace) > ENVELOPE_NAME_MAX)
		return ask_fail(ask, BUS_INVALID_ARGUMENT, "namespace '%.80s…' is too long",
				namespace);
	if (strlen(question->method) > ENVELOPE_METHOD_MAX)
		return ask_fail(ask, BUS_INVALID_ARGUMENT, "method '%.80s…' is too long",
				question->method);

	if (id)
		memcpy(question->id, id, sizeof(question->id));
	else
		id_make(question->id);
	if (timeout_ms > ENVELOPE_DEADLINE_MAX)
		timeout_ms = ENVELOPE_DEADLINE_MAX;
	question->started_ms = time_boot_ms();
	question->deadline_ms = question->started_ms + timeout_ms;
	question->back_off_ms = BACK_OFF_MIN_MS;

	memcpy(request.id, question->id, sizeof(request.id));
	request.deadline_ms = question->deadline_ms;
	strcpy(request.namespace, namespace);
	strcpy(request.method, question->method);
	return error_trace(envelope_write_request(&request, &question->request));
}

/* 0, and question->reply is what the service said (which may be a failure: ask->status). */
static int question_ask(struct question *question, const void *body, size_t size, const uint8_t *id)
{
	struct ask *ask = question->ask;
	int r;

	ask->status = BUS_INTERNAL;
	ask->text[0] = '\0';
	r = question_init(question, body, size, id);
	if (!r)
		r = repeat(question);
	if (r)
		return error_trace(r);

	if (question->reply.status == BUS_DEADLINE_EXCEEDED && question->waits[0])
		return ask_fail(ask, BUS_DEADLINE_EXCEEDED, "%.*s%s", ENVELOPE_TEXT_MAX / 2,
				question->reply.text, question->waits);
	ask->status = question->reply.status;
	memcpy(ask->text, question->reply.text, sizeof(ask->text));
	return (int)ask->status;
}

int ask_raw(struct ask *ask, const char *method, const uint8_t *id, const void *body, size_t size,
	    void **ret_body, size_t *ret_size)
{
	_cleanup_(question_deinit) struct question question = {.ask = ask, .method = method};
	void *copy;
	int r;

	r = question_ask(&question, body, size, id);
	if (r)
		return r;

	copy = malloc(question.reply.body.size + 1);
	if (!copy)
		return error_origin(-ENOMEM);

	if (question.reply.body.size > 0)
		memcpy(copy, question.reply.body.data, question.reply.body.size);
	*ret_body = copy;
	*ret_size = question.reply.body.size;
	return 0;
}

static int unpack_reply(struct question *question, const struct schema_method *method,
			void *ret_reply)
{
	static const uint8_t empty_map[] = {0x80};
	struct schema_span body = question->reply.body;
	struct schema_fault fault = {};
	int r;

	if (!ret_reply)
		return 0;
	if (body.size == 0)
		body = (struct schema_span){.data = empty_map, .size = sizeof(empty_map)};

	r = schema_unpack(method->reply(), body.data, body.size, ret_reply, &fault);
	if (r > 0)
		return ask_fail(question->ask, BUS_INTERNAL, "the answer to %s cannot be read: %s",
				question->method, fault.text);
	return error_trace(r);
}

int ask_call(struct ask *ask, const struct schema_method *method, const uint8_t *id,
	     const void *request, void *ret_reply)
{
	_cleanup_(question_deinit) struct question question = {.ask = ask};
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	char name[ENVELOPE_METHOD_MAX + 1];
	struct schema_fault fault = {};
	int r;

	assert(method);
	snprintf(name, sizeof(name), "%s.%s", method->service, method->name);
	question.method = name;
	if (request) {
		r = schema_pack(method->request(), request, &body, &fault);
		if (r > 0)
			return ask_fail(ask, BUS_INVALID_ARGUMENT, "%s: %s", name, fault.text);
		if (r)
			return error_trace(r);
	}
	r = question_ask(&question, body.data, body.size, id);
	if (r)
		return r;

	return unpack_reply(&question, method, ret_reply);
}
