/* Children that do what may block or break. See work.h. */

#include "services/lib/work.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/cleanup.h"
#include "services/lib/service_private.h"

#define STDERR_TAIL   4096
#define REQUEST_FD    3
#define REPLY_FD      4
#define FDS_MAX       32
#define ARGUMENTS_MAX 32

struct work {
	struct work *next; /* in service->work */
	struct service *service;
	const struct schema_message *reply_schema;
	work_fn fn;
	void *userdata;
	char *program;

	struct loop_child child;
	bool is_ended;
	siginfo_t end;
	struct loop_timer deadline;
	bool is_late;

	struct loop_file reply_file, stderr_file;
	int reply_fd, stderr_fd;
	struct schema_buffer reply;
	bool is_reply_too_large;
	char tail[STDERR_TAIL + 1];
	size_t tail_size;
};

/* ---- the end ------------------------------------------------------------- */

static void work_free(struct work *work)
{
	struct service *service = work->service;

	for (struct work **at = &service->work; *at; at = &(*at)->next) {
		if (*at == work) {
			*at = work->next;
			service->n_children--;
			break;
		}
	}
	loop_file_remove(&work->reply_file);
	loop_file_remove(&work->stderr_file);
	close_fd(work->reply_fd);
	close_fd(work->stderr_fd);
	loop_timer_cancel(&work->deadline);
	loop_child_remove(&work->child);
	schema_buffer_clear(&work->reply);
	free(work->program);
	free(work);
}

/* The last line of what it wrote to stderr: mostly the reason. */
static const char *last_words(struct work *work)
{
	char *line;

	while (work->tail_size && work->tail[work->tail_size - 1] == '\n')
		work->tail_size--;
	work->tail[work->tail_size] = '\0';
	line = strrchr(work->tail, '\n');
	return line ? line + 1 : work->tail;
}

static void explain_end(struct work *work, struct why *why)
{
	const char *words = last_words(work);

	if (work->is_late)
		why_set(why, -ETIMEDOUT, "%s was killed at its deadline", work->program);
	else if (work->end.si_code == CLD_EXITED)
		why_set(why, -EPROTO, "%s ended with code %d%s%s", work->program,
			work->end.si_status, *words ? ": " : "", words);
	else
		why_set(why, -EPROTO, "%s was killed by signal %d (%s)%s%s", work->program,
			work->end.si_status, strsignal(work->end.si_status), *words ? ": " : "",
			words);
}

/* Its answer counts only if it ended well: a child that was killed may have written half of what it means. */
static void *unpack_reply(struct work *work, struct why *why)
{
	struct schema_fault fault = {};
	void *reply;
	int r;

	if (work->is_late || work->end.si_code != CLD_EXITED || work->end.si_status) {
		explain_end(work, why);
		return NULL;
	}
	reply = calloc(1, work->reply_schema->size ?: 1);
	r = reply ? schema_unpack(work->reply_schema, work->reply.data, work->reply.size, reply,
				  &fault)
		  : -ENOMEM;
	if (!r && !work->is_reply_too_large)
		return reply;
	if (!r)
		schema_clear(work->reply_schema, reply);
	free(reply);
	why_set(why, -EPROTO, "%s answered with something else: %s", work->program,
		work->is_reply_too_large ? "it is too large"
		: r < 0                  ? strerror(-r)
					 : fault.text);
	return NULL;
}

static void check_end(struct work *work)
{
	const struct schema_message *schema = work->reply_schema;
	void *userdata = work->userdata;
	work_fn fn = work->fn;
	struct why why = {};
	void *reply;

	if (!work->is_ended || work->reply_fd >= 0 || work->stderr_fd >= 0)
		return;
	reply = unpack_reply(work, &why);
	work_free(work);
	fn(userdata, reply, &why);
	if (reply)
		schema_clear(schema, reply);
	free(reply);
}

static void on_deadline(struct loop_timer *timer)
{
	struct work *work = container_of(timer, struct work, deadline);

	work->is_late = true;
	work_kill(work);
}

/* ---- what it says -------------------------------------------------------- */

static void close_stream(struct loop_file *file, int *fd)
{
	loop_file_remove(file);
	*fd = close_fd(*fd);
}

static void on_reply(struct loop_file *file, uint32_t events)
{
	struct work *work = container_of(file, struct work, reply_file);
	char buffer[16384];
	ssize_t n = read(work->reply_fd, buffer, sizeof(buffer));

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0 && work->reply.size + (size_t)n <= SCHEMA_MESSAGE_MAX &&
	    !schema_buffer_add(&work->reply, buffer, (size_t)n))
		return;
	work->is_reply_too_large = n > 0;
	close_stream(&work->reply_file, &work->reply_fd);
	check_end(work);
}

static void keep_tail(struct work *work, const char *data, size_t size)
{
	size_t keep = size < STDERR_TAIL ? STDERR_TAIL - size : 0;

	if (work->tail_size > keep) {
		memmove(work->tail, work->tail + work->tail_size - keep, keep);
		work->tail_size = keep;
	}
	size = size < STDERR_TAIL ? size : STDERR_TAIL;
	memcpy(work->tail + work->tail_size, data, size);
	work->tail_size += size;
}

static void on_stderr(struct loop_file *file, uint32_t events)
{
	struct work *work = container_of(file, struct work, stderr_file);
	char buffer[STDERR_TAIL];
	ssize_t n = read(work->stderr_fd, buffer, sizeof(buffer));

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		keep_tail(work, buffer, (size_t)n);
		return;
	}
	close_stream(&work->stderr_file, &work->stderr_fd);
	check_end(work);
}

/* What it wrote before its end is there already; who has inherited its pipes is not waited for. */
static void read_rest(int *fd, struct loop_file *file)
{
	loop_file_fn fn = file->fn;

	while (*fd >= 0) {
		struct pollfd ready = {.fd = *fd, .events = POLLIN};

		if (poll(&ready, 1, 0) > 0)
			fn(file, EPOLLIN);
		else
			close_stream(file, fd);
	}
}

static void on_end(struct loop_child *child, const siginfo_t *info)
{
	struct work *work = container_of(child, struct work, child);

	work->end = *info;
	read_rest(&work->reply_fd, &work->reply_file);
	read_rest(&work->stderr_fd, &work->stderr_file);
	work->is_ended = true;
	check_end(work);
}

/* ---- the start ----------------------------------------------------------- */

/* A sealed-off copy: the child reads it at its own pace, and no pipe can fill up. */
static int make_request(const struct work_options *options, int *ret_fd, struct why *why)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	_cleanup_(cleanup_fd) int fd = -1;
	struct schema_fault fault = {};
	int r;

	r = schema_pack(options->request, options->request_message, &buffer, &fault);
	if (r)
		return why_set(why, r < 0 ? r : -EINVAL, "%s", fault.text);
	fd = memfd_create("davit-work", MFD_CLOEXEC);
	if (fd < 0)
		return why_errno(why, error_origin(-errno), "memfd_create");
	if (write(fd, buffer.data, buffer.size) != (ssize_t)buffer.size || lseek(fd, 0, SEEK_SET))
		return why_errno(why, error_origin(-EIO), "writing the request");
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int make_pipe(int *ret_read, int *ret_write, struct why *why)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC))
		return why_errno(why, error_origin(-errno), "pipe");
	*ret_read = fds[0];
	*ret_write = fds[1];
	if (fcntl(fds[0], F_SETFL, O_NONBLOCK))
		return why_errno(why, error_origin(-errno), "fcntl");
	return 0;
}

static int spawn_child(const struct work_options *options, const char *path, int request_fd,
		       int reply_fd, int stderr_fd, pid_t *ret_pid, struct why *why)
{
	const char *argv[ARGUMENTS_MAX + 2] = {options->program};
	const char *envp[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			      NULL};
	struct spawn_fd fds[FDS_MAX] = {
		{stderr_fd, 2}, {request_fd, REQUEST_FD}, {reply_fd, REPLY_FD}};
	size_t n = 0;

	if (options->n_fds > FDS_MAX - 3)
		return why_set(why, error_origin(-E2BIG), "%s: too many descriptors",
			       options->program);
	if (options->n_fds)
		memcpy(fds + 3, options->fds, options->n_fds * sizeof(*fds));
	while (options->argv && options->argv[n] && n < ARRAY_SIZE(argv) - 2) {
		argv[n + 1] = options->argv[n];
		n++;
	}
	return spawn(&(struct spawn){.path = path,
				     .argv = argv,
				     .envp = envp,
				     .cwd = "/",
				     .fds = fds,
				     .n_fds = options->n_fds + 3,
				     .new_session = true},
		     ret_pid, why);
}

static int watch(struct work *work, pid_t pid, uint64_t deadline_ms)
{
	struct loop *loop = work->service->loop;
	int r;

	r = loop_child_add(loop, &work->child, pid, on_end);
	if (!r)
		r = loop_file_add(loop, &work->reply_file, work->reply_fd, EPOLLIN, on_reply);
	if (!r)
		r = loop_file_add(loop, &work->stderr_file, work->stderr_fd, EPOLLIN, on_stderr);
	if (!r && deadline_ms)
		r = loop_timer_set(loop, &work->deadline, deadline_ms, on_deadline);
	return error_trace(r);
}

static struct work *work_new(struct service *service, const struct work_options *options,
			     work_fn fn, void *userdata)
{
	struct work *work = calloc(1, sizeof(*work));

	if (!work)
		return NULL;
	*work = (struct work){.service = service,
			      .reply_schema = options->reply,
			      .fn = fn,
			      .userdata = userdata,
			      .child = {.pidfd = -1},
			      .reply_fd = -1,
			      .stderr_fd = -1};
	work->program = strdup(options->program);
	work->next = service->work;
	service->work = work;
	service->n_children++;
	return work;
}

static int start(struct work *work, const struct work_options *options, struct why *why)
{
	_cleanup_(cleanup_fd) int request = -1, reply = -1, errors = -1;
	_cleanup_(cleanup_free) char *path = NULL;
	pid_t pid;
	int r;

	r = spawn_find_program(options->program, &path);
	if (r)
		return why_errno(why, error_trace(r), "%s", options->program);
	r = make_request(options, &request, why) ?: make_pipe(&work->reply_fd, &reply, why)
	    ?: make_pipe(&work->stderr_fd, &errors, why);
	if (!r)
		r = spawn_child(options, path, request, reply, errors, &pid, why);
	if (r)
		return error_trace(r);
	r = watch(work, pid, options->deadline_ms);
	if (r) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		return why_errno(why, r, "watching %s", options->program);
	}
	return 0;
}

int work_start(struct service *service, const struct work_options *options, work_fn fn,
	       void *userdata, struct work **ret_work, struct why *why)
{
	struct work *work = work_new(service, options, fn, userdata);
	int r;

	if (!work || !work->program) {
		if (work)
			work_free(work);
		return error_origin(-ENOMEM);
	}
	r = start(work, options, why);
	if (r) {
		work_kill(work);
		work_free(work);
		return error_trace(r);
	}
	if (ret_work)
		*ret_work = work;
	return 0;
}

/* Its end still comes through its pidfd. */
void work_kill(struct work *work)
{
	if (work->child.pidfd >= 0)
		(void)pidfd_send_signal(work->child.pidfd, SIGKILL, NULL, 0);
}

void work_kill_all(struct service *service)
{
	while (service->work) {
		work_kill(service->work);
		work_free(service->work);
	}
}
