/* Container records and namespaces, from request to answer. */

#include <stdarg.h>
#include <string.h>

#include "broker/lib/file.h"
#include "services/container/container.h"
#include "services/container/service.h"
#include "tests/lib/main.h"
#include "tests/lib/service_case.h"

static struct service_case test;

static int setup(void **state)
{
	(void)state;
	service_case_init(&test, &container_definition);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return service_case_deinit(&test);
}

static enum bus_status create(const char *id, const char *image, const char *team)
{
	struct schema_pair pair = {(char *)"team", (char *)team};
	struct container_record record = {.id = (char *)id,
					  .image = (char *)image,
					  .runtime = (char *)"crun",
					  .spec = (char *)"{}",
					  .labels = {&pair, team ? 1 : 0}};
	struct container_create_request request = {.container = &record};

	return service_case_call(&test, "container.create", NULL, &request, NULL);
}

static enum bus_status get(const char *id, struct container_reply *ret_reply)
{
	struct container_get_request request = {.id = (char *)id};

	return service_case_call(&test, "container.get", NULL, &request, ret_reply);
}

/* Answers what the service publishes, and counts it. */
static unsigned take_events(const char *topic)
{
	struct fake_call *call;
	unsigned count = 0;

	while ((call = fake_bus_find(test.bus, "event.publish"))) {
		_cleanup_(event_publish_request_clear) struct event_publish_request request = {};
		struct event_publish_reply reply = {};
		const void *body;
		size_t size;

		body = fake_call_body(call, &size);
		assert_int_equal(
			schema_unpack(schema_event_publish_request(), body, size, &request, NULL),
			0);
		for (size_t i = 0; i < request.events.count; i++) {
			count += !strcmp(request.events.items[i].topic, topic);
			reply.next_seq = request.events.items[i].seq + 1;
		}
		fake_call_answer(call, BUS_OK, "", schema_event_publish_reply(), &reply);
		service_case_turn(&test);
	}
	return count;
}

static void test_a_container_is_stored_with_uid_and_times_and_told_of(void **state)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};

	(void)state;
	assert_int_equal(create("web", "busybox", "blue"), BUS_OK);
	assert_int_equal(get("web", &reply), BUS_OK);
	assert_int_equal(strlen(reply.container->uid), 32);
	assert_true(reply.container->created_at_ns > 0);
	assert_int_equal(reply.container->created_at_ns, reply.container->updated_at_ns);
	assert_string_equal(schema_map_get(&reply.container->labels, "team"), "blue");
	assert_int_equal(take_events("/containers/create"), 1);
}

static void test_a_name_is_taken_once(void **state)
{
	(void)state;
	assert_int_equal(create("web", NULL, NULL), BUS_OK);
	assert_int_equal(create("web", NULL, NULL), BUS_ALREADY_EXISTS);
	assert_non_null(strstr(service_case_text(&test), "'web'"));
	assert_int_equal(get("web2", NULL), BUS_NOT_FOUND);
	assert_non_null(strstr(service_case_text(&test), "'web2'"));
}

static void test_the_same_request_id_stores_once(void **state)
{
	_cleanup_(container_reply_clear) struct container_reply first = {}, second = {};
	struct container_record record = {
		.id = (char *)"web", .runtime = (char *)"crun", .spec = (char *)"{}"};
	struct container_create_request request = {.container = &record};
	uint8_t id[ID_SIZE] = {7};

	(void)state;
	assert_int_equal(service_case_call(&test, "container.create", id, &request, &first),
			 BUS_OK);
	service_case_crash(&test);
	service_case_open(&test);
	assert_int_equal(service_case_call(&test, "container.create", id, &request, &second),
			 BUS_OK);
	assert_string_equal(first.container->uid, second.container->uid);
}

static void test_faulty_records_are_refused_with_the_reason(void **state)
{
	static const struct {
		const char *id, *runtime, *spec, *key, *part;
	} cases[] = {
		{"a/b", "crun", "{}", NULL, "a/b"},
		{"..", "crun", "{}", NULL, "'..'"},
		{"-a", "crun", "{}", NULL, "'-a'"},
		{"web", NULL, "{}", NULL, "runtime"},
		{"web", "crun", NULL, NULL, "spec"},
		{"web", "crun", "nonsense", NULL, "not JSON"},
		{"web", "crun", "[]", NULL, "object"},
		{"web", "crun", "{}", "key", "snapshotter"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct container_record record = {.id = (char *)cases[i].id,
						  .runtime = (char *)cases[i].runtime,
						  .spec = (char *)cases[i].spec,
						  .snapshot_key = (char *)cases[i].key};
		struct container_create_request request = {.container = &record};

		assert_int_equal(service_case_call(&test, "container.create", NULL, &request, NULL),
				 BUS_INVALID_ARGUMENT);
		if (!strstr(service_case_text(&test), cases[i].part))
			fail_msg("'%s' does not say '%s'", service_case_text(&test), cases[i].part);
	}
}

static size_t list(const char *filter, const char *after, uint64_t limit,
		   struct container_list_reply *reply)
{
	struct list_request request = {.after = (char *)after, .limit = limit};
	char *filters[] = {(char *)filter};

	if (filter)
		request.filters = (struct schema_strs){filters, 1};
	container_list_reply_clear(reply);
	assert_int_equal(service_case_call(&test, "container.list", NULL, &request, reply), BUS_OK);
	return reply->containers.count;
}

static void test_lists_are_filtered_and_paged_in_order(void **state)
{
	_cleanup_(container_list_reply_clear) struct container_list_reply reply = {};

	(void)state;
	assert_int_equal(create("c", "debian", "blue"), BUS_OK);
	assert_int_equal(create("a", "busybox", "blue"), BUS_OK);
	assert_int_equal(create("b", "busybox", "red"), BUS_OK);
	assert_int_equal(list(NULL, NULL, 0, &reply), 3);
	assert_string_equal(reply.containers.items[0].id, "a");
	assert_null(reply.after);
	assert_int_equal(list("image==busybox", NULL, 0, &reply), 2);
	assert_int_equal(list("labels.team==blue,id!=a", NULL, 0, &reply), 1);
	assert_string_equal(reply.containers.items[0].id, "c");
	assert_int_equal(list("runtime.name==crun", NULL, 0, &reply), 3);
	assert_int_equal(list(NULL, NULL, 2, &reply), 2);
	assert_string_equal(reply.after, "b");
	assert_int_equal(list(NULL, "b", 2, &reply), 1);
	assert_null(reply.after);
}

static void test_a_list_never_outgrows_a_message(void **state)
{
	_cleanup_(container_list_reply_clear) struct container_list_reply reply = {};
	_cleanup_(cleanup_free) char *spec = malloc(400001);
	size_t n = 0;

	(void)state;
	memset(spec, ' ', 400000);
	memcpy(spec, "{}", 2);
	spec[400000] = '\0';
	for (char id[2] = "a"; *id < 'f'; ++*id) {
		struct container_record record = {
			.id = id, .runtime = (char *)"crun", .spec = spec};
		struct container_create_request request = {.container = &record};

		assert_int_equal(service_case_call(&test, "container.create", NULL, &request, NULL),
				 BUS_OK);
	}
	for (const char *after = NULL; n < 5; after = reply.after) {
		_cleanup_(cleanup_free) char *copy = after ? strdup(after) : NULL;
		size_t count = list(NULL, copy, 0, &reply);

		assert_true(count == 1 || n + count == 5);
		n += count;
	}
	assert_int_equal(n, 5);
}

static void test_an_update_changes_what_its_mask_names(void **state)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct schema_pair pairs[] = {{(char *)"team", (char *)""}, {(char *)"new", (char *)"1"}};
	struct container_record change = {
		.id = (char *)"web", .image = (char *)"other", .labels = {pairs, 2}};
	char *mask[] = {(char *)"labels.team", (char *)"labels.new"};
	struct container_update_request request = {.container = &change, .update_mask = {mask, 2}};

	(void)state;
	assert_int_equal(create("web", "busybox", "blue"), BUS_OK);
	assert_int_equal(service_case_call(&test, "container.update", NULL, &request, &reply),
			 BUS_OK);
	assert_null(schema_map_get(&reply.container->labels, "team"));
	assert_string_equal(schema_map_get(&reply.container->labels, "new"), "1");
	assert_string_equal(reply.container->image, "busybox");
	assert_true(reply.container->updated_at_ns > reply.container->created_at_ns);
	assert_int_equal(take_events("/containers/update"), 1);

	mask[0] = (char *)"runtime";
	assert_int_equal(service_case_call(&test, "container.update", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
	request.update_mask.count = 0;
	change.runtime = (char *)"runc";
	assert_int_equal(service_case_call(&test, "container.update", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
	assert_non_null(strstr(service_case_text(&test), "runtime"));
}

/* ---- namespaces ---- */

static enum bus_status name_call(const char *method, const char *name, void *ret_reply)
{
	struct namespace_name_request request = {.name = (char *)name};

	return service_case_call(&test, method, NULL, &request, ret_reply);
}

/* The call of @method that the service makes; NULL if none comes. */
static struct fake_call *asked(const char *method)
{
	for (unsigned i = 0; i < 10 && !fake_bus_find(test.bus, method); i++)
		service_case_turn(&test);
	return fake_bus_find(test.bus, method);
}

static void wait_answer(const struct service_answer *answer)
{
	for (unsigned i = 0; i < 10 && !answer->is_answered; i++)
		service_case_turn(&test);
	assert_true(answer->is_answered);
}

/* namespace.list, where the image service answers with @others. */
static void list_with(const struct list_request *request, enum bus_status status,
		      const struct image_namespaces_reply *others,
		      struct namespace_list_reply *reply)
{
	struct service_answer *answer;

	namespace_list_reply_clear(reply);
	answer = service_case_send(&test, "namespace.list", NULL, 0, request);
	service_case_turn(&test);
	fake_call_answer(asked("image.namespaces"), status, "",
			 others ? schema_image_namespaces_reply() : NULL, others);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
	assert_int_equal(schema_unpack(schema_namespace_list_reply(), answer->body, answer->size,
				       reply, NULL),
			 0);
}

/* @reply has these namespaces, up to NULL. */
static void assert_names(const struct namespace_list_reply *reply, const char *name, ...)
{
	size_t count = 0;
	va_list list;

	va_start(list, name);
	for (; name; name = va_arg(list, const char *), count++) {
		assert_true(count < reply->namespaces.count);
		assert_string_equal(reply->namespaces.items[count].name, name);
	}
	va_end(list);
	assert_int_equal(reply->namespaces.count, count);
}

static void test_a_namespace_springs_into_being_with_its_first_container(void **state)
{
	_cleanup_(namespace_list_reply_clear) struct namespace_list_reply reply = {};
	struct list_request request = {};

	(void)state;
	assert_int_equal(name_call("namespace.get", "default", NULL), BUS_NOT_FOUND);
	assert_int_equal(create("web", NULL, NULL), BUS_OK);
	assert_int_equal(name_call("namespace.get", "default", NULL), BUS_OK);
	list_with(&request, BUS_NOT_FOUND, NULL, &reply);
	assert_names(&reply, "default", NULL);
}

/* Two lists in order become one, page by page. */
static void test_a_namespace_that_has_only_images_is_listed(void **state)
{
	char *others[] = {(char *)"alpha", (char *)"b", (char *)"default", (char *)"zoo"};
	struct image_namespaces_reply all = {.namespaces = {others, 4}};
	struct image_namespaces_reply part = {.namespaces = {others, 2}, .after = (char *)"b"};
	_cleanup_(namespace_list_reply_clear) struct namespace_list_reply reply = {};
	struct namespace_record record = {.name = (char *)"az"};
	struct namespace_request make = {.namespace = &record};
	char *filter = (char *)"name==zoo";
	struct list_request request = {};

	(void)state;
	assert_int_equal(create("web", NULL, NULL), BUS_OK);
	assert_int_equal(service_case_call(&test, "namespace.create", NULL, &make, NULL), BUS_OK);
	list_with(&request, BUS_OK, &all, &reply);
	assert_names(&reply, "alpha", "az", "b", "default", "zoo", NULL);
	assert_null(reply.after);
	/* Of the others there is more behind "b": nothing behind it is told yet. */
	list_with(&request, BUS_OK, &part, &reply);
	assert_names(&reply, "alpha", "az", "b", NULL);
	assert_string_equal(reply.after, "b");
	request.limit = 2;
	list_with(&request, BUS_OK, &part, &reply);
	assert_names(&reply, "alpha", "az", NULL);
	assert_string_equal(reply.after, "az");
	request = (struct list_request){.filters = {&filter, 1}};
	list_with(&request, BUS_OK, &all, &reply);
	assert_names(&reply, "zoo", NULL);
}

static void test_namespaces_are_not_listed_in_part_when_a_service_cannot_say(void **state)
{
	struct list_request request = {};
	struct service_answer *answer;

	(void)state;
	assert_int_equal(create("web", NULL, NULL), BUS_OK);
	answer = service_case_send(&test, "namespace.list", NULL, 0, &request);
	service_case_turn(&test);
	fake_call_answer(asked("image.namespaces"), BUS_UNAVAILABLE, "image is away", NULL, NULL);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_UNAVAILABLE);
	assert_non_null(strstr(answer->text, "image is away"));
}

static void test_namespaces_are_made_labelled_and_named_like_identifiers(void **state)
{
	_cleanup_(namespace_reply_clear) struct namespace_reply reply = {};
	struct schema_pair pair = {(char *)"a", (char *)"b"};
	struct namespace_record record = {.name = (char *)"blue", .labels = {&pair, 1}};
	struct namespace_request request = {.namespace = &record};

	(void)state;
	assert_int_equal(service_case_call(&test, "namespace.create", NULL, &request, NULL),
			 BUS_OK);
	assert_int_equal(service_case_call(&test, "namespace.create", NULL, &request, NULL),
			 BUS_ALREADY_EXISTS);
	pair.value = (char *)"c";
	assert_int_equal(service_case_call(&test, "namespace.update", NULL, &request, &reply),
			 BUS_OK);
	assert_string_equal(schema_map_get(&reply.namespace->labels, "a"), "c");
	record.name = (char *)"version";
	assert_int_equal(service_case_call(&test, "namespace.create", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
	record.name = (char *)"a b";
	assert_int_equal(service_case_call(&test, "namespace.create", NULL, &request, NULL),
			 BUS_INVALID_ARGUMENT);
}

/* The three services that are asked what is left: one has an image. */
static void answer_what_is_left_in(const char *namespace, bool has_image)
{
	struct image_record image = {.name = (char *)"busybox"};
	struct descriptor target = {.digest = (char *)"sha256:0"};
	struct image_list_reply images = {};
	struct snapshot_list_reply snapshots = {};
	struct task_list_reply tasks = {};
	struct fake_call *call;

	image.target = &target;
	if (has_image) {
		images.images.items = &image;
		images.images.count = 1;
	}
	call = asked("image.list");
	assert_non_null(call);
	assert_string_equal(fake_call_namespace(call), namespace);
	fake_call_answer(call, BUS_OK, "", schema_image_list_reply(), &images);
	fake_call_answer(fake_bus_find(test.bus, "snapshot.list"), BUS_OK, "",
			 schema_snapshot_list_reply(), &snapshots);
	fake_call_answer(fake_bus_find(test.bus, "task.list"), BUS_OK, "", schema_task_list_reply(),
			 &tasks);
}

static void test_a_namespace_is_deleted_only_when_nothing_is_left_in_it(void **state)
{
	struct namespace_name_request request = {.name = (char *)"default"};
	struct service_answer *answer;

	(void)state;
	assert_int_equal(create("web", NULL, NULL), BUS_OK);
	answer = service_case_send(&test, "namespace.delete", NULL, 0, &request);
	service_case_turn(&test);
	answer_what_is_left_in("default", true);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_FAILED_PRECONDITION);
	assert_non_null(strstr(answer->text, "containers, images"));
	/* The same for one that has no record. */
	request.name = (char *)"other";
	answer = service_case_send(&test, "namespace.delete", NULL, 0, &request);
	service_case_turn(&test);
	answer_what_is_left_in("other", false);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_NOT_FOUND);
	answer = service_case_send(&test, "namespace.delete", NULL, 0, &request);
	service_case_turn(&test);
	answer_what_is_left_in("other", true);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_FAILED_PRECONDITION);

	assert_int_equal(name_call("namespace.get", "default", NULL), BUS_OK);
}

static void test_an_empty_namespace_goes_and_is_told_of(void **state)
{
	struct namespace_name_request request = {.name = (char *)"default"};
	struct namespace_record record = {.name = (char *)"default"};
	struct namespace_request make = {.namespace = &record};
	struct service_answer *answer;

	(void)state;
	assert_int_equal(service_case_call(&test, "namespace.create", NULL, &make, NULL), BUS_OK);
	answer = service_case_send(&test, "namespace.delete", NULL, 0, &request);
	service_case_turn(&test);
	answer_what_is_left_in("default", false);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_OK);
	assert_int_equal(name_call("namespace.get", "default", NULL), BUS_NOT_FOUND);
	assert_int_equal(take_events("/namespaces/delete"), 1);
}

static void test_a_namespace_is_kept_when_a_service_cannot_say(void **state)
{
	struct namespace_name_request request = {.name = (char *)"default"};
	struct service_answer *answer;

	(void)state;
	assert_int_equal(create("web", NULL, NULL), BUS_OK);
	answer = service_case_send(&test, "namespace.delete", NULL, 0, &request);
	service_case_turn(&test);
	fake_call_answer(asked("image.list"), BUS_UNAVAILABLE, "image is away", NULL, NULL);
	fake_call_answer(fake_bus_find(test.bus, "snapshot.list"), BUS_NOT_FOUND, "no such", NULL,
			 NULL);
	fake_call_answer(fake_bus_find(test.bus, "task.list"), BUS_NOT_FOUND, "no such", NULL,
			 NULL);
	wait_answer(answer);
	assert_int_equal(answer->status, BUS_UNAVAILABLE);
	assert_non_null(strstr(answer->text, "image is away"));
	assert_int_equal(name_call("namespace.get", "default", NULL), BUS_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

TEST_MAIN(TEST(test_a_container_is_stored_with_uid_and_times_and_told_of),
	  TEST(test_a_name_is_taken_once), TEST(test_the_same_request_id_stores_once),
	  TEST(test_faulty_records_are_refused_with_the_reason),
	  TEST(test_lists_are_filtered_and_paged_in_order),
	  TEST(test_a_list_never_outgrows_a_message),
	  TEST(test_an_update_changes_what_its_mask_names),
	  TEST(test_a_namespace_springs_into_being_with_its_first_container),
	  TEST(test_a_namespace_that_has_only_images_is_listed),
	  TEST(test_namespaces_are_not_listed_in_part_when_a_service_cannot_say),
	  TEST(test_namespaces_are_made_labelled_and_named_like_identifiers),
	  TEST(test_a_namespace_is_deleted_only_when_nothing_is_left_in_it),
	  TEST(test_an_empty_namespace_goes_and_is_told_of),
	  TEST(test_a_namespace_is_kept_when_a_service_cannot_say))
