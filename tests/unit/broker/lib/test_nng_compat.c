/* nng 1.5.2's faults stay mended, and the watchdog notices, against peers that mean it ill. */

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <nng/nng.h>

#include "broker/lib/bus_watchdog.h"
#include "broker/lib/file.h"
#include "broker/lib/nng_compat.h"
#include "broker/lib/sp.h"
#include "tests/lib/main.h"
#include "tests/lib/raw_peer.h"
#include "tests/lib/scratch.h"

/* nng 1.5.2 loses a message when its peer dies while it is being sent, and keeps what is abandoned. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libnng.so\n";
}

struct fixture {
	struct scratch scratch;
	char *path;
	struct loop *loop;
	nng_socket pub;
};

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));

	if (!fixture)
		return -1;
	if (scratch_init(&fixture->scratch))
		return -1;
	fixture->path = scratch_path(&fixture->scratch, "pub.sock");
	*state = fixture;
	return loop_new(&fixture->loop);
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	int r;

	loop_free(fixture->loop);
	/* nng keeps its sockets for good. */
	scratch_forgive_fds(&fixture->scratch);
	r = scratch_deinit(&fixture->scratch);
	free(fixture->path);
	free(fixture);
	return r;
}

static void publish_on(struct fixture *fixture)
{
	struct why why = {};

	assert_int_equal(nng_compat_open_pub(&fixture->pub), 0);
	assert_int_equal(nng_compat_listen(fixture->pub, fixture->path, 0600, &why), 0);
}

static void publish(struct fixture *fixture, const char *text)
{
	nng_aio *aio = NULL;
	nng_msg *message = NULL;

	assert_int_equal(nng_aio_alloc(&aio, NULL, NULL), 0);
	assert_int_equal(nng_compat_message(text, strlen(text), &message), 0);
	nng_aio_set_msg(aio, message);
	nng_send_aio(fixture->pub, aio);
	nng_aio_wait(aio);
	assert_int_equal(nng_aio_result(aio), 0);
	nng_aio_free(aio);
}

/* A new subscriber hears what is published. Until it counts as one, what it misses is said again. */
static void assert_heard(struct fixture *fixture)
{
	uint64_t until_ms = time_boot_ms() + WAIT_MS;
	_cleanup_(sp_freep) struct sp *sp = NULL;
	void *data = NULL;
	size_t size = 0;
	int r;

	assert_int_equal(sp_connect(fixture->path, SP_SUB, until_ms, &sp), 0);
	do {
		publish(fixture, "heard");
		r = sp_receive(sp, time_boot_ms() + 20, &data, &size);
	} while (r == SP_E_DEADLINE && time_boot_ms() < until_ms);
	assert_int_equal(r, 0);
	assert_memory_equal(data, "heard", 5);
	free(data);
}

static const uint8_t sub_greeting[8] = {0, 'S', 'P', 0, 0, SP_SUB, 0, 0};

/* ---- the listener lives on ---- */

static void test_a_listener_survives_two_hundred_that_connect_and_close(void **state)
{
	struct fixture *fixture = *state;

	publish_on(fixture);
	for (unsigned i = 0; i < 200; i++) {
		int fd = raw_peer_connect(fixture->path);

		assert_true(fd >= 0);
		close(fd);
	}
	assert_heard(fixture);
}

static void set_flag(void *flag)
{
	atomic_store((atomic_bool *)flag, true);
}

static void test_a_dialer_survives_a_peer_that_accepts_and_closes(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	nng_socket sub = NNG_SOCKET_INITIALIZER;
	struct fixture *fixture = *state;
	uint64_t until_ms = time_boot_ms() + WAIT_MS;
	atomic_bool is_heard = false;
	nng_aio *aio = NULL;
	int listener;

	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, fixture->path);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 8), 0);
	assert_int_equal(nng_compat_open_sub(&sub), 0);
	assert_int_equal(nng_compat_dial(sub, fixture->path, true), 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(wait_on_fd(listener, POLLIN, WAIT_MS));
		close(accept(listener, NULL, NULL));
	}
	close(listener);
	unlink(fixture->path);

	publish_on(fixture);
	assert_int_equal(nng_aio_alloc(&aio, set_flag, &is_heard), 0);
	nng_recv_aio(sub, aio);
	while (!atomic_load(&is_heard) && time_boot_ms() < until_ms) {
		publish(fixture, "hello");
		loop_turn(fixture->loop, 20);
	}
	assert_true(atomic_load(&is_heard));
	assert_int_equal(nng_aio_result(aio), 0);
	nng_msg_free(nng_aio_get_msg(aio));
	nng_aio_free(aio);
}

static void test_a_peer_that_claims_a_gigabyte_is_cut_off(void **state)
{
	uint8_t frame[9 + 4] = {1, 0, 0, 0, 0, 0x40, 0, 0, 0, 0x80, 0, 0, 1};
	struct fixture *fixture = *state;
	int fd;

	publish_on(fixture);
	fd = raw_peer_connect(fixture->path);
	assert_true(fd >= 0);
	assert_int_equal(send(fd, sub_greeting, sizeof(sub_greeting), 0), sizeof(sub_greeting));
	assert_int_equal(send(fd, frame, sizeof(frame), MSG_NOSIGNAL), sizeof(frame));
	assert_true(raw_peer_is_cut_off(fd));
	close(fd);
	assert_heard(fixture);
}

static void test_a_peer_that_greets_wrongly_is_cut_off(void **state)
{
	struct fixture *fixture = *state;
	int fd;

	publish_on(fixture);
	fd = raw_peer_connect(fixture->path);
	assert_true(fd >= 0);
	assert_int_equal(send(fd, "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
	assert_true(raw_peer_is_cut_off(fd));
	close(fd);
	assert_heard(fixture);
}

/* ---- the watchdog ---- */

struct bark {
	int pipe[2];
	char why[256];
};

static void note_failure(void *userdata, const char *why)
{
	struct bark *bark = userdata;

	snprintf(bark->why, sizeof(bark->why), "%s", why);
	close(bark->pipe[1]);
	bark->pipe[1] = -1;
}

static struct bus_watchdog *watch(struct fixture *fixture, struct bark *bark)
{
	struct bus_watchdog_options options = {
		.path = fixture->path,
		.as = SP_SUB,
		.interval_ms = 50,
		.failed = note_failure,
		.userdata = bark,
	};
	struct bus_watchdog *watchdog = NULL;

	assert_int_equal(pipe2(bark->pipe, O_CLOEXEC), 0);
	assert_int_equal(bus_watchdog_new(fixture->loop, &options, &watchdog), 0);
	return watchdog;
}

static void end_watch(struct bus_watchdog *watchdog, struct bark *bark)
{
	bus_watchdog_free(watchdog);
	close_fd(bark->pipe[0]);
	close_fd(bark->pipe[1]);
}

static void test_the_watchdog_leaves_a_process_that_serves_alone(void **state)
{
	struct fixture *fixture = *state;
	struct bus_watchdog *watchdog;
	size_t n_probes = nng_compat_n_own_ended() + 20;
	struct bark bark = {};
	uint64_t until_ms = time_boot_ms() + WAIT_MS;

	publish_on(fixture);
	watchdog = watch(fixture, &bark);
	while (nng_compat_n_own_ended() < n_probes) {
		assert_true(time_boot_ms() < until_ms);
		loop_turn(fixture->loop, 20);
	}
	assert_false(wait_on_fd(bark.pipe[0], POLLIN, 0));
	end_watch(watchdog, &bark);
}

static void test_the_watchdog_notices_a_socket_that_does_not_answer(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct fixture *fixture = *state;
	struct bus_watchdog *watchdog;
	struct bark bark = {};
	int listener;

	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, fixture->path);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 8), 0);
	watchdog = watch(fixture, &bark);
	while (!wait_on_fd(bark.pipe[0], POLLIN | POLLHUP, 0))
		loop_turn(fixture->loop, 20);
	end_watch(watchdog, &bark);
	close(listener);
	assert_non_null(strstr(bark.why, "does not greet"));
	assert_non_null(strstr(bark.why, fixture->path));
}

static void test_the_watchdog_notices_a_loop_that_stands(void **state)
{
	struct fixture *fixture = *state;
	struct bus_watchdog *watchdog;
	struct bark bark = {};

	publish_on(fixture);
	watchdog = watch(fixture, &bark);
	assert_true(wait_on_fd(bark.pipe[0], POLLIN | POLLHUP, WAIT_MS));
	end_watch(watchdog, &bark);
	assert_non_null(strstr(bark.why, "its loop does not turn"));
}

/* Where nng does not listen the loop alone is watched, and nobody has to answer at the path. */
static void test_without_a_socket_of_nng_only_the_loop_is_watched(void **state)
{
	struct fixture *fixture = *state;
	struct bark bark = {};
	struct bus_watchdog_options options = {
		.path = fixture->path, .interval_ms = 5, .failed = note_failure, .userdata = &bark};
	struct bus_watchdog *watchdog = NULL;
	uint64_t until_ms = time_boot_ms() + 300;

	assert_int_equal(pipe2(bark.pipe, O_CLOEXEC), 0);
	assert_int_equal(bus_watchdog_new(fixture->loop, &options, &watchdog), 0);
	while (time_boot_ms() < until_ms)
		loop_turn(fixture->loop, 5);
	assert_true(wait_on_fd(bark.pipe[0], POLLIN | POLLHUP, WAIT_MS));
	end_watch(watchdog, &bark);
	assert_non_null(strstr(bark.why, "its loop does not turn"));
}

/* Whatever the number of processors. */
static void test_nng_has_two_task_threads(void **state)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	const struct dirent *entry;
	unsigned n = 0;

	publish_on(*state);
	dir = opendir("/proc/self/task");
	while ((entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *path = NULL, *name = NULL;

		path = text_format("/proc/self/task/%s/comm", entry->d_name);
		if (!file_read_proc(path, 64, &name, NULL))
			n += !strcmp(name, "nng:task\n");
	}
	assert_int_equal(n, 2);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_listener_survives_two_hundred_that_connect_and_close),
		TEST(test_a_dialer_survives_a_peer_that_accepts_and_closes),
		TEST(test_a_peer_that_claims_a_gigabyte_is_cut_off),
		TEST(test_a_peer_that_greets_wrongly_is_cut_off),
		TEST(test_the_watchdog_leaves_a_process_that_serves_alone),
		TEST(test_the_watchdog_notices_a_socket_that_does_not_answer),
		TEST(test_the_watchdog_notices_a_loop_that_stands),
		TEST(test_without_a_socket_of_nng_only_the_loop_is_watched),
		TEST(test_nng_has_two_task_threads),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
