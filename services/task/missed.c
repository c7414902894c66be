/*
 * How the processes of a task ended whose shim has deleted it and is gone, while
 * this service was away: the shim has published that before, so the event log has
 * it. Read to its end, a page at a time, and taken into the records. It is read
 * from where it ended when the task was made: a lower bound, known without waiting
 * for it, since an older end does as well.
 */

#include <string.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

#define PAGE   256
#define NEW_MS 1000 /* the end of the log is asked for again after that, when a task is made */

/* ---- where it ends ------------------------------------------------------- */

static void on_end(void *userdata, enum bus_status status, const char *text,
		   struct event_read_reply *reply)
{
	struct log_end *end = &((struct task_service *)userdata)->log_end;

	(void)text;
	end->call = NULL;
	if (status != BUS_OK || reply->log_id.size != ID_SIZE)
		return;
	memcpy(end->id, reply->log_id.data, ID_SIZE);
	end->next = reply->last_seq + 1;
	end->known_ms = time_boot_ms();
}

void missed_note_log_end(struct task_service *service)
{
	struct event_read_request request = {.limit = 1};
	struct log_end *end = &service->log_end;

	if (end->call || (end->next && time_boot_ms() - end->known_ms < NEW_MS))
		return;
	if (event_read_call(service_bus(service->service), NULL, &request, on_end, service,
			    &end->call))
		end->call = NULL; /* the next task tries again */
}

int missed_set_log_end(const struct task_service *service, struct task_record *record)
{
	const struct log_end *end = &service->log_end;

	record->log_from = end->next;
	return end->next ? schema_bytes_set(&record->log_id, end->id, ID_SIZE) : 0;
}

/* ---- reading it ---------------------------------------------------------- */

struct missed {
	struct missed *next;
	struct task_service *service;
	struct bus_call *call; /* NULL: none is under way */
	struct task_record record;
	uint64_t from;
	missed_fn fn;
};

static void missed_free(struct missed *missed)
{
	struct missed **at = &missed->service->missed;

	while (*at != missed)
		at = &(*at)->next;
	*at = missed->next;
	if (missed->call)
		bus_call_cancel(missed->call);
	task_record_clear(&missed->record);
	free(missed);
}

void missed_free_all(struct task_service *service)
{
	while (service->missed)
		missed_free(service->missed);
	if (service->log_end.call)
		bus_call_cancel(service->log_end.call);
}

static void finish(struct missed *missed)
{
	missed->fn(missed->service, missed->record.task_id);
	missed_free(missed);
}

struct found {
	struct missed *missed;
	const struct event_task_exit *event;
};

static int note(void *userdata)
{
	const struct found *found = userdata;
	struct task_service *service = found->missed->service;
	const char *task_id = found->missed->record.task_id;
	const struct event_task_exit *event = found->event;
	struct exit_record exit = {.exit_status = event->exit_status,
				   .signal = event->signal,
				   .core = event->core,
				   .oom_killed = event->oom_killed,
				   .exited_at_ns = event->exited_at_ns,
				   .source = event->source,
				   .cause = event->cause};
	struct added_report report = {.status = TASK_STOPPED, .pid = event->pid, .exit = &exit};

	/* Init's is the last in the log. */
	return strcmp(event->id, event->container_id)
		       ? added_note(service, task_id, event->id, &report)
		       : task_note_deleted(service, task_id, &exit);
}

static void take_event(struct missed *missed, const struct bus_event *event)
{
	_cleanup_(event_task_exit_clear) struct event_task_exit exit = {};
	struct found found = {missed, &exit};

	if (schema_unpack(schema_event_task_exit(), event->event.data, event->event.size, &exit,
			  NULL) ||
	    !exit.task_id || strcmp(exit.task_id, missed->record.task_id) != 0)
		return;
	if (service_transact(missed->service->service, note, &found))
		log_error("task=%s: an exit could not be recorded", missed->record.task_id);
}

static void ask(struct missed *missed);

/* The number from which it was read says nothing then. */
static bool is_other_log(const struct missed *missed, const struct event_read_reply *reply)
{
	const struct schema_bytes *id = &missed->record.log_id;

	return missed->record.log_from && (id->size != reply->log_id.size || !id->size ||
					   memcmp(id->data, reply->log_id.data, id->size) != 0);
}

static void on_page(void *userdata, enum bus_status status, const char *text,
		    struct event_read_reply *reply)
{
	struct missed *missed = userdata;

	missed->call = NULL;
	if (status == BUS_CANCELED) {
		missed_free(missed); /* the service ends: the next one looks again */
		return;
	}
	if (status != BUS_OK) {
		log_warning("task=%s: how it ended is not read from the log: %s",
			    missed->record.task_id, text);
		finish(missed);
		return;
	}
	if (is_other_log(missed, reply)) {
		missed->from = 1;
		missed->record.log_from = 0;
		ask(missed);
		return;
	}
	for (size_t i = 0; i < reply->events.count; i++)
		take_event(missed, &reply->events.items[i]);
	if (reply->next > reply->last_seq || reply->next <= missed->from) {
		finish(missed);
		return;
	}
	missed->from = reply->next;
	ask(missed);
}

static void ask(struct missed *missed)
{
	char *topics[] = {(char *)"/tasks/exit"};
	struct event_read_request request = {.from = missed->from,
					     .namespace = missed->record.namespace,
					     .topics = {topics, 1},
					     .object = missed->record.container_id,
					     .limit = PAGE};
	struct bus_options options = {.namespace = missed->record.namespace};

	if (event_read_call(service_bus(missed->service->service), &options, &request, on_page,
			    missed, &missed->call))
		on_page(missed, BUS_INTERNAL, "out of memory", NULL);
}

int missed_look(struct task_service *service, const struct task_record *record, missed_fn fn)
{
	struct missed *missed = calloc(1, sizeof(*missed));

	if (!missed || task_record_copy(record, &missed->record)) {
		free(missed);
		return error_origin(-ENOMEM);
	}
	missed->service = service;
	missed->from = record->log_from ?: 1;
	missed->fn = fn;
	missed->next = service->missed;
	service->missed = missed;
	ask(missed);
	return 0;
}
