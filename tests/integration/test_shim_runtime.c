/*
 * A real davit-shim with the real OCI runtimes on a busybox root: mounts in a
 * namespace of its own, exit codes, memory limits, clean-up. Skipped where there
 * is no crun, no busybox or no privilege.
 */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/spawn.h"
#include "tests/lib/main.h"
#include "tests/lib/shim_case.h"

static struct shim_case test;
static struct mount overlay;
static char *options[4];

static const struct shim_create_request create_only, create_and_start = {.start = true};
static const struct shim_delete_request delete_gently, delete_by_force = {.force = true};

/* ---- a root, a spec ------------------------------------------------------ */

static void make_dir(const char *name)
{
	_cleanup_(cleanup_free) char *path = scratch_path(&test.scratch, name);

	assert_int_equal(file_make_dir(path, 0755, NULL), 0);
}

static void copy_busybox(void)
{
	_cleanup_(cleanup_free) char *to = scratch_path(&test.scratch, "lower/bin/busybox");
	_cleanup_(cleanup_free) char *link = scratch_path(&test.scratch, "lower/bin/sh");
	const char *argv[] = {"cp", "/bin/busybox", to, NULL};
	pid_t pid;

	assert_int_equal(spawn(&(struct spawn){.path = "/bin/cp", .argv = argv}, &pid, NULL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(symlink("busybox", link), 0);
}

/* An overlay of two layers whose lower has busybox. */
static void make_root(void)
{
	static const char *const dirs[] = {"lower",     "lower/bin", "lower/proc",
					   "lower/sys", "lower/dev", "lower/tmp",
					   "lower2",    "upper",     "work"};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		make_dir(dirs[i]);
	copy_busybox();
	options[0] = text_format("lowerdir=%s/lower2:%s/lower", test.state, test.state);
	options[1] = text_format("upperdir=%s/upper", test.state);
	options[2] = text_format("workdir=%s/work", test.state);
	options[3] = strdup("index=off");
	overlay = (struct mount){.type = (char *)"overlay",
				 .source = (char *)"overlay",
				 .options = {options, ARRAY_SIZE(options)}};
	test.config.rootfs.items = &overlay;
	test.config.rootfs.count = 1;
}

static void write_spec(const char *script, const char *resources, bool own_pid_ns)
{
	_cleanup_(cleanup_free) char *text = text_format(
		"{\"ociVersion\":\"1.0.0\",\"root\":{\"path\":\"rootfs\"},\"hostname\":\"web\","
		"\"process\":{\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0},"
		"\"args\":[\"/bin/sh\",\"-c\",\"%s\"],\"env\":[\"PATH=/bin\"]},"
		"\"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"}],"
		"\"linux\":{\"cgroupsPath\":\"%s\",\"resources\":{%s},\"namespaces\":[%s"
		"{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"uts\"}]}}",
		script, test.cgroup, resources, own_pid_ns ? "{\"type\":\"pid\"}," : "");

	shim_case_write(&test, "config.json", text);
	test.config.own_pid_ns = own_pid_ns;
}

static void setup(const char *runtime, const char *script, const char *resources, bool own_pid_ns)
{
	shim_case_init(&test, "");
	free(test.runtime);
	test.config.runtime_path = test.runtime = strdup(runtime);
	test.config.detach_unified = strstr(runtime, "crun") &&
				     !access("/sys/fs/cgroup/unified/cgroup.procs", F_OK);
	snprintf(test.cgroup, sizeof(test.cgroup), "/davit-test-%d/c", (int)getpid());
	test.config.cgroup = test.cgroup;
	make_root();
	write_spec(script, resources, own_pid_ns);
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
}

/* Whether the container's cgroup is left in any hierarchy; its parent, which is shared, is taken away. */
static bool has_cgroup(void)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir("/sys/fs/cgroup");
	struct dirent *entry;
	bool is_left = false;

	while (dir && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *path = text_format("/sys/fs/cgroup/%s%s",
								 entry->d_name, test.cgroup);

		if (!access(path, F_OK)) {
			fprintf(stderr, "left behind: %s\n", path);
			is_left = true;
			rmdir(path);
		}
		*strrchr(path, '/') = '\0';
		rmdir(path);
	}
	return is_left;
}

/* Of the container's cgroup, v1's of the pids or v2's. */
static char *pids_file(const char *name)
{
	bool is_v1 = !access("/sys/fs/cgroup/pids", F_OK);

	return text_format("/sys/fs/cgroup%s%s/%s", is_v1 ? "/pids" : "", test.cgroup, name);
}

static int teardown(void **state)
{
	int r;

	(void)state;
	r = shim_case_deinit(&test);
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		free(options[i]);
		options[i] = NULL;
	}
	return has_cgroup() || r ? -1 : 0;
}

static void must(const char *method, const void *request, void *reply)
{
	enum bus_status status = shim_case_call(&test, method, NULL, 0, request, reply);

	if (status != BUS_OK)
		fail_msg("%s: status %d: %s", method, status, test.text);
}

static const struct exit_record *wait_exit(void)
{
	static struct exit_record record;
	const struct event_task_exit *exit =
		&test.events[shim_case_wait_event(&test, "/tasks/exit")].exit;

	record = (struct exit_record){.exit_status = exit->exit_status,
				      .signal = exit->signal,
				      .oom_killed = exit->oom_killed};
	return &record;
}

static void finish(void)
{
	must("shim.delete", &delete_gently, NULL);
	assert_int_equal(shim_case_wait_end(&test), 0);
	assert_false(shim_case_has(&test, "bundle"));
	assert_false(shim_case_has(&test, "oci/" SHIM_CASE_TASK));
}

/* ---- tests --------------------------------------------------------------- */

static void run_with(const char *runtime)
{
	_cleanup_(cleanup_free) char *out = NULL, *uri = NULL, *text = NULL, *mounts = NULL;
	struct task_io io = {};

	setup(runtime, "hostname; echo x >/made; exit 7", "", true);
	out = scratch_path(&test.scratch, "out");
	uri = text_format("file://%s", out);
	io.stdout = io.stderr = uri;
	test.config.io = &io;
	shim_case_start(&test);
	must("shim.create", &create_only, NULL);
	/* Its root is mounted where nobody else sees it. */
	assert_int_equal(file_read_proc("/proc/self/mountinfo", 1 << 20, &mounts, NULL), 0);
	assert_null(strstr(mounts, test.scratch.dir));
	must("shim.start", NULL, NULL);
	assert_int_equal(wait_exit()->exit_status, 7);
	finish();
	assert_int_equal(file_read(AT_FDCWD, out, 4096, &text, NULL), 0);
	assert_string_equal(text, "web\n");
	assert_true(shim_case_has(&test, "upper/made"));
}

static void crun_runs_a_container_on_an_overlay(void **state)
{
	(void)state;
	run_with("/usr/bin/crun");
}

static void runc_runs_a_container_on_an_overlay(void **state)
{
	(void)state;
	run_with("/usr/sbin/runc");
}

static void two_hundred_short_containers_have_their_true_codes(void **state)
{
	char script[32];

	(void)state;
	for (int i = 0; i < 200; i++) {
		int code = (i * 37) % 256;

		snprintf(script, sizeof(script), "exit %d", code);
		setup("/usr/bin/crun", script, "", true);
		shim_case_start(&test);
		must("shim.create", &create_and_start, NULL);
		assert_int_equal(wait_exit()->exit_status, code);
		assert_string_equal(test.events[0].topic, "/tasks/create");
		assert_string_equal(test.events[1].topic, "/tasks/start");
		assert_string_equal(test.events[2].topic, "/tasks/exit");
		assert_int_equal(test.n_events, 3);
		finish();
		/* The last one is left for the test's own teardown. */
		if (i < 199)
			assert_int_equal(teardown(NULL), 0);
	}
}

static void command_that_is_not_there_is_named(void **state)
{
	(void)state;
	setup("/usr/bin/crun", "true", "", true);
	shim_case_write(
		&test, "config.json",
		"{\"ociVersion\":\"1.0.0\",\"root\":{\"path\":\"rootfs\"},"
		"\"process\":{\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0},"
		"\"args\":[\"/bin/nosuch\"]},\"mounts\":[],\"linux\":{\"namespaces\":[{\"type\":\"mount\"}]}}");
	shim_case_start(&test);
	assert_int_equal(shim_case_call(&test, "shim.create", NULL, 0, &create_and_start, NULL),
			 BUS_FAILED_PRECONDITION);
	if (!strstr(test.text, "/bin/nosuch"))
		fail_msg("'%s' does not name the command", test.text);
	assert_int_equal(test.n_events, 0);
	must("shim.delete", &delete_by_force, NULL);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

static void death_for_memory_is_told_before_the_exit(void **state)
{
	(void)state;
	if (access("/sys/fs/cgroup/memory", F_OK) && access("/sys/fs/cgroup/memory.stat", F_OK))
		skip();
	setup("/usr/bin/crun", "x=a; while true; do x=$x$x; done",
	      "\"memory\":{\"limit\":16777216,\"swap\":16777216}", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	assert_true(wait_exit()->oom_killed);
	assert_string_equal(test.events[2].topic, "/tasks/oom");
	assert_string_equal(test.events[3].topic, "/tasks/exit");
	finish();
}

static void init_with_a_shared_pid_namespace_takes_its_children_along(void **state)
{
	(void)state;
	setup("/usr/bin/crun", "sleep 1000 & sleep 1000 & exit 5", "", false);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	assert_int_equal(wait_exit()->exit_status, 5);
	finish();
}

static void kill_of_all_reaches_every_process(void **state)
{
	struct shim_kill_request all = {.signal = SIGKILL, .all = true};

	(void)state;
	setup("/usr/bin/crun", "sleep 1000 & sleep 1000 & wait", "", false);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	must("shim.kill", &all, NULL);
	assert_int_equal(wait_exit()->exit_status, 137);
	finish();
}

static void created_container_can_be_deleted_unstarted(void **state)
{
	struct shim_delete_reply reply = {};

	(void)state;
	setup("/usr/bin/crun", "true", "", true);
	shim_case_start(&test);
	must("shim.create", &create_only, NULL);
	must("shim.delete", &delete_gently, &reply);
	shim_delete_reply_clear(&reply);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

static enum task_status status_now(uint64_t *ret_pid)
{
	struct shim_state_reply reply = {};
	enum task_status status;

	must("shim.state", NULL, &reply);
	status = reply.status;
	if (ret_pid)
		*ret_pid = reply.pid;
	shim_state_reply_clear(&reply);
	return status;
}

/* ---- added processes ----------------------------------------------------- */

static void write_process(const char *id, const char *script)
{
	_cleanup_(cleanup_free) char *file = text_format("%s.json", id);
	_cleanup_(cleanup_free) char *text =
		text_format("{\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0},\"env\":[\"PATH=/bin\"],"
			    "\"args\":[%s\"%s\"]}",
			    script[0] == '/' ? "" : "\"/bin/sh\",\"-c\",", script);

	shim_case_write(&test, file, text);
}

static enum bus_status exec(const char *id, const char *script, struct task_io *io)
{
	_cleanup_(cleanup_free) char *file = text_format("%s.json", id);
	struct shim_exec_request request = {
		.exec_id = (char *)id, .process_file = file, .io = io, .start = true};

	write_process(id, script);
	return shim_case_call(&test, "shim.exec", NULL, 0, &request, NULL);
}

static void must_exec(const char *id, const char *script)
{
	if (exec(id, script, NULL) != BUS_OK)
		fail_msg("exec %s: %s", id, test.text);
}

static const struct event_task_exit *exit_of(const char *id)
{
	return &test.events[shim_case_wait_process(&test, "/tasks/exit", id)].exit;
}

static void exec_with(const char *runtime)
{
	_cleanup_(cleanup_free) char *out = NULL, *uri = NULL, *text = NULL;
	struct task_io io = {};

	setup(runtime, "while true; do sleep 1000; done", "", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	out = scratch_path(&test.scratch, "out");
	uri = text_format("file://%s", out);
	io.stdout = io.stderr = uri;
	if (exec("one", "hostname; exit 9", &io) != BUS_OK)
		fail_msg("%s", test.text);
	assert_int_equal(exit_of("one")->exit_status, 9);
	assert_int_equal(exit_of("one")->source, EXIT_OBSERVED);
	assert_int_equal(file_read(AT_FDCWD, out, 4096, &text, NULL), 0);
	assert_string_equal(text, "web\n");
	must_exec("two", "exec sleep 1000");
	must("shim.kill", &(struct shim_kill_request){.exec_id = (char *)"two", .signal = SIGTERM},
	     NULL);
	assert_int_equal(exit_of("two")->signal, SIGTERM);
	assert_int_equal(exec("three", "/bin/nosuch", NULL), BUS_FAILED_PRECONDITION);
	if (!strstr(test.text, "nosuch") ||
	    (!strstr(test.text, "o such file") && !strstr(test.text, "not found")))
		fail_msg("'%s' does not say that /bin/nosuch is not there", test.text);
	assert_int_equal(exec("four", "/tmp", NULL), BUS_FAILED_PRECONDITION);
	if (!strstr(test.text, "ermission denied") && !strstr(test.text, "not permitted"))
		fail_msg("'%s' does not say that /tmp cannot be executed", test.text);
	must("shim.delete", &delete_by_force, NULL);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

static void crun_adds_processes(void **state)
{
	(void)state;
	exec_with("/usr/bin/crun");
}

static void runc_adds_processes(void **state)
{
	(void)state;
	exec_with("/usr/sbin/runc");
}

#define STORM 300

/* Sends all without waiting for the answers, and ends init in the midst of it. */
static void send_storm(void)
{
	char id[16], file[32], script[32];

	for (int i = 0; i < STORM; i++) {
		struct shim_exec_request request = {
			.exec_id = id, .process_file = file, .start = true};
		uint8_t request_id[ID_SIZE];

		/* The table has 256 places. */
		if (i >= 250) {
			snprintf(id, sizeof(id), "p%d", i - 250);
			shim_case_wait_process(&test, "/tasks/exit", id);
			must("shim.exec_delete", &(struct shim_process_request){id}, NULL);
		}
		snprintf(id, sizeof(id), "p%d", i);
		snprintf(file, sizeof(file), "p%d.json", i);
		snprintf(script, sizeof(script), "exit %d", i % 100);
		write_process(id, script);
		id_make(request_id);
		shim_case_send(&test, test.fd, "shim.exec", request_id, 0, &request);
		shim_case_drain(&test);
		if (i == STORM - 10) {
			shim_case_wait_process(&test, "/tasks/exit", "p160");
			must("shim.kill", &(struct shim_kill_request){.signal = SIGKILL}, NULL);
		}
	}
}

static void storm(bool own_pid_ns)
{
	size_t init, started = 0, exits = 0;

	setup("/usr/bin/crun", "while true; do sleep 1000; done", "", own_pid_ns);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	send_storm();
	init = shim_case_wait_process(&test, "/tasks/exit", "web");
	shim_case_drain(&test);
	for (size_t i = 0; i < test.n_events; i++) {
		const struct shim_event *event = &test.events[i];

		started += !strcmp(event->topic, "/tasks/exec-started");
		if (strcmp(event->topic, "/tasks/exit") || i == init)
			continue;
		exits++;
		assert_true(i < init);
		assert_string_not_equal(event->id, "web");
		for (size_t k = 0; k < i; k++)
			assert_false(!strcmp(test.events[k].topic, "/tasks/exit") &&
				     !strcmp(test.events[k].id, event->id));
		if (event->exit.signal != SIGKILL && event->exit.source == EXIT_OBSERVED)
			assert_int_equal(event->exit.exit_status, atoi(event->id + 1) % 100);
	}
	assert_true(started > STORM / 2);
	assert_true(exits >= started);
	finish();
}

static void exits_of_a_storm_come_once_and_before_inits(void **state)
{
	(void)state;
	storm(true);
}

static void exits_of_a_storm_come_before_inits_in_a_shared_pid_namespace(void **state)
{
	(void)state;
	storm(false);
}

/* ---- frozen, limited, checkpointed --------------------------------------- */

static void freeze_with(const char *runtime)
{
	struct shim_kill_request kill_it = {.signal = SIGKILL};

	setup(runtime, "while true; do sleep 1000; done", "", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	must("shim.pause", NULL, NULL);
	assert_int_equal(status_now(NULL), TASK_PAUSED);
	assert_int_equal(exec("one", "true", NULL), BUS_FAILED_PRECONDITION);
	must("shim.resume", NULL, NULL);
	assert_int_equal(status_now(NULL), TASK_RUNNING);
	must("shim.pause", NULL, NULL);
	shim_case_wait_event(&test, "/tasks/paused");
	must("shim.kill", &kill_it, NULL);
	assert_int_equal(wait_exit()->signal, SIGKILL);
	finish();
}

static void crun_freezes_and_what_is_frozen_can_be_killed(void **state)
{
	(void)state;
	freeze_with("/usr/bin/crun");
}

static void runc_freezes_and_what_is_frozen_can_be_killed(void **state)
{
	(void)state;
	freeze_with("/usr/sbin/runc");
}

static void limits_of_a_live_container_are_changed(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL, *text = NULL;
	struct shim_update_request update = {(char *)"resources.json"};

	(void)state;
	setup("/usr/bin/crun", "while true; do sleep 1000; done", "", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	shim_case_write(&test, "resources.json", "{\"pids\":{\"limit\":77}}");
	must("shim.update", &update, NULL);
	path = pids_file("pids.max");
	assert_int_equal(file_read_proc(path, 64, &text, NULL), 0);
	assert_string_equal(text, "77\n");
	assert_false(shim_case_has(&test, "bundle/resources.json"));
	must("shim.delete", &delete_by_force, NULL);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

static void checkpoint_that_fails_says_why_and_leaves_the_container_running(void **state)
{
	_cleanup_(cleanup_free) char *images = NULL;
	struct task_checkpoint_request request = {.container_id = (char *)"web"};
	enum bus_status status;

	(void)state;
	setup("/usr/sbin/runc", "while true; do sleep 1000; done", "", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	images = request.image_path = scratch_path(&test.scratch, "images");
	status = shim_case_call(&test, "shim.checkpoint", NULL, 0, &request, NULL);
	/* Where criu is there, and works on this kernel, it succeeds. */
	if (status != BUS_OK) {
		assert_int_equal(status, BUS_FAILED_PRECONDITION);
		if (!strstr(test.text, "criu"))
			fail_msg("'%s' is not what runc says", test.text);
	}
	assert_int_equal(status_now(NULL), TASK_RUNNING);
	must_exec("one", "exit 4");
	assert_int_equal(exit_of("one")->exit_status, 4);
	must("shim.delete", &delete_by_force, NULL);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

static void child_that_is_killed_for_memory_is_told_while_init_goes_on(void **state)
{
	(void)state;
	if (access("/sys/fs/cgroup/memory", F_OK) && access("/sys/fs/cgroup/memory.stat", F_OK))
		skip();
	setup("/usr/bin/crun",
	      "(x=a; while true; do x=$x$x; done); while true; do sleep 1000; done",
	      "\"memory\":{\"limit\":16777216,\"swap\":16777216}", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	shim_case_wait_event(&test, "/tasks/oom");
	assert_int_equal(status_now(NULL), TASK_RUNNING);
	must("shim.kill", &(struct shim_kill_request){.signal = SIGKILL}, NULL);
	assert_true(wait_exit()->oom_killed);
	finish();
}

/* ---- without the shim ---------------------------------------------------- */

static void assert_adopted_exit(const char *process, uint64_t status)
{
	shim_case_assert_adopted_exit(&test, shim_case_wait_process(&test, "/tasks/exit", process),
				      status);
}

static void adopt_with(const char *runtime)
{
	uint64_t pid, adopted;

	setup(runtime, "while true; do sleep 1000; done", "", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	must_exec("one", "exec sleep 1000");
	assert_int_equal(status_now(&pid), TASK_RUNNING);
	shim_case_replace(&test);
	assert_int_equal(status_now(&adopted), TASK_RUNNING);
	assert_int_equal(adopted, pid);
	must_exec("two", "hostname; exit 3");
	assert_int_equal(exit_of("two")->exit_status, 3);
	must("shim.pause", NULL, NULL);
	shim_case_replace(&test);
	assert_int_equal(status_now(NULL), TASK_PAUSED);
	must("shim.resume", NULL, NULL);
	must("shim.kill", &(struct shim_kill_request){.exec_id = (char *)"one", .signal = SIGTERM},
	     NULL);
	assert_adopted_exit("one", 128 + SIGTERM);
	must("shim.delete", &delete_by_force, NULL);
	assert_adopted_exit("web", 128 + SIGKILL);
	assert_int_equal(shim_case_wait_end(&test), 0);
	assert_false(shim_case_has(&test, "oci/" SHIM_CASE_TASK));
}

static void start_adopted_with(const char *runtime)
{
	setup(runtime, "exit 6", "", true);
	shim_case_start(&test);
	must("shim.create", &create_only, NULL);
	shim_case_replace(&test);
	assert_int_equal(status_now(NULL), TASK_CREATED);
	must("shim.start", NULL, NULL);
	assert_adopted_exit("web", 6);
	must("shim.delete", &delete_gently, NULL);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

static void created_container_of_a_killed_shim_is_started_with_crun(void **state)
{
	(void)state;
	start_adopted_with("/usr/bin/crun");
}

static void created_container_of_a_killed_shim_is_started_with_runc(void **state)
{
	(void)state;
	start_adopted_with("/usr/sbin/runc");
}

static void container_of_a_killed_shim_is_adopted_with_crun(void **state)
{
	(void)state;
	adopt_with("/usr/bin/crun");
}

static void container_of_a_killed_shim_is_adopted_with_runc(void **state)
{
	(void)state;
	adopt_with("/usr/sbin/runc");
}

#define ROUNDS 8
#define EACH   6

/* Of the container's; init and its sleep are two. */
static size_t count_processes(void)
{
	_cleanup_(cleanup_free) char *path = pids_file("cgroup.procs");
	_cleanup_(cleanup_free) char *text = NULL;
	size_t n = 0;

	assert_int_equal(file_read_proc(path, 65536, &text, NULL), 0);
	for (const char *at = text; *at; at++)
		n += *at == '\n';
	return n;
}

static void send_execs(int round)
{
	char id[16], file[32], script[32];

	for (int i = 0; i < EACH; i++) {
		struct shim_exec_request request = {
			.exec_id = id, .process_file = file, .start = true};
		uint8_t request_id[ID_SIZE];

		snprintf(id, sizeof(id), "r%d-%d", round, i);
		snprintf(file, sizeof(file), "%s.json", id);
		snprintf(script, sizeof(script), "exit %d", i);
		write_process(id, script);
		id_make(request_id);
		shim_case_send(&test, test.fd, "shim.exec", request_id, 0, &request);
	}
}

/* True: all that were added have ended, each with its own code, or as unknown. */
static bool have_all_ended(void)
{
	struct shim_processes_reply list = {};
	bool is_all = true;

	must("shim.processes", NULL, &list);
	for (size_t i = 0; i < list.processes.count; i++) {
		const struct shim_process_state *process = &list.processes.items[i];

		is_all = is_all && process->status == TASK_STOPPED;
		if (process->exit && process->exit->source == EXIT_OBSERVED &&
		    process->exit->signal != SIGKILL)
			assert_int_equal(process->exit->exit_status,
					 atoi(strchr(process->exec_id, '-') + 1));
	}
	shim_processes_reply_clear(&list);
	return is_all;
}

static void shims_that_are_killed_while_processes_are_made_lose_none(void **state)
{
	uint64_t limit_ms;

	(void)state;
	setup("/usr/bin/crun", "while true; do sleep 1000; done", "", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	for (int round = 0; round < ROUNDS; round++) {
		send_execs(round);
		(void)poll(NULL, 0, 9 * round);
		shim_case_replace(&test);
	}
	limit_ms = time_boot_ms() + 20000;
	while (!have_all_ended() && time_boot_ms() < limit_ms)
		(void)poll(NULL, 0, 20);
	assert_true(have_all_ended());
	shim_case_drain(&test);
	while (count_processes() > 2 && time_boot_ms() < limit_ms)
		(void)poll(NULL, 0, 20);
	assert_int_equal(count_processes(), 2);
	must_exec("last", "exit 5");
	assert_int_equal(exit_of("last")->exit_status, 5);
	must("shim.delete", &delete_by_force, NULL);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

#define SHIM_TEST(name) cmocka_unit_test_teardown(name, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		SHIM_TEST(crun_runs_a_container_on_an_overlay),
		SHIM_TEST(runc_runs_a_container_on_an_overlay),
		SHIM_TEST(two_hundred_short_containers_have_their_true_codes),
		SHIM_TEST(command_that_is_not_there_is_named),
		SHIM_TEST(death_for_memory_is_told_before_the_exit),
		SHIM_TEST(init_with_a_shared_pid_namespace_takes_its_children_along),
		SHIM_TEST(kill_of_all_reaches_every_process),
		SHIM_TEST(created_container_can_be_deleted_unstarted),
		SHIM_TEST(crun_adds_processes),
		SHIM_TEST(runc_adds_processes),
		SHIM_TEST(exits_of_a_storm_come_once_and_before_inits),
		SHIM_TEST(exits_of_a_storm_come_before_inits_in_a_shared_pid_namespace),
		SHIM_TEST(crun_freezes_and_what_is_frozen_can_be_killed),
		SHIM_TEST(runc_freezes_and_what_is_frozen_can_be_killed),
		SHIM_TEST(limits_of_a_live_container_are_changed),
		SHIM_TEST(checkpoint_that_fails_says_why_and_leaves_the_container_running),
		SHIM_TEST(child_that_is_killed_for_memory_is_told_while_init_goes_on),
		SHIM_TEST(created_container_of_a_killed_shim_is_started_with_crun),
		SHIM_TEST(created_container_of_a_killed_shim_is_started_with_runc),
		SHIM_TEST(container_of_a_killed_shim_is_adopted_with_crun),
		SHIM_TEST(container_of_a_killed_shim_is_adopted_with_runc),
		SHIM_TEST(shims_that_are_killed_while_processes_are_made_lose_none),
	};

	if (geteuid() || access("/usr/bin/crun", X_OK) || access("/bin/busybox", X_OK)) {
		puts("needs root, crun and busybox-static");
		return 77;
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
