#include "shim/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/cgroup_path.h"
#include "broker/lib/file.h"

#define MOUNT     "/sys/fs/cgroup"
#define FILE_MAX  (64u << 10)
#define PROCS_MAX (4u << 20)
#define DEPTH_MAX 64 /* of cgroups below the container's */

/* ---- text ---------------------------------------------------------------- */

uint64_t cgroup_parse_count(const char *text, const char *key)
{
	size_t size = strlen(key);

	for (; *text; text = strchrnul(text, '\n'), text += *text != '\0')
		if (!strncmp(text, key, size) && text[size] == ' ')
			return strtoull(text + size + 1, NULL, 10);
	return 0;
}

/* ---- where --------------------------------------------------------------- */

/* MOUNT/<controller><path>, if @file lies there. */
static char *directory_with(const char *controller, const char *path, const char *file)
{
	_cleanup_(cleanup_free) char *directory =
		text_format(MOUNT "%s%s%s", *controller ? "/" : "", controller, path);
	_cleanup_(cleanup_free) char *name = NULL;

	if (!directory)
		return NULL;
	name = text_format("%s/%s", directory, file);
	return name && !access(name, F_OK) ? TAKE(directory) : NULL;
}

static char *file_in(const char *controller, const char *path, const char *file)
{
	_cleanup_(cleanup_free) char *directory = directory_with(controller, path, file);

	return directory ? text_format("%s/%s", directory, file) : NULL;
}

/* The configured path; for a systemd name (slice:prefix:name) what init is in, if that is what was
 * asked for: a process without a cgroup of its own is in somebody else's. */
static char *path_of(const char *path, const char *proc, const char *controller)
{
	_cleanup_(cleanup_free) char *found = NULL;

	if (path && path[0] == '/')
		return path[1] && !strstr(path, "/..") ? strdup(path) : NULL;
	found = path && proc ? cgroup_path_parse(proc, controller) : NULL;
	return found ? cgroup_path_in_unit(found, path) : NULL;
}

static bool find_v2(const char *path, const char *proc, struct cgroup *cgroup)
{
	_cleanup_(cleanup_free) char *unified = path_of(path, proc, "");

	if (access(MOUNT "/cgroup.controllers", F_OK))
		return false;
	cgroup->is_v2 = true;
	if (unified) {
		cgroup->memory = directory_with("", unified, "memory.events");
		cgroup->procs = directory_with("", unified, "cgroup.procs");
		cgroup->freeze = file_in("", unified, "cgroup.freeze");
	}
	return true;
}

static void find_v1(const char *path, const char *proc, struct cgroup *cgroup)
{
	static const char *const controllers[] = {"pids", "freezer", "memory", "devices", "cpu"};
	_cleanup_(cleanup_free) char *memory = path_of(path, proc, "memory");
	_cleanup_(cleanup_free) char *freezer = path_of(path, proc, "freezer");

	if (freezer)
		cgroup->freeze = file_in("freezer", freezer, "freezer.state");
	if (memory)
		cgroup->memory = directory_with("memory", memory, "memory.oom_control");
	for (size_t i = 0; i < ARRAY_SIZE(controllers) && !cgroup->procs; i++) {
		_cleanup_(cleanup_free) char *found = path_of(path, proc, controllers[i]);

		if (found)
			cgroup->procs = directory_with(controllers[i], found, "cgroup.procs");
	}
}

int cgroup_find(const char *path, pid_t pid, struct cgroup *ret_cgroup)
{
	_cleanup_(cleanup_free) char *proc = NULL;
	char name[32];

	*ret_cgroup = (struct cgroup){};
	snprintf(name, sizeof(name), "/proc/%d/cgroup", (int)pid);
	if (pid && path && path[0] != '/')
		(void)file_read_proc(name, FILE_MAX, &proc, NULL);
	if (!find_v2(path, proc, ret_cgroup))
		find_v1(path, proc, ret_cgroup);
	return 0;
}

void cgroup_deinit(struct cgroup *cgroup)
{
	free(cgroup->memory);
	free(cgroup->procs);
	free(cgroup->freeze);
	*cgroup = (struct cgroup){};
}

/* ---- what for ------------------------------------------------------------ */

uint64_t cgroup_oom_kills(const struct cgroup *cgroup)
{
	_cleanup_(cleanup_free) char *text = NULL, *path = NULL;

	if (!cgroup->memory)
		return 0;
	path = text_format("%s/%s", cgroup->memory,
			   cgroup->is_v2 ? "memory.events" : "memory.oom_control");
	if (!path || file_read_proc(path, FILE_MAX, &text, NULL))
		return 0;
	return cgroup_parse_count(text, "oom_kill");
}

/* One that has ended needs none. */
static int signal_one(pid_t pid, int signal)
{
	_cleanup_(cleanup_fd) int fd = pidfd_open(pid, 0);
	int r = fd < 0 || pidfd_send_signal(fd, signal, NULL, 0) ? -errno : 0;

	/* ENOENT, before Linux 6.16 EINVAL: by now the number is that of a thread. */
	return r == -ESRCH || (fd < 0 && (r == -ENOENT || r == -EINVAL)) ? 0 : r;
}

/* The next pid of a cgroup.procs; 0 at the end. */
static pid_t next_pid(const char **text)
{
	char *end;
	long pid = strtol(*text, &end, 10);

	*text = end + (*end == '\n');
	return pid > 0 && pid <= INT_MAX ? (pid_t)pid : 0;
}

/* The shim is never in its container's cgroup: one with the shim in it is not the container's. */
static bool is_ours(const char *text)
{
	pid_t pid;

	while ((pid = next_pid(&text)))
		if (pid == getpid() || pid == 1)
			return true;
	return false;
}

struct round {
	int signal; /* 0: only counts */
	pid_t except;
	size_t count;
	int error; /* of one of the processes; the others get it all the same */
};

static void signal_listed(struct round *round, const char *text)
{
	pid_t pid;
	int r;

	while ((pid = next_pid(&text))) {
		if (pid == round->except)
			continue;
		round->count++;
		r = round->signal ? signal_one(pid, round->signal) : 0;
		round->error = r ?: round->error;
	}
}

/* One that is gone has no processes, nor has a threaded one, whose threads are listed above. */
static int signal_directory(struct round *round, const char *directory)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/cgroup.procs", directory);
	_cleanup_(cleanup_free) char *text = NULL;
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = file_read_proc(path, PROCS_MAX, &text, NULL);
	if (r == -ENOENT || r == -ENODEV || r == -EOPNOTSUPP)
		return 0;
	if (r)
		return error_trace(r);
	if (is_ours(text))
		return error_origin(-EPERM);
	signal_listed(round, text);
	return 0;
}

/* A container that has a manager of its own keeps its processes in cgroups below. */
static int signal_tree(struct round *round, const char *directory, unsigned depth)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int r = signal_directory(round, directory);

	if (r || depth == DEPTH_MAX)
		return error_trace(r);
	dir = opendir(directory);
	while (!r && dir && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *below = NULL;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		below = text_format("%s/%s", directory, entry->d_name);
		r = below ? signal_tree(round, below, depth + 1) : error_origin(-ENOMEM);
	}
	return r;
}

int cgroup_signal(const struct cgroup *cgroup, int signal, pid_t except, size_t *ret_count)
{
	struct round round = {.signal = signal, .except = except};
	int r = cgroup->procs ? signal_tree(&round, cgroup->procs, 0) : 0;

	*ret_count = round.count;
	return error_trace(r ?: round.error);
}

int cgroup_thaw(const struct cgroup *cgroup)
{
	const char *text = cgroup->is_v2 ? "0" : "THAWED";
	_cleanup_(cleanup_fd) int fd = -1;

	if (!cgroup->freeze)
		return -ENOENT;
	fd = open(cgroup->freeze, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return error_origin(-errno);
	return 0;
}

bool cgroup_is_frozen(const struct cgroup *cgroup)
{
	_cleanup_(cleanup_free) char *text = NULL;

	if (!cgroup->freeze || file_read_proc(cgroup->freeze, FILE_MAX, &text, NULL))
		return false;
	return cgroup->is_v2 ? text[0] == '1' : !strncmp(text, "FR", 2); /* FROZEN, FREEZING */
}

void cgroup_remove(const char *path)
{
	_cleanup_(cleanup_dir) DIR *controllers = NULL;
	struct dirent *entry;

	if (!path || path[0] != '/' || !path[1] || strstr(path, "/.."))
		return;
	controllers = opendir(MOUNT);
	while (controllers && (entry = readdir(controllers))) {
		/* "." is v2's. Fails where there is none, or where something is left in it. */
		_cleanup_(cleanup_free) char *directory = text_format(MOUNT "/%s%s", entry->d_name,
								      path);

		if (directory && strcmp(entry->d_name, ".."))
			(void)rmdir(directory);
	}
}
