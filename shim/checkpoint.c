/*
 * checkpoint: criu's, through the OCI runtime. Its own words say why it fails, and
 * the container goes on then. Init's end, which a checkpoint may bring about,
 * comes after it.
 */

#include <string.h>

#include "broker/lib/log.h"
#include "shim/mounts.h"
#include "shim/shim.h"

bool shim_is_checkpointing(const struct shim *shim)
{
	return shim_is_busy(shim) && !strcmp(shim->operation.request.method->name, "checkpoint");
}

/* The images are complete with the keys of stdio. */
static void finish(struct shim *shim)
{
	struct operation *operation = &shim->operation;
	struct why why = {};

	if (criu_write_stdio(operation->text, &operation->stdio, &why))
		shim_finish(shim, BUS_INTERNAL, why.text, true);
	else if (shim_journal_checkpointed(shim, operation->request.id, operation->text))
		shim_finish(shim, BUS_INTERNAL, "the checkpoint cannot be journaled", true);
	else
		shim_finish(shim, BUS_OK, "", true);
}

static void on_checkpointed(void *userdata, bool is_ok, const char *text)
{
	struct shim *shim = userdata;
	const struct runtime_call *call = &shim->runtime.container;
	char reason[WHY_SIZE];

	if (is_ok) {
		finish(shim);
		return;
	}
	/* criu freezes what it dumps. */
	if (call->was_cut && shim->state == STATE_RUNNING)
		(void)cgroup_thaw(&shim->cgroup);
	snprintf(reason, sizeof(reason), "%s", text);
	criu_add_reason(shim->operation.work, "dump.log", reason, sizeof(reason));
	shim_finish(shim, call->timed_out ? BUS_DEADLINE_EXCEEDED : BUS_FAILED_PRECONDITION, reason,
		    true);
}

static size_t add_option(const char *options[], size_t n, const char *name, const char *value)
{
	if (value && *value) {
		options[n++] = name;
		options[n++] = value;
	}
	return n;
}

static size_t add_flag(const char *options[], size_t n, const char *name, bool is_set)
{
	if (is_set)
		options[n++] = name;
	return n;
}

static int call_runtime(struct shim *shim, const struct task_checkpoint_request *request,
			struct why *why)
{
	const char *options[16];
	size_t n = 0;

	n = add_option(options, n, "--image-path", request->image_path);
	n = add_option(options, n, "--work-path", request->work_path);
	n = add_option(options, n, "--parent-path", request->parent_path);
	n = add_flag(options, n, "--leave-running", !request->exit);
	n = add_flag(options, n, "--tcp-established", request->open_tcp);
	n = add_flag(options, n, "--ext-unix-sk", request->external_unix_sockets);
	n = add_flag(options, n, "--shell-job", request->terminal);
	n = add_flag(options, n, "--file-locks", request->file_locks);
	options[n] = NULL;
	return runtime_call(&shim->runtime.container, "checkpoint", options, NULL,
			    shim->operation.request.deadline_ms, on_checkpointed, shim, why);
}

/* criu reads the root where the spec says that it is. */
static int prepare(struct shim *shim, const struct task_checkpoint_request *request,
		   struct why *why)
{
	struct operation *operation = &shim->operation;
	bool has_work = request->work_path && *request->work_path;
	int r = 0;

	operation->text = strdup(request->image_path);
	operation->work = strdup(has_work ? request->work_path : request->image_path);
	if (!operation->text || !operation->work)
		return error_origin(-ENOMEM);
	if (shim->is_cleanup && shim->config.rootfs.count)
		r = mounts_clone(shim->rootfs, shim->init.pid, why);
	if (!r)
		r = criu_find_stdio(shim->init.pid, &operation->stdio)
			    ?: criu_tell_dump(shim->config.bundle, &operation->stdio, why);
	return r ?: call_runtime(shim, request, why);
}

void shim_method_checkpoint(struct shim *shim, const struct task_checkpoint_request *request,
			    const struct call *call)
{
	const char *id = shim->config.container_id;
	struct why why = {};
	int r;

	if (!request->image_path || request->image_path[0] != '/') {
		request_refuse(shim, call, BUS_INVALID_ARGUMENT,
			       "container '%s': image_path '%s' is not an absolute path", id,
			       request->image_path ?: "");
		return;
	}
	if (!shim_is_busy(shim) && shim->state != STATE_RUNNING && shim->state != STATE_PAUSED) {
		request_refuse(shim, call, BUS_FAILED_PRECONDITION, "container '%s' is %s", id,
			       state_name(shim->state));
		return;
	}
	if (!shim_begin(shim, call))
		return;
	r = prepare(shim, request, &why);
	if (r)
		shim_finish(shim, BUS_INTERNAL,
			    why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL), true);
}
