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
#include <unistd.h>

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
	*shim = (struct task_shim){.service = service, .child = {.pidfd = -1}};
	strncpy(shim->task_id, task_id, sizeof(shim->task_id) - 1);
	if (!tsearch(shim, &service->shims, compare)) {
		free(shim);
		return error_origin(-ENOMEM);
	}
	*ret_shim = shim;
	return 0;
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
	held_drop_all(shim);
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
	bool has_terminal; /* out: its record says so */
	bool wants_input;
	char *input; /* out: the FIFO that it reads, if the shim writes it; malloc'd */
};

static char *input_of(const struct task_record *task, const char *id, const struct task_io *io)
{
	if (!io || !io->log || io->terminal || !io->stdin || !*io->stdin)
		return NULL;
	return text_format("%s/in.%s", task->bundle, id);
}

static void hold_init(struct task_shim *shim, struct report *report)
{
	_cleanup_(cleanup_free) char *input = TAKE(report->input);

	held_open(shim, "", report->pid, report->start_time);
	if (input)
		held_open_input(shim, "", input);
	if (report->has_terminal)
		held_ask_terminal(shim, "");
}

static void note_process(const struct report *report, struct task_record *record)
{
	if (report->pid) {
		record->pid = report->pid;
		record->pid_start_time = report->start_time ?: record->pid_start_time;
	}
	if (report->status == TASK_RUNNING && !record->started_at_ns)
		record->started_at_ns = report->time_ns ?: time_real_ns();
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
	report->has_terminal = record.io && record.io->terminal;
	free(TAKE(report->input));
	if (report->wants_input)
		report->input = input_of(&record, record.container_id, record.io);
	note_process(report, &record);
	r = task_set_exit(&record, report->exit);
	if (r)
		return r;
	r = record.status == report->status ? task_put(service, &record)
					    : task_move(service, &record, report->status);
	if (r == TASK_E_STATE)
		r = 0;
	if (!r && record.status == TASK_STOPPED) {
		task_changed(service, record.task_id);
		if (record.auto_remove)
			r = task_auto_remove(service, &record);
	}
	return r;
}

/* What could not be noted, for want of memory, is asked for: the shim knows it. */
static void ask_again_later(struct task_shim *shim);

static void take_report(struct report *report)
{
	int r = service_transact(report->shim->service->service, note_report, report);

	if (r) {
		log_error("task=%s: its state could not be recorded: %d", report->shim->task_id, r);
		ask_again_later(report->shim);
	}
}

static bool is_read(struct task_shim *shim, const struct schema_message *schema,
		    const struct schema_span *body, void *ret_event)
{
	int r = schema_unpack(schema, body->data, body->size, ret_event, NULL);

	if (r < 0)
		ask_again_later(shim);
	return !r;
}

/* ---- of an added process ---- */

struct news {
	struct task_shim *shim;
	const char *exec_id;
	struct added_report report;
	bool is_listed; /* by the shim, among all that it has */
	bool has_terminal;
	char *input; /* out: as in struct report */
};

static int look_up_input(struct news *news, const struct task_exec_record *record)
{
	_cleanup_(task_record_clear) struct task_record task = {};
	int r = task_shim_row(news->shim->service, news->shim->task_id, &task);

	free(TAKE(news->input));
	if (!r && news->report.status == TASK_RUNNING)
		news->input = input_of(&task, news->exec_id, record->io);
	return r;
}

static int note_added(void *userdata)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record record = {};
	struct news *news = userdata;
	struct task_service *service = news->shim->service;
	int r;

	r = news->is_listed
		    ? found_process(service, news->shim->task_id, news->exec_id, &news->report)
		    : 0;
	if (!r)
		r = added_note(service, news->shim->task_id, news->exec_id, &news->report);
	if (!r && news->report.exit)
		task_changed(service, news->shim->task_id);
	if (!r)
		r = added_row(service, news->shim->task_id, news->exec_id, &record);
	news->has_terminal = !r && record.io && record.io->terminal;
	r = r ?: look_up_input(news, &record);
	return r == TASK_E_NOT_FOUND ? 0 : r;
}

static void take_news(struct news *news)
{
	struct task_shim *shim = news->shim;
	int r = service_transact(shim->service->service, note_added, news);
	_cleanup_(cleanup_free) char *input = TAKE(news->input);

	if (r) {
		log_error("task=%s exec=%s: its state could not be recorded: %d", shim->task_id,
			  news->exec_id, r);
		ask_again_later(shim);
	}
	if (news->report.status != TASK_RUNNING) {
		held_drop(shim, news->exec_id);
		return;
	}
	held_open(shim, news->exec_id, news->report.pid, news->report.start_time);
	if (input)
		held_open_input(shim, news->exec_id, input);
	if (news->has_terminal)
		held_ask_terminal(shim, news->exec_id);
}

/* ---- events ---- */

static void take_exit(struct task_shim *shim, const struct schema_span *body)
{
	_cleanup_(event_task_exit_clear) struct event_task_exit event = {};
	struct exit_record exit;

	if (!is_read(shim, schema_event_task_exit(), body, &event))
		return;
	exit = (struct exit_record){
		.exit_status = event.exit_status,
		.signal = event.signal,
		.core = event.core,
		.oom_killed = event.oom_killed,
		.exited_at_ns = event.exited_at_ns,
		.source = event.source,
		.cause = event.cause,
	};
	if (strcmp(event.id, event.container_id)) {
		take_news(&(struct news){
			.shim = shim,
			.exec_id = event.id,
			.report = {.status = TASK_STOPPED, .exit = &exit, .pid = event.pid}});
		return;
	}
	held_drop(shim, "");
	take_report(&(struct report){
		.shim = shim, .status = TASK_STOPPED, .exit = &exit, .pid = event.pid});
}

/* The start time is read at once, as long as the pid is that process' for certain: later it guards against
 * another's. */
static uint64_t start_time_of(uint64_t pid)
{
	uint64_t start_time = 0;

	(void)process_start_time((pid_t)pid, &start_time);
	return start_time;
}

static void take_start(struct task_shim *shim, const struct envelope_event *envelope)
{
	_cleanup_(event_task_start_clear) struct event_task_start event = {};
	struct report report;

	if (!is_read(shim, schema_event_task_start(), &envelope->event, &event))
		return;
	report = (struct report){.shim = shim,
				 .status = TASK_RUNNING,
				 .pid = event.pid,
				 .start_time = start_time_of(event.pid),
				 .time_ns = envelope->time_ns,
				 .wants_input = true};
	take_report(&report);
	hold_init(shim, &report);
}

static void take_exec_started(struct task_shim *shim, const struct envelope_event *envelope)
{
	_cleanup_(event_task_exec_started_clear) struct event_task_exec_started event = {};

	if (!is_read(shim, schema_event_task_exec_started(), &envelope->event, &event))
		return;
	take_news(&(struct news){.shim = shim,
				 .exec_id = event.exec_id,
				 .report = {.status = TASK_RUNNING,
					    .pid = event.pid,
					    .start_time = start_time_of(event.pid),
					    .time_ns = envelope->time_ns}});
}

void task_shim_on_event(void *userdata, const struct envelope_event *event)
{
	struct task_shim *shim = userdata;

	if (!strcmp(event->topic, "/tasks/exit"))
		take_exit(shim, &event->event);
	else if (!strcmp(event->topic, "/tasks/start"))
		take_start(shim, event);
	else if (!strcmp(event->topic, "/tasks/exec-started"))
		take_exec_started(shim, event);
	else if (!strcmp(event->topic, "/tasks/paused"))
		take_report(&(struct report){.shim = shim, .status = TASK_PAUSED});
	else if (!strcmp(event->topic, "/tasks/resumed"))
		take_report(&(struct report){.shim = shim, .status = TASK_RUNNING});
	else if (!strcmp(event->topic, "/tasks/delete"))
		take_report(&(struct report){.shim = shim, .status = TASK_DELETED});
}

/* ---- connecting ---------------------------------------------------------- */

static void on_closed(void *userdata)
{
	task_shim_lost(userdata);
}

static void ask_again(struct task_shim *shim);

static void on_retry(struct loop_timer *timer)
{
	struct task_shim *shim = container_of(timer, struct task_shim, retry);

	if (shim->link)
		ask_again(shim);
	else
		task_shim_take_up(shim);
}

static void retry_after(struct task_shim *shim, uint64_t ms)
{
	(void)loop_timer_set(shim->service->loop, &shim->retry, time_boot_ms() + ms, on_retry);
}

static void ask_again_later(struct task_shim *shim)
{
	retry_after(shim, SHIM_RETRY_MS);
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
	shim->ready_at_ms = time_boot_ms();
	end_waiters(TAKE(shim->waiters), shim, BUS_OK, "");
}

static int call_shim(struct task_shim *shim, const char *method, const void *request,
		     shim_link_reply_fn fn)
{
	uint8_t id[ID_SIZE];

	id_make(id);
	return shim_link_call(shim->link, method, id, time_boot_ms() + SHIM_HELLO_MS, request, fn,
			      shim);
}

/* What it knows of its added processes, of which this service may have missed something. */
static void on_processes(void *userdata, enum bus_status status, const char *text, void *message)
{
	struct shim_processes_reply *reply = message;
	struct task_shim *shim = userdata;

	if (status == BUS_DEADLINE_EXCEEDED)
		give_up_link(shim, "its processes", text);
	if (status == BUS_UNAVAILABLE || status == BUS_CANCELED || status == BUS_DEADLINE_EXCEEDED)
		return;
	for (size_t i = 0; status == BUS_OK && i < reply->processes.count; i++) {
		struct shim_process_state *state = &reply->processes.items[i];

		take_news(&(struct news){
			.shim = shim,
			.exec_id = state->exec_id,
			.is_listed = true,
			.report = {.status = state->exit ? TASK_STOPPED : state->status,
				   .pid = state->pid,
				   .start_time = state->start_time,
				   .exit = state->exit}});
	}
	ready(shim);
}

/* What it says of a task that is being created is for the operation to say. */
static bool is_news(const struct shim_state_reply *state, const struct report *report)
{
	bool has_failed = state->status == TASK_DELETED && !state->pid;

	return report->status != TASK_CREATING && report->status != TASK_UNKNOWN && !has_failed;
}

static void on_state(void *userdata, enum bus_status status, const char *text, void *message);

static void ask_state(struct task_shim *shim)
{
	static const struct empty nothing;

	shim->has_taken_over = true;
	if (call_shim(shim, "shim.state", &nothing, on_state))
		give_up_link(shim, "its state", "out of memory");
}

static void take_state(struct task_shim *shim, const struct shim_state_reply *state)
{
	struct report report = {.shim = shim,
				.status = state->exit && state->status != TASK_DELETED
						  ? TASK_STOPPED
						  : state->status,
				.pid = state->pid,
				.start_time = state->start_time,
				.exit = state->exit};

	report.wants_input = report.status == TASK_RUNNING || report.status == TASK_PAUSED ||
			     report.status == TASK_PAUSING;
	if (!is_news(state, &report))
		return;
	take_report(&report);
	if (report.wants_input)
		hold_init(shim, &report);
}

/* One that took over gets what is held for it, and says then what it makes of it. */
static void on_state(void *userdata, enum bus_status status, const char *text, void *message)
{
	static const struct empty nothing;
	struct shim_state_reply *state = message;
	struct task_shim *shim = userdata;

	if (status != BUS_OK) {
		/* The end of a connection is told by itself. */
		if (status != BUS_UNAVAILABLE && status != BUS_CANCELED)
			give_up_link(shim, "its state", text);
		return;
	}
	if (shim->is_cleanup && !shim->has_taken_over) {
		held_give(shim, ask_state);
		return;
	}
	take_state(shim, state);
	if (state->status == TASK_CREATING)
		ready(shim);
	else if (call_shim(shim, "shim.processes", &nothing, on_processes))
		give_up_link(shim, "its processes", "out of memory");
}

static void ask_again(struct task_shim *shim)
{
	static const struct empty nothing;

	if (!shim->is_ready || call_shim(shim, "shim.state", &nothing, on_state))
		ask_again_later(shim);
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

	if (status != BUS_OK || strcmp(hello->task_id, shim->task_id)) {
		if (status != BUS_UNAVAILABLE && status != BUS_CANCELED)
			give_up_link(shim, "who it is", status ? text : "another task's");
		return;
	}
	if (!hello->protocol || hello->protocol > SHIM_PROTOCOL) {
		give_up_link(shim, "a protocol that is spoken here", hello->program ?: "");
		return;
	}
	report.pid = hello->pid;
	(void)process_start_time((pid_t)hello->pid, &report.start_time);
	(void)service_transact(shim->service->service, note_shim, &report);
	if (call_shim(shim, "shim.state", &nothing, on_state))
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
	int r;

	/* No other failure says that it is gone. */
	if (access(bundle, F_OK))
		return errno == ENOENT ? -ENOENT : error_origin(-errno);
	path = text_format("%s/lock", bundle);
	if (!path)
		return error_origin(-ENOMEM);
	r = file_lock(path, ret_fd);
	return r == -EWOULDBLOCK ? TASK_E_LOCKED : r;
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
	int copy_fd; /* the cache's */
	const char *argv[] = {"davit-shim", "--config", path,         "--root",
			      paths->root,  "--state",  paths->state, NULL};
	const char *envp[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			      NULL};

	if (!path || !log)
		return error_origin(-ENOMEM);
	log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (log_fd < 0)
		return why_errno(why, -errno, "cannot open %s", log);
	copy_fd = config->clones_itself ? program_cache_get(&service->runtime, config->runtime_path)
					: -1;
	return spawn(&(struct spawn){.path = service->shim_program,
				     .argv = argv,
				     .envp = envp,
				     .cwd = "/",
				     .fds = (struct spawn_fd[]){{log_fd, 2},
								{socket_fd, 3},
								{lock_fd, 4},
								{copy_fd, 5}},
				     .n_fds = copy_fd < 0 ? 3 : 4,
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
	shim->has_taken_over = false;
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

static int remove_added_fifos(void *userdata, const struct store_key *key, void *data)
{
	const struct task_exec_record *record = data;

	(void)key;
	task_remove_fifos(userdata, record->io);
	return 0;
}

/* Of added processes too, whose clients may have been killed. */
static int remove_all_fifos(void *userdata)
{
	struct row *row = userdata;
	struct task_service *service = row->shim->service;

	return added_walk(service, row->shim->task_id, remove_added_fifos, service);
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

/* What a shim that was removing its bundle has left of it, or what this service put there meanwhile. */
static void remove_bundle(const struct task_record *record)
{
	struct why why = {};

	if (record->bundle && file_remove_tree(AT_FDCWD, record->bundle, &why))
		log_warning("task=%s: its bundle is not removed: %s", record->task_id, why.text);
}

static void shim_gone(struct task_shim *shim);

static void on_looked(struct task_service *service, const char *task_id)
{
	struct task_shim *shim = task_shim_find(service, task_id);

	if (!shim)
		return;
	shim->is_looking = false;
	shim_gone(shim);
}

/* True: it comes back when the event log has been read. */
static bool looks_for_exit(struct task_shim *shim)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct row row = {.shim = shim, .record = &record};

	if (shim->is_looking)
		return true; /* somebody else has found it gone meanwhile */
	if (shim->has_looked || service_transact(shim->service->service, read_row, &row) ||
	    row.result || record.exit || record.status == TASK_CREATING)
		return false;
	shim->has_looked = shim->is_looking = true;
	if (!missed_look(shim->service, &record, on_looked))
		return true; /* @shim may be gone already */
	shim->is_looking = false;
	return false;
}

/* The bundle is gone, or all in it by which a shim could be started: nothing is left of the task. */
static void shim_gone(struct task_shim *shim)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct row row = {.shim = shim, .record = &record};
	struct task_service *service = shim->service;

	if (looks_for_exit(shim))
		return;
	live_remove(service->live, shim->task_id);
	(void)service_transact(service->service, remove_all_fifos, &row);
	if (service_transact(service->service, drop_rows, &row))
		log_error("task=%s: its rows could not be removed", shim->task_id);
	remove_bundle(&record);
	if (record.socket)
		(void)unlink(record.socket); /* of a shim that could not */
	task_remove_fifos(service, record.io);
	task_shim_free(shim);
}

static void clean_up_later(struct task_shim *shim, const char *text)
{
	log_error("task=%s: no shim for its clean-up, trying again: %s", shim->task_id, text);
	retry_after(shim, SHIM_RETRY_MS * 10);
}

int task_kill_directly(uint64_t pid, uint64_t start_time, int signal)
{
	_cleanup_(cleanup_fd) int fd = -1;
	uint64_t found;

	if (!pid || !start_time)
		return -ESRCH;
	fd = pidfd_open((pid_t)pid, 0);
	if (fd < 0)
		return -errno;
	if (process_start_time((pid_t)pid, &found) || found != start_time)
		return -ESRCH;
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
	r = schema_set(&record.reason, "its shim died; another takes the container over");
	if (!r)
		r = task_move(shim->service, &record, TASK_UNKNOWN);
	return r == TASK_E_STATE ? 0 : r;
}

/* Of one that is gone the next shim is told that there is nothing to wait for. */
static void hold_one(struct task_shim *shim, const char *exec_id, uint64_t pid, uint64_t start_time)
{
	held_open(shim, exec_id, pid, start_time);
	held_take(shim, exec_id, -1, -1);
}

static int hold_added(void *userdata, const struct store_key *key, void *data)
{
	const struct task_exec_record *record = data;
	struct task_shim *shim = userdata;

	(void)key;
	if (record->status == TASK_RUNNING)
		hold_one(shim, record->exec_id, record->pid, record->pid_start_time);
	return 0;
}

static int hold_all(void *userdata)
{
	struct task_shim *shim = userdata;

	return added_walk(shim->service, shim->task_id, hold_added, shim);
}

/* It died together with this service, or while nobody looked: what can still be held is. */
static void hold(struct task_shim *shim, const struct task_record *record)
{
	hold_one(shim, "", record->pid, record->pid_start_time);
	(void)service_transact(shim->service->service, hold_all, shim);
}

/* No shim lives: the container goes on alone until another one has taken it over. */
static void shim_dead(struct task_shim *shim, const struct task_record *record)
{
	struct why why = {};
	int r;

	if (record->status == TASK_CREATING) { /* its operation sees to it */
		end_waiters(TAKE(shim->waiters), shim, BUS_UNAVAILABLE, "its shim died");
		return;
	}
	if (record->status != TASK_DELETED && record->status != TASK_STOPPED) {
		log_warning("task=%s container=%s/%s: its shim died", record->task_id,
			    record->namespace, record->container_id);
		(void)service_transact(shim->service->service, note_unknown, shim);
		hold(shim, record);
	}
	if (time_boot_ms() < shim->clean_up_at_ms) {
		retry_after(shim, shim->clean_up_at_ms - time_boot_ms());
		return;
	}
	r = task_shim_clean_up(shim, &why);
	if (r == -ENODATA)
		shim_gone(shim);
	else if (r < 0)
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
	else if (r != TASK_E_LOCKED || shim_link_connect(record.socket, &fd) ||
		 connect_over(shim, TAKE_FD(fd)))
		retry_after(shim, SHIM_BIRTH_MS); /* it is being born or is dying */
}

/* One that was of use for a while does not make the next one wait. */
static void forget_deaths(struct task_shim *shim)
{
	if (shim->is_ready && time_boot_ms() - shim->ready_at_ms > SHIM_PAUSE_MAX_MS)
		shim->n_clean_ups = 0;
}

/* A connection that ends before it was of any use is not made again at once. */
void task_shim_lost(struct task_shim *shim)
{
	bool was_ready = shim->is_ready;

	forget_deaths(shim);
	drop_link(shim);
	if (was_ready)
		task_shim_take_up(shim);
	else
		retry_after(shim, SHIM_BIRTH_MS);
}

int task_shim_config(const char *bundle, struct shim_config *ret_config)
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

	r = task_shim_config(record->bundle, &config);
	if (r)
		return why_errno(why, r == -ENOENT ? -ENODATA : r, "%s/shim.msgpack",
				 record->bundle);
	config.cleanup = true;
	config.pid = record->pid;
	config.pid_start_time = record->pid_start_time;
	note_clean_up(shim);
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
	if (r == TASK_E_LOCKED)
		task_shim_take_up(shim);
	if (r)
		return r < 0 ? why_errno(why, r, "the lock of %s", record.bundle) : r;
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
