#include <assert.h>
#include <string.h>

#include "broker/lib/file.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

void service_case_init(struct service_case *test, const struct service_definition *definition)
{
	*test = (struct service_case){.definition = definition};
	assert_int_equal(scratch_init(&test->scratch), 0);
	service_case_open(test);
}

static void forget_answers(struct service_case *test)
{
	for (size_t i = 0; i < test->n_answers; i++)
		free(test->answers[i].body);
	memset(test->answers, 0, sizeof(test->answers));
	test->n_answers = 0;
}

int service_case_deinit(struct service_case *test)
{
	service_case_crash(test);
	forget_answers(test);
	return scratch_deinit(&test->scratch);
}

void service_case_open(struct service_case *test)
{
	_cleanup_(paths_deinit) struct paths paths = {};
	_cleanup_(cleanup_free) char *root = scratch_path(&test->scratch, "root");
	_cleanup_(cleanup_free) char *state = scratch_path(&test->scratch, "state");
	struct why why = {};

	assert_int_equal(paths_init(&paths, root, state, NULL, &why), 0);
	assert_int_equal(loop_new(&test->loop), 0);
	assert_int_equal(bus_new(test->loop, NULL, NULL, &test->bus), 0);
	if (service_open(test->definition, test->loop, test->bus, &paths, &test->service, &why))
		fail_msg("%s", why.text);
	service_start(test->service);
	service_case_turn(test);
}

void service_case_crash(struct service_case *test)
{
	test->service = service_close(test->service);
	test->bus = bus_free(test->bus);
	test->loop = loop_free(test->loop);
}

void service_case_turn(struct service_case *test)
{
	assert_int_equal(loop_turn(test->loop, 0), 0);
	service_turn(test->service);
}

/* ---- requests ---- */

static void answered(void *userdata, const void *data, size_t size)
{
	struct service_answer *answer = userdata;
	struct envelope_reply reply;

	assert_false(answer->is_answered);
	answer->is_answered = true;
	answer->is_dropped = size == 0;
	if (!size)
		return;
	assert_int_equal(envelope_read_reply(data, size, &reply, NULL), 0);
	answer->status = reply.status;
	snprintf(answer->text, sizeof(answer->text), "%s", reply.text);
	answer->body = malloc(reply.body.size + 1);
	assert_non_null(answer->body);
	memcpy(answer->body, reply.body.data, reply.body.size);
	answer->size = reply.body.size;
}

static const struct schema_method *find(const char *method)
{
	char service[ENVELOPE_NAME_MAX + 1];
	const char *name = envelope_split_method(method, service);

	return name ? schema_find_method(service, name) : NULL;
}

struct service_answer *service_case_send(struct service_case *test, const char *method,
					 const uint8_t *id, uint64_t deadline_ms,
					 const void *request)
{
	const struct schema_method *schema = find(method);
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {}, bytes = {};
	struct envelope_request envelope = {.deadline_ms = deadline_ms};
	struct service_answer *answer;

	if (test->n_answers == SERVICE_CASE_ANSWERS)
		forget_answers(test);
	answer = &test->answers[test->n_answers++];
	if (!deadline_ms)
		envelope.deadline_ms = time_boot_ms() + 60000;
	if (id)
		memcpy(envelope.id, id, sizeof(envelope.id));
	else
		id_make(envelope.id);
	strcpy(envelope.namespace, "default");
	snprintf(envelope.method, sizeof(envelope.method), "%s", method);
	if (schema && request)
		assert_int_equal(schema_pack(schema->request(), request, &body, NULL), 0);
	envelope.body = (struct schema_span){body.data, body.size};
	assert_int_equal(envelope_write_request(&envelope, &bytes), 0);
	assert_int_equal(service_dispatch(test->service, bytes.data, bytes.size, answered, answer),
			 0);
	return answer;
}

enum bus_status service_case_call(struct service_case *test, const char *method, const uint8_t *id,
				  const void *request, void *ret_reply)
{
	struct service_answer *answer = service_case_send(test, method, id, 0, request);

	service_case_turn(test);
	if (!answer->is_answered)
		return BUS_PENDING;
	if (answer->status == BUS_OK && ret_reply)
		assert_int_equal(schema_unpack(find(method)->reply(), answer->body, answer->size,
					       ret_reply, NULL),
				 0);
	return answer->status;
}

const char *service_case_text(const struct service_case *test)
{
	return test->answers[test->n_answers - 1].text;
}
