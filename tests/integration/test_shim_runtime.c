/*
 * A real davit-shim with the real OCI runtimes on a busybox root: mounts in a
 * namespace of its own, exit codes, memory limits, clean-up. Skipped where there
 * is no crun, no busybox or no privilege.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
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
	if (access("/usr/sbin/runc", X_OK))
		skip();
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

static void container_of_a_killed_shim_goes_on_and_is_cleaned_up(void **state)
{
	struct shim_state_reply reply = {};

	(void)state;
	setup("/usr/bin/crun", "sleep 1000", "", true);
	shim_case_start(&test);
	must("shim.create", &create_and_start, NULL);
	shim_case_replace(&test);
	must("shim.state", NULL, &reply);
	assert_int_equal(reply.status, TASK_UNKNOWN);
	assert_int_equal(kill((pid_t)reply.pid, 0), 0);
	shim_state_reply_clear(&reply);
	must("shim.delete", &delete_by_force, NULL);
	assert_int_equal(shim_case_wait_end(&test), 0);
	assert_false(shim_case_has(&test, "oci/" SHIM_CASE_TASK));
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
		SHIM_TEST(container_of_a_killed_shim_goes_on_and_is_cleaned_up),
	};

	if (geteuid() || access("/usr/bin/crun", X_OK) || access("/bin/busybox", X_OK)) {
		puts("needs root, crun and busybox-static");
		return 77;
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
