/*
 * FIFOs that clients made under the state directory, each in a directory of its own: they go with the task, for the
 * client may be gone. Those that no task names are the client's, which holds a lock on the directory as long as it
 * lives; what is left an hour after that is swept away.
 */

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

#define SWEEP_MS 3600000
#define KEPT_NS  (3600 * 1000000000ull)

/* <state>/fifo/<directory>/<name>, no deeper and no dots: what others name is none of ours. */
static const char *own_name(const struct task_service *service, const char *uri)
{
	const char *state = service_paths(service->service)->state;
	size_t size = strlen(state);
	const char *path = uri && !strncmp(uri, "fifo://", 7) ? uri + 7 : uri, *slash;

	if (!path || strncmp(path, state, size) != 0 || strncmp(path + size, "/fifo/", 6) != 0)
		return NULL;
	slash = strchr(path + size + 6, '/');
	if (!slash || slash == path + size + 6 || !slash[1] || strchr(slash + 1, '/') ||
	    strstr(path + size, "/."))
		return NULL;
	return path;
}

static void remove_one(const struct task_service *service, const char *uri)
{
	const char *path = own_name(service, uri);
	_cleanup_(cleanup_free) char *directory = path ? strdup(path) : NULL;
	struct stat stat;

	if (!directory || lstat(path, &stat) || !S_ISFIFO(stat.st_mode))
		return;
	(void)unlink(path);
	*strrchr(directory, '/') = '\0';
	(void)rmdir(directory);
}

void task_remove_fifos(const struct task_service *service, const struct task_io *io)
{
	if (!io)
		return;
	remove_one(service, io->stdin);
	remove_one(service, io->stdout);
	remove_one(service, io->stderr);
}

/* ---- those that nobody owns ---------------------------------------------- */

/* FIFOs are all that a client makes there: a directory with anything else in it stays. */
static void remove_fifos_in(DIR *dir)
{
	struct dirent *entry;
	struct stat status;

	while ((entry = readdir(dir)))
		if (!fstatat(dirfd(dir), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) &&
		    S_ISFIFO(status.st_mode))
			(void)unlinkat(dirfd(dir), entry->d_name, 0);
}

int task_remove_fifo_directory(const struct task_service *service, const char *name, bool *ret_done)
{
	_cleanup_(cleanup_free) char *path =
		text_format("%s/fifo/%s", service_paths(service->service)->state, name);
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct stat status;

	if (!path)
		return error_origin(-ENOMEM);
	if (lstat(path, &status))
		return 0;
	if (S_ISFIFO(status.st_mode)) {
		*ret_done = !unlink(path);
		return 0;
	}
	dir = file_open_dir(AT_FDCWD, path);
	if (dir)
		remove_fifos_in(dir);
	*ret_done = dir && !rmdir(path);
	return 0;
}

struct sweep {
	struct task_service *service;
	struct schema_strs names; /* that tasks name, sorted */
};

static int add_name(struct sweep *sweep, const char *uri)
{
	const char *path = own_name(sweep->service, uri);
	size_t size = strlen(service_paths(sweep->service->service)->state) + 6;
	_cleanup_(cleanup_free) char *name = NULL;

	if (!path)
		return 0;
	name = strndup(path + size, (size_t)(strchr(path + size, '/') - path) - size);
	return name ? schema_strs_add(&sweep->names, name) : error_origin(-ENOMEM);
}

static int add_names(struct sweep *sweep, const struct task_io *io)
{
	if (!io)
		return 0;
	return add_name(sweep, io->stdin) ?: add_name(sweep, io->stdout)
		       ?: add_name(sweep, io->stderr);
}

static int add_task(void *userdata, const struct store_key *key, void *data)
{
	(void)key;
	return add_names(userdata, ((const struct task_record *)data)->io);
}

static int add_process(void *userdata, const struct store_key *key, void *data)
{
	(void)key;
	return add_names(userdata, ((const struct task_exec_record *)data)->io);
}

static int read_names(void *userdata)
{
	struct sweep *sweep = userdata;
	struct store *store = sweep->service->store;

	schema_strs_clear(&sweep->names);
	return store_walk(store, SHIM_TABLE, NULL, NULL, schema_task_record(), add_task, sweep)
		       ?: store_walk(store, PROCESS_TABLE, NULL, NULL, schema_task_exec_record(),
				     add_process, sweep);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_named(const struct sweep *sweep, const char *name)
{
	return sweep->names.count && bsearch(&name, sweep->names.items, sweep->names.count,
					     sizeof(*sweep->names.items), compare);
}

/* It is old, and its client is dead. */
static bool is_left(int dir, const char *name, uint64_t now_ns)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;

	if (name[0] == '.' || fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) ||
	    (uint64_t)status.st_mtim.tv_sec * 1000000000 + KEPT_NS > now_ns)
		return false;
	if (!S_ISDIR(status.st_mode))
		return S_ISFIFO(status.st_mode);
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB);
}

static void sweep_all(const struct sweep *sweep, DIR *dir, uint64_t now_ns)
{
	struct dirent *entry;

	while ((entry = readdir(dir))) {
		bool done = false;

		if (is_named(sweep, entry->d_name) || !is_left(dirfd(dir), entry->d_name, now_ns))
			continue;
		(void)task_remove_fifo_directory(sweep->service, entry->d_name, &done);
		if (done)
			log_info("fifo=%s removed: its client is gone", entry->d_name);
	}
}

static void on_sweep(struct loop_timer *timer)
{
	task_sweep_fifos(container_of(timer, struct task_service, fifo_sweep), time_real_ns());
}

void task_sweep_fifos(struct task_service *service, uint64_t now_ns)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/fifo",
							 service_paths(service->service)->state);
	_cleanup_(cleanup_dir) DIR *dir = path ? file_open_dir(AT_FDCWD, path) : NULL;
	struct sweep sweep = {.service = service};

	if (dir && !service_transact(service->service, read_names, &sweep)) {
		if (sweep.names.count)
			qsort(sweep.names.items, sweep.names.count, sizeof(*sweep.names.items),
			      compare);
		sweep_all(&sweep, dir, now_ns);
	}
	schema_strs_clear(&sweep.names);
	(void)loop_timer_set(service->loop, &service->fifo_sweep, time_boot_ms() + SWEEP_MS,
			     on_sweep);
}
