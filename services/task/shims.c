/*
 * Shims in memory: spawning, connecting, losing and finding them again. Whether
 * a shim lives is told by bundle/lock alone: it holds the lock as long as it
 * does. A connection that breaks or a call that fails says nothing.
 */

#include <fcntl.h>
#include <search.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>

#include "broker/lib/log.h"
#include "broker/lib/spawn.h"
#include "services/task/task.h"

struct task_waiter {
	struct task_waiter *next;
	struct task_shim *shim;
	struct loop_timer timer;
	task_shim_ready_fn fn;
	void *userdata;
};

/* ---- the tree of shims --------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct task_shim *)a)->task_id,
		      ((const struct task_shim *)b)->task_id);
}

struct task_shim *task_shim_find(struct task_service *service, const char *task_id)
{
	struct task_shim key = {};
	struct task_shim **found;

	strncpy(key.task_id, task_id, sizeof(key.task_id) - 1);
	found = tfind(&key, &service->shims, compare);
	return found ? *found : NULL;
}

int task_shim_add(struct task_service *service, const char *task_id, struct task_shim **ret_shim)
{
	struct task_shim *shim = calloc(1, sizeof(*shim));

	if (!shim)
		return error_origin(-ENOMEM);
	*shim = (struct task_shim){.service = service, .child = {.pidfd = -1}, .init_fd = -1};
	strncpy(shim->task_id, task_id, sizeof(shim->task_id) - 1);
	if (!tsearch(shim, &service->shims, compare)) {
		free(shim);
		return error_origin(-ENOMEM);
	}
	*ret_shim = shim;
	return 0;
}

static void forget_init(struct task_shim *shim)
{
	loop_file_remove(&shim->init);
	shim->init_fd = close_fd(shim->init_fd);
}

/* Those that wait now: one that a callback adds waits on. @shim is what they are told. */
static void end_waiters(struct task_waiter *waiters, struct task_shim *shim, enum bus_status status,
			const char *text)
{
	struct task_waiter *waiter;

	for (waiter = waiters; waiter; waiter = waiter->next)
		loop_timer_cancel(&waiter->timer);
	while ((waiter = waiters)) {
		waiters = waiter->next;
		waiter->fn(waiter->userdata, shim, status, text);
		free(waiter);
	}
}

static void drop_link(struct task_shim *shim)
{
	struct shim_link *link = TAKE(shim->link);

	shim->is_ready = false;
	shim_link_free(link);
}

struct task_shim *task_shim_free(struct task_shim *shim)
{
	if (!shim)
		return NULL;
	tdelete(shim, &shim->service->shims, compare);
	drop_link(shim);
	end_waiters(TAKE(shim->waiters), NULL, BUS_NOT_FOUND, "the task is gone");
	loop_child_remove(&shim->child);
	loop_timer_cancel(&shim->retry);
	forget_init(shim);
	free(shim);
	return NULL;
}

void task_shims_free(struct task_service *service)
{
	while (service->shims)
		task_shim_free(*(struct task_shim **)service->shims);
}

/* ---- waiting until a shim is ready --------------------------------------- */

static void on_wait_deadline(struct loop_timer *timer)
{
	struct task_waiter *waiter = container_of(timer, struct task_waiter, timer);
	struct task_waiter **at = &waiter->shim->waiters;

	while (*at != waiter)
		at = &(*at)->next;
	*at = waiter->next;
	waiter->fn(waiter->userdata, waiter->shim, BUS_DEADLINE_EXCEEDED,
		   "its shim does not answer");
	free(waiter);
}

int task_shim_when_ready(struct task_shim *shim, uint64_t deadline_ms, task_shim_ready_fn fn,
			 void *userdata)
{
	struct task_waiter *waiter;
	int r;

	if (shim->is_ready) {
		fn(userdata, shim, BUS_OK, "");
		return 0;
	}
	waiter = calloc(1, sizeof(*waiter));
	if (!waiter)
		return error_origin(-ENOMEM);
	*waiter = (struct task_waiter){
		.shim = shim, .fn = fn, .userdata = userdata, .next = shim->waiters};
	r = loop_timer_set(shim->service->loop, &waiter->timer, deadline_ms, on_wait_deadline);
	if (r) {
		free(waiter);
		return error_trace(r);
	}
	shim->waiters = waiter;
	return 0;
}

/* ---- what a shim says ---------------------------------------------------- */

struct report {
	struct task_shim *shim;
	enum task_status status;
	uint64_t pid, start_time, time_ns;
	const struct exit_record *exit;
};

static void note_process(const struct report *report, struct task_record *record)
{
	if (report->pid) {
		record->pid = report->pid;
		record->pid_start_time = report->start_time ?: record->pid_start_time;
	}
	if (report->status == TASK_RUNNING && !record->started_at_ns)
		record->started_at_ns = report->time_ns;
}

/* A report may be older than what is known (a reply that crossed an event): then the move is refused. */
static int note_report(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct report *report = userdata;
	struct task_service *service = report->shim->service;
	int r;

	if (report->status == TASK_DELETED)
		return task_note_deleted(service, report->shim->task_id, report->exit);
	r = task_shim_row(service, report->shim->task_id, &record);
	if (r || record.status == TASK_DELETED)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	note_process(report, &record);
	r = task_set_exit(&record, report->exit);
	if (r)
		return r;
	r = record.status == report->status ? task_put(service, &record)
					    : task_move(service, &record, report->status);
	if (r == TASK_E_STATE)
		r = 0;
	if (!r && record.status == TASK_STOPPED && record.auto_remove)
		task_auto_remove(service, &record);
	return r;
}

static void take_report(struct report *report)
{
	int r = service_transact(report->shim->service->service, note_report, report);

	if (r)
		log_error("task=%s: its state could not be recorded: %d", report->shim->task_id, r);
}

static void take_exit(struct task_shim *shim, const struct schema_span *body)
{
	_cleanup_(event_task_exit_clear) struct event_task_exit event = {};
	struct exit_record exit;

	if (schema_unpack(schema_event_task_exit(), body->data, body->size, &event, NULL))
		return;
	if (strcmp(event.id, event.container_id))
		return; /* an added process */
	exit = (struct exit_record){
		.exit_status = event.exit_status,
		.signal = event.signal,
		.core = event.core,
		.oom_killed = event.oom_killed,
		.exited_at_ns = event.exited_at_ns,
		.source = event.source,
		.cause = event.cause,
	};
	take_report(&(struct report){
		.shim = shim, .status = TASK_STOPPED, .exit = &exit, .pid = event.pid});
}

/* The start time is read at once, as long as the pid is init's for certain: later it guards against another's. */
static void take_start(struct task_shim *shim, const struct envelope_event *envelope)
{
	_cleanup_(event_task_start_clear) struct event_task_start event = {};
	uint64_t start_time = 0;

	if (schema_unpack(schema_event_task_start(), envelope->event.data, envelope->event.size,
			  &event, NULL))
		return;
	(void)process_start_time((pid_t)event.pid, &start_time);
	take_report(&(struct report){.shim = shim,
				     .status = TASK_RUNNING,
				     .pid = event.pid,
				     .start_time = start_time,
				     .time_ns = envelope->time_ns});
}

void task_shim_on_event(void *userdata, const struct envelope_event *event)
{
	struct task_shim *shim = userdata;

	if (!strcmp(event->topic, "/tasks/exit"))
		take_exit(shim, &event->event);
	else if (!strcmp(event->topic, "/tasks/start"))
		take_start(shim, event);
	else if (!strcmp(event->topic, "/tasks/delete"))
		take_report(&(struct report){.shim = shim, .status = TASK_DELETED});
}

/* ---- connecting ---------------------------------------------------------- */

static void on_closed(void *userdata)
{
	task_shim_lost(userdata);
}

static void on_retry(struct loop_timer *timer)
{
	task_shim_take_up(container_of(timer, struct task_shim, retry));
}

static void retry_after(struct task_shim *shim, uint64_t ms)
{
	(void)loop_timer_set(shim->service->loop, &shim->retry, time_boot_ms() + ms, on_retry);
}

/* It says nothing, or nothing that makes sense: later again, on another connection. */
static void give_up_link(struct task_shim *shim, const char *what, const char *text)
{
	log_warning("task=%s: its shim does not tell %s: %s", shim->task_id, what, text);
	drop_link(shim);
	retry_after(shim, SHIM_RETRY_MS);
}

static void ready(struct task_shim *shim)
{
	shim->is_ready = true;
	forget_init(shim);
	end_waiters(TAKE(shim->waiters), shim, BUS_OK, "");
}

/* What it says of a task that is being created is for the operation to say. */
static bool is_news(const struct shim_state_reply *state, const struct report *report)
{
	bool has_failed = state->status == TASK_DELETED && !state->pid;

	return report->status != TASK_CREATING && report->status != TASK_UNKNOWN && !has_failed;
}

static void on_state(void *userdata, enum bus_status status, const char *text, void *message)
{
	struct shim_state_reply *state = message;
	struct task_shim *shim = userdata;
	struct report report;

	if (status != BUS_OK) {
		if (status == BUS_DEADLINE_EXCEEDED)
			give_up_link(shim, "its state", text);
		return;
	}
	report = (struct report){.shim = shim,
				 .status = state->exit && state->status != TASK_DELETED
						   ? TASK_STOPPED
						   : state->status,
				 .pid = state->pid,
				 .start_time = state->start_time,
				 .exit = state->exit,
				 .time_ns = time_real_ns()};
	if (is_news(state, &report))
		take_report(&report);
	ready(shim);
}

static int note_shim(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct report *report = userdata;
	struct task_service *service = report->shim->service;
	struct store_key key;
	int r;

	r = task_shim_row(service, report->shim->task_id, &record);
	if (r)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	record.shim_pid = report->pid;
	record.shim_start_time = report->start_time;
	if (record.status != TASK_DELETED)
		return task_put(service, &record);
	return store_key(&key, record.task_id, NULL)
		       ?: store_put(service->store, SHIM_TABLE, &key, schema_task_record(),
				    &record);
}

static void on_hello(void *userdata, enum bus_status status, const char *text, void *message)
{
	static const struct empty nothing;
	struct shim_hello_reply *hello = message;
	struct task_shim *shim = userdata;
	struct report report = {.shim = shim};
	uint8_t id[ID_SIZE];

	if (status != BUS_OK || strcmp(hello->task_id, shim->task_id)) {
		if (status != BUS_UNAVAILABLE && status != BUS_CANCELED)
			give_up_link(shim, "who it is", status ? text : "another task's");
		return;
	}
	report.pid = hello->pid;
	(void)process_start_time((pid_t)hello->pid, &report.start_time);
	(void)service_transact(shim->service->service, note_shim, &report);
	id_make(id);
	if (shim_link_call(shim->link, "shim.state", id, time_boot_ms() + SHIM_HELLO_MS, &nothing,
			   on_state, shim))
		give_up_link(shim, "its state", "out of memory");
}

/* Takes @fd. */
static int connect_over(struct task_shim *shim, int fd)
{
	struct shim_hello_request hello = {.protocol = SHIM_PROTOCOL, .watch = true};
	uint8_t id[ID_SIZE];
	int r;

	r = shim_link_new(shim->service->loop, fd, task_shim_on_event, on_closed, shim,
			  &shim->link);
	if (r)
		return error_trace(r);
	id_make(id);
	r = shim_link_call(shim->link, "shim.hello", id, time_boot_ms() + SHIM_HELLO_MS, &hello,
			   on_hello, shim);
	if (r)
		drop_link(shim);
	return error_trace(r);
}

/* ---- spawning ------------------------------------------------------------ */

int task_shim_lock(const char *bundle, int *ret_fd)
{
	_cleanup_(cleanup_free) char *path = NULL;

	if (access(bundle, F_OK))
		return -ENOENT;
	path = text_format("%s/lock", bundle);
	return path ? file_lock(path, ret_fd) : error_origin(-ENOMEM);
}

/* What it said last is still in the connection: that is read to its end, which tells of the loss. */
static void on_child(struct loop_child *child, const siginfo_t *info)
{
	struct task_shim *shim = container_of(child, struct task_shim, child);

	log_debug("task=%s: its shim ended (%d, %d)", shim->task_id, info->si_code,
		  info->si_status);
	if (!shim->link)
		task_shim_take_up(shim);
}

static int write_config(const struct shim_config *config, struct why *why)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	_cleanup_(cleanup_free) char *path = text_format("%s/shim.msgpack", config->bundle);
	struct schema_fault fault = {};
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = schema_pack(schema_shim_config(), config, &buffer, &fault);
	if (r)
		return why_set(why, r < 0 ? r : -EINVAL, "%s", fault.text);
	return file_write(path, buffer.data, buffer.size, 0600, false, why);
}

static int spawn_shim(struct task_shim *shim, const struct shim_config *config, int lock_fd,
		      int socket_fd, pid_t *ret_pid, struct why *why)
{
	struct task_service *service = shim->service;
	const struct paths *paths = service_paths(service->service);
	_cleanup_(cleanup_free) char *path = text_format("%s/shim.msgpack", config->bundle);
	_cleanup_(cleanup_free) char *log = text_format("%s/log", config->bundle);
	_cleanup_(cleanup_fd) int log_fd = -1;
	const char *argv[] = {"davit-shim", "--config", path,         "--root",
			      paths->root,  "--state",  paths->state, NULL};
	const char *envp[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			      NULL};

	if (!path || !log)
		return error_origin(-ENOMEM);
	log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (log_fd < 0)
		return why_errno(why, -errno, "cannot open %s", log);
	return spawn(
		&(struct spawn){
			.path = service->shim_program,
			.argv = argv,
			.envp = envp,
			.cwd = "/",
			.fds = (struct spawn_fd[]){{log_fd, 2}, {socket_fd, 3}, {lock_fd, 4}},
			.n_fds = 3,
			.new_session = true},
		ret_pid, why);
}

int task_shim_spawn(struct task_service *service, struct task_shim *shim,
		    const struct shim_config *config, int lock_fd, struct why *why)
{
	_cleanup_(cleanup_fd) int ours = -1, theirs = -1;
	int pair[2], r;
	pid_t pid;

	r = write_config(config, why);
	if (r)
		return error_trace(r);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return why_errno(why, error_origin(-errno), "socketpair");
	ours = pair[0];
	theirs = pair[1];
	r = spawn_shim(shim, config, lock_fd, theirs, &pid, why);
	if (r)
		return error_trace(r);
	shim->is_cleanup = config->cleanup;
	r = loop_child_add(service->loop, &shim->child, pid, on_child);
	if (r)
		return why_errno(why, error_trace(r), "cannot watch the shim");
	/* It lives in any case, and can be reached by its socket. */
	if (connect_over(shim, TAKE_FD(ours)))
		retry_after(shim, SHIM_BIRTH_MS);
	return 0;
}

/* ---- losing and finding -------------------------------------------------- */

static int drop_row(struct task_service *service, const char *table, const char *first,
		    const char *second)
{
	struct store_key key;
	int r;

	r = store_key(&key, first, second, NULL) ?: store_delete(service->store, table, &key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

/* The row of a task that never came to be; another task may have its name by now. */
static int drop_created(struct task_service *service, const struct task_record *record)
{
	_cleanup_(task_record_clear) struct task_record named = {};
	int r;

	r = task_row(service, record->namespace, record->container_id, &named);
	if (!r && !strcmp(named.task_id, record->task_id))
		r = drop_row(service, TASK_TABLE, record->namespace, record->container_id);
	return r == TASK_E_NOT_FOUND ? 0 : r;
}

struct row {
	struct task_shim *shim;
	struct task_record *record;
	int result;
};

static int read_row(void *userdata)
{
	struct row *row = userdata;

	row->result = task_shim_row(row->shim->service, row->shim->task_id, row->record);
	return 0;
}

/* Its end was not heard of here: those who wait shall not wait for ever. The log has the exit. */
static int drop_rows(void *userdata)
{
	struct exit_record missed = {.exit_status = 255,
				     .source = EXIT_UNKNOWN,
				     .exited_at_ns = time_real_ns(),
				     .cause = (char *)"missed"};
	struct row *row = userdata;
	struct task_service *service = row->shim->service;
	const char *task_id = row->shim->task_id;
	int r;

	task_record_clear(row->record);
	r = task_shim_row(service, task_id, row->record);
	if (r)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	r = row->record->status == TASK_CREATING ? drop_created(service, row->record)
						 : task_note_deleted(service, task_id, &missed);
	return r ?: drop_row(service, SHIM_TABLE, task_id, NULL);
}

/* The bundle is gone: nothing is left of the task. */
static void shim_gone(struct task_shim *shim)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct row row = {.shim = shim, .record = &record};
	struct task_service *service = shim->service;

	live_remove(service->live, shim->task_id);
	if (service_transact(service->service, drop_rows, &row))
		log_error("task=%s: its rows could not be removed", shim->task_id);
	task_remove_fifos(service, record.io);
	task_shim_free(shim);
}

static void clean_up_later(struct task_shim *shim, const char *text)
{
	log_error("task=%s: no shim for its clean-up, trying again: %s", shim->task_id, text);
	retry_after(shim, SHIM_RETRY_MS * 10);
}

static void on_init_end(struct loop_file *file, uint32_t events)
{
	struct task_shim *shim = container_of(file, struct task_shim, init);

	(void)events;
	forget_init(shim);
	task_shim_take_up(shim);
}

/* 0 with its pidfd; -ESRCH: that process is gone, or was never known for certain. */
static int open_init(const struct task_record *record, int *ret_fd)
{
	_cleanup_(cleanup_fd) int fd = -1;
	uint64_t start_time;

	if (!record->pid || !record->pid_start_time)
		return -ESRCH;
	fd = pidfd_open((pid_t)record->pid, 0);
	if (fd < 0)
		return -errno;
	if (process_start_time((pid_t)record->pid, &start_time) ||
	    start_time != record->pid_start_time)
		return -ESRCH;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int task_kill_directly(const struct task_record *record, int signal)
{
	_cleanup_(cleanup_fd) int fd = -1;
	int r = open_init(record, &fd);

	if (r)
		return r;
	return pidfd_send_signal(fd, signal, NULL, 0) ? -errno : 0;
}

static int note_unknown(void *userdata)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_shim *shim = userdata;
	int r;

	r = task_shim_row(shim->service, shim->task_id, &record);
	if (r)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	record.shim_pid = 0;
	r = schema_set(&record.reason, "its shim died; the container goes on");
	if (!r)
		r = task_move(shim->service, &record, TASK_UNKNOWN);
	return r == TASK_E_STATE ? 0 : r;
}

/* The container goes on without a shim: it is left alone, and watched through its pidfd. */
static void watch_init(struct task_shim *shim, const struct task_record *record)
{
	int r;

	log_warning("task=%s container=%s/%s: its shim died; the container goes on",
		    record->task_id, record->namespace, record->container_id);
	(void)service_transact(shim->service->service, note_unknown, shim);
	r = loop_file_add(shim->service->loop, &shim->init, shim->init_fd, EPOLLIN, on_init_end);
	if (r) {
		forget_init(shim);
		retry_after(shim, SHIM_RETRY_MS);
	}
	end_waiters(TAKE(shim->waiters), shim, BUS_UNAVAILABLE,
		    "its shim died; the container goes on");
}

/* No shim lives. */
static void shim_dead(struct task_shim *shim, const struct task_record *record)
{
	struct why why = {};

	if (shim->init_fd >= 0)
		return;
	if (record->status == TASK_CREATING) { /* its operation sees to it */
		end_waiters(TAKE(shim->waiters), shim, BUS_UNAVAILABLE, "its shim died");
		return;
	}
	if (record->status != TASK_DELETED && record->status != TASK_STOPPED &&
	    !open_init(record, &shim->init_fd)) {
		watch_init(shim, record);
		return;
	}
	if (time_boot_ms() < shim->clean_up_at_ms)
		retry_after(shim, shim->clean_up_at_ms - time_boot_ms());
	else if (task_shim_clean_up(shim, &why))
		clean_up_later(shim, why.text);
}

void task_shim_take_up(struct task_shim *shim)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	_cleanup_(cleanup_fd) int lock_fd = -1, fd = -1;
	struct row row = {.shim = shim, .record = &record};
	int r;

	if (shim->link || shim->service->is_closing)
		return;
	r = service_transact(shim->service->service, read_row, &row) ?: row.result;
	if (r && r != TASK_E_NOT_FOUND) {
		retry_after(shim, SHIM_RETRY_MS);
		return;
	}
	r = r ? -ENOENT : task_shim_lock(record.bundle, &lock_fd);
	lock_fd = close_fd(lock_fd);
	if ((!r || r == -ENOENT) && shim->child.pidfd >= 0)
		return; /* it ends just now: on_child() goes on */
	if (r == -ENOENT)
		shim_gone(shim);
	else if (!r)
		shim_dead(shim, &record);
	else if (r != -EWOULDBLOCK || shim_link_connect(record.socket, &fd) ||
		 connect_over(shim, TAKE_FD(fd)))
		retry_after(shim, SHIM_BIRTH_MS); /* it is being born or is dying */
}

/* A connection that ends before it was of any use is not made again at once. */
void task_shim_lost(struct task_shim *shim)
{
	bool was_ready = shim->is_ready;

	drop_link(shim);
	if (was_ready)
		task_shim_take_up(shim);
	else
		retry_after(shim, SHIM_BIRTH_MS);
}

static int read_config(const char *bundle, struct shim_config *ret_config)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/shim.msgpack", bundle), *data = NULL;
	size_t size;
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = file_read(AT_FDCWD, path, SCHEMA_MESSAGE_MAX, &data, &size);
	if (r)
		return r;
	return schema_unpack(schema_shim_config(), data, size, ret_config, NULL) ? -EBADMSG : 0;
}

/* Each one that dies itself is followed by a longer pause. */
static void note_clean_up(struct task_shim *shim)
{
	unsigned shift = shim->n_clean_ups < 11 ? shim->n_clean_ups : 11;
	uint64_t pause_ms = (uint64_t)SHIM_BIRTH_MS << shift;

	shim->n_clean_ups++;
	shim->clean_up_at_ms = time_boot_ms() +
			       (pause_ms < SHIM_PAUSE_MAX_MS ? pause_ms : SHIM_PAUSE_MAX_MS);
}

static int spawn_clean_up(struct task_shim *shim, const struct task_record *record, int lock_fd,
			  struct why *why)
{
	_cleanup_(shim_config_clear) struct shim_config config = {};
	int r;

	r = read_config(record->bundle, &config);
	if (r)
		return why_errno(why, r == -ENOENT ? -ENODATA : r, "%s/shim.msgpack",
				 record->bundle);
	config.cleanup = true;
	config.pid = record->pid;
	config.pid_start_time = record->pid_start_time;
	note_clean_up(shim);
	forget_init(shim);
	return task_shim_spawn(shim->service, shim, &config, lock_fd, why);
}

int task_shim_clean_up(struct task_shim *shim, struct why *why)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	_cleanup_(cleanup_fd) int lock_fd = -1;
	struct row row = {.shim = shim, .record = &record};
	int r;

	if (shim->link || shim->child.pidfd >= 0)
		return 0;
	r = service_transact(shim->service->service, read_row, &row) ?: row.result;
	if (r)
		return why_set(why, r == TASK_E_NOT_FOUND ? -ENOENT : -EIO, "it has no record");
	r = task_shim_lock(record.bundle, &lock_fd);
	if (r == -EWOULDBLOCK)
		task_shim_take_up(shim);
	if (r)
		return why_errno(why, r, "the lock of %s", record.bundle);
	return spawn_clean_up(shim, &record, lock_fd, why);
}

/* ---- at start ------------------------------------------------------------ */

static int recover_row(void *userdata, const struct store_key *key, void *record)
{
	struct task_service *service = userdata;
	const struct task_record *row = record;
	struct task_shim *shim;
	int r;

	(void)key;
	r = task_shim_add(service, row->task_id, &shim);
	if (!r)
		retry_after(shim, 0);
	return r;
}

int task_recover(struct task_service *service)
{
	int r;

	r = store_begin(service->store);
	if (r)
		return error_fold(r);
	r = store_walk(service->store, SHIM_TABLE, NULL, NULL, schema_task_record(), recover_row,
		       service);
	(void)store_end(service->store, false);
	store_abort(service->store);
	return error_fold(r);
}
