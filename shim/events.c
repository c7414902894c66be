/* The events of a task: made, journaled, told to who watches. Publishing follows by itself. */

#include <stdio.h>
#include <string.h>

#include "broker/lib/log.h"
#include "shim/shim.h"

#define EVENT_MAX         16384
#define JOURNAL_ERROR_MAX 1000

/* Watchers see an event with the publisher in the log's place: it is not in the log yet. */
static void tell(struct shim *shim, const struct journal_record *record)
{
	struct envelope_event event = {
		.seq = record->seq,
		.publisher_seq = record->seq,
		.time_ns = record->time_ns,
		.event = {record->event.data, record->event.size},
	};

	memcpy(event.log_id, shim->config.publisher.data, sizeof(event.log_id));
	memcpy(event.publisher, shim->config.publisher.data, sizeof(event.publisher));
	strncpy(event.namespace, shim->config.namespace, sizeof(event.namespace) - 1);
	strncpy(event.topic, record->topic, sizeof(event.topic) - 1);
	strncpy(event.object, shim->config.container_id, sizeof(event.object) - 1);
	control_tell(&shim->control, &event);
}

static int append(struct shim *shim, const struct process *process, struct journal_record *record,
		  const struct schema_event *event, const struct schema_buffer *packed)
{
	int r;

	record->topic = (char *)event->topic;
	record->process = (char *)process->id;
	record->pid = (uint64_t)process->pid;
	record->start_time = process->start_time;
	record->pidfd = process->pidfd_inode;
	record->event = (struct schema_bytes){packed->data, packed->size};
	r = journal_append(&shim->journal, record);
	if (r) {
		log_error("task=%s: %s cannot be journaled: %s", shim->config.task_id, event->topic,
			  strerror(-r));
		return error_trace(r);
	}
	tell(shim, record);
	return 0;
}

/* Packs @message and appends it. Borrows everything. */
static int append_event(struct shim *shim, const struct process *process,
			struct journal_record *record, const char *topic, const void *message)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	const struct schema_event *event = schema_find_event(topic);
	struct schema_fault fault = {};
	int r;

	r = schema_pack(event->message(), message, &packed, &fault);
	if (r > 0) {
		log_error("task=%s: %s", shim->config.task_id, fault.text);
		return error_fold(r);
	}
	if (!r && packed.size > EVENT_MAX)
		r = -EMSGSIZE;
	if (r)
		return error_trace(r);
	return append(shim, process, record, event, &packed);
}

static struct schema_bytes borrow_id(const uint8_t id[ID_SIZE])
{
	return (struct schema_bytes){(uint8_t *)id, id ? ID_SIZE : 0};
}

int shim_journal_process(struct process *process, enum journal_kind kind, const uint8_t id[ID_SIZE],
			 const char *error)
{
	char text[JOURNAL_ERROR_MAX + 1];
	struct journal_record record = {
		.kind = kind,
		.process = (char *)process->id,
		.pid = (uint64_t)process->pid,
		.start_time = process->start_time,
		.request_id = borrow_id(id),
		.exit = process->has_exit ? &process->exit : NULL,
		.error = error ? text : NULL,
	};

	if (error)
		snprintf(text, sizeof(text), "%s", error);
	return error_trace(journal_append(&process->shim->journal, &record));
}

int shim_journal_exec_intent(struct process *process, const uint8_t id[ID_SIZE])
{
	struct journal_record record = {
		.kind = JOURNAL_EXEC_INTENT,
		.process = (char *)process->id,
		/* No process that it makes is older. */
		.start_time = time_boot_ms() * (uint64_t)sysconf(_SC_CLK_TCK) / 1000,
		.request_id = borrow_id(id),
	};

	return error_trace(journal_append(&process->shim->journal, &record));
}

int shim_journal_exec_added(struct process *process, const uint8_t id[ID_SIZE], bool start)
{
	struct journal_record record = {
		.kind = JOURNAL_EXEC_ADDED,
		.request_id = borrow_id(id),
		.io = (struct task_io *)process->io,
		.file = process->file,
		.start = start,
	};
	struct event_task_exec_added event = {
		.container_id = process->shim->config.container_id,
		.exec_id = (char *)process->id,
		.task_id = process->shim->config.task_id,
	};

	return append_event(process->shim, process, &record, "/tasks/exec-added", &event);
}

int shim_journal_exec_started(struct process *process, const uint8_t id[ID_SIZE])
{
	struct journal_record record = {.kind = JOURNAL_EXEC_STARTED, .request_id = borrow_id(id)};
	struct event_task_exec_started event = {
		.container_id = process->shim->config.container_id,
		.exec_id = (char *)process->id,
		.pid = (uint64_t)process->pid,
		.task_id = process->shim->config.task_id,
	};

	return append_event(process->shim, process, &record, "/tasks/exec-started", &event);
}

int shim_journal_state(struct shim *shim, enum journal_kind kind, const uint8_t id[ID_SIZE])
{
	struct journal_record record = {.kind = kind, .request_id = borrow_id(id)};
	struct event_task_state event = {
		.container_id = shim->config.container_id,
		.task_id = shim->config.task_id,
	};

	return append_event(shim, &shim->init, &record,
			    kind == JOURNAL_PAUSED ? "/tasks/paused" : "/tasks/resumed", &event);
}

int shim_journal_checkpointed(struct shim *shim, const uint8_t id[ID_SIZE], const char *directory)
{
	struct journal_record record = {.kind = JOURNAL_CHECKPOINTED, .request_id = borrow_id(id)};
	struct event_task_checkpointed event = {
		.container_id = shim->config.container_id,
		.checkpoint = (char *)directory,
		.task_id = shim->config.task_id,
	};

	return append_event(shim, &shim->init, &record, "/tasks/checkpointed", &event);
}

int shim_journal_created(struct shim *shim, const uint8_t id[ID_SIZE])
{
	struct journal_record record = {.kind = JOURNAL_CREATED, .request_id = borrow_id(id)};
	struct event_task_create event = {
		.container_id = shim->config.container_id,
		.bundle = shim->config.bundle,
		.rootfs.items = shim->config.rootfs.items,
		.rootfs.count = shim->config.rootfs.count,
		.io = shim->config.io,
		.pid = (uint64_t)shim->init.pid,
		.task_id = shim->config.task_id,
	};
	int r;

	r = append_event(shim, &shim->init, &record, "/tasks/create", &event);
	if (r != -EMSGSIZE)
		return r;
	/* A root of very many layers: the mounts are left out. */
	event.rootfs.count = 0;
	return append_event(shim, &shim->init, &record, "/tasks/create", &event);
}

int shim_journal_started(struct shim *shim, const uint8_t id[ID_SIZE])
{
	struct journal_record record = {.kind = JOURNAL_STARTED, .request_id = borrow_id(id)};
	struct event_task_start event = {
		.container_id = shim->config.container_id,
		.pid = (uint64_t)shim->init.pid,
		.task_id = shim->config.task_id,
	};

	return append_event(shim, &shim->init, &record, "/tasks/start", &event);
}

int shim_journal_oom(struct shim *shim)
{
	struct journal_record record = {.kind = JOURNAL_OOM};
	struct event_task_oom event = {
		.container_id = shim->config.container_id,
		.task_id = shim->config.task_id,
	};

	return append_event(shim, &shim->init, &record, "/tasks/oom", &event);
}

int shim_journal_exit(struct shim *shim, const struct process *process)
{
	const struct exit_record *exit = &process->exit;
	struct journal_record record = {.kind = JOURNAL_EXIT, .exit = (struct exit_record *)exit};
	struct event_task_exit event = {
		.container_id = shim->config.container_id,
		.id = (char *)process->id,
		.pid = (uint64_t)process->pid,
		.exit_status = exit->exit_status,
		.exited_at_ns = exit->exited_at_ns,
		.signal = exit->signal,
		.core = exit->core,
		.oom_killed = exit->oom_killed,
		.source = exit->source,
		.cause = exit->cause,
		.task_id = shim->config.task_id,
	};

	return append_event(shim, process, &record, "/tasks/exit", &event);
}

int shim_journal_log(struct shim *shim, const struct process *process, const char *error,
		     uint64_t dropped)
{
	struct journal_record record = {.kind = JOURNAL_LOG};
	struct event_task_log event = {
		.container_id = shim->config.container_id,
		.id = (char *)process->id,
		.error = (char *)error,
		.dropped = dropped,
		.task_id = shim->config.task_id,
	};

	return append_event(shim, process, &record, "/tasks/log", &event);
}

int shim_journal_deleted(struct shim *shim, const uint8_t id[ID_SIZE])
{
	struct journal_record record = {.kind = JOURNAL_DELETED, .request_id = borrow_id(id)};
	struct event_task_delete event = {
		.container_id = shim->config.container_id,
		.pid = (uint64_t)shim->init.pid,
		.exit_status = shim->init.exit.exit_status,
		.exited_at_ns = shim->init.exit.exited_at_ns,
		.id = shim->config.container_id,
		.task_id = shim->config.task_id,
	};

	return append_event(shim, &shim->init, &record, "/tasks/delete", &event);
}
