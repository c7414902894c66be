/* The plain client against real nng sockets, and against peers that mean it ill. */

#include <fcntl.h>
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/reqrep0/rep.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "broker/lib/file.h"
#include "broker/lib/sp.h"
#include "tests/lib/main.h"

/* ---- a peer in a thread, which only does: it asserts nothing ---- */

enum behaviour {
	ECHO,              /* as it should be */
	ECHO_BY_BYTES,     /* each byte by itself */
	ECHO_AFTER_OTHERS, /* first answers to nobody */
	SAY_HTTP,          /* no scalability protocol at all */
	SAY_PUB,           /* the wrong one */
	SAY_NOTHING,
	CLOSE_AT_ONCE,
	CLOSE_AFTER_GREETING,
	CLOSE_IN_FRAME,
	CLAIM_A_GIGABYTE,
	CLAIM_ONE_TOO_MANY,
	SEND_AN_UNKNOWN_FRAME,
	FLOOD, /* answers to nobody, without end */
};

struct peer {
	pthread_t thread;
	char *path;
	int listener;
	enum behaviour behaviour;
	unsigned n_connections; /* then it ends */
};

static const uint8_t rep_greeting[8] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
static const uint8_t pub_greeting[8] = {0, 'S', 'P', 0, 0, 0x20, 0, 0};

static bool put(int fd, const void *data, size_t size)
{
	const char *at = data;
	ssize_t n;

	for (; size; at += n, size -= (size_t)n) {
		n = send(fd, at, size, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
	}
	return true;
}

static bool get(int fd, void *data, size_t size)
{
	return size == 0 || recv(fd, data, size, MSG_WAITALL) == (ssize_t)size;
}

static bool put_frame(int fd, uint32_t id, const void *data, size_t size)
{
	uint64_t length = size + 4;
	uint8_t head[13] = {1};

	for (int i = 8; i >= 1; i--, length >>= 8)
		head[i] = (uint8_t)length;
	for (int i = 12; i >= 9; i--, id >>= 8)
		head[i] = (uint8_t)id;
	return put(fd, head, sizeof(head)) && put(fd, data, size);
}

static bool put_by_bytes(int fd, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (!put(fd, data + i, 1))
			return false;
	return true;
}

static void put_others(int fd, uint32_t id)
{
	static const uint8_t empty[9] = {1}, two[11] = {1, 0, 0, 0, 0, 0, 0, 0, 2, 'x', 'x'};

	put_frame(fd, id ^ 1, "wrong", 5);
	put(fd, empty, sizeof(empty));
	put(fd, two, sizeof(two));
	put_frame(fd, id & 0x7fffffff, "wrong", 5);
}

/* Reads one request and answers with what it said. */
static bool echo(int fd, enum behaviour behaviour)
{
	static uint8_t data[SP_MESSAGE_MAX];
	uint8_t head[13];
	size_t size = 0;
	uint32_t id = 0;

	if (!get(fd, head, sizeof(head)))
		return false;
	for (int i = 1; i <= 8; i++)
		size = size << 8 | head[i];
	for (int i = 9; i <= 12; i++)
		id = id << 8 | head[i];
	size -= 4;
	if (head[0] != 1 || size > sizeof(data) || !(id >> 31) || !get(fd, data, size))
		return false;
	if (behaviour == ECHO_BY_BYTES)
		return put_by_bytes(fd, head, sizeof(head)) && put_by_bytes(fd, data, size);
	if (behaviour == ECHO_AFTER_OTHERS)
		put_others(fd, id);
	return put_frame(fd, id, data, size);
}

static void wait_for_end(int fd)
{
	char bytes[4096];

	while (recv(fd, bytes, sizeof(bytes), 0) > 0)
		;
}

/* Many at once, so that there is always one more to read. */
static void flood(int fd)
{
	static const uint8_t frame[13] = {1, 0, 0, 0, 0, 0, 0, 0, 4, 0x80};
	static uint8_t many[4096 * sizeof(frame)];

	for (size_t i = 0; i < sizeof(many); i++)
		many[i] = frame[i % sizeof(frame)];
	while (put(fd, many, sizeof(many)))
		;
}

static void misbehave(int fd, enum behaviour behaviour)
{
	static const uint8_t part[19] = {1, 0, 0, 0, 0, 0, 0, 0, 100},
			     gigabyte[9] = {1, 0, 0, 0, 0, 0x40},
			     more[9] = {1, 0, 0, 0, 0, 0, 0x10, 0, 1},
			     unknown[13] = {2, 0, 0, 0, 0, 0, 0, 0, 4};

	switch (behaviour) {
	case CLOSE_IN_FRAME:
		put(fd, part, sizeof(part));
		return;
	case CLAIM_A_GIGABYTE:
		put(fd, gigabyte, sizeof(gigabyte));
		break;
	case CLAIM_ONE_TOO_MANY:
		put(fd, more, sizeof(more));
		break;
	case SEND_AN_UNKNOWN_FRAME:
		put(fd, unknown, sizeof(unknown));
		break;
	case FLOOD:
		flood(fd);
		return;
	default:
		return;
	}
	wait_for_end(fd);
}

static void serve(int fd, enum behaviour behaviour)
{
	uint8_t greeting[8];

	switch (behaviour) {
	case CLOSE_AT_ONCE:
		return;
	case SAY_HTTP:
		put(fd, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
		break;
	case SAY_PUB:
		put(fd, pub_greeting, sizeof(pub_greeting));
		break;
	case SAY_NOTHING:
		break;
	case ECHO:
	case ECHO_BY_BYTES:
	case ECHO_AFTER_OTHERS:
		put(fd, rep_greeting, sizeof(rep_greeting));
		if (!get(fd, greeting, sizeof(greeting)))
			return;
		while (echo(fd, behaviour))
			;
		return;
	default:
		put(fd, rep_greeting, sizeof(rep_greeting));
		misbehave(fd, behaviour);
		return;
	}
	wait_for_end(fd);
}

static void *peer_run(void *userdata)
{
	struct peer *peer = userdata;

	for (unsigned i = 0; i < peer->n_connections; i++) {
		int fd = accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			break;
		serve(fd, peer->behaviour);
		close(fd);
	}
	return NULL;
}

static void peer_listen(struct peer *peer, struct scratch *scratch, int backlog)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	*peer = (struct peer){.path = scratch_path(scratch, "bus.sock")};
	unlink(peer->path);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", peer->path);
	peer->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(peer->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(peer->listener, backlog), 0);
}

static void peer_start(struct peer *peer, enum behaviour behaviour, unsigned n_connections)
{
	sigset_t all, old;

	peer->behaviour = behaviour;
	peer->n_connections = n_connections;
	/* Signals are for the thread that tests. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	assert_int_equal(pthread_create(&peer->thread, NULL, peer_run, peer), 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void peer_open(struct peer *peer, struct scratch *scratch, enum behaviour behaviour)
{
	peer_listen(peer, scratch, 16);
	peer_start(peer, behaviour, 1);
}

/* Everything that was connected to it must have been closed. */
static void peer_close(struct peer *peer)
{
	shutdown(peer->listener, SHUT_RDWR);
	if (peer->n_connections)
		pthread_join(peer->thread, NULL);
	close(peer->listener);
	free(peer->path);
}

static uint64_t in_ms(uint64_t ms)
{
	return time_boot_ms() + ms;
}

/* What each of them leads to, with either face. */
static const struct {
	enum behaviour behaviour;
	int expected;
} outcomes[] = {
	{ECHO, 0},
	{ECHO_BY_BYTES, 0},
	{ECHO_AFTER_OTHERS, 0},
	{SAY_HTTP, SP_E_PROTOCOL},
	{SAY_PUB, SP_E_PROTOCOL},
	{SAY_NOTHING, SP_E_DEADLINE},
	{CLOSE_AT_ONCE, SP_E_CLOSED},
	{CLOSE_AFTER_GREETING, SP_E_CLOSED},
	{CLOSE_IN_FRAME, SP_E_CLOSED},
	{CLAIM_A_GIGABYTE, SP_E_PROTOCOL},
	{CLAIM_ONE_TOO_MANY, SP_E_PROTOCOL},
	{SEND_AN_UNKNOWN_FRAME, SP_E_PROTOCOL},
	{FLOOD, SP_E_DEADLINE},
};

static uint64_t deadline_for(int expected)
{
	return in_ms(expected == SP_E_DEADLINE ? 60 : WAIT_MS);
}

/* ---- the blocking face ---- */

static void test_a_blocking_request_ends_well_or_with_the_right_error(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
		uint64_t deadline_ms = deadline_for(outcomes[i].expected);
		void *reply = NULL;
		struct peer peer;
		struct sp *sp = NULL;
		size_t size = 0;
		int r;

		peer_open(&peer, *state, outcomes[i].behaviour);
		assert_int_equal(sp_connect(peer.path, SP_REQ, deadline_ms, &sp), 0);
		r = sp_request(sp, "hello", 5, deadline_ms, &reply, &size);
		if (r != outcomes[i].expected)
			fail_msg("behaviour %d: %d instead of %d", outcomes[i].behaviour, r,
				 outcomes[i].expected);
		if (!r) {
			assert_int_equal(size, 5);
			assert_memory_equal(reply, "hello", 5);
		} else {
			assert_null(reply);
		}
		if (r == SP_E_DEADLINE)
			assert_true(time_boot_ms() >= deadline_ms);
		free(reply);
		sp_freep(&sp);
		peer_close(&peer);
	}
}

static void test_a_subscriber_checks_the_greeting_when_it_connects(void **state)
{
	static const struct {
		enum behaviour behaviour;
		int expected;
	} cases[] = {
		{SAY_PUB, 0},
		{SAY_HTTP, SP_E_PROTOCOL},
		{ECHO, SP_E_PROTOCOL},
		{SAY_NOTHING, SP_E_DEADLINE},
		{CLOSE_AT_ONCE, SP_E_CLOSED},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct sp *sp = NULL;
		struct peer peer;

		peer_open(&peer, *state, cases[i].behaviour);
		assert_int_equal(
			sp_connect(peer.path, SP_SUB, deadline_for(cases[i].expected), &sp),
			cases[i].expected);
		sp_freep(&sp);
		peer_close(&peer);
	}
}

static void test_where_nobody_listens_the_connection_is_closed(void **state)
{
	_cleanup_(cleanup_free) char *path = scratch_path(*state, "nobody");
	char long_path[200];
	struct sp *sp = NULL;
	struct peer peer;

	assert_int_equal(sp_connect(path, SP_REQ, in_ms(WAIT_MS), &sp), SP_E_CLOSED);
	peer_listen(&peer, *state, 1);
	close(peer.listener);
	assert_int_equal(sp_connect(peer.path, SP_REQ, in_ms(WAIT_MS), &sp), SP_E_CLOSED);
	free(peer.path);
	memset(long_path, 'x', sizeof(long_path));
	long_path[108] = '\0';
	assert_int_equal(sp_connect(long_path, SP_REQ, in_ms(WAIT_MS), &sp), -ENAMETOOLONG);
	/* An abstract address. */
	assert_int_equal(sp_connect("", SP_REQ, in_ms(WAIT_MS), &sp), -EINVAL);
	assert_null(sp);
}

static int connect_raw(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void test_connecting_waits_for_a_place_only_until_the_deadline(void **state)
{
	uint64_t deadline_ms;
	struct sp *sp = NULL;
	struct peer peer;
	int fd;

	peer_listen(&peer, *state, 0);
	fd = connect_raw(peer.path);
	deadline_ms = in_ms(60);
	assert_int_equal(sp_connect(peer.path, SP_REQ, deadline_ms, &sp), SP_E_DEADLINE);
	assert_true(time_boot_ms() >= deadline_ms);
	assert_int_equal(sp_connect(peer.path, SP_REQ, 0, &sp), SP_E_DEADLINE);
	close(fd);
	peer_close(&peer);
}

static void test_a_request_over_the_limit_is_refused_and_the_connection_lives(void **state)
{
	static uint8_t data[SP_MESSAGE_MAX];
	struct sp *sp = NULL;
	struct peer peer;
	void *reply;
	size_t size;

	peer_open(&peer, *state, ECHO);
	assert_int_equal(sp_connect(peer.path, SP_REQ, in_ms(WAIT_MS), &sp), 0);
	assert_int_equal(sp_request(sp, data, SP_MESSAGE_MAX - 3, in_ms(WAIT_MS), &reply, &size),
			 SP_E_LIMIT);
	assert_int_equal(sp_request(sp, data, SP_MESSAGE_MAX - 4, in_ms(WAIT_MS), &reply, &size),
			 0);
	assert_int_equal(size, SP_MESSAGE_MAX - 4);
	free(reply);
	assert_int_equal(sp_request(sp, NULL, 0, in_ms(WAIT_MS), &reply, &size), 0);
	assert_int_equal(size, 0);
	assert_non_null(reply);
	free(reply);
	sp_freep(&sp);
	peer_close(&peer);
}

static void ignore(int signal)
{
	(void)signal;
}

static void start_signals(struct sigaction *ret_old)
{
	const struct itimerval often = {{0, 1000}, {0, 1000}};
	const struct sigaction action = {.sa_handler = ignore};

	sigaction(SIGALRM, &action, ret_old);
	setitimer(ITIMER_REAL, &often, NULL);
}

static void stop_signals(const struct sigaction *old)
{
	const struct itimerval never = {};

	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, old, NULL);
}

static void test_signals_end_a_subscribers_wait_but_no_request(void **state)
{
	uint64_t deadline_ms;
	struct sp *sp = NULL;
	struct sigaction old;
	struct peer peer;
	void *data;
	size_t size;
	int r;

	peer_open(&peer, *state, SAY_NOTHING);
	start_signals(&old);
	deadline_ms = in_ms(60);
	assert_int_equal(sp_connect(peer.path, SP_REQ, deadline_ms, &sp), 0);
	assert_int_equal(sp_request(sp, "x", 1, deadline_ms, &data, &size), SP_E_DEADLINE);
	assert_true(time_boot_ms() >= deadline_ms);
	sp_freep(&sp);
	peer_close(&peer);

	peer_open(&peer, *state, SAY_PUB);
	assert_int_equal(sp_connect(peer.path, SP_SUB, in_ms(WAIT_MS), &sp), 0);
	r = sp_receive(sp, UINT64_MAX, &data, &size);
	stop_signals(&old);
	assert_int_equal(r, -EINTR);
	sp_freep(&sp);
	peer_close(&peer);
}

/* ---- the face on a loop ---- */

struct fixture {
	struct scratch scratch;
	struct loop *loop;
	struct sp_client *client;
	unsigned n_done, n_asked_again;
	bool frees;
	int r;
	char reply[64];
	size_t size;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	return scratch_init(&f->scratch) || loop_new(&f->loop) ? -1 : 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int r;

	f->client = sp_client_free(f->client);
	loop_freep(&f->loop);
	r = scratch_deinit(&f->scratch);
	free(f);
	return r;
}

static void answered(void *userdata, int r, const void *reply, size_t size)
{
	struct fixture *f = userdata;

	f->n_done++;
	f->r = r;
	f->size = size;
	if (!r)
		memcpy(f->reply, reply, size < sizeof(f->reply) ? size : sizeof(f->reply));
	if (f->frees)
		f->client = sp_client_free(f->client);
	if (!r && f->n_asked_again) {
		f->n_asked_again--;
		assert_int_equal(
			sp_client_request(f->client, "hello", 5, in_ms(WAIT_MS), answered, f), 0);
	}
}

static void ask(struct fixture *f, uint64_t deadline_ms)
{
	unsigned n_done = f->n_done;

	assert_int_equal(sp_client_request(f->client, "hello", 5, deadline_ms, answered, f), 0);
	/* Never from inside. */
	assert_int_equal(f->n_done, n_done);
}

static void wait_for_answers(struct fixture *f, unsigned n)
{
	assert_true(wait_on_loop_count(f->loop, &f->n_done, n, WAIT_MS));
	assert_int_equal(f->n_done, n);
}

static void test_a_clients_request_ends_well_or_with_the_right_error(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(outcomes); i++) {
		struct peer peer;

		f->n_done = 0;
		peer_open(&peer, &f->scratch, outcomes[i].behaviour);
		assert_int_equal(sp_client_new(f->loop, peer.path, &f->client), 0);
		ask(f, deadline_for(outcomes[i].expected));
		assert_int_equal(sp_client_request(f->client, "x", 1, in_ms(WAIT_MS), answered, f),
				 -EBUSY);
		wait_for_answers(f, 1);
		if (f->r != outcomes[i].expected)
			fail_msg("behaviour %d: %d instead of %d", outcomes[i].behaviour, f->r,
				 outcomes[i].expected);
		if (!f->r) {
			assert_int_equal(f->size, 5);
			assert_memory_equal(f->reply, "hello", 5);
		}
		f->client = sp_client_free(f->client);
		peer_close(&peer);
	}
}

static void test_a_client_asks_again_from_its_callback_on_the_same_connection(void **state)
{
	struct fixture *f = *state;
	struct peer peer;

	peer_open(&peer, &f->scratch, ECHO);
	assert_int_equal(sp_client_new(f->loop, peer.path, &f->client), 0);
	f->n_asked_again = 99;
	ask(f, in_ms(WAIT_MS));
	wait_for_answers(f, 100);
	assert_int_equal(f->r, 0);
	f->client = sp_client_free(f->client);
	peer_close(&peer);
}

static void test_a_client_may_be_freed_in_its_callback(void **state)
{
	static const enum behaviour behaviours[] = {ECHO, CLOSE_AT_ONCE, SAY_HTTP, SAY_NOTHING};
	struct fixture *f = *state;

	f->frees = true;
	for (size_t i = 0; i < ARRAY_SIZE(behaviours); i++) {
		struct peer peer;

		f->n_done = 0;
		peer_open(&peer, &f->scratch, behaviours[i]);
		assert_int_equal(sp_client_new(f->loop, peer.path, &f->client), 0);
		ask(f, in_ms(behaviours[i] == SAY_NOTHING ? 30 : WAIT_MS));
		wait_for_answers(f, 1);
		assert_null(f->client);
		peer_close(&peer);
	}
}

static void test_a_client_without_a_peer_is_told_later_and_connects_when_there_is_one(void **state)
{
	struct fixture *f = *state;
	_cleanup_(cleanup_free) char *path = scratch_path(&f->scratch, "bus.sock");
	struct peer peer;

	assert_int_equal(sp_client_new(f->loop, path, &f->client), 0);
	ask(f, in_ms(WAIT_MS));
	wait_for_answers(f, 1);
	assert_int_equal(f->r, SP_E_CLOSED);
	for (unsigned i = 2; i <= 3; i++) {
		peer_open(&peer, &f->scratch, ECHO);
		ask(f, in_ms(WAIT_MS));
		wait_for_answers(f, i);
		assert_int_equal(f->r, 0);
		sp_client_close(f->client);
		peer_close(&peer);
	}
}

static void test_an_idle_client_gives_up_a_connection_that_its_peer_left(void **state)
{
	struct fixture *f = *state;
	unsigned n_fds;
	struct peer peer;
	int fd;

	peer_listen(&peer, &f->scratch, 1);
	assert_int_equal(sp_client_new(f->loop, peer.path, &f->client), 0);
	ask(f, in_ms(WAIT_MS));
	n_fds = fds_count();
	fd = accept4(peer.listener, NULL, NULL, SOCK_CLOEXEC);
	put(fd, rep_greeting, sizeof(rep_greeting));
	{
		uint8_t greeting[8];

		assert_true(get(fd, greeting, sizeof(greeting)) && echo(fd, ECHO));
	}
	wait_for_answers(f, 1);
	assert_int_equal(f->r, 0);
	assert_int_equal(fds_count(), n_fds + 1);
	close(fd);
	assert_int_equal(loop_turn(f->loop, WAIT_MS), 0);
	assert_int_equal(fds_count(), n_fds - 1);
	/* And nothing is told twice. */
	assert_int_equal(f->n_done, 1);
	peer_start(&peer, ECHO, 1);
	ask(f, in_ms(WAIT_MS));
	wait_for_answers(f, 2);
	assert_int_equal(f->r, 0);
	f->client = sp_client_free(f->client);
	peer_close(&peer);
}

static void test_a_client_waits_for_a_place_without_blocking(void **state)
{
	struct fixture *f = *state;
	struct peer peer;
	int fd, filler;

	peer_listen(&peer, &f->scratch, 0);
	filler = connect_raw(peer.path);
	assert_int_equal(sp_client_new(f->loop, peer.path, &f->client), 0);
	ask(f, in_ms(30));
	wait_for_answers(f, 1);
	assert_int_equal(f->r, SP_E_DEADLINE);

	ask(f, in_ms(WAIT_MS));
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	fd = accept4(peer.listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	peer_start(&peer, ECHO, 1);
	wait_for_answers(f, 2);
	assert_int_equal(f->r, 0);
	assert_memory_equal(f->reply, "hello", 5);
	close(fd);
	close(filler);
	f->client = sp_client_free(f->client);
	peer_close(&peer);
}

static void test_closing_a_client_forgets_its_request(void **state)
{
	struct fixture *f = *state;
	unsigned n_fds;
	struct peer peer;

	peer_listen(&peer, &f->scratch, 4);
	assert_int_equal(sp_client_new(f->loop, peer.path, &f->client), 0);
	n_fds = fds_count();
	ask(f, in_ms(20));
	sp_client_close(f->client);
	assert_int_equal(loop_turn(f->loop, 50), 0);
	assert_int_equal(f->n_done, 0);
	/* The timerfd stays with the loop. */
	assert_int_equal(fds_count(), n_fds + 1);
	sp_client_close(f->client);
	f->client = sp_client_free(f->client);
	peer_close(&peer);
}

static void test_a_client_sends_and_receives_the_largest_message(void **state)
{
	static uint8_t data[SP_MESSAGE_MAX];
	struct fixture *f = *state;
	struct peer peer;

	peer_open(&peer, &f->scratch, ECHO);
	assert_int_equal(sp_client_new(f->loop, peer.path, &f->client), 0);
	assert_int_equal(
		sp_client_request(f->client, data, SP_MESSAGE_MAX - 3, in_ms(WAIT_MS), answered, f),
		SP_E_LIMIT);
	assert_int_equal(
		sp_client_request(f->client, data, SP_MESSAGE_MAX - 4, in_ms(WAIT_MS), answered, f),
		0);
	wait_for_answers(f, 1);
	assert_int_equal(f->r, 0);
	assert_int_equal(f->size, SP_MESSAGE_MAX - 4);
	f->client = sp_client_free(f->client);
	peer_close(&peer);
}

/* ---- nng ---- */

/* Answers with what it was told, until that is "quit". */
static void *nng_echo(void *userdata)
{
	nng_socket socket = *(nng_socket *)userdata;
	bool is_last = false;
	nng_msg *message;

	while (!is_last && nng_recvmsg(socket, &message, 0) == 0) {
		is_last = nng_msg_len(message) == 4 && !memcmp(nng_msg_body(message), "quit", 4);
		if (nng_sendmsg(socket, message, 0) != 0)
			nng_msg_free(message);
	}
	return NULL;
}

static void nng_start(struct scratch *scratch, nng_socket socket, char **ret_path)
{
	_cleanup_(cleanup_free) char *url = NULL;

	*ret_path = scratch_path(scratch, "nng.sock");
	url = text_format("ipc://%s", *ret_path);
	assert_int_equal(nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, SP_MESSAGE_MAX), 0);
	assert_int_equal(nng_listen(socket, url, NULL, 0), 0);
}

/* nng keeps its threads' descriptors, and closes connections when it pleases. */
static void nng_stop(struct scratch *scratch, nng_socket socket)
{
	nng_close(socket);
	scratch_forgive_fds(scratch);
}

static void request_sizes(struct sp *sp)
{
	static const size_t sizes[] = {0, 1, 4, 200, 65536, 300000, SP_MESSAGE_MAX - 4};
	static uint8_t data[SP_MESSAGE_MAX];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + (i >> 8));
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		void *reply;
		size_t size;

		assert_int_equal(sp_request(sp, data, sizes[i], in_ms(WAIT_MS), &reply, &size), 0);
		assert_int_equal(size, sizes[i]);
		assert_memory_equal(reply, data, size);
		free(reply);
	}
}

static void test_requests_are_answered_by_nng(void **state)
{
	struct fixture *f = *state;
	_cleanup_(cleanup_free) char *path = NULL;
	struct sp *sp = NULL;
	pthread_t thread;
	nng_socket rep;
	void *reply;
	size_t size;

	assert_int_equal(nng_rep0_open(&rep), 0);
	nng_start(&f->scratch, rep, &path);
	assert_int_equal(pthread_create(&thread, NULL, nng_echo, &rep), 0);

	assert_int_equal(sp_connect(path, SP_REQ, in_ms(WAIT_MS), &sp), 0);
	request_sizes(sp);
	assert_int_equal(sp_client_new(f->loop, path, &f->client), 0);
	f->n_asked_again = 199;
	ask(f, in_ms(WAIT_MS));
	wait_for_answers(f, 200);
	assert_int_equal(f->r, 0);
	assert_memory_equal(f->reply, "hello", 5);

	assert_int_equal(sp_request(sp, "quit", 4, in_ms(WAIT_MS), &reply, &size), 0);
	free(reply);
	pthread_join(thread, NULL);
	sp_freep(&sp);
	f->client = sp_client_free(f->client);
	nng_stop(&f->scratch, rep);
}

static void publish(nng_socket pub, const void *data, size_t size)
{
	assert_int_equal(nng_send(pub, (void *)data, size, 0), 0);
}

/* A publisher takes its subscribers in when it gets to it: says something until it is heard. */
static void wait_until_heard(nng_socket pub, struct sp *sp)
{
	uint64_t deadline_ms = in_ms(WAIT_MS);
	int r = SP_E_DEADLINE;
	void *data;
	size_t size;

	while (r == SP_E_DEADLINE && time_boot_ms() < deadline_ms) {
		publish(pub, "hear", 4);
		r = sp_receive(sp, in_ms(20), &data, &size);
	}
	assert_int_equal(r, 0);
	do {
		assert_int_equal(size, 4);
		free(data);
	} while (sp_receive(sp, in_ms(20), &data, &size) == 0);
}

static void test_messages_published_by_nng_are_received_in_order(void **state)
{
	static uint8_t large[SP_MESSAGE_MAX];
	struct fixture *f = *state;
	_cleanup_(cleanup_free) char *path = NULL;
	struct sp *sp = NULL;
	nng_socket pub;
	void *data;
	size_t size;

	assert_int_equal(nng_pub0_open(&pub), 0);
	assert_int_equal(nng_socket_set_int(pub, NNG_OPT_SENDBUF, 1024), 0);
	nng_start(&f->scratch, pub, &path);
	assert_int_equal(sp_connect(path, SP_SUB, in_ms(WAIT_MS), &sp), 0);
	wait_until_heard(pub, sp);

	for (uint32_t i = 0; i < 500; i++)
		publish(pub, &i, sizeof(i));
	publish(pub, "", 0);
	publish(pub, large, sizeof(large));
	for (uint32_t i = 0; i < 500; i++) {
		assert_int_equal(sp_receive(sp, in_ms(WAIT_MS), &data, &size), 0);
		assert_int_equal(size, sizeof(i));
		assert_memory_equal(data, &i, size);
		free(data);
	}
	assert_int_equal(sp_receive(sp, in_ms(WAIT_MS), &data, &size), 0);
	assert_int_equal(size, 0);
	free(data);
	assert_true(wait_on_fd(sp_fd(sp), POLLIN, WAIT_MS));
	assert_int_equal(sp_receive(sp, in_ms(WAIT_MS), &data, &size), 0);
	assert_int_equal(size, sizeof(large));
	free(data);

	nng_stop(&f->scratch, pub);
	assert_int_equal(sp_receive(sp, in_ms(WAIT_MS), &data, &size), SP_E_CLOSED);
	sp_freep(&sp);
	scratch_forgive_fds(&f->scratch);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(TEST_IN_SCRATCH(test_a_blocking_request_ends_well_or_with_the_right_error),
	  TEST_IN_SCRATCH(test_a_subscriber_checks_the_greeting_when_it_connects),
	  TEST_IN_SCRATCH(test_where_nobody_listens_the_connection_is_closed),
	  TEST_IN_SCRATCH(test_connecting_waits_for_a_place_only_until_the_deadline),
	  TEST_IN_SCRATCH(test_a_request_over_the_limit_is_refused_and_the_connection_lives),
	  TEST_IN_SCRATCH(test_signals_end_a_subscribers_wait_but_no_request),
	  TEST(test_a_clients_request_ends_well_or_with_the_right_error),
	  TEST(test_a_client_asks_again_from_its_callback_on_the_same_connection),
	  TEST(test_a_client_may_be_freed_in_its_callback),
	  TEST(test_a_client_without_a_peer_is_told_later_and_connects_when_there_is_one),
	  TEST(test_an_idle_client_gives_up_a_connection_that_its_peer_left),
	  TEST(test_a_client_waits_for_a_place_without_blocking),
	  TEST(test_closing_a_client_forgets_its_request),
	  TEST(test_a_client_sends_and_receives_the_largest_message),
	  TEST(test_requests_are_answered_by_nng),
	  TEST(test_messages_published_by_nng_are_received_in_order))
