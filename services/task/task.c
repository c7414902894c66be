/*
 * The handlers that change tasks and processes. What a shim must do is forwarded
 * to it after the commit, with the caller's request id: asked again, the shim
 * gives the same answer.
 */

#include "services/task/task.h"

#include <signal.h>
#include <string.h>

#include "schemas/check.h"
#include "services/task/handlers.h"

#define SERVICE_TYPE    struct task_service
#define SERVICE_DEF     "schemas/task.def"
#define SERVICE_LINKAGE extern
#include "services/lib/methods.h"

/* ---- finding and refusing ------------------------------------------------ */

bool task_names_added(const char *id, const char *exec_id)
{
	return exec_id && *exec_id && strcmp(exec_id, id);
}

int task_find(struct task_service *service, struct call *call, const char *id,
	      struct task_record *ret_record, bool *ret_found)
{
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	int r;

	*ret_found = false;
	if (!namespace)
		return 0;
	if (check_identifier_why("container id", id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = task_row(service, namespace, id, ret_record);
	if (r == TASK_E_NOT_FOUND)
		return call_fail(call, BUS_NOT_FOUND, "container '%s' has no task", id);
	if (r)
		return call_fail_store(call, r, "the task");
	*ret_found = true;
	return 0;
}

int task_find_added(struct task_service *service, struct call *call, const struct task_record *task,
		    const char *exec_id, struct task_exec_record *ret_record, bool *ret_found)
{
	struct schema_fault fault = {};
	int r;

	*ret_found = false;
	if (check_identifier_why("exec id", exec_id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = added_row(service, task->task_id, exec_id, ret_record);
	if (r == TASK_E_NOT_FOUND)
		return call_fail(call, BUS_NOT_FOUND, "container '%s' has no process '%s'",
				 task->container_id, exec_id);
	if (r)
		return call_fail_store(call, r, "the process");
	*ret_found = true;
	return 0;
}

/* A process of a live task: of init only the task's own record. */
struct target {
	struct task_record task;
	struct task_exec_record added;
	bool is_added;
};

static void target_clear(struct target *target)
{
	task_record_clear(&target->task);
	task_exec_record_clear(&target->added);
}

static const char *target_exec_id(const struct target *target)
{
	return target->is_added ? target->added.exec_id : "";
}

static enum task_status target_status(const struct target *target)
{
	return target->is_added ? target->added.status : target->task.status;
}

static int find(struct task_service *service, struct call *call, const char *id,
		const char *exec_id, struct target *ret_target, bool *ret_found)
{
	int r;

	r = task_find(service, call, id, &ret_target->task, ret_found);
	if (r || !*ret_found || !task_names_added(id, exec_id))
		return r;
	ret_target->is_added = true;
	return task_find_added(service, call, &ret_target->task, exec_id, &ret_target->added,
			       ret_found);
}

/* Has ended, or was deleted: answers the call. */
static bool refuse_ended(struct call *call, const struct target *target)
{
	enum task_status status = target_status(target);

	if (status != TASK_STOPPED && status != TASK_DELETED)
		return false;
	if (target->is_added)
		(void)call_fail(call, BUS_NOT_FOUND,
				"process '%s' of container '%s': process already finished",
				target->added.exec_id, target->task.container_id);
	else
		(void)call_fail(call, BUS_NOT_FOUND, "container '%s': process already finished",
				target->task.container_id);
	return true;
}

/* One that has ended is the shim's to refuse: the same request may have come to it before, and ended it. */
static bool refuse_gone(struct task_service *service, struct call *call,
			const struct target *target)
{
	if (target_status(target) == TASK_STOPPED && task_shim_find(service, target->task.task_id))
		return false;
	return refuse_ended(call, target);
}

/* Asks the shim for what has no other argument than the process. */
static int forward(struct task_service *service, struct call *call, const struct target *target,
		   const char *method, const void *request, const struct task_forward_notes *notes)
{
	return task_forward(service, call, &target->task, target_exec_id(target),
			    schema_find_method("shim", method), request, notes);
}

/* ---- create, start ------------------------------------------------------- */

int task_create(struct task_service *service, const struct task_create_request *request,
		struct task_create_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	uint8_t task_id[ID_SIZE];
	char id[ID_TEXT_SIZE];
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	if (check_identifier_why("container id", request->container_id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	if (request->checkpoint && *request->checkpoint && *request->checkpoint != '/')
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "the checkpoint '%s' is not an absolute path",
				 request->checkpoint);
	r = task_row(service, namespace, request->container_id, &record);
	if (r && r != TASK_E_NOT_FOUND)
		return call_fail_store(call, r, "the task");
	id_derive(call_id(call), "task", 0, task_id);
	id_format(task_id, id);
	if (!r && strcmp(record.task_id, id))
		return call_fail(call, BUS_ALREADY_EXISTS, "container '%s' has a task already (%s)",
				 request->container_id,
				 schema_enum_text(&schema_enum_task_status, record.status));
	missed_note_log_end(service);
	return operation_start(call, &task_create_operation, request, request->container_id, true);
}

static int note_started(struct task_service *service, const struct task_record *record,
			const char *exec_id, void *reply)
{
	_cleanup_(task_record_clear) struct task_record now = {};
	const struct shim_pid_reply *started = reply;
	int r;

	(void)exec_id;
	r = task_shim_row(service, record->task_id, &now);
	if (r || now.status != TASK_CREATED)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	now.started_at_ns = now.started_at_ns ?: time_real_ns();
	now.pid = started->pid;
	return task_move(service, &now, TASK_RUNNING);
}

static int note_added_started(struct task_service *service, const struct task_record *record,
			      const char *exec_id, void *reply)
{
	const struct shim_pid_reply *started = reply;
	struct added_report report = {
		.status = TASK_RUNNING, .pid = started->pid, .start_time = started->start_time};

	return added_note(service, record->task_id, exec_id, &report);
}

int task_start(struct task_service *service, const struct task_start_request *request,
	       struct task_start_reply *reply, struct call *call)
{
	struct shim_process_request process = {.exec_id = request->exec_id};
	_cleanup_(target_clear) struct target target = {};
	static const struct task_forward_notes notes = {.done = note_started},
					       added_notes = {.done = note_added_started};
	static const struct empty nothing;
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, request->exec_id, &target, &found);
	if (r || !found || refuse_gone(service, call, &target))
		return r;
	if (target.is_added)
		return forward(service, call, &target, "exec_start", &process, &added_notes);
	return forward(service, call, &target, "start", &nothing, &notes);
}

/* ---- kill ---------------------------------------------------------------- */

static bool has_shim(struct task_service *service, const struct task_record *record)
{
	const struct task_shim *shim = task_shim_find(service, record->task_id);

	return shim && shim->is_ready;
}

/* While its shim is dead, and no other has taken it over, a process can be ended all the same. Any other signal waits
 * for that shim: the one that died may have sent it for the same request. */
static bool is_killed_directly(struct task_service *service, const struct target *target,
			       const struct shim_kill_request *kill)
{
	uint64_t pid = target->is_added ? target->added.pid : target->task.pid;
	uint64_t start_time = target->is_added ? target->added.pid_start_time
					       : target->task.pid_start_time;

	return kill->signal == SIGKILL && !kill->all && target->task.status == TASK_UNKNOWN &&
	       !has_shim(service, &target->task) && !task_kill_directly(pid, start_time, SIGKILL);
}

int task_kill(struct task_service *service, const struct task_kill_request *request,
	      struct empty *reply, struct call *call)
{
	struct shim_kill_request kill = {.exec_id = request->exec_id, .all = request->all};
	_cleanup_(target_clear) struct target target = {};
	int signal = (int)request->signal;
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, request->exec_id, &target, &found);
	if (r || !found || refuse_gone(service, call, &target))
		return r;
	if (!target.is_added)
		kill.exec_id = NULL;
	if (!signal && target.task.stop_signal && !target.is_added)
		signal = task_signal_number(target.task.stop_signal);
	kill.signal = (uint64_t)(signal ?: SIGTERM);
	if (is_killed_directly(service, &target, &kill))
		return 0;
	return forward(service, call, &target, "kill", &kill, NULL);
}

/* ---- pause, resume, update ----------------------------------------------- */

static int note_status(struct task_service *service, const struct task_record *record,
		       enum task_status next)
{
	_cleanup_(task_record_clear) struct task_record now = {};
	int r;

	r = task_shim_row(service, record->task_id, &now);
	if (r || now.status == TASK_DELETED || now.status == next)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	r = task_move(service, &now, next);
	return r == TASK_E_STATE ? 0 : r;
}

static int note_paused(struct task_service *service, const struct task_record *record,
		       const char *exec_id, void *reply)
{
	(void)exec_id;
	(void)reply;
	return note_status(service, record, TASK_PAUSED);
}

static int note_pausing(struct task_service *service, const struct task_record *record,
			const char *exec_id, void *reply)
{
	(void)exec_id;
	(void)reply;
	return note_status(service, record, TASK_PAUSING);
}

/* As far as is known: a shim that paused it all the same says so. */
static int note_not_paused(struct task_service *service, const struct task_record *record,
			   const char *exec_id, void *reply)
{
	_cleanup_(task_record_clear) struct task_record now = {};
	int r;

	(void)exec_id;
	(void)reply;
	r = task_shim_row(service, record->task_id, &now);
	if (r || now.status != TASK_PAUSING)
		return r == TASK_E_NOT_FOUND ? 0 : r;
	return task_move(service, &now, TASK_RUNNING);
}

static int note_resumed(struct task_service *service, const struct task_record *record,
			const char *exec_id, void *reply)
{
	(void)exec_id;
	(void)reply;
	return note_status(service, record, TASK_RUNNING);
}

static int refuse_status(struct call *call, const struct target *target, const char *what)
{
	return call_fail(call, BUS_FAILED_PRECONDITION, "the task of container '%s' is %s: %s",
			 target->task.container_id,
			 schema_enum_text(&schema_enum_task_status, target->task.status), what);
}

/* Whether it is what it shall become is the shim's to say: the same request may come again after this service's death, and have
 * made it so. */
static bool may_be_frozen(const struct target *target)
{
	return target->task.status == TASK_RUNNING || target->task.status == TASK_PAUSING ||
	       target->task.status == TASK_PAUSED || target->task.status == TASK_UNKNOWN;
}

int task_pause(struct task_service *service, const struct task_container_request *request,
	       struct empty *reply, struct call *call)
{
	_cleanup_(target_clear) struct target target = {};
	static const struct task_forward_notes notes = {note_pausing, note_paused, note_not_paused};
	static const struct empty nothing;
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, NULL, &target, &found);
	if (r || !found)
		return r;
	if (!may_be_frozen(&target))
		return refuse_status(call, &target, "only a running one can be paused");
	return forward(service, call, &target, "pause", &nothing, &notes);
}

int task_resume(struct task_service *service, const struct task_container_request *request,
		struct empty *reply, struct call *call)
{
	_cleanup_(target_clear) struct target target = {};
	static const struct task_forward_notes notes = {.done = note_resumed};
	static const struct empty nothing;
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, NULL, &target, &found);
	if (r || !found)
		return r;
	if (!may_be_frozen(&target))
		return refuse_status(call, &target, "only a paused one can be resumed");
	return forward(service, call, &target, "resume", &nothing, &notes);
}

/* Complete or absent, and the shim removes it: written before the commit it harms nobody. */
static int write_resources(struct call *call, const struct target *target, const char *name,
			   const char *resources)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", target->task.bundle, name);
	struct why why = {};

	if (!path)
		return error_origin(-ENOMEM);
	if (!file_write(path, resources, strlen(resources), 0600, false, &why))
		return 0;
	(void)call_fail(call, BUS_INTERNAL, "container '%s': %s", target->task.container_id,
			why.text);
	return 1;
}

int task_update(struct task_service *service, const struct task_update_request *request,
		struct empty *reply, struct call *call)
{
	_cleanup_(target_clear) struct target target = {};
	struct shim_update_request update;
	char id[ID_TEXT_SIZE], name[64];
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, NULL, &target, &found);
	if (r || !found || refuse_ended(call, &target))
		return r;
	if (request->resources[strspn(request->resources, " \t\r\n")] != '{')
		return call_fail(call, BUS_INVALID_ARGUMENT,
				 "the resources of container '%s' are no JSON object",
				 request->container_id);
	id_format(call_id(call), id);
	snprintf(name, sizeof(name), "resources-%s.json", id);
	r = write_resources(call, &target, name, request->resources);
	if (r)
		return r < 0 ? r : 0;
	update.resources_file = name;
	return forward(service, call, &target, "update", &update, NULL);
}

/* ---- streams ------------------------------------------------------------- */

int task_resize(struct task_service *service, const struct task_resize_request *request,
		struct empty *reply, struct call *call)
{
	struct shim_resize_request resize = {.width = request->width, .height = request->height};
	_cleanup_(target_clear) struct target target = {};
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, request->exec_id, &target, &found);
	if (r || !found || refuse_ended(call, &target))
		return r;
	resize.exec_id = (char *)target_exec_id(&target);
	return forward(service, call, &target, "resize", &resize, NULL);
}

static int note_closed(struct task_service *service, const struct task_record *record,
		       const char *exec_id, void *reply)
{
	struct task_shim *shim = task_shim_find(service, record->task_id);

	(void)reply;
	if (shim)
		held_close_input(shim, exec_id);
	return 0;
}

int task_close_io(struct task_service *service, const struct task_close_io_request *request,
		  struct empty *reply, struct call *call)
{
	_cleanup_(target_clear) struct target target = {};
	static const struct task_forward_notes notes = {.done = note_closed};
	struct shim_process_request process;
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, request->exec_id, &target, &found);
	if (r || !found || refuse_ended(call, &target))
		return r;
	process.exec_id = (char *)target_exec_id(&target);
	return forward(service, call, &target, "close_io", &process, &notes);
}

static const char *relative_fifo(const struct task_attach_request *request)
{
	const char *const paths[] = {request->stdin, request->stdout, request->stderr};

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		if (paths[i] && *paths[i] && *paths[i] != '/')
			return paths[i];
	}
	return NULL;
}

int task_attach(struct task_service *service, const struct task_attach_request *request,
		struct task_attach_reply *reply, struct call *call)
{
	struct shim_attach_request attach = {.stdin = request->stdin,
					     .stdout = request->stdout,
					     .stderr = request->stderr,
					     .frames = request->frames,
					     .start = request->start,
					     .position = request->position};
	_cleanup_(target_clear) struct target target = {};
	bool found;
	int r;

	(void)reply;
	r = find(service, call, request->container_id, request->exec_id, &target, &found);
	if (r || !found)
		return r;
	if (relative_fifo(request))
		return call_fail(call, BUS_INVALID_ARGUMENT, "FIFO '%s' is not an absolute path",
				 relative_fifo(request));
	attach.exec_id = (char *)target_exec_id(&target);
	return forward(service, call, &target, "attach", &attach, NULL);
}

/* ---- forgetting ---------------------------------------------------------- */

int task_forget(struct task_service *service, const struct task_forget_request *request,
		struct empty *reply, struct call *call)
{
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	int r;

	(void)reply;
	if (!namespace)
		return 0;
	if (check_identifier_why("container id", request->container_id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = ended_forget(service, namespace, request->container_id, request->container_uid);
	return r > 0 ? call_fail_store(call, r, "the ended task") : r;
}

/* ---- about the service --------------------------------------------------- */

int task_operations(struct task_service *service, const struct empty *request,
		    struct operation_list_reply *reply, struct call *call)
{
	(void)request;
	return operation_list(service->service, call, reply);
}

int task_operation_cancel(struct task_service *service,
			  const struct operation_cancel_request *request, struct empty *reply,
			  struct call *call)
{
	(void)reply;
	return operation_cancel(service->service, call, request);
}

int task_stats(struct task_service *service, const struct empty *request,
	       struct service_stats_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_stats(service->service, reply);
}

int task_quarantine(struct task_service *service, const struct empty *request,
		    struct store_quarantine_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_quarantine(service->service, reply);
}

int task_quarantine_drop(struct task_service *service, const struct store_drop_request *request,
			 struct store_drop_reply *reply, struct call *call)
{
	return service_quarantine_drop(service->service, call, request, reply);
}

static const char *const names[] = {"task", NULL};
static const char *const tables[] = {TASK_TABLE, SHIM_TABLE, ENDED_TABLE, PROCESS_TABLE, NULL};
static const struct operation_type *const operations[] = {
	&task_create_operation, &task_exec_operation,       &task_stop_operation,
	&task_delete_operation, &task_checkpoint_operation, NULL};

/* live.c */
static const char *const more_stores[] = {"task", NULL};

const struct service_definition task_service_definition = {
	.program = "davit-task",
	.names = names,
	.methods = service_methods,
	.tables = tables,
	.directory = "task",
	.more_stores = more_stores,
	.is_volatile = true,
	.open = task_service_open,
	.ready = task_service_ready,
	.close = task_service_close,
	.operations = operations,
};
