/*
 * What an earlier shim of this task left: its journal says how far it came, the
 * world says what is true now. The container, if it lives, is left alone.
 */

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/log.h"
#include "shim/mounts.h"
#include "shim/shim.h"
#include "shim/strays.h"

#define COMMAND_MAX   (64u << 10)
#define KILL_MS       1000 /* for OCI runtimes that were killed: a busy host takes its time */
#define KILL_ROUND_MS 1
#define ENDING_MAX    32   /* that are waited for in one round */
#define WAIT_MS       3000 /* for OCI runtimes that are making added processes, or starting init */
#define WAIT_ROUND_MS 5
#define STRAYS_MAX    64 /* more than can be made at a time */

static void note_answer(struct shim *shim, const char *name, const struct journal_record *record,
			enum bus_status status, const void *message)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer reply = {};
	const struct schema_method *method = schema_find_method("shim", name);

	/* The start of a create that was asked to start has the id of the create. */
	if (record->request_id.size != ID_SIZE ||
	    answers_find(&shim->requests.answers, record->request_id.data))
		return;
	if (status == BUS_OK)
		(void)schema_pack(method->reply(), message, &reply, NULL);
	answers_add(&shim->requests.answers, method, record->request_id.data, 0, status,
		    record->error, &reply);
}

static void note_process(struct shim *shim, const char *name, const struct journal_record *record)
{
	struct shim_pid_reply reply = {record->pid, record->start_time};

	note_answer(shim, name, record, BUS_OK, &reply);
}

static void note_deleted(struct shim *shim, const struct journal_record *record)
{
	struct shim_delete_reply reply = {(uint64_t)shim->init.pid,
					  shim->init.has_exit ? &shim->init.exit : NULL};

	note_answer(shim, "delete", record, BUS_OK, &reply);
	shim_move(shim, STATE_DELETED);
}

/* Nothing else than these is ever written there. */
static const char *cause_of(const struct exit_record *exit)
{
	static const char *const causes[] = {"shim-died", "start-uncertain"};

	for (size_t i = 0; i < ARRAY_SIZE(causes) && exit->cause; i++)
		if (!strcmp(exit->cause, causes[i]))
			return causes[i];
	return NULL;
}

/* One that may not have been sent is only sent again where that makes no difference. */
static void note_kill(struct shim *shim, const struct journal_record *record)
{
	static const struct empty nothing;

	if (record->error && record->signal == SIGKILL) {
		shim->replay.has_kill_id = record->request_id.size == ID_SIZE;
		if (shim->replay.has_kill_id)
			memcpy(shim->replay.kill_id, record->request_id.data, ID_SIZE);
		return;
	}
	if (record->request_id.size == ID_SIZE)
		answers_forget(&shim->requests.answers, record->request_id.data);
	note_answer(shim, "kill", record, record->error ? BUS_ABORTED : BUS_OK, &nothing);
}

/* The record goes away, the process keeps what it says. */
static void note_exit(struct process *process, const struct journal_record *record)
{
	if (!record->exit)
		return;
	process->exit = *record->exit;
	process->exit.cause = (char *)cause_of(record->exit);
	process->has_ended = process->has_exit = true;
	if (process != &process->shim->init)
		process_move(process, PROCESS_STOPPED);
}

static void note_identity(struct process *process, const struct journal_record *record)
{
	process->pid = (int)record->pid;
	process->start_time = record->start_time;
	process->pidfd_inode = record->pidfd;
}

/* ---- added processes ----------------------------------------------------- */

static int note_added(struct shim *shim, const struct journal_record *record)
{
	struct process *process;
	int r;

	r = processes_add(&shim->added, shim, record->process ?: "", record->io, &process);
	if (r == -EEXIST || r == -ENOSPC)
		return 0;
	if (r)
		return error_trace(r);
	process->file = strdup(record->file ?: "");
	if (record->start && record->request_id.size == ID_SIZE)
		memcpy(process->added_id, record->request_id.data, ID_SIZE);
	else
		note_answer(shim, "exec", record, BUS_OK, &(struct shim_exec_reply){});
	return process->file ? 0 : error_origin(-ENOMEM);
}

/* The request's name is that under which it was added, if that was to start it too. */
static void note_start_answer(struct shim *shim, const struct process *process,
			      const struct journal_record *record, enum bus_status status)
{
	struct answers *answers = &shim->requests.answers;
	const uint8_t *id = record->request_id.data;
	const struct answer *noted;
	bool is_exec;

	if (record->request_id.size != ID_SIZE)
		return;
	noted = answers_find(answers, id);
	is_exec = !memcmp(process->added_id, id, ID_SIZE) ||
		  (noted && !strcmp(noted->method->name, "exec"));
	answers_forget(answers, id);
	/* shim_exec_reply has the same fields. */
	note_answer(shim, is_exec ? "exec" : "exec_start", record, status,
		    &(struct shim_pid_reply){record->pid, record->start_time});
}

static void note_forgotten(struct shim *shim, struct process *process,
			   const struct journal_record *record)
{
	struct shim_delete_reply reply = {record->pid, record->exit};

	note_answer(shim, "exec_delete", record, BUS_OK, &reply);
	processes_remove(&shim->added, process);
}

static int note_exec(struct shim *shim, const struct journal_record *record)
{
	static char unknown[] = "its shim died: whether it was started is not known";
	struct process *process = processes_find(&shim->added, record->process ?: "");

	if (record->kind == JOURNAL_EXEC_ADDED)
		return note_added(shim, record);
	if (!process)
		return 0;
	if (record->kind == JOURNAL_EXEC_INTENT) {
		struct journal_record uncertain = *record;

		uncertain.error = unknown;
		process->earliest = record->start_time;
		process->has_start_id = record->request_id.size == ID_SIZE;
		if (process->has_start_id)
			memcpy(process->start_id, record->request_id.data, ID_SIZE);
		process_move(process, PROCESS_STARTING);
		note_start_answer(shim, process, &uncertain, BUS_ABORTED);
	} else if (record->kind == JOURNAL_EXEC_STARTED) {
		note_identity(process, record);
		process_move(process, PROCESS_RUNNING);
		note_start_answer(shim, process, record, BUS_OK);
	} else if (record->kind == JOURNAL_EXEC_FAILED) {
		process_move(process, PROCESS_FAILED);
		note_start_answer(shim, process, record, BUS_FAILED_PRECONDITION);
	} else {
		note_forgotten(shim, process, record);
	}
	return 0;
}

/* ---- all entries --------------------------------------------------------- */

/* The first is the create's. */
static void note_intent(struct shim *shim, const struct journal_record *record)
{
	struct replay *replay = &shim->replay;
	bool is_create = !shim->init.pid, has_id = record->request_id.size == ID_SIZE;

	if (has_id)
		memcpy(is_create ? replay->create_id : replay->start_id, record->request_id.data,
		       ID_SIZE);
	*(is_create ? &replay->has_create_id : &replay->has_start_id) = has_id;
	if (is_create)
		replay->create_starts = record->start;
}

static void note_state(struct shim *shim, const struct journal_record *record)
{
	shim->replay.is_paused = record->kind == JOURNAL_PAUSED;
	shim->replay.has_state_id = false;
	note_answer(shim, shim->replay.is_paused ? "pause" : "resume", record, BUS_OK,
		    &(struct empty){});
}

static void note_init(struct shim *shim, const struct journal_record *record)
{
	switch (record->kind) {
	case JOURNAL_CREATED:
		note_process(shim, "create", record);
		note_identity(&shim->init, record);
		break;
	case JOURNAL_INTENT:
		note_intent(shim, record);
		break;
	case JOURNAL_STARTED:
		note_process(shim, "start", record);
		shim->replay.is_started = true;
		break;
	case JOURNAL_PAUSED:
	case JOURNAL_RESUMED:
		note_state(shim, record);
		break;
	case JOURNAL_STATE_INTENT:
		shim->replay.has_state_id = record->request_id.size == ID_SIZE;
		if (shim->replay.has_state_id)
			memcpy(shim->replay.state_id, record->request_id.data, ID_SIZE);
		break;
	case JOURNAL_UPDATED:
		note_answer(shim, "update", record,
			    record->error ? BUS_FAILED_PRECONDITION : BUS_OK, &(struct empty){});
		break;
	case JOURNAL_CHECKPOINTED:
		note_answer(shim, "checkpoint", record, BUS_OK, &(struct empty){});
		break;
	case JOURNAL_DELETED:
		note_deleted(shim, record);
		break;
	case JOURNAL_FAILED:
		note_answer(shim, "create", record, BUS_FAILED_PRECONDITION, NULL);
		shim_move(shim, STATE_FAILED);
		break;
	default:
		break;
	}
}

/* Entries only tell; the state is decided in shim_recover(). */
int shim_replay(void *userdata, const struct journal_record *record)
{
	struct shim *shim = userdata;
	struct process *process;

	shim->is_cleanup = true;
	switch (record->kind) {
	case JOURNAL_EXEC_ADDED:
	case JOURNAL_EXEC_INTENT:
	case JOURNAL_EXEC_STARTED:
	case JOURNAL_EXEC_FAILED:
	case JOURNAL_EXEC_DELETED:
		return note_exec(shim, record);
	case JOURNAL_EXIT:
		process = shim_find_process(shim, record->process);
		if (process)
			note_exit(process, record);
		break;
	case JOURNAL_KILL:
		note_kill(shim, record);
		break;
	case JOURNAL_OOM:
		shim->replay.has_oom = true;
		break;
	default:
		note_init(shim, record);
	}
	return 0;
}

/* ---- OCI runtimes that still run ----------------------------------------- */

/* Whether it was started as an OCI runtime for this task: how its arguments start and end says so.
 * The task's id alone would not do: it is only unique to a davit. */
static bool is_runtime(const struct shim *shim, const char *arguments, size_t size)
{
	const char *const start[] = {shim->config.runtime_path, "--root", shim->config.oci_root};
	size_t at = 0, last = strlen(shim->config.task_id) + 1;

	for (size_t i = 0; i < ARRAY_SIZE(start); i++) {
		size_t n = strlen(start[i]) + 1;

		if (size - at < n || memcmp(arguments + at, start[i], n))
			return false;
		at += n;
	}
	return size - at > last && !memcmp(arguments + size - last, shim->config.task_id, last);
}

/* In the midst of its execve() a process has no arguments; neither has one that is dead, or the kernel's own,
 * but those have no program. */
static bool is_in_execve(const char *pid)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%s/exe", pid);
	char target[1];

	return path && readlink(path, target, sizeof(target)) > 0;
}

/* Until it runs its own program a process of the container has the arguments of the runtime that
 * forked it; one that the journal knows is made. */
static bool is_made(const struct shim *shim, int pid)
{
	for (const struct process *process = shim->added.first; process; process = process->next)
		if (process->pid == pid)
			return true;
	return pid == shim->init.pid;
}

static bool has_verb(const char *arguments, size_t size, const char *verb)
{
	/* With the end of the argument before it. */
	const char *at = memmem(arguments, size, verb, strlen(verb) + 1);

	return at && at > arguments && !at[-1];
}

/* What they leave is told for certain only if they come to their end. */
static bool is_awaited(const char *arguments, size_t size)
{
	return has_verb(arguments, size, "exec") || has_verb(arguments, size, "start");
}

/* Those that were killed in one round: each is waited for until none of its threads is left. */
struct ending {
	int pidfds[ENDING_MAX];
	size_t n;
};

static int read_arguments(const char *pid, char **ret_line, size_t *ret_size)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%s/cmdline", pid);

	return path ? file_read_proc(path, COMMAND_MAX, ret_line, ret_size) : error_origin(-ENOMEM);
}

/* Its arguments are read again, so that they are those of whom the pidfd names. */
static void kill_runtime(const struct shim *shim, const char *pid, struct ending *ending)
{
	_cleanup_(cleanup_fd) int pidfd = pidfd_open(atoi(pid), 0);
	_cleanup_(cleanup_free) char *line = NULL;
	size_t size;

	if (pidfd < 0 || read_arguments(pid, &line, &size) || !is_runtime(shim, line, size))
		return;
	(void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	if (ending->n < ENDING_MAX)
		ending->pidfds[ending->n++] = TAKE_FD(pidfd);
}

/* Ends it; or, with @ending NULL, sees whether it is one that is awaited. True: it is or was such a one, or may become one. */
static bool look_at_runtime(const struct shim *shim, const char *pid, struct ending *ending)
{
	_cleanup_(cleanup_free) char *line = NULL;
	size_t size;

	if (read_arguments(pid, &line, &size))
		return false;
	if (!size)
		return is_in_execve(pid);
	if (!is_runtime(shim, line, size))
		return false;
	if (!ending)
		return is_awaited(line, size);
	kill_runtime(shim, pid, ending);
	return true;
}

/* All of them: as look_at_runtime(). */
static bool look_for_runtimes(const struct shim *shim, struct ending *ending)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir("/proc");
	bool is_found = false;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		int pid = atoi(entry->d_name);

		if (pid > 1 && !is_made(shim, pid))
			is_found |= look_at_runtime(shim, entry->d_name, ending);
	}
	return is_found;
}

static void await_ends(struct ending *ending, uint64_t limit_ms)
{
	for (size_t i = 0; i < ending->n; i++) {
		struct pollfd end = {.fd = ending->pidfds[i], .events = POLLIN};
		uint64_t now_ms = time_boot_ms();

		(void)poll(&end, 1, now_ms < limit_ms ? (int)(limit_ms - now_ms) : 0);
		close_fd(ending->pidfds[i]);
	}
	ending->n = 0;
}

/* An OCI runtime that still runs, and what it forked, would make what is about to be undone, or start what is taken
 * for not started. */
static void end_runtimes(const struct shim *shim)
{
	uint64_t limit_ms = time_boot_ms() + KILL_MS;
	struct ending ending = {};

	/* One that was killed has no arguments any more as soon as its first thread ends, and is waited for. */
	while (look_for_runtimes(shim, &ending) && time_boot_ms() < limit_ms) {
		if (!ending.n)
			(void)poll(NULL, 0, KILL_ROUND_MS);
		await_ends(&ending, limit_ms);
	}
	await_ends(&ending, limit_ms);
}

/* What makes an added process tells its pid at the end, and nothing else tells it for certain; what starts init has
 * opened the way for it before it is seen to. */
static void await_calls(const struct shim *shim)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	while (time_boot_ms() < limit_ms && look_for_runtimes(shim, NULL))
		(void)poll(NULL, 0, WAIT_ROUND_MS);
}

static bool has_uncertain(const struct shim *shim)
{
	for (const struct process *process = shim->added.first; process; process = process->next)
		if (process->state == PROCESS_STARTING)
			return true;
	return false;
}

/* Its start was asked for, and what became of it is not on record. */
static bool is_start_uncertain(const struct shim *shim)
{
	return shim->replay.has_start_id && !shim->replay.is_started && !shim->init.has_exit;
}

/* One that ends during that wait, and is reaped, tells its end to who has a pidfd of it. */
static void hold_living(struct shim *shim)
{
	struct process *init = &shim->init;
	int pid = init->pid ?: (int)shim->config.pid;
	uint64_t start_time = init->start_time ?: shim->config.pid_start_time;

	if (pid && start_time && !init->has_exit)
		(void)process_identify(init, pid, start_time, false);
	for (struct process *process = shim->added.first; process; process = process->next)
		if (process->state == PROCESS_RUNNING && process->start_time)
			(void)process_identify(process, process->pid, process->start_time, false);
}

/* ---- the world ----------------------------------------------------------- */

/* Whether the OCI runtime's start has come through: it waits at this FIFO until then. */
static bool is_started(const struct shim *shim)
{
	_cleanup_(cleanup_free) char *fifo = text_format("%s/%s/exec.fifo", shim->config.oci_root,
							 shim->config.task_id);

	return shim->replay.is_started || (fifo && access(fifo, F_OK) && errno == ENOENT);
}

/* The answer to the request that the shim died over, if it was one to start. */
static void note_start(struct shim *shim, enum bus_status status, const char *text)
{
	struct journal_record record = {.pid = (uint64_t)shim->init.pid,
					.start_time = shim->init.start_time,
					.request_id = {shim->replay.start_id, ID_SIZE},
					.error = (char *)text};
	struct shim_pid_reply reply = {record.pid, record.start_time};

	if (shim->replay.has_start_id)
		note_answer(shim, "start", &record, status, &reply);
}

/* The freezer has another state than the journal: a request came so far. */
static int catch_up_state(struct shim *shim, enum journal_kind kind)
{
	struct journal_record record = {.kind = kind};
	const uint8_t *id = shim->replay.has_state_id ? shim->replay.state_id : NULL;
	int r = shim_journal_state(shim, kind, id);

	record.request_id = (struct schema_bytes){shim->replay.state_id, id ? ID_SIZE : 0};
	note_state(shim, &record);
	return r;
}

/* What the journal does not say because the shim died in the midst of it. */
static int catch_up(struct shim *shim)
{
	bool is_frozen = cgroup_is_frozen(&shim->cgroup);
	int r = 0;

	if (!shim->replay.is_started) {
		r = shim_journal_started(shim,
					 shim->replay.has_start_id ? shim->replay.start_id : NULL);
		note_start(shim, BUS_OK, NULL);
	}
	shim_move(shim, STATE_RUNNING);
	if (!shim->cgroup.freeze)
		is_frozen = shim->replay.is_paused;
	if (!r && is_frozen != shim->replay.is_paused)
		r = catch_up_state(shim, is_frozen ? JOURNAL_PAUSED : JOURNAL_RESUMED);
	if (is_frozen)
		shim_move(shim, STATE_PAUSED);
	return error_trace(r);
}

/* The journal, or the task service, knows a pid. */
static int look_at_init(struct shim *shim)
{
	int pid = shim->init.pid ?: (int)shim->config.pid;
	uint64_t start_time = shim->init.start_time ?: shim->config.pid_start_time;
	int r;

	r = shim_adopt_process(&shim->init, pid, start_time);
	if (!r)
		r = shim_find_cgroup(shim);
	if (r)
		return error_trace(r);
	/* Those that the journal tells of are told. */
	if (shim->replay.has_oom)
		shim->oom.kills = cgroup_oom_kills(&shim->cgroup);
	if (shim->init.pidfd < 0) {
		if (!shim->replay.is_started)
			note_start(shim, BUS_ABORTED,
				   "its shim died: whether it was started is not known");
		shim_move(shim, STATE_LOST);
	} else if (is_started(shim)) {
		r = catch_up(shim);
	} else {
		shim_move(shim, STATE_CREATED);
	}
	return r;
}

/* It has come to its start after all: it goes on, and who asked for it hears so. */
static int take_started(struct process *process)
{
	const uint8_t *id = process->has_start_id ? process->start_id : NULL;
	struct journal_record record = {.pid = (uint64_t)process->pid,
					.start_time = process->start_time,
					.request_id = {process->start_id, id ? ID_SIZE : 0}};
	int r = shim_journal_exec_started(process, id);

	note_start_answer(process->shim, process, &record, BUS_OK);
	process_move(process, PROCESS_RUNNING);
	return r ?: shim_adopt_process(process, process->pid, process->start_time);
}

/* What the OCI runtime says that it has made is taken for it. */
static int look_at_uncertain(struct process *process)
{
	int pid, r;

	r = shim_exec_read_pid(process, &pid, NULL);
	if (!r)
		r = process_identify(process, pid, 0, false);
	if (!r && !shim_is_in_container(process->shim, pid)) {
		process_forget(process);
		r = -ESRCH;
	}
	return r ? 0 : take_started(process);
}

/* One whose start is not known is never run again. */
static void give_up(struct process *process)
{
	process_set_unknown_exit(process, "shim-died");
	process_move(process, PROCESS_RUNNING);
}

/* -ESRCH: it has ended since. */
static int take_stray(struct process *process, pid_t pid)
{
	int r = process_identify(process, pid, 0, false);

	process->pid = 0; /* still nobody's */
	if (!r && !stray_is(process->shim, pid, process->earliest))
		r = -ESRCH;
	if (r) {
		process_forget(process);
		return r;
	}
	process->pid = pid;
	return take_started(process);
}

static void kill_strays(const struct shim *shim, const pid_t *pids, size_t n, uint64_t earliest)
{
	for (size_t i = 0; i < n; i++) {
		_cleanup_(cleanup_fd) int pidfd = pidfd_open(pids[i], 0);

		if (pidfd < 0 || !stray_is(shim, pids[i], earliest))
			continue;
		log_warning("task=%s: process %d, which a shim that died had started, is killed: "
			    "which one it is is not known",
			    shim->config.task_id, (int)pids[i]);
		(void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	}
}

/* What holds the streams of one that is not known is of no use to anybody, and would stay until the container's end. */
static void kill_holders(const struct process *process)
{
	pid_t pids[STRAYS_MAX];
	size_t n = strays_find_holders(process, pids, STRAYS_MAX);

	for (size_t i = 0; i < n; i++) {
		_cleanup_(cleanup_fd) int pidfd = pidfd_open(pids[i], 0);

		if (pidfd < 0 || !stray_is_holder(process, pids[i]))
			continue;
		log_warning("task=%s: process %d is killed: it is '%s', which a shim that died had "
			    "started, or was started by it",
			    process->shim->config.task_id, (int)pids[i], process->id);
		(void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
	}
}

/* Those of which the OCI runtime said nothing may run all the same. One is who it must be; of several nobody knows. */
static int settle_uncertain(struct shim *shim)
{
	struct process *only = NULL;
	uint64_t earliest = UINT64_MAX;
	pid_t strays[STRAYS_MAX];
	size_t n_uncertain = 0, n;
	int r = -ESRCH;

	for (struct process *process = shim->added.first; process; process = process->next) {
		if (process->state != PROCESS_STARTING)
			continue;
		only = process;
		n_uncertain++;
		if (process->earliest < earliest)
			earliest = process->earliest;
	}
	if (!only)
		return 0;
	n = strays_find(shim, earliest, strays, STRAYS_MAX);
	if (n == 1 && n_uncertain == 1)
		r = take_stray(only, strays[0]);
	else
		kill_strays(shim, strays, n, earliest);
	for (struct process *process = shim->added.first; process; process = process->next)
		if (process->state == PROCESS_STARTING) {
			kill_holders(process);
			give_up(process);
		}
	return r == -ESRCH ? 0 : r;
}

static int look_at_added(struct shim *shim)
{
	int r = 0;

	for (struct process *process = shim->added.first; process && !r; process = process->next)
		if (process->state == PROCESS_STARTING)
			r = look_at_uncertain(process);
		else if (process->state == PROCESS_RUNNING)
			r = shim_adopt_process(process, process->pid, process->start_time);
	return error_trace(r ?: settle_uncertain(shim));
}

static int look(struct shim *shim)
{
	int r = 0;

	if (has_uncertain(shim) || is_start_uncertain(shim)) {
		hold_living(shim);
		await_calls(shim);
	}
	end_runtimes(shim);
	if (shim->init.has_exit)
		shim_move(shim, STATE_STOPPED);
	else if (shim->init.pid || shim->config.pid)
		r = look_at_init(shim);
	if (shim->state == STATE_NEW)
		return shim_undo_create(shim, "its shim died while it was being created");
	if (!r)
		r = look_at_added(shim);
	if (!r)
		shim_reap(shim);
	return r;
}

/* Without its streams a process may have to wait for ever, but it can still be ended. */
static void take_up(struct process *process)
{
	struct why why = {};
	int r;

	r = streams_recover(process, process->io, &why);
	if (r)
		log_error("task=%s: the streams of '%s': %s", process->shim->config.task_id,
			  process->id, why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL));
	if (process->has_exit)
		streams_process_ended(process);
}

static void take_up_streams(struct shim *shim)
{
	struct process *init = &shim->init;

	if (init->pid || init->has_exit || shim->config.pid)
		take_up(init);
	for (struct process *process = shim->added.first; process; process = process->next)
		if (process->state != PROCESS_ADDED && process->state != PROCESS_FAILED)
			take_up(process);
}

int shim_recover(struct shim *shim, struct why *why)
{
	int r;

	shim->is_cleanup = shim->is_cleanup || shim->config.cleanup;
	if (!shim->is_cleanup || shim->state == STATE_DELETED || shim->state == STATE_FAILED)
		return 0;
	log_info("task=%s: taking over from a shim that died", shim->config.task_id);
	take_up_streams(shim);
	r = look(shim);
	return r ? why_errno(why, r, "cannot take over task %s", shim->config.task_id) : 0;
}
