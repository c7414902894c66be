/*
 * Terminals: with tests/programs/fake-oci, which sends what it should not on
 * order, and with crun and runc, which make them inside of a real container.
 */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/spawn.h"
#include "tests/lib/shim_test.h"

static struct task_io io;
static char *log_dir;
static int screen, keys; /* of the first client */

/* ---- a container --------------------------------------------------------- */

static char *open_client(const char *name, int flags, int *ret_fd)
{
	char *path = scratch_path(&test.scratch, name);

	assert_int_equal(mkfifo(path, 0600), 0);
	*ret_fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);
	assert_true(*ret_fd >= 0);
	return path;
}

static void setup(const char *script)
{
	shim_case_init(&test, script);
	log_dir = scratch_path(&test.scratch, "logs");
	io = (struct task_io){.terminal = true, .width = 100, .height = 40};
	io.stdin = open_client("keys", O_RDWR, &keys);
	io.stdout = open_client("screen", O_RDONLY, &screen);
	test.config.log_dir = log_dir;
	test.config.io = &io;
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
}

static int teardown(void **state)
{
	int r;

	(void)state;
	keys = close_fd(keys);
	screen = close_fd(screen);
	r = shim_case_deinit(&test);
	free(log_dir);
	free(io.stdin);
	free(io.stdout);
	if (test.cgroup[0]) {
		_cleanup_(cleanup_free) char *command = text_format(
			"find /sys/fs/cgroup -depth -type d -path '*/davit-tty-%d*' -delete",
			(int)getpid());
		(void)!system(command);
	}
	return r;
}

#define TERMINAL_TEST(name) cmocka_unit_test_teardown(name, teardown)

static void must_run(const char *const *argv)
{
	int status;
	pid_t pid;

	assert_int_equal(spawn(&(struct spawn){.path = argv[0], .argv = argv}, &pid, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* A real container whose root has busybox only. */
static void setup_real(const char *runtime, const char *script)
{
	_cleanup_(cleanup_free) char *spec = NULL, *shell = NULL, *link = NULL;

	if (access(runtime, X_OK) || access("/bin/busybox", X_OK))
		skip();
	setup("");
	free(test.runtime);
	test.config.runtime_path = test.runtime = strdup(runtime);
	test.config.detach_unified = strstr(runtime, "crun") &&
				     !access("/sys/fs/cgroup/unified/cgroup.procs", F_OK);
	snprintf(test.cgroup, sizeof(test.cgroup), "/davit-tty-%d/c", (int)getpid());
	test.config.cgroup = test.cgroup;
	shell = text_format("%s/rootfs/bin/busybox", test.bundle);
	link = text_format("%s/rootfs/bin/sh", test.bundle);
	must_run((const char *[]){"/bin/cp", "/bin/busybox", shell, NULL});
	assert_int_equal(symlink("busybox", link), 0);
	spec = text_format(
		"{\"ociVersion\":\"1.0.0\",\"root\":{\"path\":\"rootfs\"},\"hostname\":\"web\","
		"\"process\":{\"terminal\":true,\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0},"
		"\"args\":[\"/bin/sh\",\"-c\",\"%s\"],\"env\":[\"PATH=/bin\"]},"
		"\"mounts\":[{\"destination\":\"/proc\",\"type\":\"proc\",\"source\":\"proc\"},"
		"{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\"},"
		"{\"destination\":\"/dev/pts\",\"type\":\"devpts\",\"source\":\"devpts\","
		"\"options\":[\"newinstance\",\"ptmxmode=0666\",\"mode=0620\"]}],"
		"\"linux\":{\"cgroupsPath\":\"%s\",\"namespaces\":[{\"type\":\"pid\"},"
		"{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"uts\"}]}}",
		script, test.cgroup);
	shim_case_write(&test, "config.json", spec);
}

static void start(void)
{
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_only);
	assert_call(BUS_OK, "shim.start", NULL);
}

/* Until @part has come to the screen; what came before it is passed over. */
static void assert_screen(const char *part)
{
	static char seen[1024];
	static size_t size;
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;
	ssize_t n;

	for (size = 0;;) {
		if (time_boot_ms() > limit_ms || !wait_on_fd(screen, POLLIN, WAIT_MS))
			fail_msg("the screen shows '%.*s', not '%s'", (int)size, seen, part);
		n = read(screen, seen + size, 1);
		if (!n)
			fail_msg("the screen ended with '%.*s', without '%s'", (int)size, seen,
				 part);
		size += n > 0 ? 1 : 0;
		if (size == sizeof(seen)) {
			size /= 2;
			memmove(seen, seen + size, size);
		}
		if (memmem(seen, size, part, strlen(part)))
			return;
	}
}

static void assert_screen_ends(void)
{
	char text[256];
	ssize_t n;

	do {
		assert_true(wait_on_fd(screen, POLLIN, WAIT_MS));
		n = read(screen, text, sizeof(text));
	} while (n);
}

static void type(const char *text)
{
	assert_int_equal(write(keys, text, strlen(text)), strlen(text));
}

static void resize(uint64_t width, uint64_t height)
{
	assert_call(BUS_OK, "shim.resize",
		    &(struct shim_resize_request){.width = width, .height = height});
}

static void delete_it(const struct shim_delete_request *request)
{
	assert_call(BUS_OK, "shim.delete", request);
	assert_int_equal(shim_case_wait_end(&test), 0);
	assert_false(shim_case_has(&test, "bundle"));
}

/* ---- tests --------------------------------------------------------------- */

static void what_is_typed_and_shown_goes_through_one_terminal(void **state)
{
	(void)state;
	setup("stty -echo; echo ready; read x; echo got $x >&2");
	start();
	assert_screen("ready\r\n");
	type("hello\n");
	assert_screen("got hello\r\n");
	assert_screen_ends();
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_FAILED_PRECONDITION, "shim.resize",
		    &(struct shim_resize_request){.width = 1, .height = 1});
	assert_text("is closed");
	delete_it(&delete_gently);
	assert_true(shim_case_has(&test, "logs/web/1"));
}

static void a_terminal_has_its_size_and_is_resized(void **state)
{
	(void)state;
	setup("stty size; read x; stty size; read x; stty size");
	start();
	assert_screen("40 100\r\n");
	resize(80, 24);
	type("\n");
	assert_screen("24 80\r\n");
	resize(65535, 65535);
	type("\n");
	assert_screen("65535 65535\r\n");
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it(&delete_gently);
}

static void input_of_a_terminal_has_no_end_to_close(void **state)
{
	(void)state;
	setup("echo ready; cat");
	start();
	assert_screen("ready\r\n");
	assert_call(BUS_FAILED_PRECONDITION, "shim.close_io", &(struct shim_process_request){});
	assert_text("end-of-file character");
	type("\x04");
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it(&delete_gently);
}

static void the_terminal_hangs_up_when_its_shim_is_killed(void **state)
{
	(void)state;
	setup("echo ready; while :; do sleep 0.01; done");
	start();
	assert_screen("ready\r\n");
	shim_case_replace(&test);
	shim_test_wait_stopped();
	delete_it(&delete_gently);
}

/* Gives the next shim what the test had kept of the last one. */
static void adopt(const int *fds, size_t n)
{
	struct shim_adopt_request request = {.pidfd = true, .terminal = true};
	uint8_t id[ID_SIZE];

	id_make(id);
	shim_case_send_with(&test, test.fd, "shim.adopt", id, 0, &request, fds, n);
	if (shim_case_receive(&test, test.fd, "shim.adopt", id, NULL) != BUS_OK)
		fail_msg("shim.adopt: %s", test.text);
}

static void a_terminal_whose_master_was_kept_outlives_its_shim(void **state)
{
	struct shim_attach_request request = {.start = LOG_FROM_NOW};
	struct shim_descriptors_reply reply = {};
	int kept[2];

	(void)state;
	setup("stty -echo; echo ready; read x; echo got $x; read x; stty size");
	start();
	assert_screen("ready\r\n");
	assert_int_equal(shim_case_call(&test, "shim.descriptors", NULL, 0,
					&(struct shim_process_request){}, &reply),
			 BUS_OK);
	assert_true(reply.pidfd && reply.terminal);
	assert_int_equal(test.n_fds, 2);
	kept[0] = test.fds[0];
	kept[1] = test.fds[1];
	shim_case_replace(&test);
	adopt(kept, 2);
	close(kept[0]);
	close(kept[1]);
	request.stdin = io.stdin;
	request.stdout = io.stdout;
	assert_call(BUS_OK, "shim.attach", &request);
	type("hello\n");
	assert_screen("got hello\r\n");
	resize(33, 44);
	type("\n");
	assert_screen("44 33\r\n");
	shim_test_wait_stopped();
	assert_screen_ends();
	delete_it(&delete_gently);
}

static void an_added_process_has_a_terminal_of_its_own(void **state)
{
	struct task_io added = {.terminal = true, .width = 20, .height = 10};
	struct shim_exec_request request = {.exec_id = (char *)"two",
					    .process_file = (char *)"two.json",
					    .io = &added,
					    .start = true};
	int first_screen, first_keys;

	(void)state;
	setup("echo init; read x; stty size");
	start();
	assert_screen("init\r\n");
	first_screen = screen;
	first_keys = keys;
	shim_case_write(&test, "two.json",
			"{\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"x\"]}");
	shim_case_write(&test, "two.json.sh", "stty size; read x; stty size");
	added.stdin = open_client("keys2", O_RDWR, &keys);
	added.stdout = open_client("screen2", O_RDONLY, &screen);
	assert_call(BUS_OK, "shim.exec", &request);
	assert_screen("10 20\r\n");
	assert_call(
		BUS_OK, "shim.resize",
		&(struct shim_resize_request){.exec_id = (char *)"two", .width = 7, .height = 5});
	type("\n");
	assert_screen("5 7\r\n");
	assert_screen_ends();
	shim_case_wait_process(&test, "/tasks/exit", "two");
	assert_call(BUS_OK, "shim.exec_delete",
		    &(struct shim_process_request){.exec_id = (char *)"two"});
	close(keys);
	close(screen);
	free(added.stdin);
	free(added.stdout);
	screen = first_screen;
	keys = first_keys;
	type("\n");
	assert_screen("40 100\r\n");
	shim_case_wait_process(&test, "/tasks/exit", "web");
	delete_it(&delete_gently);
}

static void assert_refused(const char *kind, const char *text)
{
	_cleanup_(cleanup_free) char *order = text_format("create console %s\n", kind);

	setup("read x");
	shim_case_order(&test, order);
	shim_case_start(&test);
	assert_call(BUS_INTERNAL, "shim.create", &create_only);
	assert_text(text);
	delete_it(&delete_gently);
	teardown(NULL);
}

static void what_is_no_terminal_is_refused(void **state)
{
	(void)state;
	assert_refused("none", "sent no terminal");
	assert_refused("two", "sent 2 descriptors instead of one");
	assert_refused("file", "not the master of a pseudo-terminal");
	setup("echo good");
	start();
	assert_screen("good\r\n");
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it(&delete_gently);
}

static void a_process_of_another_mount_namespace_gives_no_terminal(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL, *log = NULL;

	(void)state;
	setup("read x");
	shim_case_order(&test, "create console stranger\ncreate after-hang");
	shim_case_start(&test);
	assert_int_not_equal(shim_case_call(&test, "shim.create", NULL, time_boot_ms() + 500,
					    &create_only, NULL),
			     BUS_OK);
	path = text_format("%s/log", test.bundle);
	assert_int_equal(file_read(AT_FDCWD, path, 65536, &log, NULL), 0);
	assert_non_null(strstr(log, "a process of another mount namespace came"));
	delete_it(&delete_gently);
}

static void a_path_that_is_too_long_for_a_socket_is_named(void **state)
{
	_cleanup_(cleanup_free) char *path = NULL;

	(void)state;
	setup("read x");
	path = text_format("%s/%0*d", test.state, 107 - 5 - (int)strlen(test.state), 0);
	assert_int_equal(rename(test.bundle, path), 0);
	free(test.bundle);
	test.config.bundle = test.bundle = strdup(path);
	shim_case_start(&test);
	assert_call(BUS_INVALID_ARGUMENT, "shim.create", &create_only);
	assert_text("longer than 107 bytes");
	delete_it(&delete_gently);
}

static void assert_real(const char *runtime)
{
	setup_real(runtime,
		   "trap 'busybox stty size' WINCH; busybox tty; busybox stty size; read x; "
		   "echo got $x; while :; do busybox sleep 0.02; done");
	start();
	assert_screen("/dev/");
	assert_screen("40 100\r\n");
	type("hello\n");
	assert_screen("got hello\r\n");
	resize(132, 50);
	assert_screen("50 132\r\n");
	delete_it(&delete_by_force);
	assert_screen_ends();
}

static void crun_gives_a_container_a_terminal(void **state)
{
	(void)state;
	assert_real("/usr/bin/crun");
}

static void runc_gives_a_container_a_terminal(void **state)
{
	(void)state;
	assert_real("/usr/sbin/runc");
}

static void output_of_a_short_container_is_whole(void **state)
{
	(void)state;
	setup_real("/usr/bin/crun", "busybox seq 1 20000");
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
	assert_screen("\r\n19999\r\n20000\r\n");
	assert_screen_ends();
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it(&delete_gently);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TERMINAL_TEST(what_is_typed_and_shown_goes_through_one_terminal),
		TERMINAL_TEST(a_terminal_has_its_size_and_is_resized),
		TERMINAL_TEST(input_of_a_terminal_has_no_end_to_close),
		TERMINAL_TEST(the_terminal_hangs_up_when_its_shim_is_killed),
		TERMINAL_TEST(a_terminal_whose_master_was_kept_outlives_its_shim),
		TERMINAL_TEST(an_added_process_has_a_terminal_of_its_own),
		TERMINAL_TEST(what_is_no_terminal_is_refused),
		TERMINAL_TEST(a_process_of_another_mount_namespace_gives_no_terminal),
		TERMINAL_TEST(a_path_that_is_too_long_for_a_socket_is_named),
		TERMINAL_TEST(crun_gives_a_container_a_terminal),
		TERMINAL_TEST(runc_gives_a_container_a_terminal),
		TERMINAL_TEST(output_of_a_short_container_is_whole),
	};

	if (geteuid()) {
		puts("needs root");
		return 77;
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
