/* See cgroup.h. */

#include "services/task/cgroup.h"

#include <dirent.h>
#include <limits.h>
#include <string.h>

#include "broker/lib/cgroup_path.h"
#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"

#define FILE_SIZE_MAX   (256u << 10)
#define PROCS_SIZE_MAX  (1u << 20)
#define DEPTH_MAX       16
#define DIRECTORIES_MAX 4096

int cgroup_init(struct cgroup *cgroup, const char *mount, const char *path, pid_t pid)
{
	_cleanup_(cleanup_free) char *controllers = text_format("%s/cgroup.controllers", mount);
	char proc[32];

	if (!controllers)
		return error_origin(-ENOMEM);
	*cgroup = (struct cgroup){
		.mount = mount, .path = path ?: "", .is_v2 = !access(controllers, F_OK)};
	snprintf(proc, sizeof(proc), "/proc/%d/cgroup", (int)pid);
	if (pid && *cgroup->path && *cgroup->path != '/')
		(void)file_read_proc(proc, FILE_SIZE_MAX, &cgroup->proc, NULL);
	return 0;
}

void cgroup_deinit(struct cgroup *cgroup)
{
	free(TAKE(cgroup->proc));
}

/* ---- its path ------------------------------------------------------------ */

static bool is_safe(const char *path)
{
	return *path == '/' && strlen(path) > 1 && !strstr(path, "/..");
}

char *cgroup_directory(const struct cgroup *cgroup, const char *controller)
{
	_cleanup_(cleanup_free) char *whole = NULL, *found = NULL;
	const char *path = cgroup->path;

	if (cgroup->proc) {
		whole = cgroup_path_parse(cgroup->proc, cgroup->is_v2 ? "" : controller);
		found = whole ? cgroup_path_in_unit(whole, cgroup->path) : NULL;
		path = found ?: "";
	}
	if (!is_safe(path))
		return NULL;
	return cgroup->is_v2 ? text_format("%s%s", cgroup->mount, path)
			     : text_format("%s/%s%s", cgroup->mount, controller, path);
}

char *cgroup_read(const struct cgroup *cgroup, const char *controller, const char *file)
{
	_cleanup_(cleanup_free) char *directory = cgroup_directory(cgroup, controller);
	_cleanup_(cleanup_free) char *path = directory ? text_format("%s/%s", directory, file)
						       : NULL;
	char *text;

	return path && !file_read_proc(path, FILE_SIZE_MAX, &text, NULL) ? text : NULL;
}

/* ---- its processes ------------------------------------------------------- */

struct collection {
	pid_t *pids;
	size_t count, max;
	unsigned n_directories;
};

static int add_pids(struct collection *collection, const char *text)
{
	pid_t *pid;
	char *end;

	for (; *text; text = *end ? end + 1 : end) {
		long number = strtol(text, &end, 10);

		if (end == text)
			break;
		if (number <= 0 || number > INT_MAX)
			continue; /* of another pid namespace */
		if (collection->count == collection->max)
			return -E2BIG;
		pid = realloc(collection->pids, (collection->count + 1) * sizeof(*pid));
		if (!pid)
			return error_origin(-ENOMEM);
		collection->pids = pid;
		pid[collection->count++] = (pid_t)number;
	}
	return 0;
}

/* A directory that goes away meanwhile, or that has no processes of its own (threaded), is passed over. */
static int collect(struct collection *collection, const char *directory, unsigned depth)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/cgroup.procs", directory);
	_cleanup_(cleanup_free) char *text = NULL;
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int r = path ? 0 : error_origin(-ENOMEM);

	if (!r && !file_read_proc(path, PROCS_SIZE_MAX, &text, NULL))
		r = add_pids(collection, text);
	if (r || depth == DEPTH_MAX || ++collection->n_directories > DIRECTORIES_MAX)
		return r;
	dir = opendir(directory);
	while (!r && dir && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *inner = NULL;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		inner = text_format("%s/%s", directory, entry->d_name);
		r = inner ? collect(collection, inner, depth + 1) : error_origin(-ENOMEM);
	}
	return r;
}

static int compare(const void *a, const void *b)
{
	return *(const pid_t *)a < *(const pid_t *)b ? -1 : *(const pid_t *)a > *(const pid_t *)b;
}

int cgroup_processes(const struct cgroup *cgroup, size_t max, pid_t **ret_pids, size_t *ret_count)
{
	static const char *const controllers[] = {"pids", "freezer", "memory", "devices", "cpu"};
	struct collection collection = {.max = max};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		_cleanup_(cleanup_free) char *directory = cgroup_directory(cgroup, controllers[i]);

		if (!directory || access(directory, F_OK))
			continue;
		r = collect(&collection, directory, 0);
		break;
	}
	if (r) {
		free(collection.pids);
		return r;
	}
	if (collection.count)
		qsort(collection.pids, collection.count, sizeof(pid_t), compare);
	*ret_pids = collection.pids;
	*ret_count = collection.count;
	return 0;
}
