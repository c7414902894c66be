#pragma once
/*
 * A task service of which only the store is there: the tables of tasks, in a scratch
 * directory, with a transaction open. Included by one .c file of a test program.
 */

#include <stdlib.h>

#include "services/lib/store.h"
#include "services/task/task.h"
#include "tests/lib/main.h"
#include "tests/lib/scratch.h"

struct task_case {
	struct scratch scratch;
	struct task_service service;
};

static inline int task_case_setup(void **state)
{
	static const char *const tables[] = {TASK_TABLE, SHIM_TABLE, ENDED_TABLE, PROCESS_TABLE,
					     NULL};
	struct task_case *test = calloc(1, sizeof(*test));
	_cleanup_(cleanup_free) char *directory = NULL;
	struct store_options options = {.tables = tables, .is_volatile = true};
	struct why why = {};
	bool fresh;

	*state = test;
	if (scratch_init(&test->scratch))
		return -1;
	directory = scratch_path(&test->scratch, "store");
	options.directory = directory;
	if (store_open(&options, &test->service.store, &fresh, &why))
		return -1;
	return store_begin(test->service.store) ? -1 : 0;
}

static inline int task_case_teardown(void **state)
{
	struct task_case *test = *state;
	int r;

	store_close(test->service.store);
	r = scratch_deinit(&test->scratch);
	free(test);
	return r;
}
