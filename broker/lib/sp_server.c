#include "broker/lib/sp_server.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "broker/lib/log.h"

#define ACCEPT_STEP     32  /* connections that are taken in one round */
#define ACCEPT_PAUSE_MS 100 /* when no file descriptor is left */
#define LINES           16  /* in which processes are counted, by their number */

/* What the processes of a line have asked in a turn. */
struct line {
	uint64_t round;
	unsigned n_asked;
};

struct sp_server {
	struct sp_server_options options;
	struct line lines[LINES];
	struct loop *loop;
	struct loop_file file;
	struct loop_timer timer; /* accepts again */
	int fd;
	struct sp_peer *first, *last; /* of silence: the first has been silent longest */
	size_t n_connections, n_held;
	uint64_t told_ms;
	bool is_closed; /* it goes with its last connection */
};

/* ---- the order of silence ---- */

static void unlink_peer(struct sp_peer *peer)
{
	struct sp_server *server = peer->server;

	*(peer->before ? &peer->before->after : &server->first) = peer->after;
	*(peer->after ? &peer->after->before : &server->last) = peer->before;
	peer->before = peer->after = NULL;
}

static void append_peer(struct sp_peer *peer)
{
	struct sp_server *server = peer->server;

	peer->before = server->last;
	peer->after = NULL;
	*(server->last ? &server->last->after : &server->first) = peer;
	server->last = peer;
}

/* ---- the end of a connection ---- */

static void hold(struct sp_peer *peer, size_t size)
{
	peer->server->n_held += size - peer->n_held;
	peer->n_held = size;
}

static void disconnect(struct sp_peer *peer)
{
	hold(peer, 0);
	loop_file_remove(&peer->file);
	sp_wire_close(&peer->wire);
	peer->request = NULL;
}

static void release(struct sp_peer *peer)
{
	struct sp_server *server = peer->server;

	disconnect(peer);
	if (peer->is_in_use)
		return; /* by its callback's end */
	server->n_connections--;
	server->options.free_peer(server->options.userdata, peer);
	if (server->is_closed && !server->n_connections)
		free(server);
}

/* One that no request is under way on. */
static void end(struct sp_peer *peer)
{
	unlink_peer(peer);
	peer->is_gone = true;
	release(peer);
}

/* The request is over. False: so is the connection. */
static bool conclude(struct sp_peer *peer)
{
	struct sp_server *server = peer->server;

	sp_peer_drop_request(peer);
	peer->is_asked = false;
	server->options.over(server->options.userdata, peer);
	if (peer->is_gone) {
		release(peer);
		return false;
	}
	append_peer(peer);
	return true;
}

/* At most once a second, however many there are. */
static void tell_stalled(struct sp_server *server, const struct sp_peer *peer)
{
	uint64_t now = time_boot_ms();

	if (server->told_ms && now < server->told_ms + 1000)
		return;
	server->told_ms = now;
	log_warning("pid=%d stopped in the middle of a message, or takes no answer: its connection "
		    "is closed, since others need the room",
		    peer->credentials.pid);
}

/* Closes those that have been silent longest, until what is held is within the bound. */
static void make_room(struct sp_server *server, const struct sp_peer *but)
{
	struct sp_peer *peer = server->first;

	while (peer && server->n_held > server->options.held_max) {
		struct sp_peer *after = peer->after;

		if (peer->n_held > 0 && peer != but) {
			tell_stalled(server, peer);
			end(peer);
		}
		peer = after;
	}
}

/* ---- answers ---- */

static void mute(struct sp_peer *peer, bool is_muted)
{
	uint32_t events = EPOLLRDHUP | (is_muted ? 0 : EPOLLIN) |
			  (peer->wire.out_size > 0 ? EPOLLOUT : 0);

	if (peer->file.events != events)
		loop_file_set(&peer->file, events);
}

/* Sends what the socket takes. An answer that stays behind is of a connection that may be closed. */
static void send_answer(struct sp_peer *peer)
{
	int r = sp_wire_send(&peer->wire);

	if (r == 0 && !peer->server->is_closed) {
		hold(peer, 0);
		mute(peer, false);
		return;
	}
	if (r != SP_WIRE_E_WAIT) {
		end(peer);
		return;
	}
	hold(peer, peer->wire.out_size);
	mute(peer, true);
	make_room(peer->server, peer);
}

void sp_peer_drop_request(struct sp_peer *peer)
{
	if (peer->request)
		sp_wire_drop(&peer->wire);
	peer->request = NULL;
	peer->request_size = 0;
}

int sp_peer_answer(struct sp_peer *peer, const void *data, size_t size)
{
	int r;

	if (!peer->is_gone) {
		r = sp_wire_put_after(&peer->wire, peer->way_back, peer->n_way_back, data, size);
		if (r)
			return r;
	}
	if (conclude(peer))
		send_answer(peer);
	return 0;
}

void sp_peer_close(struct sp_peer *peer)
{
	peer->is_gone = true;
	disconnect(peer);
	conclude(peer);
}

/* ---- requests ---- */

/* The ids of the hops that it came by, the last with the top bit set. */
static int take_way_back(struct sp_peer *peer)
{
	const struct sp_wire *wire = &peer->wire;
	size_t n = 0;

	do {
		if (n + SP_ID_SIZE > wire->size || n + SP_ID_SIZE > sizeof(peer->way_back))
			return SP_E_PROTOCOL;
		n += SP_ID_SIZE;
	} while (!(wire->body[n - SP_ID_SIZE] & 0x80));
	memcpy(peer->way_back, wire->body, n);
	peer->n_way_back = n;
	peer->request = wire->body + n;
	peer->request_size = wire->size - n;
	return 0;
}

/* 0: a request is there; SP_WIRE_E_WAIT. */
static int receive(struct sp_peer *peer)
{
	int r = sp_wire_receive(&peer->wire);

	if (r == SP_WIRE_E_WAIT && peer->wire.body) {
		/* What it claims counts, not what came so far. */
		hold(peer, peer->wire.size);
		make_room(peer->server, peer);
	}
	if (r)
		return r;
	hold(peer, 0);
	return take_way_back(peer);
}

static struct line *line_of(const struct sp_peer *peer)
{
	struct sp_server *server = peer->server;
	struct line *line = &server->lines[(unsigned)peer->credentials.pid % LINES];
	uint64_t round = loop_round(server->loop);

	if (line->round != round)
		*line = (struct line){.round = round};
	return line;
}

/* Its request stays in its socket, which the next turn finds again. */
static bool has_had_its_share(const struct sp_peer *peer)
{
	return peer->server->options.share && line_of(peer)->n_asked >= peer->server->options.share;
}

static void ask(struct sp_peer *peer)
{
	struct sp_server *server = peer->server;

	line_of(peer)->n_asked++;
	unlink_peer(peer);
	peer->is_asked = peer->is_in_use = true;
	server->options.asked(server->options.userdata, peer);
	peer->is_in_use = false;
	if (peer->is_gone && !peer->is_asked)
		release(peer);
}

/* While its request is under way: it sends more, which waits, or it went away. */
static void on_busy(struct sp_peer *peer, uint32_t events)
{
	struct sp_server *server = peer->server;

	if (!(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) {
		mute(peer, true);
		return;
	}
	peer->is_gone = true;
	loop_file_remove(&peer->file);
	server->options.gone(server->options.userdata, peer);
}

static void on_ready(struct loop_file *file, uint32_t events)
{
	struct sp_peer *peer = container_of(file, struct sp_peer, file);
	int r;

	if (peer->is_asked) {
		on_busy(peer, events);
		return;
	}
	if (peer->wire.out_size > 0) {
		if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			end(peer);
		else if (events & EPOLLOUT)
			send_answer(peer);
		return;
	}
	if (has_had_its_share(peer))
		return;
	/* Before the end, what it sent: a request may be followed by a close. */
	r = receive(peer);
	if (r == 0)
		ask(peer);
	else if (r != SP_WIRE_E_WAIT || events & (EPOLLHUP | EPOLLERR))
		end(peer);
}

/* ---- connecting ---- */

/* There is always one to close but when requests of all are under way. */
static bool make_place(struct sp_server *server)
{
	if (server->n_connections < server->options.connections_max)
		return true;
	if (!server->first)
		return false;
	log_debug("pid=%d has been silent longest: its connection is closed for another one",
		  server->first->credentials.pid);
	end(server->first);
	return true;
}

static int open_peer(struct sp_peer *peer, int fd)
{
	socklen_t size = sizeof(peer->credentials);
	int r;

	r = sp_wire_adopt(&peer->wire, fd, SP_REP);
	if (r)
		return r;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer->credentials, &size) < 0)
		return error_origin(-errno);
	if (peer->server->options.only_own_uid && peer->credentials.uid != geteuid())
		return SP_E_CLOSED;
	r = sp_wire_send(&peer->wire);
	if (r)
		return r;
	return loop_file_add(peer->server->loop, &peer->file, fd, EPOLLIN | EPOLLRDHUP, on_ready);
}

/* Takes @fd. */
static void add_peer(struct sp_server *server, int fd)
{
	struct sp_peer *peer = NULL;
	int r;

	if (make_place(server))
		peer = server->options.new_peer(server->options.userdata);
	if (!peer) {
		close(fd);
		return;
	}
	peer->server = server;
	peer->wire = SP_WIRE_EMPTY;
	server->n_connections++;
	append_peer(peer);
	r = open_peer(peer, fd);
	if (r < 0)
		log_warning("a connection cannot be taken: %s", strerror(-r));
	if (r)
		end(peer);
}

static void on_timer(struct loop_timer *timer)
{
	struct sp_server *server = container_of(timer, struct sp_server, timer);

	loop_file_set(&server->file, EPOLLIN);
}

/* Without room for another descriptor the one that has been silent longest goes. */
static void pause_accepting(struct sp_server *server)
{
	log_warning("no connection can be taken: %m");
	if (server->first)
		end(server->first);
	loop_file_set(&server->file, 0);
	if (loop_timer_set(server->loop, &server->timer, time_boot_ms() + ACCEPT_PAUSE_MS,
			   on_timer))
		loop_file_set(&server->file, EPOLLIN);
}

static void on_connection(struct loop_file *file, uint32_t events)
{
	struct sp_server *server = container_of(file, struct sp_server, file);

	(void)events;
	for (int i = 0; i < ACCEPT_STEP; i++) {
		int fd = accept4(server->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			add_peer(server, fd);
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return;
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			 errno == ENOMEM) {
			pause_accepting(server);
			return;
		} /* else that peer has gone already */
	}
}

static int bind_to(int fd, const char *path, mode_t mode, struct why *why)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	mode_t mask;
	int r;

	if (!path[0] || strlen(path) >= sizeof(address.sun_path))
		return why_set(why, -ENAMETOOLONG, "the socket's path is longer than %zu: %s",
			       sizeof(address.sun_path) - 1, path);
	strcpy(address.sun_path, path);
	mask = umask(077);
	r = bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	umask(mask);
	if (!r && chmod(path, mode) < 0)
		r = -errno;
	if (!r && listen(fd, SOMAXCONN) < 0)
		r = -errno;
	return r ? why_errno(why, error_origin(r), "cannot listen on %s", path) : 0;
}

int sp_server_new(struct loop *loop, const struct sp_server_options *options,
		  struct sp_server **ret_server, struct why *why)
{
	_cleanup_(cleanup_free) struct sp_server *server = calloc(1, sizeof(*server));
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	if (!server)
		return error_origin(-ENOMEM);
	server->options = *options;
	server->loop = loop;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_origin(-errno);
	r = bind_to(fd, options->path, options->mode, why);
	if (!r)
		r = loop_file_add(loop, &server->file, fd, EPOLLIN, on_connection);
	if (r)
		return error_trace(r);
	server->fd = TAKE_FD(fd);
	*ret_server = TAKE(server);
	return 0;
}

static void flush_peer(struct sp_peer *peer, uint64_t until_ms)
{
	struct pollfd file = {.fd = peer->wire.fd, .events = POLLOUT};
	uint64_t now;

	while (sp_wire_send(&peer->wire) == SP_WIRE_E_WAIT && (now = time_boot_ms()) < until_ms)
		poll(&file, 1, (int)(until_ms - now));
}

void sp_server_flush(struct sp_server *server, unsigned timeout_ms)
{
	uint64_t until_ms = time_boot_ms() + timeout_ms;

	for (struct sp_peer *peer = server->first; peer; peer = peer->after)
		if (peer->wire.out_size > 0)
			flush_peer(peer, until_ms);
}

struct sp_server *sp_server_free(struct sp_server *server)
{
	if (!server)
		return NULL;
	while (server->first)
		end(server->first);
	loop_timer_cancel(&server->timer);
	loop_file_remove(&server->file);
	close(server->fd);
	server->options.userdata = NULL;
	server->is_closed = true;
	if (!server->n_connections)
		free(server);
	return NULL;
}

size_t sp_server_n_connections(const struct sp_server *server)
{
	return server->n_connections;
}
