#include "broker/lib/nng_compat.h"

#include <dlfcn.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define RECONNECT_MIN_MS 20
#define RECONNECT_MAX_MS 500
#define OWN_PIPES_MAX    64

#define NNG_COMPAT_VERSION (NNG_MAJOR_VERSION * 10000 + NNG_MINOR_VERSION * 100 + NNG_PATCH_VERSION)

#if NNG_COMPAT_VERSION < 10600
/*
 * nng up to 1.5 reads the EPIPE of a peer that is gone as "closed by ourselves" and gives its
 * listener or dialer up; ECONNRESET it takes for what it is. libnng calls sendmsg() through the
 * executable's symbols, so this definition is the one that it gets.
 */
ssize_t(sendmsg)(int fd, const struct msghdr *message, int flags)
{
	ssize_t n;

	n = syscall(SYS_sendmsg, fd, message, flags | MSG_NOSIGNAL);
	if (n < 0 && errno == EPIPE)
		errno = ECONNRESET;
	return n;
}

static bool is_protected(void)
{
	return dlsym(RTLD_DEFAULT, "sendmsg") == (void *)(uintptr_t)sendmsg;
}

/*
 * It makes two task threads and one for expiry for each processor that sysconf() tells it of when
 * its first socket is opened. More than two task threads only meet at its locks (docs/decisions/0004).
 */
static bool is_starting;

long __sysconf(int name); /* glibc's own */

/* The sanitizers' runtimes call it before they are ready themselves. */
__attribute__((no_sanitize("address", "thread", "undefined"))) long sysconf(int name)
{
	return is_starting && name == _SC_NPROCESSORS_ONLN ? 1 : __sysconf(name);
}

static void set_starting(bool value)
{
	is_starting = value;
}
#else
static void set_starting(bool value)
{
	(void)value;
}

static bool is_protected(void)
{
	return true;
}
#endif

/* What is kept for each socket; lives as long as the process, as the sockets do. */
struct watched_socket {
	struct watched_socket *next;
	int id;
	nng_compat_pipe_fn fn;
	void *userdata;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct watched_socket *sockets;
static size_t n_pipes, n_own_ended;
static int own_pipes[OWN_PIPES_MAX]; /* ids of connections to ourselves; 0: free */

static bool own_pipe_add(int id)
{
	for (size_t i = 0; i < OWN_PIPES_MAX; i++) {
		if (own_pipes[i] == 0) {
			own_pipes[i] = id;
			return true;
		}
	}
	return false;
}

static bool own_pipe_remove(int id)
{
	for (size_t i = 0; i < OWN_PIPES_MAX; i++) {
		if (own_pipes[i] == id) {
			own_pipes[i] = 0;
			n_own_ended++;
			return true;
		}
	}
	return false;
}

static bool is_from_us(nng_pipe pipe)
{
	uint64_t pid = 0;

	return !nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_PID, &pid) && pid == (uint64_t)getpid();
}

/* nng pairs each ADD_PRE with one REM_POST, also for a pipe that is closed in between; ADD_POST it
 * leaves out for those. */
static void on_pipe_added(nng_pipe pipe, nng_pipe_ev event, void *userdata)
{
	const struct watched_socket *watched = userdata;
	bool is_own = is_from_us(pipe);

	(void)event;
	pthread_mutex_lock(&lock);
	n_pipes++;
	is_own = is_own && own_pipe_add(nng_pipe_id(pipe));
	pthread_mutex_unlock(&lock);

	if (watched->fn)
		watched->fn(watched->userdata, true, is_own);
}

static void on_pipe_removed(nng_pipe pipe, nng_pipe_ev event, void *userdata)
{
	const struct watched_socket *watched = userdata;
	bool is_own;

	(void)event;
	pthread_mutex_lock(&lock);
	n_pipes--;
	is_own = own_pipe_remove(nng_pipe_id(pipe));
	pthread_mutex_unlock(&lock);

	if (watched->fn)
		watched->fn(watched->userdata, false, is_own);
}

static int watch_socket(nng_socket socket)
{
	struct watched_socket *watched;
	int r;

	watched = calloc(1, sizeof(*watched));
	if (!watched)
		return error_origin(-ENOMEM);

	watched->id = nng_socket_id(socket);
	pthread_mutex_lock(&lock);
	watched->next = sockets;
	sockets = watched;
	pthread_mutex_unlock(&lock);

	r = nng_pipe_notify(socket, NNG_PIPE_EV_ADD_PRE, on_pipe_added, watched);
	if (!r)
		r = nng_pipe_notify(socket, NNG_PIPE_EV_REM_POST, on_pipe_removed, watched);
	return error_trace(nng_compat_errno(r));
}

static struct watched_socket *find_socket(nng_socket socket)
{
	struct watched_socket *watched;
	int id = nng_socket_id(socket);

	pthread_mutex_lock(&lock);
	for (watched = sockets; watched; watched = watched->next) {
		if (watched->id == id)
			break;
	}
	pthread_mutex_unlock(&lock);
	return watched;
}

static int set_common(nng_socket socket)
{
	int r;

	r = nng_socket_set_ms(socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
	if (!r)
		r = nng_socket_set_ms(socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
	if (!r)
		r = nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, NNG_COMPAT_MESSAGE_MAX);
	if (r)
		return error_origin(nng_compat_errno(r));

	return error_trace(watch_socket(socket));
}

static int set_pub(nng_socket socket)
{
	return nng_socket_set_int(socket, NNG_OPT_SENDBUF, NNG_COMPAT_BUFFER);
}

static int set_sub(nng_socket socket)
{
	int r;

	r = nng_socket_set_int(socket, NNG_OPT_RECVBUF, NNG_COMPAT_BUFFER);
	if (!r)
		r = nng_socket_set_bool(socket, NNG_OPT_SUB_PREFNEW, true);
	if (!r)
		r = nng_socket_set(socket, NNG_OPT_SUB_SUBSCRIBE, "", 0);
	return r;
}

static int open_with(int (*open)(nng_socket *socket), int (*set)(nng_socket socket),
		     nng_socket *ret_socket)
{
	nng_socket socket = NNG_SOCKET_INITIALIZER;
	int r;

	if (!is_protected())
		return error_origin(-ELIBBAD);

	set_starting(true);
	r = open(&socket);
	set_starting(false);
	if (r)
		return error_origin(nng_compat_errno(r));

	r = nng_compat_errno(set(socket));
	if (!r)
		r = set_common(socket);
	if (r) {
		nng_close(socket); /* nothing is connected yet */
		return error_trace(r);
	}
	*ret_socket = socket;
	return 0;
}

int nng_compat_open_pub(nng_socket *ret_socket)
{
	return open_with(nng_pub0_open, set_pub, ret_socket);
}

int nng_compat_open_sub(nng_socket *ret_socket)
{
	return open_with(nng_sub0_open, set_sub, ret_socket);
}

static int make_url(const char *path, char url[NNG_MAXADDRLEN])
{
	if (strlen(path) > NNG_COMPAT_PATH_MAX)
		return error_origin(-ENAMETOOLONG);

	snprintf(url, NNG_MAXADDRLEN, "ipc://%s", path);
	return 0;
}

static int start_listener(nng_socket socket, const char *url)
{
	nng_listener listener = NNG_LISTENER_INITIALIZER;
	mode_t mask;
	int r;

	r = nng_listener_create(&listener, socket, url);
	if (!r)
		r = nng_listener_set_size(listener, NNG_OPT_RECVMAXSZ, NNG_COMPAT_MESSAGE_MAX);
	if (r)
		return error_origin(nng_compat_errno(r));

	mask = umask(077);
	r = nng_listener_start(listener, 0);
	umask(mask);
	if (r) {
		nng_listener_close(listener);
		return error_origin(nng_compat_errno(r));
	}
	return 0;
}

int nng_compat_listen(nng_socket socket, const char *path, mode_t mode, struct why *why)
{
	char url[NNG_MAXADDRLEN];
	int r;

	r = make_url(path, url);
	if (r)
		return why_set(why, r, "the path of socket '%s' is longer than %d bytes", path,
			       NNG_COMPAT_PATH_MAX);

	/* nng itself would first connect to what is there, and take it over when nobody answers. */
	if (access(path, F_OK) == 0)
		return why_set(why, error_origin(-EADDRINUSE), "socket '%s' exists already", path);

	r = start_listener(socket, url);
	if (r)
		return why_errno(why, r, "cannot listen on '%s'", path);

	if (chmod(path, mode) < 0)
		return why_errno(why, error_origin(-errno), "cannot open '%s' to others", path);

	return 0;
}

int nng_compat_dial(nng_socket socket, const char *path, bool in_background)
{
	nng_dialer dialer = NNG_DIALER_INITIALIZER;
	char url[NNG_MAXADDRLEN];
	int r;

	r = make_url(path, url);
	if (r)
		return error_trace(r);

	r = nng_dialer_create(&dialer, socket, url);
	if (!r)
		r = nng_dialer_set_size(dialer, NNG_OPT_RECVMAXSZ, NNG_COMPAT_MESSAGE_MAX);
	if (r)
		return error_origin(nng_compat_errno(r));

	r = nng_dialer_start(dialer, in_background ? NNG_FLAG_NONBLOCK : 0);
	if (r) {
		nng_dialer_close(dialer);
		return error_origin(nng_compat_errno(r));
	}
	return 0;
}

int nng_compat_on_pipe(nng_socket socket, nng_compat_pipe_fn fn, void *userdata)
{
	struct watched_socket *watched = find_socket(socket);

	if (!watched)
		return error_origin(-EBADF);

	watched->userdata = userdata;
	watched->fn = fn;
	return 0;
}

size_t nng_compat_n_pipes(void)
{
	size_t n;

	pthread_mutex_lock(&lock);
	n = n_pipes;
	pthread_mutex_unlock(&lock);
	return n;
}

size_t nng_compat_n_own_ended(void)
{
	size_t n;

	pthread_mutex_lock(&lock);
	n = n_own_ended;
	pthread_mutex_unlock(&lock);
	return n;
}

int nng_compat_message(const void *data, size_t size, nng_msg **ret_message)
{
	_cleanup_(nng_compat_message_freep) nng_msg *message = NULL;

	if (size > NNG_COMPAT_MESSAGE_MAX)
		return error_origin(-EMSGSIZE);
	if (nng_msg_alloc(&message, 0))
		return error_origin(-ENOMEM);
	if (size > 0 && nng_msg_append(message, data, size))
		return error_origin(-ENOMEM);

	*ret_message = TAKE(message);
	return 0;
}

static const struct {
	int from, to;
} errors[] = {
	{NNG_EINTR, EINTR},
	{NNG_ENOMEM, ENOMEM},
	{NNG_EINVAL, EINVAL},
	{NNG_EBUSY, EBUSY},
	{NNG_ETIMEDOUT, ETIMEDOUT},
	{NNG_ECONNREFUSED, ECONNREFUSED},
	{NNG_ECLOSED, ESHUTDOWN},
	{NNG_EAGAIN, EAGAIN},
	{NNG_ENOTSUP, EOPNOTSUPP},
	{NNG_EADDRINUSE, EADDRINUSE},
	{NNG_ENOENT, ENOENT},
	{NNG_EPROTO, EPROTO},
	{NNG_EUNREACHABLE, ENETUNREACH},
	{NNG_EADDRINVAL, EADDRNOTAVAIL},
	{NNG_EPERM, EPERM},
	{NNG_EMSGSIZE, EMSGSIZE},
	{NNG_ECONNABORTED, ECONNABORTED},
	{NNG_ECONNRESET, ECONNRESET},
	{NNG_ECANCELED, ECANCELED},
	{NNG_ENOFILES, EMFILE},
	{NNG_ENOSPC, ENOSPC},
	{NNG_EEXIST, EEXIST},
};

int nng_compat_errno(int error)
{
	if (error == 0)
		return 0;
	if (error & NNG_ESYSERR)
		return -(error & ~NNG_ESYSERR);

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		if (errors[i].from == error)
			return -errors[i].to;
	}
	return -EIO;
}
