/* Processes of a container that was made by hand: in a pid and a mount namespace of its own, below a process outside of it. */

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim/shim.h"
#include "shim/strays.h"
#include "tests/lib/main.h"

/* What the process outside tells of those that it made, and how long they stay: until our end of the pipe is closed. */
struct container {
	pid_t outside, init, added;
	int told, hold;
	struct shim shim;
};

static int keep[2]; /* of the children: its end is theirs too */

static void wait_for_the_end(void)
{
	char byte;

	(void)!read(keep[0], &byte, 1);
	_exit(0);
}

static void *go_on(void *userdata)
{
	(void)userdata;
	wait_for_the_end();
	return NULL;
}

/* Whatever else wants this processor has it first. */
static void *go_on_idly(void *userdata)
{
	if (sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){}))
		_exit(1);
	return go_on(userdata);
}

static void *make_child(void *userdata)
{
	if (!fork())
		wait_for_the_end();
	return go_on(userdata);
}

/* The first thread ends, and another one goes on with @fn. */
static void __attribute__((noreturn)) leave_to(void *(*fn)(void *userdata))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, fn, NULL))
		_exit(1);
	/* Not pthread_exit(), which unloads what the other thread may need. */
	syscall(SYS_exit, 0);
	abort();
}

/* Init, and below it what @inside makes. */
static void run_init(void (*inside)(void))
{
	signal(SIGCHLD, SIG_IGN); /* orphans are reaped by themselves */
	if (inside && !fork())
		inside();
	wait_for_the_end();
}

static void run_outside(const int told[2], void (*inside)(void), void (*added)(void))
{
	pid_t pids[2] = {};

	if (unshare(CLONE_NEWPID | CLONE_NEWNS) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		_exit(77);
	pids[0] = fork();
	if (!pids[0])
		run_init(inside);
	if (added) {
		pids[1] = fork();
		if (!pids[1])
			added();
	}
	(void)!write(told[1], pids, sizeof(pids));
	wait_for_the_end();
}

static void begin(struct container *container, void (*inside)(void), void (*added)(void))
{
	pid_t pids[2];
	int told[2];

	memset(container, 0, sizeof(*container));
	assert_int_equal(pipe(keep), 0);
	assert_int_equal(pipe(told), 0);
	container->outside = fork();
	if (!container->outside) {
		close(keep[1]);
		run_outside(told, inside, added);
	}
	close(told[1]);
	assert_int_equal(read(told[0], pids, sizeof(pids)), sizeof(pids));
	close(told[0]);
	container->init = pids[0];
	container->added = pids[1];
	container->hold = keep[1];
	process_init(&container->shim.init, &container->shim, "c");
	processes_init(&container->shim.added);
	container->shim.init.pid = container->init;
	container->shim.config.own_pid_ns = true;
}

static void end(struct container *container)
{
	close(container->hold);
	close(keep[0]);
	kill(container->init, SIGKILL);
	assert_int_equal(waitpid(container->outside, NULL, 0), container->outside);
}

static size_t find(const struct container *container, pid_t *ret_first)
{
	pid_t pids[8] = {};
	size_t n = strays_find(&container->shim, 0, pids, ARRAY_SIZE(pids));

	*ret_first = pids[0];
	return n;
}

/* Until all that is made has been: @n processes with init's namespace of pids, below init or beside it. */
static void await_processes(const struct container *container, size_t n)
{
	size_t found;

	do {
		_cleanup_(cleanup_dir) DIR *dir = opendir("/proc");
		struct dirent *entry;

		found = 0;
		while ((entry = readdir(dir)))
			found += atoi(entry->d_name) > 1 &&
				 shim_compare_namespace(&container->shim, atoi(entry->d_name),
							"ns/pid") == 1;
	} while (found < n && !usleep(1000));
}

static bool is_leader_dead(pid_t pid)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/stat", (int)pid), *text = NULL;

	return !file_read_proc(path, 4096, &text, NULL) && strrchr(text, ')')[2] == 'Z';
}

static void inside_with_dead_leader(void)
{
	leave_to(make_child);
}

static void added_with_dead_leader(void)
{
	leave_to(go_on);
}

static void added_that_is_slow_to_die(void)
{
	leave_to(go_on_idly);
}

static void process_that_came_from_outside_is_found(void **state)
{
	struct container container;
	pid_t pid;

	(void)state;
	begin(&container, NULL, wait_for_the_end);
	assert_int_equal(find(&container, &pid), 1);
	assert_int_equal(pid, container.added);
	end(&container);
}

static void child_of_a_process_whose_first_thread_has_ended_is_no_stray(void **state)
{
	struct container container;
	pid_t pid;

	(void)state;
	begin(&container, inside_with_dead_leader, NULL);
	await_processes(&container, 3);
	assert_int_equal(find(&container, &pid), 0);
	end(&container);
}

static void process_whose_first_thread_has_ended_goes_on(void **state)
{
	struct container container;
	pid_t pid;

	(void)state;
	begin(&container, NULL, added_with_dead_leader);
	while (!is_leader_dead(container.added))
		usleep(1000);
	assert_int_equal(find(&container, &pid), 1);
	assert_int_equal(pid, container.added);
	end(&container);
}

/* One after the other leaves a child that goes on for a moment, and ends: which takes a while, in which it has given its
 * namespaces back, and not yet its child, because of what it has open. */
static void inside_that_ends_all_the_time(void)
{
	for (;;) {
		if (!fork()) {
			int fd = memfd_create("much", 0);

			(void)!fallocate(fd, 0, 0, 32 << 20);
			if (!fork()) {
				close(fd);
				usleep(20000);
			}
			_exit(0);
		}
		(void)waitpid(-1, NULL, 0);
	}
}

static void child_of_a_process_that_ends_just_now_is_no_stray(void **state)
{
	struct container container;
	pid_t pid;

	(void)state;
	begin(&container, inside_that_ends_all_the_time, NULL);
	await_processes(&container, 2);
	for (int i = 0; i < 500; i++)
		assert_int_equal(find(&container, &pid), 0);
	end(&container);
}

/* Not all of its threads know it yet. */
static void process_that_was_killed_is_no_stray(void **state)
{
	struct container container;
	cpu_set_t before, here;
	pid_t pid;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	CPU_ZERO(&here);
	CPU_SET(sched_getcpu(), &here);
	assert_int_equal(sched_setaffinity(0, sizeof(here), &here), 0);
	begin(&container, NULL, added_that_is_slow_to_die);
	while (!is_leader_dead(container.added))
		usleep(1000);
	assert_int_equal(find(&container, &pid), 1);
	kill(container.added, SIGKILL);
	assert_int_equal(find(&container, &pid), 0);
	assert_int_equal(sched_setaffinity(0, sizeof(before), &before), 0);
	end(&container);
}

TEST_MAIN(cmocka_unit_test(process_that_came_from_outside_is_found),
	  cmocka_unit_test(child_of_a_process_whose_first_thread_has_ended_is_no_stray),
	  cmocka_unit_test(process_whose_first_thread_has_ended_goes_on),
	  cmocka_unit_test(child_of_a_process_that_ends_just_now_is_no_stray),
	  cmocka_unit_test(process_that_was_killed_is_no_stray))
