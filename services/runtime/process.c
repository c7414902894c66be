/* runtime.process: see process.h. */

#include "services/runtime/process.h"

#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "services/lib/work.h"
#include "services/runtime/bundle.h"
#include "services/runtime/host.h"
#include "services/runtime/user.h"

#define ANSWER_FD     4
#define ROOT_FD       5
#define USER_LIMIT_MS 2000

/* What is known while the child looks. */
struct process {
	struct call *call;
	struct runtime_process_request request;
	struct spec_host host;
	char *spec;
	struct work *work;
};

static void process_free(struct process *process)
{
	runtime_process_request_clear(&process->request);
	free(process->spec);
	free(process);
}

static void process_freep(struct process **process)
{
	if (*process)
		process_free(*process);
}

static int make(const struct process *process, const struct spec_user *user, char **ret_text,
		struct why *why)
{
	_cleanup_(json_cleanup) json_t *json = NULL;
	_cleanup_(cleanup_free) char *text = NULL;
	int r = spec_make_process(&process->host, process->spec, &process->request, user, &json,
				  why);

	if (r)
		return r;
	text = json_dumps(json, JSON_COMPACT);
	if (!text)
		return error_origin(-ENOMEM);
	if (strlen(text) > SPEC_SIZE_MAX)
		return why_set(why, SPEC_E_INVALID,
			       "task %s: the OCI process is larger than %d bytes",
			       process->request.task_id, SPEC_SIZE_MAX);
	*ret_text = TAKE(text);
	return 0;
}

/* ---- the child's answer ---- */

static int read_user(const struct runtime_user *answer, struct spec_user *ret_user)
{
	uint32_t *groups = calloc(answer->groups.count ?: 1, sizeof(*groups));

	if (!groups)
		return error_origin(-ENOMEM);
	for (size_t i = 0; i < answer->groups.count; i++)
		groups[i] = (uint32_t)answer->groups.items[i].gid;
	*ret_user = (struct spec_user){.uid = (uint32_t)answer->uid,
				       .gid = (uint32_t)answer->gid,
				       .groups = groups,
				       .n_groups = answer->groups.count};
	return 0;
}

static void finish(struct process *process, const struct runtime_user *answer)
{
	_cleanup_(runtime_process_reply_clear) struct runtime_process_reply reply = {};
	_cleanup_(spec_user_clear) struct spec_user user = {};
	struct why why = {};
	int r = read_user(answer, &user) ?: make(process, &user, &reply.process, &why);

	if (r > 0)
		call_finish_fail(process->call, BUS_INVALID_ARGUMENT, "%s", why.text);
	else if (r)
		call_finish_fail(process->call, BUS_INTERNAL, "OCI process of task %s: %s",
				 process->request.task_id, strerror(-r));
	else
		call_finish(process->call, &reply);
}

static void on_user(void *userdata, void *reply, const struct why *why)
{
	_cleanup_(process_freep) struct process *process = userdata;
	const struct runtime_user *answer = reply;

	if (!answer)
		call_finish_fail(process->call, BUS_UNAVAILABLE,
				 "user '%s' cannot be looked up in task %s: %s",
				 process->request.user, process->request.task_id, why->text);
	else if (answer->error && *answer->error)
		call_finish_fail(process->call, BUS_INVALID_ARGUMENT, "%s", answer->error);
	else
		finish(process, answer);
}

/* ---- the root ---- */

/* The start time, read behind the open, says that the pid was still init's when its root was opened. */
static int open_root(const struct runtime_process_request *request, int *ret_fd, struct why *why)
{
	char path[sizeof("/proc//root") + 20];
	_cleanup_(cleanup_fd) int fd = -1;
	uint64_t before = request->pid_start_time, after = 0;
	pid_t pid = (pid_t)request->pid;
	int r;

	if (!pid)
		return why_set(why, SPEC_E_INVALID,
			       "user '%s' cannot be looked up without the pid of task %s",
			       request->user, request->task_id);
	r = before ? 0 : process_start_time(pid, &before);
	snprintf(path, sizeof(path), "/proc/%d/root", pid);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (!r && fd < 0)
		r = -errno;
	r = r ?: process_start_time(pid, &after);
	if (r && r != -ESRCH && r != -ENOENT)
		return error_trace(r);
	if (r || before != after)
		return why_set(why, SPEC_E_INVALID, "process %d of task %s has ended", pid,
			       request->task_id);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int look_up(struct service *service, struct process *process, struct why *why)
{
	const char *const argv[] = {"--user", process->request.user, NULL};
	_cleanup_(cleanup_fd) int root = -1;
	static const struct empty nothing;
	struct spawn_fd passed;
	struct work_options options = {
		.program = "davit-runtime",
		.argv = argv,
		.fds = &passed,
		.n_fds = 1,
		.request = schema_empty(),
		.request_message = &nothing,
		.reply = schema_runtime_user(),
		.deadline_ms = time_boot_ms() + USER_LIMIT_MS,
	};
	int r = open_root(&process->request, &root, why);

	if (r)
		return r;
	passed = (struct spawn_fd){.from = root, .to = ROOT_FD};
	return work_start(service, &options, on_user, process, &process->work, why);
}

/* ---- the handler ---- */

static int refuse(struct call *call, int r, const struct why *why)
{
	return r > 0 ? call_fail(call, BUS_INVALID_ARGUMENT, "%s", why->text) : error_trace(r);
}

static int read_spec(const char *state, const char *task_id, char **ret_spec)
{
	_cleanup_(cleanup_free) char *bundle = bundle_path(state, task_id);
	_cleanup_(cleanup_free) char *path = bundle ? text_format("%s/config.json", bundle) : NULL;

	return path ? file_read(AT_FDCWD, path, 2 * (size_t)SPEC_SIZE_MAX, ret_spec, NULL)
		    : error_origin(-ENOMEM);
}

static int gather(struct service *service, const struct runtime_process_request *request,
		  struct call *call, struct process **ret_process)
{
	_cleanup_(process_freep) struct process *process = calloc(1, sizeof(*process));
	const char *state = service_paths(service)->state;
	int r;

	if (!process)
		return error_origin(-ENOMEM);
	process->call = call;
	r = host_read(state, &process->host)
		    ?: runtime_process_request_copy(request, &process->request);
	r = r ?: read_spec(state, request->task_id, &process->spec);
	if (r)
		return r;
	*ret_process = TAKE(process);
	return 0;
}

int process_make(struct service *service, const struct runtime_process_request *request,
		 struct runtime_process_reply *reply, struct call *call)
{
	_cleanup_(process_freep) struct process *process = NULL;
	uint8_t id[ID_SIZE];
	struct why why = {};
	int r;

	if (id_parse(request->task_id, id))
		return call_fail(call, BUS_INVALID_ARGUMENT, "task id '%s' is not 32 hex digits",
				 request->task_id);
	r = gather(service, request, call, &process);
	if (r == -ENOENT)
		return call_fail(call, BUS_NOT_FOUND, "task %s has no bundle", request->task_id);
	if (r)
		return error_trace(r);
	if (!request->user || !*request->user)
		return refuse(call, make(process, NULL, &reply->process, &why), &why);
	r = look_up(service, process, &why);
	if (r)
		return refuse(call, r, &why);
	process = NULL;
	return CALL_LATER;
}

/* ---- the child ---- */

static int fill_answer(const struct spec_user *user, struct runtime_user *answer)
{
	answer->uid = user->uid;
	answer->gid = user->gid;
	for (size_t i = 0; i < user->n_groups; i++) {
		struct runtime_group *group = schema_list_add(&answer->groups);

		if (!group)
			return error_origin(-ENOMEM);
		group->gid = user->groups[i];
	}
	return 0;
}

static int find(const char *text, struct runtime_user *answer, struct why *why)
{
	_cleanup_(user_files_clear) struct user_files files = {};
	_cleanup_(spec_user_clear) struct spec_user user = {};
	struct user_name name;
	int r;

	r = user_parse(text, &name, why) ?: user_files_read_root(ROOT_FD, &files, why);
	r = r ?: user_resolve(&name, files.passwd, files.group, &user, why);
	return r ?: fill_answer(&user, answer);
}

static int answer_with(const struct runtime_user *answer)
{
	struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	int r = schema_pack(schema_runtime_user(), answer, &buffer, &fault);

	if (!r)
		r = file_write_all(ANSWER_FD, buffer.data, buffer.size);
	schema_buffer_clear(&buffer);
	return error_fold(r);
}

int process_user_main(const char *user)
{
	_cleanup_(runtime_user_clear) struct runtime_user answer = {};
	struct why why = {};
	int r = find(user, &answer, &why);

	if (r > 0)
		r = schema_set(&answer.error, why.text);
	if (r)
		fprintf(stderr, "%s\n", why.text[0] ? why.text : strerror(-r));
	return r || answer_with(&answer) ? EXIT_FAILURE : EXIT_SUCCESS;
}
