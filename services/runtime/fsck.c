/* See fsck.h: bundles, the OCI runtimes' own state, cgroups, what is kept of networks. */

#include "services/runtime/fsck.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/lib/fsck.h"
#include "services/runtime/attachment.h"
#include "services/runtime/bundle.h"
#include "services/runtime/host.h"
#include "services/runtime/netns.h"

#define MOUNT "/sys/fs/cgroup"

struct check {
	struct service *service;
	struct cgroups *cgroups;
	struct networks *networks;
	char parent[16]; /* of davit's cgroups */
};

/* ---- directories by task ---- */

static int on_bundle(struct fsck *fsck, int dir, const char *name)
{
	return fsck_add_seen(fsck, dir, name, "bundle", name, "a directory below bundles/", true);
}

static int on_oci(struct fsck *fsck, int dir, const char *name)
{
	return fsck_add_seen(fsck, dir, name, "oci", name,
			     "an OCI runtime knows a container of this task", true);
}

static int names(struct fsck *fsck, const char *directory, fsck_name_fn fn)
{
	const struct check *check = fsck_object(fsck);
	_cleanup_(cleanup_free) char *path =
		text_format("%s/%s", service_paths(check->service)->state, directory);

	return path ? fsck_names(fsck, path, fn) : error_origin(-ENOMEM);
}

static int run_bundles(struct fsck *fsck)
{
	return names(fsck, "bundles", on_bundle);
}

static int run_oci(struct fsck *fsck)
{
	return names(fsck, "oci", on_oci);
}

/* ---- cgroups ---- */

static int add_owner(void *userdata, const char *task_id, const char *path)
{
	struct fsck_fact fact = {
		.role = FACT_OWNS,
		.kind = (char *)"cgroup",
		.id = (char *)path,
		.text = (char *)task_id,
	};

	return fsck_add(userdata, &fact);
}

static int run_owners(struct fsck *fsck)
{
	const struct check *check = fsck_object(fsck);

	return cgroups_each(check->cgroups, add_owner, fsck);
}

static int add_cgroups(struct fsck *fsck, int parent, const char *hierarchy, const char *namespace)
{
	const struct check *check = fsck_object(fsck);
	_cleanup_(cleanup_dir) DIR *dir = file_open_dir(parent, namespace);
	struct dirent *entry;
	int r = 0;

	while (!r && dir && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *id = NULL;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		id = text_format("/%s/%s/%s", check->parent, namespace, entry->d_name);
		r = id ? fsck_add_seen(fsck, dirfd(dir), entry->d_name, "cgroup", id, hierarchy,
				       true)
		       : error_origin(-ENOMEM);
	}
	return r;
}

/* All of a hierarchy at once: as many as there are containers. */
static int on_hierarchy(struct fsck *fsck, int top, const char *hierarchy)
{
	const struct check *check = fsck_object(fsck);
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", hierarchy, check->parent);
	_cleanup_(cleanup_dir) DIR *dir = path ? file_open_dir(top, path) : NULL;
	struct dirent *entry;
	int r = 0;

	while (!r && dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
			r = add_cgroups(fsck, dirfd(dir), hierarchy, entry->d_name);
	return r;
}

static int run_cgroups(struct fsck *fsck)
{
	return fsck_names(fsck, MOUNT, on_hierarchy);
}

/* v2 has one hierarchy, at the top. */
static int run_unified(struct fsck *fsck)
{
	_cleanup_(cleanup_fd) int top = open(MOUNT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return top < 0 ? 0 : on_hierarchy(fsck, top, ".");
}

/* ---- networks ---- */

static char *network_path(const struct check *check, const char *name)
{
	_cleanup_(cleanup_free) char *directory =
		attachment_directory(service_paths(check->service)->root);

	return directory ? text_format("%s/%s", directory, name) : NULL;
}

static bool has_bundle(const struct check *check, const char *task_id)
{
	_cleanup_(cleanup_free) char *path = bundle_path(service_paths(check->service)->state,
							 task_id);

	return path && !access(path, F_OK);
}

static char *describe_network(const struct check *check, const char *name)
{
	const char *pending = networks_pending(check->networks, name);

	return text_format("what CNI plugins gave a task that is gone is to be taken back%s%s",
			   pending ? ": " : "", pending ?: "");
}

static int on_network(struct fsck *fsck, int dir, const char *name)
{
	const struct check *check = fsck_object(fsck);
	char attach_id[ATTACHMENT_ID_SIZE], task_id[ID_TEXT_SIZE];
	_cleanup_(cleanup_free) char *text = NULL;

	if (!attachment_split(name, attach_id, task_id))
		return 0;
	text = has_bundle(check, task_id) ? strdup("a network of a task")
					  : describe_network(check, name);
	return text ? fsck_add_seen(fsck, dir, name, "network", name, text, true)
		    : error_origin(-ENOMEM);
}

static int run_networks(struct fsck *fsck)
{
	const struct check *check = fsck_object(fsck);
	_cleanup_(cleanup_free) char *path =
		attachment_directory(service_paths(check->service)->root);

	return path ? fsck_names(fsck, path, on_network) : error_origin(-ENOMEM);
}

static void init(struct check *check, struct service *service, struct cgroups *cgroups,
		 struct networks *networks)
{
	*check = (struct check){.service = service, .cgroups = cgroups, .networks = networks};
	host_cgroup_parent(service_paths(service)->state, check->parent);
}

int check_page(struct service *service, struct cgroups *cgroups, struct networks *networks,
	       const struct fsck_request *request, struct fsck_reply *reply)
{
	static const struct fsck_stage stages[] = {
		{run_owners},  {run_bundles},  {run_oci}, {run_cgroups},
		{run_unified}, {run_networks}, {}};
	struct check check;

	init(&check, service, cgroups, networks);
	return fsck_page(service_store(service), stages, &check, request, reply);
}

/* ---- mending ---- */

static int mend_bundle(const struct check *check, const char *task_id, struct call *call)
{
	struct why why = {};

	if (bundle_is_busy(service_paths(check->service)->state, task_id))
		return call_fail(call, BUS_FAILED_PRECONDITION,
				 "a shim lives in the bundle of task %s", task_id);
	if (bundle_remove(service_paths(check->service)->state, task_id, &why))
		return call_fail(call, BUS_INTERNAL, "bundle of task %s: %s", task_id, why.text);
	return 0;
}

/* Where a process of it may live, the runtime's word is what would end it: only an entry without a bundle goes. */
static int mend_oci(const struct check *check, const char *task_id, struct call *call)
{
	_cleanup_(cleanup_free) char *path =
		text_format("%s/oci/%s", service_paths(check->service)->state, task_id);
	_cleanup_(cleanup_free) char *bundle = bundle_path(service_paths(check->service)->state,
							   task_id);
	struct why why = {};

	if (!path || !bundle)
		return error_origin(-ENOMEM);
	if (!access(bundle, F_OK))
		return call_fail(call, BUS_FAILED_PRECONDITION, "task %s has its bundle still",
				 task_id);
	if (file_remove_tree(AT_FDCWD, path, &why))
		return call_fail(call, BUS_INTERNAL, "%s", why.text);
	return 0;
}

static int mend_cgroup(const struct check *check, const char *path, struct call *call)
{
	size_t size = strlen(check->parent);

	if (path[0] != '/' || strncmp(path + 1, check->parent, size) || path[1 + size] != '/' ||
	    strstr(path, "/.") || cgroups_is_owned(check->cgroups, path))
		return call_fail(call, BUS_FAILED_PRECONDITION,
				 "cgroup '%s' is not one that nobody has", path);
	if (!cgroup_remove_empty(MOUNT, path + 1))
		return call_fail(call, BUS_FAILED_PRECONDITION,
				 "cgroup '%s' is busy: a process is in it", path);
	return 0;
}

/* Plugins that are asked meanwhile find it gone: its network is taken back or is not, and is forgotten. */
static int mend_network(const struct check *check, const char *name, struct fsck_mend_reply *reply,
			struct call *call)
{
	char attach_id[ATTACHMENT_ID_SIZE], task_id[ID_TEXT_SIZE];
	_cleanup_(cleanup_free) char *path = network_path(check, name);
	struct why why = {};

	if (!path)
		return error_origin(-ENOMEM);
	if (strchr(name, '/') || !attachment_split(name, attach_id, task_id))
		return call_fail(call, BUS_INVALID_ARGUMENT, "'%s' names no network of a task",
				 name);
	if (has_bundle(check, task_id))
		return call_fail(call, BUS_FAILED_PRECONDITION, "task %s has its bundle still",
				 task_id);
	if (netns_remove(service_paths(check->service)->state, task_id, &why))
		return call_fail(call, BUS_INTERNAL, "%s", why.text);
	if (unlink(path) && errno != ENOENT)
		return call_fail(call, BUS_INTERNAL, "%s: %s", path, strerror(errno));
	networks_forget_pending(check->networks, name);
	return schema_set(&reply->done, "forgotten: plugins are not asked for it again");
}

int check_mend(struct service *service, struct cgroups *cgroups, struct networks *networks,
	       const struct fsck_mend_request *request, struct fsck_mend_reply *reply,
	       struct call *call)
{
	uint8_t id[ID_SIZE];
	struct check check;
	int r;

	init(&check, service, cgroups, networks);
	r = schema_set(&reply->done, "removed");
	if (r)
		return r;
	if (!strcmp(request->kind, "cgroup"))
		return mend_cgroup(&check, request->id, call);
	if (!strcmp(request->kind, "network"))
		return mend_network(&check, request->id, reply, call);
	if (id_parse(request->id, id))
		return call_fail(call, BUS_INVALID_ARGUMENT, "task id '%s' is not 32 hex digits",
				 request->id);
	if (!strcmp(request->kind, "bundle"))
		return mend_bundle(&check, request->id, call);
	if (!strcmp(request->kind, "oci"))
		return mend_oci(&check, request->id, call);
	return call_fail(call, BUS_INVALID_ARGUMENT, "no '%s' is mended here", request->kind);
}
