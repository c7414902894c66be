/* Kills for memory as cgroup v2 tells them, with a file in the place of memory.events. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "shim/shim.h"
#include "tests/lib/main.h"

static struct shim shim;

static void write_events(struct scratch *scratch, unsigned kills)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "memory.events");
	_cleanup_(cleanup_file) FILE *file = fopen(path, "we");

	fprintf(file, "low 0\nhigh 0\nmax 9\noom 5\noom_kill %u\n", kills);
}

static void begin(struct scratch *scratch)
{
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "journal");

	shim = (struct shim){
		.config = {.task_id = (char *)"0123456789abcdef0123456789abcdef",
			   .namespace = (char *)"default",
			   .container_id = (char *)"web",
			   .publisher = {(uint8_t *)"0123456789abcdef", 16}},
		.cgroup = {.memory = strdup(scratch->dir), .is_v2 = true},
		.init = {.id = "web", .state = PROCESS_RUNNING, .pidfd = -1},
	};
	assert_int_equal(loop_new(&shim.loop), 0);
	assert_int_equal(journal_open(&shim.journal, path, NULL, NULL, NULL), 0);
	write_events(scratch, 0);
	oom_init(&shim.oom, &shim);
	oom_watch(&shim.oom);
	assert_true(shim.oom.fd >= 0);
}

static void end(void)
{
	oom_deinit(&shim.oom);
	cgroup_deinit(&shim.cgroup);
	journal_deinit(&shim.journal);
	shim.loop = loop_free(shim.loop);
}

/* Until nothing happens any more. */
static void turn(void)
{
	for (int i = 0; i < 5; i++)
		assert_int_equal(loop_turn(shim.loop, 20), 0);
}

static void kill_while_init_goes_on_is_told(void **state)
{
	begin(*state);
	write_events(*state, 1);
	turn();
	assert_int_equal(shim.journal.last_seq, 1);
	assert_int_equal(shim.oom.kills, 1);
	/* The exit that follows does not tell it again. */
	assert_int_equal(shim_note_oom(&shim, 1), 0);
	assert_int_equal(shim.journal.last_seq, 1);
	end();
}

static void other_changes_are_not_told(void **state)
{
	begin(*state);
	write_events(*state, 0);
	turn();
	assert_int_equal(shim.journal.last_seq, 0);
	assert_null(shim.oom.timer.loop);
	end();
}

static void many_kills_are_one_event_a_second(void **state)
{
	begin(*state);
	for (unsigned kills = 1; kills <= 20; kills++) {
		write_events(*state, kills);
		assert_int_equal(loop_turn(shim.loop, 20), 0);
	}
	assert_int_equal(shim.journal.last_seq, 1);
	/* What came meanwhile is told with the next one, or before the exit. */
	assert_non_null(shim.oom.timer.loop);
	assert_int_equal(shim_note_oom(&shim, 20), 0);
	assert_int_equal(shim.journal.last_seq, 2);
	end();
}

TEST_MAIN(TEST_IN_SCRATCH(kill_while_init_goes_on_is_told),
	  TEST_IN_SCRATCH(other_changes_are_not_told),
	  TEST_IN_SCRATCH(many_kills_are_one_event_a_second))
