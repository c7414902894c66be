/*
 * What an earlier shim of this task left: its journal says how far it came, the
 * world says what is true now. The container, if it lives, is left alone.
 */

#include <string.h>

#include "broker/lib/log.h"
#include "shim/mounts.h"
#include "shim/shim.h"

#define COMMAND_MAX (64u << 10)
#define KILL_ROUNDS 50

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

static void note_exit(struct shim *shim, const struct exit_record *exit)
{
	static char cause[] = "shim-died";

	if (!exit)
		return;
	shim->init.exit = *exit;
	/* The record goes away; nothing else than this is ever written there. */
	shim->init.exit.cause = exit->cause ? cause : NULL;
	shim->init.has_exit = true;
}

/* Entries only tell; the state is decided in shim_recover(). */
int shim_replay(void *userdata, const struct journal_record *record)
{
	struct shim *shim = userdata;

	shim->is_cleanup = true;
	switch (record->kind) {
	case JOURNAL_CREATED:
		note_process(shim, "create", record);
		shim->init.pid = (int)record->pid;
		shim->init.start_time = record->start_time;
		break;
	case JOURNAL_STARTED:
		note_process(shim, "start", record);
		break;
	case JOURNAL_KILL:
		note_answer(shim, "kill", record, BUS_OK, &(struct empty){});
		break;
	case JOURNAL_OOM:
		shim->has_oom = true;
		break;
	case JOURNAL_EXIT:
		note_exit(shim, record->exit);
		break;
	case JOURNAL_DELETED:
		note_deleted(shim, record);
		break;
	case JOURNAL_FAILED:
		note_answer(shim, "create", record, BUS_FAILED_PRECONDITION, NULL);
		shim_move(shim, STATE_FAILED);
		break;
	case JOURNAL_EXEC_ADDED:
	case JOURNAL_EXEC_INTENT:
	case JOURNAL_EXEC_STARTED:
	case JOURNAL_EXEC_FAILED:
	case JOURNAL_EXEC_DELETED:
	case JOURNAL_PAUSED:
	case JOURNAL_RESUMED:
	case JOURNAL_CHECKPOINTED:
	case JOURNAL_LOG:
	case JOURNAL_INTENT:
	case JOURNAL_ACK:
		break;
	}
	return 0;
}

/* Whether @pid was started as an OCI runtime for this task: its first and its last argument say
 * so. */
static bool is_runtime(const struct shim *shim, const char *pid)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%s/cmdline", pid), *line = NULL;
	size_t size, first = strlen(shim->config.runtime_path) + 1;
	size_t last = strlen(shim->config.task_id) + 1;

	if (!path || file_read_proc(path, COMMAND_MAX, &line, &size))
		return false;
	return size > first + last && !memcmp(line, shim->config.runtime_path, first) &&
	       !memcmp(line + size - last, shim->config.task_id, last);
}

/* True: there was one. */
static bool kill_runtimes(const struct shim *shim)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir("/proc");
	bool is_found = false;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		int pid = atoi(entry->d_name);

		if (pid <= 1 || !is_runtime(shim, entry->d_name))
			continue;
		kill(pid, SIGKILL);
		is_found = true;
	}
	return is_found;
}

/* An OCI runtime that still runs, and what it forked, would make what is about to be undone. */
static void end_runtimes(const struct shim *shim)
{
	/* One that was killed has no arguments any more. */
	for (int i = 0; i < KILL_ROUNDS; i++)
		if (!kill_runtimes(shim))
			return;
}

/* The journal, or the task service, knows a pid. */
static int look_at_init(struct shim *shim)
{
	int pid = shim->init.pid ?: (int)shim->config.pid;
	uint64_t start_time = shim->init.start_time ?: shim->config.pid_start_time;
	int r;

	shim_move(shim, STATE_LOST);
	r = start_time ? shim_adopt(shim, pid, start_time) : -ESRCH;
	if (!r)
		return shim_watch_lost(shim);
	if (r != -ESRCH && r != -EINVAL)
		return error_trace(r);
	shim->init.pid = pid;
	shim->init.start_time = start_time;
	(void)cgroup_find(shim->config.cgroup, 0, &shim->cgroup);
	shim_note_unknown_exit(shim);
	return 0;
}

/* Without its streams a container may have to wait for ever, but it can still be ended. */
static void take_up_streams(struct shim *shim)
{
	struct process *init = &shim->init;
	struct why why = {};
	int r = 0;

	if (init->pid || init->has_exit || shim->config.pid)
		r = streams_recover(init, init->io, &why);
	if (r)
		log_error("task=%s: the streams of '%s': %s", shim->config.task_id, init->id,
			  why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL));
	if (init->has_exit)
		streams_process_ended(init);
}

int shim_recover(struct shim *shim, struct why *why)
{
	int r = 0;

	shim->is_cleanup = shim->is_cleanup || shim->config.cleanup;
	if (!shim->is_cleanup || shim->state == STATE_DELETED || shim->state == STATE_FAILED)
		return 0;
	log_info("task=%s: taking over from a shim that died", shim->config.task_id);
	take_up_streams(shim);
	if (shim->init.has_exit)
		shim_move(shim, STATE_STOPPED);
	else if (shim->init.pid || shim->config.pid)
		r = look_at_init(shim);
	else
		end_runtimes(shim);
	if (shim->state == STATE_NEW)
		r = shim_undo_create(shim, "its shim died while it was being created");
	return r ? why_errno(why, r, "cannot take over task %s", shim->config.task_id) : 0;
}
