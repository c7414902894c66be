#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
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

static void *tell_id(void *userdata)
{
	int *fds = userdata;
	pid_t tid = gettid();
	char byte;

	assert_int_equal(write(fds[1], &tid, sizeof(tid)), sizeof(tid));
	(void)!read(fds[2], &byte, 1);
	return NULL;
}

/* The number of one that is gone may be a thread's by now, which has no pidfd of this kind. */
static void thread_is_not_taken_for_a_process(void **state)
{
	struct process process = {};
	int told[2], go[2], fds[3];
	uint64_t start_time;
	pthread_t thread;
	pid_t tid;

	(void)state;
	assert_int_equal(pipe(told), 0);
	assert_int_equal(pipe(go), 0);
	fds[1] = told[1];
	fds[2] = go[0];
	assert_int_equal(pthread_create(&thread, NULL, tell_id, fds), 0);
	assert_int_equal(read(told[0], &tid, sizeof(tid)), sizeof(tid));
	process_init(&process, NULL, "p");
	assert_int_equal(process_identify(&process, tid, 0, false), -ESRCH);
	assert_int_equal(process_start_time(tid, &start_time), 0);
	assert_int_equal(process_identify(&process, tid, start_time, false), -ESRCH);
	assert_int_equal(process.pidfd, -1);
	close(go[1]);
	assert_int_equal(pthread_join(thread, NULL), 0);
	close(go[0]);
	close(told[0]);
	close(told[1]);
}

/* Where nothing can be found out, that is no answer. */
static void want_of_descriptors_says_nothing_of_a_process(void **state)
{
	struct process process = {};
	struct rlimit before, one;
	int free_fd = dup(0);

	(void)state;
	process_init(&process, NULL, "p");
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	close(free_fd);
	one = (struct rlimit){(rlim_t)free_fd + 1,
			      before.rlim_max}; /* for the pidfd, none for its start time */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &one), 0);
	assert_int_equal(process_identify(&process, getpid(), 0, false), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(process_identify(&process, getpid(), 0, false), 0);
	process_forget(&process);
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
	  cmocka_unit_test(thread_is_not_taken_for_a_process),
	  cmocka_unit_test(want_of_descriptors_says_nothing_of_a_process),
	  cmocka_unit_test(end_is_told_at_the_moment_of_the_reaping_too))
