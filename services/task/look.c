/* What is told of tasks and processes, from the records: no shim can delay it. */

#include <string.h>

#include "schemas/check.h"
#include "services/task/handlers.h"

/* ---- one process --------------------------------------------------------- */

/* The live task, else the last one that was deleted; answers the call if there is none. */
static int find_task(struct task_service *service, struct call *call, const char *id,
		     struct task_record *ret_record, bool *ret_found)
{
	const char *namespace = call_checked_namespace(call);
	int r = TASK_E_NOT_FOUND;

	*ret_found = false;
	if (!namespace)
		return 0;
	if (check_identifier(id))
		r = task_row(service, namespace, id, ret_record);
	if (r == TASK_E_NOT_FOUND && check_identifier(id))
		r = ended_row(service, namespace, id, ret_record);
	if (r == TASK_E_NOT_FOUND)
		return task_find(service, call, id, ret_record, ret_found);
	if (r)
		return call_fail_store(call, r, "the task");
	*ret_found = true;
	return 0;
}

int task_find_any(struct task_service *service, struct call *call, const char *id,
		  const char *exec_id, struct task_record *ret_task,
		  struct task_exec_record *ret_added, bool *ret_found)
{
	int r;

	r = find_task(service, call, id, ret_task, ret_found);
	if (r || !*ret_found || !task_names_added(id, exec_id))
		return r;
	return task_find_added(service, call, ret_task, exec_id, ret_added, ret_found);
}

int task_wait(struct task_service *service, const struct task_name_request *request,
	      struct task_wait_reply *reply, struct call *call)
{
	/* Deleted before it ran, or while nobody could see how it ended. */
	static const struct exit_record never = {
		.exit_status = 255, .source = EXIT_UNKNOWN, .cause = (char *)"deleted"};
	/* Nobody can say whether it was started: there is nothing that could be waited for. */
	static const struct exit_record uncertain = {
		.exit_status = 255, .source = EXIT_UNKNOWN, .cause = (char *)"start-uncertain"};
	_cleanup_(task_exec_record_clear) struct task_exec_record added = {};
	_cleanup_(task_record_clear) struct task_record task = {};
	bool found;
	int r;

	r = task_find_any(service, call, request->container_id, request->exec_id, &task, &added,
			  &found);
	if (r || !found)
		return r;
	if (added.exec_id && added.status == TASK_UNKNOWN)
		r = added_set_exit(&added, &uncertain);
	else if (added.exec_id && added.status == TASK_DELETED)
		r = added_set_exit(&added, &never);
	else if (task.status == TASK_DELETED)
		r = task_set_exit(&task, &never);
	reply->exit = added.exec_id ? TAKE(added.exit) : TAKE(task.exit);
	reply->exited = reply->exit;
	return r;
}

int task_get(struct task_service *service, const struct task_name_request *request,
	     struct task_process_reply *reply, struct call *call)
{
	_cleanup_(task_exec_record_clear) struct task_exec_record added = {};
	_cleanup_(task_record_clear) struct task_record task = {};
	bool found;
	int r;

	r = task_find_any(service, call, request->container_id, request->exec_id, &task, &added,
			  &found);
	if (r || !found)
		return r;
	reply->process = calloc(1, sizeof(*reply->process));
	if (!reply->process)
		return error_origin(-ENOMEM);
	return added.exec_id ? added_describe(&added, &task, reply->process)
			     : task_describe(&task, reply->process);
}

/* ---- many ---------------------------------------------------------------- */

int task_list(struct task_service *service, const struct task_list_request *request,
	      struct task_list_reply *reply, struct call *call)
{
	_cleanup_(filter_freep) struct filter *filter = NULL;
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	int r;

	if (!namespace)
		return 0;
	r = filter_parse(&request->filters, &filter, &fault);
	if (r > 0)
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	if (!r)
		r = task_list_page(service, request, namespace, filter, reply);
	return r > 0 ? call_fail_store(call, r, "tasks") : r;
}

struct processes {
	const struct task_record *task;
	struct task_processes_reply *reply;
};

static int add_process(void *userdata, const struct store_key *key, void *data)
{
	const struct task_exec_record *record = data;
	struct processes *processes = userdata;
	struct task_process *item;

	(void)key;
	if (record->status == TASK_DELETED)
		return 0;
	item = schema_list_add(&processes->reply->processes);
	return item ? added_describe(record, processes->task, item) : error_origin(-ENOMEM);
}

int task_processes(struct task_service *service, const struct task_container_request *request,
		   struct task_processes_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record task = {};
	struct processes processes = {.task = &task, .reply = reply};
	struct task_process *init;
	bool found;
	int r;

	r = task_find(service, call, request->container_id, &task, &found);
	if (r || !found)
		return r;
	init = schema_list_add(&reply->processes);
	r = init ? task_describe(&task, init) : error_origin(-ENOMEM);
	if (!r)
		r = added_walk(service, task.task_id, add_process, &processes);
	return r > 0 ? call_fail_store(call, r, "the processes") : r;
}
