/* See shim_link.h. One packet is one envelope, at most 64 KiB. */

#include "services/task/shim_link.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "broker/lib/error.h"
#include "broker/lib/log.h"

#define PACKET_MAX      65536
#define PACKETS_A_ROUND 64 /* then the loop's other sources get their turn */

struct link_call {
	struct link_call *next;
	struct shim_link *link;
	struct loop_timer timer;
	uint8_t id[ENVELOPE_ID_SIZE];
	const struct schema_method *method;
	shim_link_reply_fn fn;
	void *userdata;
	struct schema_buffer unsent; /* until the peer takes more */
};

struct shim_link {
	struct loop *loop;
	struct loop_file file;
	struct loop_timer closing;
	int fd;
	struct link_call *calls;
	shim_link_event_fn event;
	shim_link_closed_fn closed;
	void *userdata;
	int fds[SHIM_LINK_FDS]; /* of the packet that is being taken; -1: none */
	bool is_busy;           /* in a callback of ours */
	bool is_freed;          /* freed by that callback: the frame below does it */
	bool is_closed;         /* @closed was called */
};

/* Ends a call that is still in the list; frees it. */
static void call_end(struct shim_link *link, struct link_call *call, enum bus_status status,
		     const char *text, void *reply)
{
	struct link_call **at = &link->calls;

	while (*at != call)
		at = &(*at)->next;
	*at = call->next;
	loop_timer_cancel(&call->timer);
	call->fn(call->userdata, status, text, reply);
	schema_buffer_clear(&call->unsent);
	free(call);
}

/* Those that are under way now: what a callback begins is not among them. */
static void calls_end_all(struct shim_link *link, enum bus_status status, const char *text)
{
	struct link_call *rest = TAKE(link->calls), *call;

	while ((call = rest)) {
		rest = call->next;
		loop_timer_cancel(&call->timer);
		call->fn(call->userdata, status, text, NULL);
		schema_buffer_clear(&call->unsent);
		free(call);
	}
}

static void close_fds(struct shim_link *link)
{
	for (size_t i = 0; i < SHIM_LINK_FDS; i++)
		link->fds[i] = close_fd(link->fds[i]);
}

/* Callbacks run between these two: one that frees the link leaves the memory to us. */
static void callback_begin(struct shim_link *link)
{
	link->is_busy = true;
}

/* False: the link is gone. */
static bool callback_end(struct shim_link *link)
{
	link->is_busy = false;
	close_fds(link);
	if (!link->is_freed)
		return true;
	free(link);
	return false;
}

static void on_deadline(struct loop_timer *timer)
{
	struct link_call *call = container_of(timer, struct link_call, timer);
	struct shim_link *link = call->link;

	callback_begin(link);
	call_end(link, call, BUS_DEADLINE_EXCEEDED, "the shim did not answer in time", NULL);
	(void)callback_end(link);
}

/* Negative: it cannot be taken now. */
static int take_reply(struct shim_link *link, const struct envelope_reply *reply)
{
	const struct schema_message *schema;
	struct schema_fault fault = {};
	struct link_call *call;
	void *message = NULL;
	int r;

	for (call = link->calls; call; call = call->next) {
		if (!memcmp(call->id, reply->id, sizeof(call->id)))
			break;
	}
	if (!call)
		return 0; /* late: its deadline has passed */
	if (reply->status != BUS_OK) {
		call_end(link, call, reply->status, reply->text, NULL);
		return 0;
	}
	schema = call->method->reply();
	message = calloc(1, schema->size ?: 1);
	r = message ? schema_unpack(schema, reply->body.data, reply->body.size, message, &fault)
		    : -ENOMEM;
	if (r > 0)
		call_end(link, call, BUS_INTERNAL, fault.text, NULL);
	else if (!r)
		call_end(link, call, BUS_OK, "", message);
	if (!r)
		schema_clear(schema, message);
	free(message);
	return r < 0 ? r : 0;
}

/* An event's first element is the log's id, a bin; a reply's is the version, an integer. */
static bool is_event(const uint8_t *data, size_t size)
{
	struct schema_span first;
	size_t count;

	return !schema_scan_array(data, size, SCHEMA_NODES_MAX, &first, 1, &count) && count &&
	       first.data[0] == 0xc4;
}

static int take_packet(struct shim_link *link, const uint8_t *data, size_t size)
{
	struct envelope_event event;
	struct envelope_reply reply;

	if (is_event(data, size)) {
		if (!envelope_read_event(data, size, &event, NULL) && link->event)
			link->event(link->userdata, &event);
	} else if (!envelope_read_reply(data, size, &reply, NULL)) {
		return error_trace(take_reply(link, &reply));
	} else {
		log_warning("a shim sent a malformed packet of %zu bytes", size);
	}
	return 0;
}

static void link_lost(struct shim_link *link)
{
	loop_file_remove(&link->file);
	loop_timer_cancel(&link->closing);
	link->fd = close_fd(link->fd);
	callback_begin(link);
	calls_end_all(link, BUS_UNAVAILABLE, "the shim went away");
	if (!link->is_freed && !link->is_closed) {
		link->is_closed = true;
		link->closed(link->userdata);
	}
	(void)callback_end(link);
}

static void on_closing(struct loop_timer *timer)
{
	link_lost(container_of(timer, struct shim_link, closing));
}

/* More than a reply has, and those of an event, are closed. */
static void keep_fds(struct shim_link *link, struct msghdr *message)
{
	size_t n = 0;

	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part;
	     part = CMSG_NXTHDR(message, part)) {
		size_t n_fds = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int fd;

		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n_fds; i++) {
			memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
			if (n < SHIM_LINK_FDS)
				link->fds[n++] = fd;
			else
				close_fd(fd);
		}
	}
}

static ssize_t receive(struct shim_link *link, uint8_t *packet)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(SHIM_LINK_FDS * sizeof(int))];
	struct iovec part = {packet, PACKET_MAX};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control,
				 .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(link->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n > 0)
		keep_fds(link, &message);
	return n;
}

void shim_link_take_fds(struct shim_link *link, int ret_fds[SHIM_LINK_FDS])
{
	for (size_t i = 0; i < SHIM_LINK_FDS; i++)
		ret_fds[i] = TAKE_FD(link->fds[i]);
}

static int send_packet(struct shim_link *link, const struct schema_buffer *packet, const int *fds,
		       size_t n_fds)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(SHIM_LINK_FDS * sizeof(int))] = {};
	struct iovec part = {packet->data, packet->size};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	struct cmsghdr *header = (struct cmsghdr *)control;

	if (n_fds) {
		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		*header = (struct cmsghdr){.cmsg_len = CMSG_LEN(n_fds * sizeof(int)),
					   .cmsg_level = SOL_SOCKET,
					   .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
	}
	return sendmsg(link->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The newest stand first. */
static struct link_call *oldest_unsent(const struct shim_link *link)
{
	struct link_call *oldest = NULL;

	for (struct link_call *call = link->calls; call; call = call->next) {
		if (call->unsent.size)
			oldest = call;
	}
	return oldest;
}

/* A peer that is gone is noticed by reading. */
static void send_rest(struct shim_link *link)
{
	struct link_call *call;

	while ((call = oldest_unsent(link))) {
		if (send_packet(link, &call->unsent, NULL, 0) == -EAGAIN)
			return;
		schema_buffer_clear(&call->unsent);
	}
	(void)loop_file_set(&link->file, EPOLLIN);
}

static void on_readable(struct loop_file *file, uint32_t events)
{
	struct shim_link *link = container_of(file, struct shim_link, file);
	static uint8_t packet[PACKET_MAX];
	ssize_t n;
	int r;

	if (events & EPOLLOUT)
		send_rest(link);
	for (int i = 0; i < PACKETS_A_ROUND; i++) {
		n = receive(link, packet);
		if (n < 0 && errno == EAGAIN)
			return;
		/* A peer that ended with something of ours unread: what it had sent still follows. */
		if (n < 0 && (errno == EINTR || errno == ECONNRESET))
			continue;
		if (n <= 0) {
			link_lost(link);
			return;
		}
		callback_begin(link);
		r = take_packet(link, packet, (size_t)n);
		if (!callback_end(link))
			return;
		/* On a new connection what was asked is asked again, and the shim repeats what it said. */
		if (r) {
			link_lost(link);
			return;
		}
	}
}

int shim_link_new(struct loop *loop, int fd, shim_link_event_fn event, shim_link_closed_fn closed,
		  void *userdata, struct shim_link **ret_link)
{
	struct shim_link *link = calloc(1, sizeof(*link));
	int r;

	if (!link) {
		close_fd(fd);
		return error_origin(-ENOMEM);
	}
	*link = (struct shim_link){.loop = loop,
				   .fd = fd,
				   .event = event,
				   .closed = closed,
				   .userdata = userdata,
				   .fds = {-1, -1}};
	r = loop_file_add(loop, &link->file, fd, EPOLLIN, on_readable);
	if (r) {
		close_fd(fd);
		free(link);
		return error_trace(r);
	}
	*ret_link = link;
	return 0;
}

struct shim_link *shim_link_free(struct shim_link *link)
{
	if (!link || link->is_freed)
		return NULL;
	link->is_freed = true;
	loop_file_remove(&link->file);
	loop_timer_cancel(&link->closing);
	link->fd = close_fd(link->fd);
	calls_end_all(link, BUS_CANCELED, "cancelled");
	if (!link->is_busy)
		free(link);
	return NULL;
}

static int send_request(struct shim_link *link, struct link_call *call, const char *method,
			uint64_t deadline_ms, const void *request, const int *fds, size_t n_fds)
{
	struct schema_buffer body = {}, packet = {};
	struct envelope_request envelope = {.deadline_ms = deadline_ms};
	int r;

	memcpy(envelope.id, call->id, sizeof(envelope.id));
	strncpy(envelope.method, method, sizeof(envelope.method) - 1);
	strncpy(envelope.namespace, ENVELOPE_DEFAULT_NS, sizeof(envelope.namespace) - 1);
	r = schema_pack(call->method->request(), request, &body, NULL);
	envelope.body = (struct schema_span){body.data, body.size};
	if (!r)
		r = envelope_write_request(&envelope, &packet);
	if (!r) /* none overtakes another */
		r = oldest_unsent(link) ? -EAGAIN : send_packet(link, &packet, fds, n_fds);
	schema_buffer_clear(&body);
	if (r == -EAGAIN && !n_fds) {
		call->unsent = packet;
		return loop_file_set(&link->file, EPOLLIN | EPOLLOUT);
	}
	schema_buffer_clear(&packet);
	return r;
}

int shim_link_call_fds(struct shim_link *link, const char *method,
		       const uint8_t id[ENVELOPE_ID_SIZE], uint64_t deadline_ms,
		       const void *request, const int *fds, size_t n_fds, shim_link_reply_fn fn,
		       void *userdata)
{
	char service[ENVELOPE_NAME_MAX + 1];
	const char *name = envelope_split_method(method, service);
	struct link_call *call;
	int r;

	if (link->is_freed)
		return error_origin(-ENOTCONN);
	call = calloc(1, sizeof(*call));
	if (!call)
		return error_origin(-ENOMEM);
	*call = (struct link_call){.link = link, .fn = fn, .userdata = userdata};
	call->method = schema_find_method(service, name);
	memcpy(call->id, id, sizeof(call->id));
	r = loop_timer_set(link->loop, &call->timer, deadline_ms, on_deadline);
	if (r) {
		free(call);
		return error_trace(r);
	}
	call->next = link->calls;
	link->calls = call;
	/* Cannot be sent: the peer is gone or wedged. The connection ends in the next round, and the call with it. */
	r = link->fd < 0 ? -ENOTCONN
			 : send_request(link, call, method, deadline_ms, request, fds, n_fds);
	if (r) {
		log_debug("call to a shim not sent: %s", strerror(r < 0 ? -r : EINVAL));
		(void)loop_timer_set(link->loop, &link->closing, time_boot_ms(), on_closing);
	}
	return 0;
}

int shim_link_call(struct shim_link *link, const char *method, const uint8_t id[ENVELOPE_ID_SIZE],
		   uint64_t deadline_ms, const void *request, shim_link_reply_fn fn, void *userdata)
{
	return shim_link_call_fds(link, method, id, deadline_ms, request, NULL, 0, fn, userdata);
}

int shim_link_connect(const char *path, int *ret_fd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int fd = -1;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_origin(-ENAMETOOLONG);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_origin(-errno);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return error_trace(-errno);
	*ret_fd = TAKE_FD(fd);
	return 0;
}
