/* task.logs: a part of a process' log, while it runs and as long as it is kept. Nothing is kept open in between. */

#include <string.h>

#include "broker/lib/output_log.h"
#include "services/task/handlers.h"

#define SIZE_DEFAULT 262144
/* What a process wrote before its end reaches the log a moment after it. */
#define DRAIN_NS UINT64_C(1000000000)

struct reading {
	const struct task_logs_request *request;
	struct output_log log;
	struct log_position position;
	struct output_log_read read;
	uint8_t *buffer;
	size_t size;
};

static void reading_clear(struct reading *reading)
{
	output_log_close(&reading->log);
	free(reading->buffer);
}

static bool is_over(enum task_status status, const struct exit_record *exit)
{
	if (status == TASK_DELETED)
		return true;
	return status == TASK_STOPPED && exit && exit->exited_at_ns + DRAIN_NS < time_real_ns();
}

/* A page has room for one frame at least, whatever was asked for: otherwise it would never be read. */
static int open_log(struct reading *reading, const char *directory, struct why *why)
{
	size_t size = reading->request->max_size ?: SIZE_DEFAULT;

	reading->size = size > LOG_FRAME_MAX ? size : LOG_FRAME_MAX;
	reading->buffer = malloc(reading->size);
	if (!reading->buffer)
		return error_origin(-ENOMEM);
	return output_log_open(&reading->log, directory, why);
}

static int read_log(struct reading *reading)
{
	const struct task_logs_request *request = reading->request;

	if (request->tail)
		return output_log_tail(&reading->log, request->tail, reading->buffer, reading->size,
				       &reading->position, &reading->read);
	if (request->position)
		reading->position = *request->position;
	return output_log_read(&reading->log, &reading->position, reading->buffer, reading->size,
			       &reading->read);
}

static int fill_reply(const struct reading *reading, bool is_ended, struct task_logs_reply *reply)
{
	reply->position = malloc(sizeof(*reply->position));
	if (!reply->position)
		return error_origin(-ENOMEM);
	*reply->position = reading->position;
	reply->at_end = reading->read.at_end;
	reply->truncated = reading->read.is_truncated;
	reply->ended = reply->at_end && is_ended;
	return schema_bytes_set(&reply->frames, reading->buffer, reading->read.size);
}

/* It has written nothing yet. */
static int reply_empty(bool is_ended, struct task_logs_reply *reply)
{
	reply->position = calloc(1, sizeof(*reply->position));
	reply->at_end = true;
	reply->ended = is_ended;
	return reply->position ? 0 : error_origin(-ENOMEM);
}

static int answer(struct call *call, const struct task_logs_request *request, const char *directory,
		  bool is_ended, struct task_logs_reply *reply)
{
	_cleanup_(reading_clear) struct reading reading = {.request = request,
							   .log = OUTPUT_LOG_NULL};
	struct why why = {};
	int r;

	r = open_log(&reading, directory, &why);
	if (r == -ENOENT)
		return reply_empty(is_ended, reply);
	if (!r)
		r = read_log(&reading);
	if (r == OUTPUT_LOG_E_POSITION)
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "no frame of the log of container '%s' starts at %llu:%llu",
				 request->container_id, (unsigned long long)request->position->file,
				 (unsigned long long)request->position->offset);
	if (r)
		return call_fail(call, BUS_INTERNAL, "the log of container '%s' cannot be read: %s",
				 request->container_id, why.text[0] ? why.text : strerror(-r));
	return fill_reply(&reading, is_ended, reply);
}

int task_logs(struct task_service *service, const struct task_logs_request *request,
	      struct task_logs_reply *reply, struct call *call)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record added = {};
	_cleanup_(task_record_clear) struct task_record task = {};
	_cleanup_(cleanup_free) char *directory = NULL;
	bool found, has_log, is_ended;
	int r;

	r = task_find_any(service, call, request->container_id, request->exec_id, &task, &added,
			  &found);
	if (r || !found)
		return r;
	has_log = task.log && *task.log && task_io_has_log(added.exec_id ? added.io : task.io);
	/* Of a task of an earlier boot no more is known than that there is a log. */
	has_log = has_log || (task.log && *task.log && task.status == TASK_DELETED && !task.io);
	if (!has_log)
		return call_fail(call, BUS_FAILED_PRECONDITION,
				 "container '%s' keeps no log of process '%s'", task.container_id,
				 added.exec_id ?: task.container_id);
	directory = text_format("%s/%s", task.log, added.exec_id ?: task.container_id);
	if (!directory)
		return error_origin(-ENOMEM);
	is_ended = added.exec_id ? is_over(added.status, added.exit) || task.status == TASK_DELETED
				 : is_over(task.status, task.exit);
	return answer(call, request, directory, is_ended, reply);
}
