#include "shim/control.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "broker/lib/log.h"
#include "shim/shim.h"

#define PACKETS_A_ROUND 16 /* of one connection; then the others get their turn */

/* ---- connections --------------------------------------------------------- */

static void drop(struct connection *connection)
{
	struct control *control = connection->control;

	loop_file_remove(&connection->file);
	connection->fd = close_fd(connection->fd);
	connection->generation++;
	control->n_connections--;
	shim_consider_end(control->shim);
}

static void connection_ready(struct loop_file *file, uint32_t events);

/* Takes @fd. */
static int add(struct control *control, int fd)
{
	for (size_t i = 0; i < CONTROL_CONNECTIONS; i++) {
		struct connection *connection = &control->connections[i];
		int r;

		if (connection->fd >= 0)
			continue;
		r = loop_file_add(control->shim->loop, &connection->file, fd, EPOLLIN,
				  connection_ready);
		if (r) {
			close_fd(fd);
			return error_trace(r);
		}
		connection->fd = fd;
		connection->has_greeted = connection->watches = false;
		control->n_connections++;
		loop_timer_cancel(&control->shim->linger);
		return 0;
	}
	close_fd(fd);
	return error_origin(-EMFILE);
}

static bool is_allowed(int fd)
{
	struct ucred peer = {};
	socklen_t size = sizeof(peer);

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

static void listener_ready(struct loop_file *file, uint32_t events)
{
	struct control *control = container_of(file, struct control, file);
	int fd;

	(void)events;
	fd = accept4(control->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (is_allowed(fd))
		(void)add(control, fd);
	else
		close_fd(fd);
}

/* ---- sending ------------------------------------------------------------- */

static void send_packet(struct connection *connection, const struct schema_buffer *packet,
			const int *fds, size_t n_fds)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS)];
		struct cmsghdr header;
	} rights = {};
	struct iovec data = {packet->data, packet->size};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};

	if (n_fds) {
		message.msg_control = &rights;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		rights.header.cmsg_level = SOL_SOCKET;
		rights.header.cmsg_type = SCM_RIGHTS;
		rights.header.cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(&rights.header), fds, sizeof(int) * n_fds);
	}
	if (sendmsg(connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)packet->size)
		return;
	log_warning("a control connection takes no more packets: closed");
	drop(connection);
}

struct connection *control_connection(struct control *control, const struct call *call)
{
	struct connection *connection = &control->connections[call->connection];

	return connection->fd >= 0 && connection->generation == call->generation ? connection
										 : NULL;
}

static int write_reply(const struct call *call, enum bus_status status, const char *text,
		       struct schema_span body, struct schema_buffer *packet)
{
	struct envelope_reply reply = {.status = status, .body = body};

	memcpy(reply.id, call->id, sizeof(reply.id));
	snprintf(reply.text, sizeof(reply.text), "%s", text);
	return error_trace(envelope_write_reply(&reply, packet));
}

static void answer_with(struct control *control, const struct call *call, enum bus_status status,
			const char *text, struct schema_span body, const int *fds, size_t n)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packet = {};
	struct connection *connection = control_connection(control, call);
	int r;

	if (!connection)
		return;
	r = write_reply(call, status, text, body, &packet);
	if (r) {
		log_error("a reply could not be written: %s", strerror(-r));
		drop(connection);
		return;
	}
	send_packet(connection, &packet, fds, n);
}

void control_answer_packed(struct control *control, const struct call *call, enum bus_status status,
			   const char *text, struct schema_span body)
{
	answer_with(control, call, status, text, body, NULL, 0);
}

static void pack_and_answer(struct control *control, const struct call *call,
			    enum bus_status status, const char *text, const void *message,
			    const int *fds, size_t n)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	struct connection *connection;
	int r = 0;

	if (message && call->method)
		r = schema_pack(call->method->reply(), message, &body, NULL);
	if (!r) {
		answer_with(control, call, status, text, (struct schema_span){body.data, body.size},
			    fds, n);
	} else if (r > 0) {
		answer_with(control, call, BUS_INTERNAL, "the reply cannot be packed",
			    (struct schema_span){}, NULL, 0);
	} else {
		/* By the end of its connection the caller sees that it has to ask again. */
		connection = control_connection(control, call);
		if (connection)
			drop(connection);
	}
}

void control_answer(struct control *control, const struct call *call, enum bus_status status,
		    const char *text, const void *message)
{
	pack_and_answer(control, call, status, text, message, NULL, 0);
}

void control_answer_with(struct control *control, const struct call *call, const void *message,
			 const int *fds, size_t n)
{
	pack_and_answer(control, call, BUS_OK, "", message, fds, n);
}

void control_tell(struct control *control, const struct envelope_event *event)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packet = {};
	int r = envelope_write_event(event, &packet);

	for (size_t i = 0; i < CONTROL_CONNECTIONS; i++) {
		struct connection *connection = &control->connections[i];

		if (connection->fd < 0 || !connection->watches)
			continue;
		/* It sees by the end of its connection that it missed something. */
		if (r)
			drop(connection);
		else
			send_packet(connection, &packet, NULL, 0);
	}
}

/* ---- descriptors that come with a packet --------------------------------- */

static void close_fds(struct connection *connection)
{
	while (connection->n_taken < connection->n_fds)
		close_fd(connection->fds[connection->n_taken++]);
	connection->n_fds = connection->n_taken = 0;
}

size_t control_count_fds(struct control *control, const struct call *call)
{
	return control->connections[call->connection].n_fds;
}

int control_take_fd(struct control *control, const struct call *call)
{
	struct connection *connection = &control->connections[call->connection];

	return connection->n_taken < connection->n_fds ? connection->fds[connection->n_taken++]
						       : -1;
}

static void take_rights(struct connection *connection, struct msghdr *message)
{
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
	     header = CMSG_NXTHDR(message, header)) {
		size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
			if (connection->n_fds < CONTROL_FDS)
				connection->fds[connection->n_fds++] = fd;
			else
				close_fd(fd);
		}
	}
}

/* More than there is room for is dropped by the kernel. */
static ssize_t receive(struct connection *connection, void *data, size_t size)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * CONTROL_FDS)];
		struct cmsghdr header;
	} rights;
	struct iovec vector = {data, size};
	struct msghdr message = {.msg_iov = &vector,
				 .msg_iovlen = 1,
				 .msg_control = &rights,
				 .msg_controllen = sizeof(rights)};
	ssize_t n = recvmsg(connection->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n >= 0)
		take_rights(connection, &message);
	return n;
}

/* ---- requests ------------------------------------------------------------ */

#define METHOD(service_, name_, request_, reply_, effect_, doc_)                                   \
	static void handle_##name_(struct shim *shim, const void *request,                         \
				   const struct call *call)                                        \
	{                                                                                          \
		shim_method_##name_(shim, request, call);                                          \
	}
#include "schemas/shim.def"
#include "schemas/end.h"

static const struct handler {
	const char *name;
	void (*fn)(struct shim *shim, const void *request, const struct call *call);
} handlers[] = {
#define METHOD(service_, name_, request_, reply_, effect_, doc_) {#name_, handle_##name_},
#include "schemas/shim.def"
#include "schemas/end.h"
};

union any_request {
#define METHOD(service_, name_, request_, reply_, effect_, doc_) struct request_ name_;
#include "schemas/shim.def"
#include "schemas/end.h"
};

static void run_handler(struct control *control, const struct handler *handler,
			const struct call *call, const struct schema_span *body)
{
	const struct schema_message *schema = call->method->request();
	struct schema_fault fault = {};
	union any_request request = {};
	int r;

	r = schema_unpack(schema, body->data, body->size, &request, &fault);
	if (r) {
		control_answer(control, call, r > 0 ? BUS_INVALID_ARGUMENT : BUS_INTERNAL,
			       r > 0 ? fault.text : "out of memory", NULL);
		return;
	}
	if (!call->method->mutates || !request_is_repeated(control->shim, call))
		handler->fn(control->shim, &request, call);
	schema_clear(schema, &request);
}

static const struct handler *find_handler(const struct envelope_request *envelope,
					  const struct schema_method **ret_method)
{
	char service[ENVELOPE_NAME_MAX + 1];
	const char *name = envelope_split_method(envelope->method, service);

	if (!name || strcmp(service, "shim"))
		return NULL;
	*ret_method = schema_find_method(service, name);
	for (size_t i = 0; i < ARRAY_SIZE(handlers) && *ret_method; i++)
		if (!strcmp(handlers[i].name, name))
			return &handlers[i];
	return NULL;
}

static void take_packet(struct connection *connection, const uint8_t *data, size_t size)
{
	static const uint8_t empty_map[] = {0x80};
	struct control *control = connection->control;
	struct call call = {.connection = (size_t)(connection - control->connections),
			    .generation = connection->generation};
	struct envelope_request envelope = {};
	const struct handler *handler = NULL;
	struct schema_fault fault = {};
	char text[ENVELOPE_METHOD_MAX + 64];
	int r;

	r = envelope_read_request(data, size, &envelope, &fault);
	memcpy(call.id, envelope.id, ID_SIZE);
	if (!r)
		handler = find_handler(&envelope, &call.method);
	if (!handler || strcmp(handler->name, "adopt"))
		close_fds(connection);
	if (r) {
		control_answer(control, &call, BUS_INVALID_ARGUMENT, fault.text, NULL);
		return;
	}
	call.deadline_ms = envelope.deadline_ms;
	if (!handler) {
		snprintf(text, sizeof(text), "a shim has no method '%s'", envelope.method);
		control_answer(control, &call, BUS_NOT_FOUND, text, NULL);
	} else if (!connection->has_greeted && strcmp(handler->name, "hello")) {
		control_answer(control, &call, BUS_FAILED_PRECONDITION,
			       "the first message of a connection is shim.hello", NULL);
	} else {
		if (!envelope.body.size)
			envelope.body = (struct schema_span){empty_map, sizeof(empty_map)};
		call.body_crc = crc32c(0, envelope.body.data, envelope.body.size) ?: 1;
		run_handler(control, handler, &call, &envelope.body);
	}
}

static void refuse_large(struct connection *connection)
{
	struct call call = {.connection = (size_t)(connection - connection->control->connections),
			    .generation = connection->generation};
	uint8_t byte;

	/* The rest of a packet that is not read goes with it. */
	if (recv(connection->fd, &byte, 1, MSG_DONTWAIT) > 0)
		control_answer(connection->control, &call, BUS_INVALID_ARGUMENT,
			       "a packet is longer than 65536 bytes", NULL);
}

/* False: nothing more to be read, or the connection is gone. */
static bool read_packet(struct connection *connection)
{
	_cleanup_(cleanup_free) uint8_t *data = NULL;
	ssize_t n;

	n = recv(connection->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		drop(connection);
		return false;
	}
	if (n > CONTROL_PACKET_MAX) {
		refuse_large(connection);
		return connection->fd >= 0;
	}
	data = malloc((size_t)n);
	if (!data) {
		drop(connection);
		return false;
	}
	n = receive(connection, data, (size_t)n);
	if (n > 0)
		take_packet(connection, data, (size_t)n);
	close_fds(connection);
	return n > 0;
}

static void connection_ready(struct loop_file *file, uint32_t events)
{
	struct connection *connection = container_of(file, struct connection, file);
	unsigned generation = connection->generation;

	(void)events;
	for (int i = 0; i < PACKETS_A_ROUND && connection->generation == generation; i++)
		if (!read_packet(connection))
			return;
}

/* ---- the socket ---------------------------------------------------------- */

static int listen_at(struct control *control, const char *path, struct why *why)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int fd = -1;
	mode_t mask;
	int r;

	if (strlen(path) >= sizeof(address.sun_path))
		return why_set(why, -ENAMETOOLONG, "the socket's path %s is too long", path);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_origin(-errno);
	/* The lock on the bundle says that no other shim of this task lives. */
	(void)unlink(path);
	mask = umask(0177);
	r = bind(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
	umask(mask);
	if (!r && listen(fd, CONTROL_CONNECTIONS))
		r = -errno;
	if (!r)
		r = loop_file_add(control->shim->loop, &control->file, fd, EPOLLIN, listener_ready);
	if (r)
		return why_errno(why, error_origin(r), "cannot listen at %s", path);
	control->fd = TAKE_FD(fd);
	return 0;
}

static bool is_socket(int fd)
{
	struct stat stat;

	return fd >= 0 && !fstat(fd, &stat) && S_ISSOCK(stat.st_mode);
}

int control_init(struct control *control, struct shim *shim, const char *path, int fd,
		 struct why *why)
{
	int r;

	*control = (struct control){.shim = shim, .fd = -1};
	for (size_t i = 0; i < CONTROL_CONNECTIONS; i++)
		control->connections[i] = (struct connection){.control = control, .fd = -1};
	r = listen_at(control, path, why);
	if (!r && is_socket(fd))
		r = add(control, fd);
	return r;
}

void control_deinit(struct control *control)
{
	for (size_t i = 0; i < CONTROL_CONNECTIONS; i++) {
		struct connection *connection = &control->connections[i];

		if (!connection->control || connection->fd < 0)
			continue;
		loop_file_remove(&connection->file);
		connection->fd = close_fd(connection->fd);
	}
	loop_file_remove(&control->file);
	control->fd = close_fd(control->fd);
}
