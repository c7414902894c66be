#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/process.h"
#include "tests/lib/main.h"

static void nothing_moves_after_its_end(void **state)
{
	(void)state;
	for (int next = 0; next < PROCESS_STATE_COUNT; next++) {
		assert_false(process_may_move(PROCESS_STOPPED, (enum process_state)next));
		assert_false(process_may_move(PROCESS_FAILED, (enum process_state)next));
	}
	assert_true(process_may_move(PROCESS_ADDED, PROCESS_STARTING));
	assert_true(process_may_move(PROCESS_STARTING, PROCESS_RUNNING));
	assert_true(process_may_move(PROCESS_RUNNING, PROCESS_STOPPED));
	/* What was started is never said not to have been, and is not started again. */
	assert_false(process_may_move(PROCESS_RUNNING, PROCESS_FAILED));
	assert_false(process_may_move(PROCESS_RUNNING, PROCESS_STARTING));
}

static void every_state_has_a_name_and_a_status(void **state)
{
	(void)state;
	for (int i = 0; i < PROCESS_STATE_COUNT; i++)
		assert_non_null(process_state_name((enum process_state)i));
	assert_int_equal(process_status(PROCESS_ADDED), TASK_CREATED);
	assert_int_equal(process_status(PROCESS_RUNNING), TASK_RUNNING);
	assert_int_equal(process_status(PROCESS_FAILED), TASK_STOPPED);
}

static void table_is_bounded_and_gives_places_back(void **state)
{
	struct processes processes;
	struct process *process, *first = NULL;
	char id[16];

	(void)state;
	processes_init(&processes);
	for (int i = 0; i < PROCESS_ADDED_MAX; i++) {
		snprintf(id, sizeof(id), "p%d", i);
		assert_int_equal(processes_add(&processes, NULL, id, NULL, &process), 0);
		first = first ?: process;
	}
	assert_int_equal(processes_add(&processes, NULL, "p7", NULL, &process), -EEXIST);
	assert_int_equal(processes_add(&processes, NULL, "more", NULL, &process), -ENOSPC);
	processes_remove(&processes, first);
	assert_null(processes_find(&processes, "p0"));
	assert_int_equal(processes_add(&processes, NULL, "more", NULL, &process), 0);
	assert_ptr_equal(processes_find(&processes, "more"), process);
	processes_deinit(&processes);
	assert_int_equal(processes.count, 0);
	assert_int_equal(processes_add(&processes, NULL, "again", NULL, &process), 0);
	processes_deinit(&processes);
}

static void streams_are_copied(void **state)
{
	char out[] = "/tmp/out";
	struct task_io io = {.stdout = out};
	struct processes processes;
	struct process *process;

	(void)state;
	processes_init(&processes);
	assert_int_equal(processes_add(&processes, NULL, "p", &io, &process), 0);
	out[1] = 'x';
	assert_string_equal(process->io->stdout, "/tmp/out");
	processes_deinit(&processes);
}

static void process_is_told_by_its_start_time_even_as_a_zombie(void **state)
{
	struct process process = {};
	siginfo_t info;
	pid_t child = fork();

	(void)state;
	if (!child)
		_exit(3);
	assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
	process_init(&process, NULL, "p");
	assert_int_equal(process_identify(&process, child, 0, true), 0);
	assert_int_equal(process.pid, child);
	assert_int_equal(process_identify(&process, child, process.start_time, true), 0);
	assert_int_equal(process_identify(&process, child, process.start_time + 1, true), -ESRCH);
	assert_int_equal(process_identify(&process, getpid(), 0, true), -ECHILD);
	assert_int_equal(process.pid, child);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(process_identify(&process, child, 0, true), -ESRCH);
	process_forget(&process);
	assert_int_equal(process.pidfd, -1);
}

static void *reap(void *userdata)
{
	(void)waitpid(*(pid_t *)userdata, NULL, 0);
	return NULL;
}

/* Asked all the time while somebody else reaps. An older kernel's answer is always -ESRCH, or that it knows no such call. */
static void end_is_told_at_the_moment_of_the_reaping_too(void **state)
{
	int lost = 0, told = 0;

	(void)state;
	for (int i = 0; i < 200; i++) {
		pid_t child = fork();
		pthread_t thread;
		int fd, status, r;

		if (!child)
			_exit(3);
		fd = pidfd_open(child, 0);
		assert_int_equal(pthread_create(&thread, NULL, reap, &child), 0);
		do
			r = process_read_status(fd, &status);
		while (r == -EAGAIN);
		if (r)
			lost++;
		else
			told += WIFEXITED(status) && WEXITSTATUS(status) == 3;
		assert_int_equal(pthread_join(thread, NULL), 0);
		close(fd);
	}
	if (lost != 200)
		assert_int_equal(told, 200);
}

TEST_MAIN(cmocka_unit_test(nothing_moves_after_its_end),
	  cmocka_unit_test(every_state_has_a_name_and_a_status),
	  cmocka_unit_test(table_is_bounded_and_gives_places_back),
	  cmocka_unit_test(streams_are_copied),
	  cmocka_unit_test(process_is_told_by_its_start_time_even_as_a_zombie),
	  cmocka_unit_test(end_is_told_at_the_moment_of_the_reaping_too))
