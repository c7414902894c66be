/* The listening peer, byte by byte: what is asked is answered in order, and nothing is held for those who do not
 * listen beyond the bounds. The test plays all peers, and turns the loop itself. */

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "broker/lib/sp_server.h"
#include "tests/lib/main.h"

#define PEERS_MAX 4
#define SHARE     3

struct asked {
	struct sp_peer peer;
	bool is_there;
};

struct fixture {
	struct loop *loop;
	struct sp_server *server;
	struct scratch *scratch;
	char *path;
	struct asked slots[PEERS_MAX];
	struct asked *last; /* that asked */
	bool answers_at_once;
	unsigned n_asked, n_gone, n_over, n_freed;
};

static struct sp_peer *new_peer(void *userdata)
{
	struct fixture *f = userdata;

	for (size_t i = 0; i < PEERS_MAX; i++)
		if (!f->slots[i].is_there) {
			f->slots[i] = (struct asked){.is_there = true};
			return &f->slots[i].peer;
		}
	return NULL;
}

static void free_peer(void *userdata, struct sp_peer *peer)
{
	struct fixture *f = userdata;

	container_of(peer, struct asked, peer)->is_there = false;
	f->n_freed++;
}

static void asked(void *userdata, struct sp_peer *peer)
{
	struct fixture *f = userdata;

	f->n_asked++;
	f->last = container_of(peer, struct asked, peer);
	if (f->answers_at_once)
		assert_int_equal(sp_peer_answer(peer, peer->request, peer->request_size), 0);
}

static void gone(void *userdata, struct sp_peer *peer)
{
	struct fixture *f = userdata;

	(void)peer;
	f->n_gone++;
}

static void over(void *userdata, struct sp_peer *peer)
{
	struct fixture *f = userdata;

	(void)peer;
	f->n_over++;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	void *scratch = NULL;
	struct sp_server_options options = {
		.mode = 0640,
		.connections_max = PEERS_MAX,
		.held_max = (3u << 20) + 4096,
		.share = SHARE,
		.new_peer = new_peer,
		.free_peer = free_peer,
		.asked = asked,
		.gone = gone,
		.over = over,
		.userdata = f,
	};
	struct why why = {};

	assert_non_null(f);
	assert_int_equal(scratch_setup(&scratch), 0);
	f->scratch = scratch;
	f->path = scratch_path(f->scratch, "s");
	options.path = f->path;
	assert_int_equal(loop_new(&f->loop), 0);
	assert_int_equal(sp_server_new(f->loop, &options, &f->server, &why), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	void *scratch = f->scratch;

	sp_server_free(f->server);
	loop_free(f->loop);
	free(f->path);
	free(f);
	return scratch_teardown(&scratch);
}

static void turn(struct fixture *f)
{
	for (int i = 0; i < 12; i++)
		assert_int_equal(loop_turn(f->loop, 0), 0);
}

static int connect_peer(struct fixture *f)
{
	static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, SP_REQ, 0, 0};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	uint8_t theirs[8];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	strcpy(address.sun_path, f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(send(fd, greeting, sizeof(greeting), MSG_NOSIGNAL), 8);
	turn(f);
	assert_int_equal(recv(fd, theirs, sizeof(theirs), MSG_DONTWAIT), 8);
	assert_memory_equal(theirs, ((uint8_t[]){0, 'S', 'P', 0, 0, SP_REP, 0, 0}), 8);
	return fd;
}

static void put_head(int fd, uint64_t size)
{
	uint8_t head[9] = {1};

	for (int i = 8; i >= 1; i--, size >>= 8)
		head[i] = (uint8_t)size;
	assert_int_equal(send(fd, head, sizeof(head), MSG_NOSIGNAL), sizeof(head));
}

static void ask(int fd, const void *data, size_t size)
{
	put_head(fd, size);
	assert_int_equal(send(fd, data, size, MSG_NOSIGNAL), size);
}

/* What waits to be read, at most one frame of less than 256 bytes: its size, or -1 for the end. */
static ssize_t get(int fd, uint8_t *data)
{
	uint8_t head[9];
	ssize_t n = recv(fd, head, sizeof(head), MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return -1;
	if (n < 0)
		return 0;
	assert_int_equal(n, sizeof(head));
	return recv(fd, data, head[8], MSG_DONTWAIT);
}

static void test_a_pipelining_peer_is_served_one_by_one(void **state)
{
	struct fixture *f = *state;
	_cleanup_(cleanup_fd) int fd = connect_peer(f);
	uint8_t data[256];

	ask(fd, "\x80\0\0\1one", 7);
	ask(fd, "\x80\0\0\2two", 7);
	turn(f);
	assert_int_equal(f->n_asked, 1);
	assert_memory_equal(f->last->peer.request, "one", 3);
	assert_int_equal(sp_peer_answer(&f->last->peer, "1", 1), 0);
	turn(f);
	assert_int_equal(f->n_asked, 2);
	assert_memory_equal(f->last->peer.request, "two", 3);
	assert_int_equal(sp_peer_answer(&f->last->peer, "2", 1), 0);
	assert_int_equal(get(fd, data), 5);
	assert_memory_equal(data,
			    "\x80\0\0\1"
			    "1",
			    5);
	assert_int_equal(get(fd, data), 5);
	assert_memory_equal(data,
			    "\x80\0\0\2"
			    "2",
			    5);
}

static void test_a_process_that_asks_much_has_its_share_of_each_turn(void **state)
{
	struct fixture *f = *state;
	int fds[PEERS_MAX];

	f->answers_at_once = true;
	for (size_t i = 0; i < PEERS_MAX; i++)
		fds[i] = connect_peer(f);
	for (size_t i = 0; i < PEERS_MAX; i++)
		ask(fds[i], "\x80\0\0\1x", 5);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(f->n_asked, SHARE);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(f->n_asked, PEERS_MAX);
	for (size_t i = 0; i < PEERS_MAX; i++) {
		uint8_t data[256];

		assert_int_equal(get(fds[i], data), 5);
		close(fds[i]);
	}
}

static void test_a_pipelining_peer_that_dies_leaves_only_what_is_under_way(void **state)
{
	struct fixture *f = *state;
	int fd = connect_peer(f);

	ask(fd, "\x80\0\0\1one", 7);
	ask(fd, "\x80\0\0\2two", 7);
	turn(f);
	close_fd(fd);
	turn(f);
	assert_int_equal(f->n_asked, 1);
	assert_int_equal(f->n_gone, 1);
	assert_int_equal(f->n_freed, 0);
	assert_int_equal(sp_peer_answer(&f->last->peer, "late", 4), 0);
	assert_int_equal(f->n_over, 1);
	assert_int_equal(f->n_freed, 1);
	assert_int_equal(sp_server_n_connections(f->server), 0);
	turn(f);
	assert_int_equal(f->n_asked, 1);
}

static void test_answers_find_their_way_through_devices(void **state)
{
	struct fixture *f = *state;
	_cleanup_(cleanup_fd) int fd = connect_peer(f);
	uint8_t data[256];

	f->answers_at_once = true;
	ask(fd, "\0\0\0\7\0\0\0\x8\x80\0\0\1hi", 14);
	turn(f);
	assert_int_equal(get(fd, data), 14);
	assert_memory_equal(data, "\0\0\0\7\0\0\0\x8\x80\0\0\1hi", 14);
}

static void assert_cut_off(struct fixture *f, const void *data, size_t size)
{
	_cleanup_(cleanup_fd) int fd = connect_peer(f);
	unsigned n_asked = f->n_asked;
	uint8_t reply[256];

	assert_int_equal(send(fd, data, size, MSG_NOSIGNAL), size);
	turn(f);
	assert_int_equal(get(fd, reply), -1);
	assert_int_equal(f->n_asked, n_asked);
	assert_int_equal(sp_server_n_connections(f->server), 0);
}

static void test_what_is_no_request_ends_the_connection(void **state)
{
	struct fixture *f = *state;
	uint8_t hops[9 + 4 * (SP_SERVER_HOPS_MAX + 2)] = {1};

	assert_cut_off(f, "\1\0\0\0\0\0\0\0\0", 9);                 /* no id */
	assert_cut_off(f, "\1\0\0\0\0\0\0\0\4\0\0\0\1", 13);        /* no last id */
	assert_cut_off(f, "\2\0\0\0\0\0\0\0\4\x80\0\0\1", 13);      /* no message */
	assert_cut_off(f, "\1\0\0\0\0\0\x10\0\1", 9);               /* 1 MiB and a byte */
	assert_cut_off(f, "\1\xff\xff\xff\xff\xff\xff\xff\xff", 9); /* as much as there is */
	hops[8] = sizeof(hops) - 9;
	hops[sizeof(hops) - 4] = 0x80;
	assert_cut_off(f, hops, sizeof(hops));
}

static void test_a_peer_that_speaks_something_else_is_cut_off(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char data[16];

	strcpy(address.sun_path, f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(send(fd, "GET / HTTP/1.1\r\n", 16, MSG_NOSIGNAL), 16);
	turn(f);
	assert_int_equal(recv(fd, data, sizeof(data), MSG_DONTWAIT), 8);
	assert_true(recv(fd, data, sizeof(data), MSG_DONTWAIT) <= 0);
	assert_int_equal(sp_server_n_connections(f->server), 0);
}

static void test_the_most_silent_connection_makes_place(void **state)
{
	struct fixture *f = *state;
	int fds[PEERS_MAX + 1];
	uint8_t data[256];

	for (int i = 0; i < PEERS_MAX; i++)
		fds[i] = connect_peer(f);
	/* The first is at work, the second has been heard since the third was. */
	ask(fds[0], "\x80\0\0\1x", 5);
	turn(f);
	f->answers_at_once = true;
	ask(fds[1], "\x80\0\0\1x", 5);
	turn(f);
	fds[PEERS_MAX] = connect_peer(f);
	assert_int_equal(get(fds[2], data), -1);
	assert_int_equal(get(fds[1], data), 5);
	assert_int_equal(get(fds[0], data), 0);
	assert_int_equal(sp_server_n_connections(f->server), PEERS_MAX);
	for (int i = 0; i <= PEERS_MAX; i++)
		close_fd(fds[i]);
	turn(f);
	assert_int_equal(sp_server_n_connections(f->server), 1);
	assert_int_equal(sp_peer_answer(&f->slots[0].peer, "", 0), 0);
	assert_int_equal(sp_server_n_connections(f->server), 0);
}

static void test_when_all_are_at_work_the_next_is_refused(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int late = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fds[PEERS_MAX];
	char data;

	for (int i = 0; i < PEERS_MAX; i++) {
		fds[i] = connect_peer(f);
		ask(fds[i], "\x80\0\0\1x", 5);
	}
	turn(f);
	strcpy(address.sun_path, f->path);
	assert_int_equal(connect(late, (struct sockaddr *)&address, sizeof(address)), 0);
	turn(f);
	assert_int_equal(recv(late, &data, 1, MSG_DONTWAIT), 0);
	assert_int_equal(f->n_asked, PEERS_MAX);
	for (int i = 0; i < PEERS_MAX; i++) {
		assert_int_equal(sp_peer_answer(&f->slots[i].peer, "", 0), 0);
		close_fd(fds[i]);
	}
}

static void test_half_messages_are_held_within_the_bound(void **state)
{
	struct fixture *f = *state;
	uint8_t data[256];
	int fds[PEERS_MAX];

	for (int i = 0; i < PEERS_MAX; i++) {
		fds[i] = connect_peer(f);
		put_head(fds[i], 1 << 20);
		turn(f);
	}
	assert_int_equal(get(fds[0], data), -1);
	for (int i = 1; i < PEERS_MAX; i++)
		assert_int_equal(get(fds[i], data), 0);
	assert_int_equal(sp_server_n_connections(f->server), PEERS_MAX - 1);
	for (int i = 0; i < PEERS_MAX; i++)
		close_fd(fds[i]);
}

static void test_answers_that_nobody_takes_are_held_within_the_bound(void **state)
{
	_cleanup_(cleanup_free) uint8_t *large = calloc(1, 1 << 20);
	struct fixture *f = *state;
	int fds[PEERS_MAX];

	assert_non_null(large);
	for (int i = 0; i < PEERS_MAX; i++) {
		fds[i] = connect_peer(f);
		ask(fds[i], "\x80\0\0\1x", 5);
		turn(f);
		assert_int_equal(sp_peer_answer(&f->last->peer, large, (1 << 20) - 4), 0);
		turn(f);
	}
	assert_int_equal(sp_server_n_connections(f->server), PEERS_MAX - 1);
	/* Another request of one that takes none is not even read. */
	ask(fds[3], "\x80\0\0\2x", 5);
	turn(f);
	assert_int_equal(f->n_asked, PEERS_MAX);
	/* Whoever takes it after all gets the whole. */
	for (size_t n = 0; n < (1 << 20) + 9; turn(f)) {
		ssize_t part = recv(fds[3], large, 1 << 16, MSG_DONTWAIT);

		assert_true(part > 0);
		n += (size_t)part;
	}
	assert_int_equal(f->n_asked, PEERS_MAX + 1);
	assert_int_equal(sp_peer_answer(&f->last->peer, "", 0), 0);
	for (int i = 0; i < PEERS_MAX; i++)
		close_fd(fds[i]);
	turn(f);
	assert_int_equal(sp_server_n_connections(f->server), 0);
}

static void test_an_answer_over_the_limit_is_told_and_another_can_be_given(void **state)
{
	_cleanup_(cleanup_free) uint8_t *large = calloc(1, 1 << 20);
	struct fixture *f = *state;
	_cleanup_(cleanup_fd) int fd = connect_peer(f);
	uint8_t data[256];

	ask(fd, "\x80\0\0\1x", 5);
	turn(f);
	assert_int_equal(sp_peer_answer(&f->last->peer, large, 1 << 20), SP_E_LIMIT);
	assert_int_equal(f->n_over, 0);
	assert_int_equal(sp_peer_answer(&f->last->peer, "no", 2), 0);
	assert_int_equal(get(fd, data), 6);
}

static void test_closing_instead_of_answering_ends_the_connection(void **state)
{
	struct fixture *f = *state;
	_cleanup_(cleanup_fd) int fd = connect_peer(f);
	uint8_t data[256];

	ask(fd, "\x80\0\0\1x", 5);
	turn(f);
	sp_peer_close(&f->last->peer);
	assert_int_equal(get(fd, data), -1);
	assert_int_equal(f->n_over, 1);
	assert_int_equal(f->n_freed, 1);
}

static void test_the_socket_has_the_mode_that_was_asked_for(void **state)
{
	struct fixture *f = *state;
	struct stat status;

	assert_int_equal(stat(f->path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0640);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

TEST_MAIN(TEST(test_a_pipelining_peer_is_served_one_by_one),
	  TEST(test_a_pipelining_peer_that_dies_leaves_only_what_is_under_way),
	  TEST(test_a_process_that_asks_much_has_its_share_of_each_turn),
	  TEST(test_answers_find_their_way_through_devices),
	  TEST(test_what_is_no_request_ends_the_connection),
	  TEST(test_a_peer_that_speaks_something_else_is_cut_off),
	  TEST(test_the_most_silent_connection_makes_place),
	  TEST(test_when_all_are_at_work_the_next_is_refused),
	  TEST(test_half_messages_are_held_within_the_bound),
	  TEST(test_answers_that_nobody_takes_are_held_within_the_bound),
	  TEST(test_an_answer_over_the_limit_is_told_and_another_can_be_given),
	  TEST(test_closing_instead_of_answering_ends_the_connection),
	  TEST(test_the_socket_has_the_mode_that_was_asked_for))
