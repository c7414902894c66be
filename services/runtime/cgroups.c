/* See cgroups.h. */

#include "services/runtime/cgroups.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/inotify.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/lib/loop.h"
#include "schemas/json.h"
#include "services/runtime/bundle.h"
#include "services/runtime/host.h"

#define MOUNT     "/sys/fs/cgroup"
#define FIRST_MS  50
#define MOST_MS   30000
#define QUIET_MS  2000 /* before parents go: the next container may want them */
#define REPORT_MS 60000
#define MAKING_MS 60000 /* until a bundle that was announced counts as one that never came */

struct entry {
	struct entry *next;
	char task_id[ID_TEXT_SIZE];
	char *path; /* absolute, beneath each hierarchy */
	uint64_t added_ms;
	uint64_t ended_ms; /* when its bundle was gone */
	uint64_t reported_ms;
};

struct cgroups {
	struct service *service;
	char *bundles;
	char parent[16];     /* davit-<8 hex> */
	struct entry *live;  /* with a bundle */
	struct entry *ended; /* without: to be removed */
	int inotify;
	struct loop_file events;
	struct loop_timer timer, parents_timer;
	unsigned delay_ms;
	bool is_whole; /* all that there was at the start is known */
};

static void entry_free(struct entry *entry)
{
	free(entry->path);
	free(entry);
}

static void free_all(struct entry *entry)
{
	while (entry) {
		struct entry *next = entry->next;

		entry_free(entry);
		entry = next;
	}
}

static bool is_within(const char *path, const char *above)
{
	size_t size = strlen(above);

	return !strncmp(path, above, size) && (!path[size] || path[size] == '/');
}

/* A live container has @path, or lies beneath it. */
static bool is_in_use(const struct cgroups *cgroups, const char *path)
{
	for (const struct entry *entry = cgroups->live; entry; entry = entry->next)
		if (is_within(entry->path, path))
			return true;
	return false;
}

bool cgroups_is_owned(const struct cgroups *cgroups, const char *path)
{
	return is_in_use(cgroups, path);
}

int cgroups_each(const struct cgroups *cgroups,
		 int (*fn)(void *userdata, const char *task_id, const char *path), void *userdata)
{
	int r = 0;

	for (const struct entry *entry = cgroups->live; !r && entry; entry = entry->next)
		r = fn(userdata, entry->task_id, entry->path);
	return r;
}

/* ---- what is left of a container ---- */

static void on_timer(struct loop_timer *timer);
static void on_parents_timer(struct loop_timer *timer);

static void set_timers(struct cgroups *cgroups)
{
	struct loop *loop = service_loop(cgroups->service);
	uint64_t now_ms = time_boot_ms();
	int r = 0;

	if (cgroups->ended)
		r = loop_timer_set(loop, &cgroups->timer, now_ms + cgroups->delay_ms, on_timer);
	if (!r)
		r = loop_timer_set(loop, &cgroups->parents_timer, now_ms + QUIET_MS,
				   on_parents_timer);
	if (r)
		log_error("cgroups: no timer: %s", strerror(-r));
}

static void report(struct entry *entry, uint64_t now_ms)
{
	if (entry->reported_ms && now_ms < entry->reported_ms + REPORT_MS)
		return;
	entry->reported_ms = now_ms;
	log_warning(
		"task=%s cgroup=%s is busy %llu ms after its container's end: a process is in it; "
		"tried again until it is gone",
		entry->task_id, entry->path, (unsigned long long)(now_ms - entry->ended_ms));
}

/* Gone, or somebody else's by now: then it is not our business any more. */
static bool is_done(struct cgroups *cgroups, struct entry *entry, uint64_t now_ms)
{
	if (is_in_use(cgroups, entry->path) || cgroup_remove_empty(MOUNT, entry->path + 1)) {
		if (entry->reported_ms)
			log_info("task=%s cgroup=%s is gone", entry->task_id, entry->path);
		return true;
	}
	report(entry, now_ms);
	return false;
}

static void on_timer(struct loop_timer *timer)
{
	struct cgroups *cgroups = container_of(timer, struct cgroups, timer);
	uint64_t now_ms = time_boot_ms();

	for (struct entry **at = &cgroups->ended, *entry; (entry = *at);) {
		if (is_done(cgroups, entry, now_ms)) {
			*at = entry->next;
			entry_free(entry);
		} else {
			at = &entry->next;
		}
	}
	cgroups->delay_ms *= 2;
	if (cgroups->delay_ms > MOST_MS)
		cgroups->delay_ms = MOST_MS;
	if (cgroups->ended)
		set_timers(cgroups);
}

/* ---- bundles come and go ---- */

static struct entry **find(struct entry **list, const char *task_id)
{
	while (*list && strcmp((*list)->task_id, task_id))
		list = &(*list)->next;
	return list;
}

int cgroups_add(struct cgroups *cgroups, const char *task_id, const char *cgroup)
{
	struct entry *entry;

	if (!cgroup || *cgroup != '/' || *find(&cgroups->live, task_id))
		return 0;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return error_origin(-ENOMEM);
	entry->path = strdup(cgroup);
	if (!entry->path) {
		entry_free(entry);
		return error_origin(-ENOMEM);
	}
	snprintf(entry->task_id, sizeof(entry->task_id), "%s", task_id);
	entry->added_ms = time_boot_ms();
	entry->next = cgroups->live;
	cgroups->live = entry;
	return 0;
}

static void end(struct cgroups *cgroups, const char *task_id)
{
	struct entry **at = find(&cgroups->live, task_id), *entry = *at;

	if (!entry)
		return;
	*at = entry->next;
	entry->ended_ms = time_boot_ms();
	entry->next = cgroups->ended;
	cgroups->ended = entry;
	cgroups->delay_ms = FIRST_MS;
	set_timers(cgroups);
}

void cgroups_drop(struct cgroups *cgroups, const char *task_id)
{
	end(cgroups, task_id);
}

/* A bundle may never have come, and events may be lost: what has no bundle has ended. */
static void look(struct cgroups *cgroups)
{
	uint64_t now_ms = time_boot_ms();
	struct entry *entry = cgroups->live;

	while (entry) {
		struct entry *next = entry->next;
		_cleanup_(cleanup_free) char *path = text_format("%s/%s", cgroups->bundles,
								 entry->task_id);

		if (path && now_ms > entry->added_ms + MAKING_MS && access(path, F_OK) &&
		    errno == ENOENT)
			end(cgroups, entry->task_id);
		entry = next;
	}
}

/* ---- parents ---- */

static void remove_namespace(struct cgroups *cgroups, int parent, const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("/%s/%s", cgroups->parent, name);

	if (path && !is_in_use(cgroups, path))
		(void)unlinkat(parent, name, AT_REMOVEDIR);
}

/* rmdir fails where there is a child or a process: that is the check. */
static void remove_namespaces(struct cgroups *cgroups, const char *directory)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(directory);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && *entry->d_name != '.')
			remove_namespace(cgroups, dirfd(dir), entry->d_name);
}

static void remove_parent(struct cgroups *cgroups, const char *hierarchy)
{
	_cleanup_(cleanup_free) char *directory = text_format(MOUNT "/%s/%s", hierarchy,
							      cgroups->parent);
	_cleanup_(cleanup_free) char *path = text_format("/%s", cgroups->parent);

	if (!directory || !path)
		return;
	remove_namespaces(cgroups, directory);
	if (!is_in_use(cgroups, path))
		(void)rmdir(directory);
}

/* "." is v2's. */
static void remove_parents(struct cgroups *cgroups)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(MOUNT);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && strcmp(entry->d_name, ".."))
			remove_parent(cgroups, entry->d_name);
}

static void on_parents_timer(struct loop_timer *timer)
{
	struct cgroups *cgroups = container_of(timer, struct cgroups, parents_timer);

	look(cgroups);
	remove_parents(cgroups);
}

/* ---- events ---- */

/* False: there are none. */
static bool take_events(struct cgroups *cgroups)
{
	char buffer[16384] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(cgroups->inotify, buffer, sizeof(buffer));

	for (char *at = buffer; n > 0 && at < buffer + n;) {
		const struct inotify_event *event = (const struct inotify_event *)at;

		at += sizeof(*event) + event->len;
		if (event->mask & IN_Q_OVERFLOW)
			look(cgroups);
		else if (event->len)
			end(cgroups, event->name);
	}
	return n > 0;
}

static void on_events(struct loop_file *file, uint32_t events)
{
	(void)events;
	(void)take_events(container_of(file, struct cgroups, events));
}

/* ---- start and end ---- */

/* Of a bundle that an earlier instance made. */
static int add_bundle(struct cgroups *cgroups, const char *task_id)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s/config.json", cgroups->bundles,
							 task_id);
	_cleanup_(json_cleanup) json_t *spec = NULL;
	_cleanup_(cleanup_free) char *text = NULL;
	struct schema_fault fault = {};
	int r = path ? file_read(AT_FDCWD, path, 2 * (size_t)SPEC_SIZE_MAX, &text, NULL)
		     : error_origin(-ENOMEM);

	if (r == -ENOMEM)
		return error_trace(r);
	spec = text ? json_parse(text, strlen(text), 2 * (size_t)SPEC_SIZE_MAX, &fault) : NULL;
	return cgroups_add(
		cgroups, task_id,
		json_string_value(json_object_get(json_object_get(spec, "linux"), "cgroupsPath")));
}

static int add_bundles(struct cgroups *cgroups)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(cgroups->bundles);
	struct dirent *entry;
	uint8_t id[ID_SIZE];
	int r = 0;

	while (!r && dir && (entry = readdir(dir)))
		if (!id_parse(entry->d_name, id))
			r = add_bundle(cgroups, entry->d_name);
	return r;
}

/* Containers of davit that have no bundle: they ended while nobody looked. */
static int add_ended(struct cgroups *cgroups, const char *namespace, const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("/%s/%s/%s", cgroups->parent, namespace,
							 name);
	struct entry *entry;

	if (!path)
		return error_origin(-ENOMEM);
	for (entry = cgroups->ended; entry; entry = entry->next)
		if (!strcmp(entry->path, path))
			return 0;
	if (is_in_use(cgroups, path))
		return 0;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return error_origin(-ENOMEM);
	entry->path = TAKE(path);
	snprintf(entry->task_id, sizeof(entry->task_id), "unknown");
	entry->ended_ms = time_boot_ms();
	entry->next = cgroups->ended;
	cgroups->ended = entry;
	return 0;
}

static int find_ended(struct cgroups *cgroups, int parent, const char *namespace)
{
	_cleanup_(cleanup_dir) DIR *dir = file_open_dir(parent, namespace);
	struct dirent *entry;
	int r = 0;

	while (!r && dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && *entry->d_name != '.')
			r = add_ended(cgroups, namespace, entry->d_name);
	return r;
}

static int find_ended_in(struct cgroups *cgroups, const char *hierarchy)
{
	_cleanup_(cleanup_free) char *path = text_format(MOUNT "/%s/%s", hierarchy,
							 cgroups->parent);
	_cleanup_(cleanup_dir) DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;
	int r = path ? 0 : error_origin(-ENOMEM);

	while (!r && dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && *entry->d_name != '.')
			r = find_ended(cgroups, dirfd(dir), entry->d_name);
	return r;
}

static int find_all_ended(struct cgroups *cgroups)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(MOUNT);
	struct dirent *entry;
	int r = 0;

	while (!r && dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && strcmp(entry->d_name, ".."))
			r = find_ended_in(cgroups, entry->d_name);
	return r;
}

static int watch(struct cgroups *cgroups)
{
	cgroups->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (cgroups->inotify < 0 ||
	    inotify_add_watch(cgroups->inotify, cgroups->bundles, IN_DELETE | IN_ONLYDIR) < 0)
		return error_origin(-errno);
	return loop_file_add(service_loop(cgroups->service), &cgroups->events, cgroups->inotify,
			     EPOLLIN, on_events);
}

int cgroups_new(struct service *service, struct cgroups **ret_cgroups)
{
	const char *state = service_paths(service)->state;
	struct cgroups *cgroups = calloc(1, sizeof(*cgroups));
	int r;

	if (!cgroups)
		return error_origin(-ENOMEM);
	*cgroups = (struct cgroups){.service = service, .inotify = -1, .delay_ms = FIRST_MS};
	host_cgroup_parent(state, cgroups->parent);
	cgroups->bundles = text_format("%s/bundles", state);
	r = cgroups->bundles ? watch(cgroups) : error_origin(-ENOMEM);
	r = r ?: add_bundles(cgroups);
	r = r ?: find_all_ended(cgroups);
	if (r) {
		cgroups_free(cgroups);
		return error_trace(r);
	}
	cgroups->is_whole = true;
	set_timers(cgroups);
	*ret_cgroups = cgroups;
	return 0;
}

/* Whoever comes next may come in a year. */
static void look_once_more(struct cgroups *cgroups)
{
	while (take_events(cgroups))
		;
	for (const struct entry *entry = cgroups->ended; entry; entry = entry->next)
		if (!is_in_use(cgroups, entry->path))
			(void)cgroup_remove_empty(MOUNT, entry->path + 1);
	remove_parents(cgroups);
}

struct cgroups *cgroups_free(struct cgroups *cgroups)
{
	if (!cgroups)
		return NULL;
	if (cgroups->is_whole)
		look_once_more(cgroups);
	loop_timer_cancel(&cgroups->timer);
	loop_timer_cancel(&cgroups->parents_timer);
	loop_file_remove(&cgroups->events);
	close_fd(cgroups->inotify);
	free_all(cgroups->live);
	free_all(cgroups->ended);
	free(cgroups->bundles);
	free(cgroups);
	return NULL;
}
