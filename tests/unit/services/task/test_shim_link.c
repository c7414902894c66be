/* A connection to a shim, against a peer that the test plays: answers, events, rubbish, and its end. */

#include "services/task/shim_link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "broker/lib/cleanup.h"
#include "schemas/messages.h"
#include "tests/lib/main.h"

#define FAR_MS 60000

struct fixture {
	struct scratch scratch;
	struct loop *loop;
	struct shim_link *link;
	int peer;
	bool is_closed, is_answered, free_in_callback, call_in_callback;
	unsigned n_closed, n_answers, n_events;
	enum bus_status status;
	uint64_t pid;
	char text[128], topic[ENVELOPE_TOPIC_MAX + 1];
};

static void answered(void *userdata, enum bus_status status, const char *text, void *reply)
{
	static const struct empty nothing;
	const uint8_t id[ENVELOPE_ID_SIZE] = {99};
	struct fixture *f = userdata;

	f->is_answered = true;
	f->n_answers++;
	f->status = status;
	snprintf(f->text, sizeof(f->text), "%s", text);
	if (reply)
		f->pid = ((struct shim_pid_reply *)reply)->pid;
	if (f->call_in_callback && f->n_answers == 1)
		(void)shim_link_call(f->link, "shim.start", id, time_boot_ms() + FAR_MS, &nothing,
				     answered, f);
	if (f->free_in_callback)
		f->link = shim_link_free(f->link);
}

static void on_event(void *userdata, const struct envelope_event *event)
{
	struct fixture *f = userdata;

	f->n_events++;
	snprintf(f->topic, sizeof(f->topic), "%s", event->topic);
	if (f->free_in_callback)
		f->link = shim_link_free(f->link);
}

static void on_closed(void *userdata)
{
	struct fixture *f = userdata;

	f->is_closed = true;
	f->n_closed++;
	if (f->free_in_callback)
		f->link = shim_link_free(f->link);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int pair[2];

	*state = f;
	if (scratch_init(&f->scratch) || loop_new(&f->loop) ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -1;
	f->peer = pair[1];
	return shim_link_new(f->loop, pair[0], on_event, on_closed, f, &f->link) ? -1 : 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int r;

	f->free_in_callback = f->call_in_callback = false;
	shim_link_free(f->link);
	close_fd(f->peer);
	loop_freep(&f->loop);
	r = scratch_deinit(&f->scratch);
	free(f);
	return r;
}

static void call(struct fixture *f, uint8_t number, uint64_t ms)
{
	static const struct empty nothing;
	const uint8_t id[ENVELOPE_ID_SIZE] = {number};

	assert_int_equal(shim_link_call(f->link, "shim.start", id, time_boot_ms() + ms, &nothing,
					answered, f),
			 0);
}

/* What the peer was asked: the id's first byte. */
static uint8_t take_request(struct fixture *f)
{
	static struct envelope_request request;
	uint8_t packet[4096];
	ssize_t n = recv(f->peer, packet, sizeof(packet), 0);

	assert_true(n > 0);
	assert_int_equal(envelope_read_request(packet, (size_t)n, &request, NULL), 0);
	assert_string_equal(request.method, "shim.start");
	return request.id[0];
}

static void send_packet(struct fixture *f, const struct schema_buffer *packet)
{
	assert_int_equal(send(f->peer, packet->data, packet->size, 0), packet->size);
}

static void answer_with(struct fixture *f, uint8_t number, enum bus_status status, const char *text,
			const void *body, size_t size)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packet = {};
	struct envelope_reply reply = {.id = {number}, .status = status, .body = {body, size}};

	snprintf(reply.text, sizeof(reply.text), "%s", text);
	assert_int_equal(envelope_write_reply(&reply, &packet), 0);
	send_packet(f, &packet);
}

static void answer_pid(struct fixture *f, uint8_t number, uint64_t pid)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	struct shim_pid_reply reply = {.pid = pid};

	assert_int_equal(schema_pack(schema_shim_pid_reply(), &reply, &body, NULL), 0);
	answer_with(f, number, BUS_OK, "", body.data, body.size);
}

static void send_event(struct fixture *f, const char *topic)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packet = {};
	static const uint8_t body[] = {0x80};
	struct envelope_event event = {.seq = 1, .event = {body, sizeof(body)}};

	snprintf(event.topic, sizeof(event.topic), "%s", topic);
	assert_int_equal(envelope_write_event(&event, &packet), 0);
	send_packet(f, &packet);
}

/* ---- answers ---- */

static void test_an_answer_comes_to_the_call_with_its_id(void **state)
{
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	call(f, 2, FAR_MS);
	assert_int_equal(take_request(f), 1);
	assert_int_equal(take_request(f), 2);
	answer_pid(f, 2, 22);
	assert_true(wait_on_loop_count(f->loop, &f->n_answers, 1, WAIT_MS));
	assert_int_equal(f->pid, 22);
	answer_pid(f, 1, 11);
	assert_true(wait_on_loop_count(f->loop, &f->n_answers, 2, WAIT_MS));
	assert_int_equal(f->pid, 11);
	assert_int_equal(f->status, BUS_OK);
}

static void test_an_error_comes_with_its_text(void **state)
{
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	answer_with(f, 1, BUS_FAILED_PRECONDITION, "container 'x' is stopped", NULL, 0);
	assert_true(wait_on_loop(f->loop, &f->is_answered, WAIT_MS));
	assert_int_equal(f->status, BUS_FAILED_PRECONDITION);
	assert_string_equal(f->text, "container 'x' is stopped");
}

static void test_an_answer_that_is_not_the_methods_is_an_internal_error(void **state)
{
	static const uint8_t wrong[] = {0x81, 0xa3, 'p', 'i', 'd', 0xa1, 'x'};
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	answer_with(f, 1, BUS_OK, "", wrong, sizeof(wrong));
	assert_true(wait_on_loop(f->loop, &f->is_answered, WAIT_MS));
	assert_int_equal(f->status, BUS_INTERNAL);
	assert_non_null(strstr(f->text, "pid"));
}

static void test_a_deadline_ends_the_call_and_a_late_answer_is_nothing(void **state)
{
	struct fixture *f = *state;

	call(f, 1, 0);
	assert_true(wait_on_loop(f->loop, &f->is_answered, WAIT_MS));
	assert_int_equal(f->status, BUS_DEADLINE_EXCEEDED);
	answer_pid(f, 1, 11);
	send_event(f, "/tasks/start");
	assert_true(wait_on_loop_count(f->loop, &f->n_events, 1, WAIT_MS));
	assert_int_equal(f->n_answers, 1);
}

/* ---- events and rubbish ---- */

static void test_events_come_between_answers(void **state)
{
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	send_event(f, "/tasks/start");
	answer_pid(f, 1, 11);
	send_event(f, "/tasks/exit");
	assert_true(wait_on_loop_count(f->loop, &f->n_events, 2, WAIT_MS));
	assert_int_equal(f->n_answers, 1);
	assert_string_equal(f->topic, "/tasks/exit");
}

static void test_malformed_packets_hurt_nobody(void **state)
{
	static const char *const packets[] = {
		"x", "\xc4", "\xdd\x08", "\x95\x01\x02", "\x99\xc4\x10", "\x9f"};
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	for (size_t i = 0; i < ARRAY_SIZE(packets); i++)
		assert_true(send(f->peer, packets[i], strlen(packets[i]), 0) > 0);
	answer_pid(f, 1, 11);
	assert_true(wait_on_loop(f->loop, &f->is_answered, WAIT_MS));
	assert_int_equal(f->status, BUS_OK);
	assert_false(f->is_closed);
}

static void test_every_packet_cut_short_is_survived(void **state)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packet = {};
	struct envelope_reply reply = {.id = {1}, .status = BUS_OK};
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	assert_int_equal(envelope_write_reply(&reply, &packet), 0);
	for (size_t size = 1; size < packet.size; size++) {
		assert_int_equal(send(f->peer, packet.data, size, 0), size);
		assert_true(loop_turn(f->loop, WAIT_MS) >= 0);
	}
	assert_false(f->is_answered);
	answer_pid(f, 1, 11);
	assert_true(wait_on_loop(f->loop, &f->is_answered, WAIT_MS));
}

/* ---- ends ---- */

static void test_what_was_answered_before_the_end_still_arrives(void **state)
{
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	answer_pid(f, 1, 11);
	f->peer = close_fd(f->peer);
	assert_true(wait_on_loop(f->loop, &f->is_closed, WAIT_MS));
	assert_int_equal(f->status, BUS_OK);
	assert_int_equal(f->n_answers, 1);
}

static void test_the_peers_end_ends_all_calls_and_is_told_once(void **state)
{
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	call(f, 2, FAR_MS);
	f->peer = close_fd(f->peer);
	assert_true(wait_on_loop(f->loop, &f->is_closed, WAIT_MS));
	assert_int_equal(f->n_answers, 2);
	assert_int_equal(f->status, BUS_UNAVAILABLE);
	/* A call on what is closed fails too, later, and nobody is told of the end again. */
	call(f, 3, FAR_MS);
	assert_int_equal(f->n_answers, 2);
	assert_true(wait_on_loop_count(f->loop, &f->n_answers, 3, WAIT_MS));
	assert_int_equal(f->status, BUS_UNAVAILABLE);
	assert_int_equal(f->n_closed, 1);
}

static void test_a_call_made_while_the_link_is_lost_ends_too(void **state)
{
	struct fixture *f = *state;

	f->call_in_callback = true;
	call(f, 1, FAR_MS);
	f->peer = close_fd(f->peer);
	assert_true(wait_on_loop_count(f->loop, &f->n_answers, 2, WAIT_MS));
	assert_int_equal(f->status, BUS_UNAVAILABLE);
	assert_int_equal(f->n_closed, 1);
}

static void test_freeing_ends_calls_as_cancelled(void **state)
{
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	call(f, 2, FAR_MS);
	f->link = shim_link_free(f->link);
	assert_int_equal(f->n_answers, 2);
	assert_int_equal(f->status, BUS_CANCELED);
	assert_int_equal(f->n_closed, 0);
}

static void test_a_call_made_while_the_link_is_freed_is_refused(void **state)
{
	struct fixture *f = *state;

	f->call_in_callback = true;
	call(f, 1, FAR_MS);
	f->link = shim_link_free(f->link);
	assert_int_equal(f->n_answers, 1);
}

static void test_an_answers_callback_may_free_the_link(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	call(f, 1, FAR_MS);
	call(f, 2, FAR_MS);
	answer_pid(f, 1, 11);
	assert_true(wait_on_loop_count(f->loop, &f->n_answers, 2, WAIT_MS));
	assert_null(f->link);
	assert_int_equal(f->n_closed, 0);
}

static void test_an_events_callback_may_free_the_link(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	call(f, 1, FAR_MS);
	send_event(f, "/tasks/exit");
	send_event(f, "/tasks/exit");
	assert_true(wait_on_loop_count(f->loop, &f->n_answers, 1, WAIT_MS));
	assert_int_equal(f->n_events, 1);
	assert_int_equal(f->status, BUS_CANCELED);
}

static void test_a_deadlines_callback_may_free_the_link(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	call(f, 1, 0);
	assert_true(wait_on_loop(f->loop, &f->is_answered, WAIT_MS));
	assert_null(f->link);
}

static void test_the_callbacks_of_a_lost_link_may_free_it(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	call(f, 1, FAR_MS);
	call(f, 2, FAR_MS);
	f->peer = close_fd(f->peer);
	assert_true(wait_on_loop_count(f->loop, &f->n_answers, 2, WAIT_MS));
	assert_null(f->link);
	assert_int_equal(f->n_closed, 0);
}

static void test_closed_may_free_the_link(void **state)
{
	struct fixture *f = *state;

	f->free_in_callback = true;
	f->peer = close_fd(f->peer);
	assert_true(wait_on_loop(f->loop, &f->is_closed, WAIT_MS));
	assert_null(f->link);
}

/* ---- connecting ---- */

/* ---- descriptors, and a peer that takes nothing ---- */

static void send_with_fds(struct fixture *f, const struct schema_buffer *packet, const int *fds,
			  size_t n)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(3 * sizeof(int))] = {};
	struct iovec part = {packet->data, packet->size};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct cmsghdr *rights = (struct cmsghdr *)control;

	*rights = (struct cmsghdr){.cmsg_len = CMSG_LEN(n * sizeof(int)),
				   .cmsg_level = SOL_SOCKET,
				   .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(rights), fds, n * sizeof(int));
	assert_int_equal(sendmsg(f->peer, &message, 0), packet->size);
}

static void takes_fds(void *userdata, enum bus_status status, const char *text, void *reply)
{
	struct fixture *f = userdata;
	int fds[SHIM_LINK_FDS];

	answered(userdata, status, text, reply);
	shim_link_take_fds(f->link, fds);
	f->pid = (uint64_t)(fds[0] >= 0) + 2 * (uint64_t)(fds[1] >= 0);
	close_fd(fds[0]);
	close_fd(fds[1]);
}

static void answer_with_fds(struct fixture *f, uint8_t number, size_t n)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {}, packet = {};
	struct shim_pid_reply reply = {.pid = 1};
	struct envelope_reply envelope = {.id = {number}};
	const int fds[3] = {0, 1, 2};

	assert_int_equal(schema_pack(schema_shim_pid_reply(), &reply, &body, NULL), 0);
	envelope.body = (struct schema_span){body.data, body.size};
	assert_int_equal(envelope_write_reply(&envelope, &packet), 0);
	send_with_fds(f, &packet, fds, n);
}

static void test_descriptors_come_with_their_answer(void **state)
{
	static const struct empty nothing;
	const uint8_t id[ENVELOPE_ID_SIZE] = {1};
	struct fixture *f = *state;

	assert_int_equal(shim_link_call(f->link, "shim.start", id, time_boot_ms() + FAR_MS,
					&nothing, takes_fds, f),
			 0);
	(void)take_request(f);
	answer_with_fds(f, 1, 2);
	assert_int_equal(loop_turn(f->loop, 1000), 0);
	assert_int_equal(f->n_answers, 1);
	assert_int_equal(f->pid, 3);
}

/* The fixture fails if one is left open. */
static void test_descriptors_that_nobody_takes_are_closed(void **state)
{
	struct fixture *f = *state;

	call(f, 1, FAR_MS);
	(void)take_request(f);
	answer_with_fds(f, 1, 3);
	answer_with_fds(f, 77, 1); /* an answer to nobody */
	assert_int_equal(loop_turn(f->loop, 1000), 0);
	assert_int_equal(f->n_answers, 1);
}

static void test_what_a_slow_peer_does_not_take_yet_is_sent_later_in_order(void **state)
{
	struct fixture *f = *state;
	unsigned n = 0;

	for (unsigned i = 0; i < 250; i++) {
		static const struct empty nothing;
		const uint8_t id[ENVELOPE_ID_SIZE] = {(uint8_t)(i + 1)};

		for (unsigned k = 0; k < 4; k++)
			assert_int_equal(shim_link_call(f->link, "shim.start", id,
							time_boot_ms() + FAR_MS, &nothing, answered,
							f),
					 0);
	}
	for (; n < 1000; n++) {
		struct pollfd readable = {.fd = f->peer, .events = POLLIN};

		while (!poll(&readable, 1, 0))
			assert_int_equal(loop_turn(f->loop, 1000), 0);
		assert_int_equal(take_request(f), n / 4 + 1);
	}
	assert_int_equal(f->n_answers, 0);
	assert_int_equal(f->n_closed, 0);
}

static void test_nobody_listening_is_told_at_once(void **state)
{
	struct fixture *f = *state;
	_cleanup_(cleanup_free) char *path = scratch_path(&f->scratch, "socket");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	char large[200];
	int got = -1;

	assert_int_equal(shim_link_connect(path, &got), -ENOENT);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(shim_link_connect(path, &got), -ECONNREFUSED);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(shim_link_connect(path, &got), 0);
	close_fd(got);
	memset(large, 'x', sizeof(large) - 1);
	large[sizeof(large) - 1] = '\0';
	assert_int_equal(shim_link_connect(large, &got), -ENAMETOOLONG);
}

#define LINKED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(LINKED(test_an_answer_comes_to_the_call_with_its_id),
	  LINKED(test_an_error_comes_with_its_text),
	  LINKED(test_an_answer_that_is_not_the_methods_is_an_internal_error),
	  LINKED(test_a_deadline_ends_the_call_and_a_late_answer_is_nothing),
	  LINKED(test_events_come_between_answers), LINKED(test_malformed_packets_hurt_nobody),
	  LINKED(test_every_packet_cut_short_is_survived),
	  LINKED(test_what_was_answered_before_the_end_still_arrives),
	  LINKED(test_the_peers_end_ends_all_calls_and_is_told_once),
	  LINKED(test_a_call_made_while_the_link_is_lost_ends_too),
	  LINKED(test_freeing_ends_calls_as_cancelled),
	  LINKED(test_a_call_made_while_the_link_is_freed_is_refused),
	  LINKED(test_an_answers_callback_may_free_the_link),
	  LINKED(test_an_events_callback_may_free_the_link),
	  LINKED(test_a_deadlines_callback_may_free_the_link),
	  LINKED(test_the_callbacks_of_a_lost_link_may_free_it),
	  LINKED(test_closed_may_free_the_link), LINKED(test_descriptors_come_with_their_answer),
	  LINKED(test_descriptors_that_nobody_takes_are_closed),
	  LINKED(test_what_a_slow_peer_does_not_take_yet_is_sent_later_in_order),
	  LINKED(test_nobody_listening_is_told_at_once))
