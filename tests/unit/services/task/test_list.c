/* Pages of task.list over live and ended tasks of several namespaces. */

#include <string.h>

#include "tests/lib/task_case.h"

static void add(struct task_case *f, const char *namespace, const char *id, bool is_ended)
{
	struct task_record record = {.task_id = (char *)id,
				     .namespace = (char *)namespace,
				     .container_id = (char *)id,
				     .status = is_ended ? TASK_STOPPED : TASK_RUNNING};

	assert_int_equal(is_ended ? task_end(&f->service, &record) : task_put(&f->service, &record),
			 0);
}

static int setup(void **state)
{
	struct task_case *f;

	if (task_case_setup(state))
		return -1;
	f = *state;
	add(f, "one", "a", true);
	add(f, "one", "b", false);
	add(f, "one", "c", true);
	add(f, "one", "d", false);
	add(f, "one-more", "a", false);
	add(f, "two", "a", false);
	add(f, "two", "b", true);
	/* Ran again after its last task had ended: it is listed once. */
	add(f, "two", "c", true);
	add(f, "two", "c", false);
	return 0;
}

/* All pages of @limit as "namespace/id " each. */
static void assert_pages(struct task_case *f, struct task_list_request request, uint64_t limit,
			 const char *expected)
{
	_cleanup_(filter_freep) struct filter *every = NULL;
	char *after = NULL, *after_namespace = NULL, text[256] = "";

	assert_int_equal(filter_parse(&request.filters, &every, NULL), 0);
	request.limit = limit;
	do {
		_cleanup_(task_list_reply_clear) struct task_list_reply reply = {};

		request.after = after;
		request.after_namespace = after_namespace;
		assert_int_equal(task_list_page(&f->service, &request, "one", every, &reply), 0);
		assert_true(!limit || reply.tasks.count <= limit);
		for (size_t i = 0; i < reply.tasks.count; i++)
			strcat(strcat(strcat(strcat(text, reply.tasks.items[i].namespace), "/"),
				      reply.tasks.items[i].container_id),
			       " ");
		free(after);
		free(after_namespace);
		after = TAKE(reply.after);
		after_namespace = TAKE(reply.after_namespace);
	} while (after);
	free(after_namespace);
	assert_string_equal(text, expected);
}

static void test_a_list_has_the_live_tasks_of_its_namespace_only(void **state)
{
	for (uint64_t limit = 0; limit < 4; limit++)
		assert_pages(*state, (struct task_list_request){}, limit, "one/b one/d ");
}

static void test_ended_tasks_stand_between_the_live_ones_on_every_page(void **state)
{
	for (uint64_t limit = 0; limit < 6; limit++)
		assert_pages(*state, (struct task_list_request){.deleted = true}, limit,
			     "one/a one/b one/c one/d ");
}

static void test_pages_go_over_namespaces_and_name_each_task_once(void **state)
{
	for (uint64_t limit = 0; limit < 10; limit++)
		assert_pages(*state,
			     (struct task_list_request){.deleted = true, .all_namespaces = true},
			     limit, "one/a one/b one/c one/d one-more/a two/a two/b two/c ");
}

#define IN_STORE(test) cmocka_unit_test_setup_teardown(test, setup, task_case_teardown)

TEST_MAIN(IN_STORE(test_a_list_has_the_live_tasks_of_its_namespace_only),
	  IN_STORE(test_ended_tasks_stand_between_the_live_ones_on_every_page),
	  IN_STORE(test_pages_go_over_namespaces_and_name_each_task_once))
