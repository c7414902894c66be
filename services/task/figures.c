/*
 * task.metrics and task.pids: read from the kernel's files at once, without the
 * shims. A page of figures ends when it is full or has taken long enough.
 */

#include <fcntl.h>
#include <string.h>

#include "services/task/handlers.h"
#include "services/task/metrics.h"

#define PAGE_MAX      200
#define PAGE_SIZE     (512u << 10) /* of text, so that a reply stays below what a message may hold */
#define PAGE_MS       100
#define STAT_SIZE     64 /* of a line of memory.stat, packed; about */
#define PIDS_MAX      32768
#define PIDS_KNOWN    2048 /* so many get a command and the process that they descend from */
#define COMMAND_SHOWN 256
#define DESCENT_MAX   64
#define LINE_MAX_SIZE 4096

static bool has_figures(enum task_status status)
{
	return status != TASK_CREATING && status != TASK_STOPPED && status != TASK_DELETED;
}

/* ---- metrics ------------------------------------------------------------- */

static int read_figures(const struct task_record *record, bool brief, struct task_metrics *metrics)
{
	_cleanup_(cgroup_deinit) struct cgroup cgroup = {};
	int r;

	metrics->time_ns = time_real_ns();
	r = cgroup_init(&cgroup, CGROUP_MOUNT, record->cgroup, (pid_t)record->pid);
	if (!r)
		r = metrics_read(&cgroup, brief, metrics);
	if (!r)
		r = schema_set(&metrics->container_id, record->container_id)
			    ?: schema_set(&metrics->namespace, record->namespace);
	return r;
}

struct page {
	const struct task_metrics_request *request;
	struct filter *filter;
	struct store_key after; /* size 0: from the start */
	uint64_t until_ms;
	size_t size;
	struct task_metrics_reply *reply;
	bool is_full;
};

static bool is_asked_for(const struct page *page, const struct store_key *key,
			 const struct task_record *record, int *ret_error)
{
	_cleanup_(task_process_clear) struct task_process process = {};

	*ret_error = 0;
	if (!has_figures(record->status) ||
	    (key->size == page->after.size && !memcmp(key->data, page->after.data, key->size)))
		return false;
	*ret_error = task_describe(record, &process);
	return !*ret_error && filter_match_message(page->filter, schema_task_process(), &process);
}

static bool is_page_full(const struct page *page)
{
	size_t count = page->reply->metrics.count;

	return count &&
	       (count == PAGE_MAX || page->size > PAGE_SIZE || time_boot_ms() >= page->until_ms);
}

static int add_figures(void *userdata, const struct store_key *key, void *data)
{
	_cleanup_(task_metrics_clear) struct task_metrics metrics = {};
	const struct task_record *record = data;
	struct page *page = userdata;
	struct task_metrics *item;
	int r;

	if (!is_asked_for(page, key, record, &r))
		return r;
	if (is_page_full(page)) {
		page->is_full = true;
		return 1;
	}
	r = read_figures(record, page->request->brief, &metrics);
	if (r)
		return r == -ENOENT ? 0 : error_trace(r); /* it has just ended */
	item = schema_list_add(&page->reply->metrics);
	if (!item)
		return error_origin(-ENOMEM);
	*item = metrics;
	metrics = (struct task_metrics){};
	page->size += 1024 + item->memory_stat.count * STAT_SIZE +
		      item->io.count * sizeof(*item->io.items);
	return 0;
}

static int end_page(struct task_metrics_reply *reply)
{
	const struct task_metrics *last = &reply->metrics.items[reply->metrics.count - 1];

	return schema_set(&reply->after, last->container_id)
		       ?: schema_set(&reply->after_namespace, last->namespace);
}

static int find_start(const struct task_metrics_request *request, const char *namespace,
		      struct store_key *ret_after)
{
	bool is_named = request->after_namespace && *request->after_namespace;

	if (!request->after || !*request->after)
		return 0;
	return store_key(ret_after,
			 request->all_namespaces && is_named ? request->after_namespace : namespace,
			 request->after, NULL);
}

static int metrics_page(struct task_service *service, const char *namespace, struct page *page)
{
	bool all = page->request->all_namespaces;
	struct store_key prefix;
	int r;

	page->until_ms = time_boot_ms() + PAGE_MS;
	r = store_key(&prefix, namespace, "", NULL)
		    ?: find_start(page->request, namespace, &page->after);
	if (r)
		return error_fold(r);
	r = store_walk(service->store, TASK_TABLE, all ? NULL : &prefix,
		       page->after.size ? &page->after
		       : all            ? NULL
					: &prefix,
		       schema_task_record(), add_figures, page);
	if (r < 0 || r > 1)
		return r;
	return page->is_full ? end_page(page->reply) : 0;
}

static int metrics_of(struct task_service *service, struct call *call,
		      const struct task_metrics_request *request, struct task_metrics_reply *reply)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	struct task_metrics *item;
	bool found;
	int r;

	r = task_find(service, call, request->container_id, &record, &found);
	if (r || !found)
		return r;
	item = schema_list_add(&reply->metrics);
	if (!item)
		return error_origin(-ENOMEM);
	r = has_figures(record.status) ? read_figures(&record, request->brief, item) : -ENOENT;
	if (r != -ENOENT)
		return error_trace(r);
	return call_fail(call, BUS_FAILED_PRECONDITION,
			 "container '%s' has no figures: its task is %s%s", record.container_id,
			 schema_enum_text(&schema_enum_task_status, record.status),
			 has_figures(record.status) ? " and has no cgroup" : "");
}

int task_metrics(struct task_service *service, const struct task_metrics_request *request,
		 struct task_metrics_reply *reply, struct call *call)
{
	_cleanup_(filter_freep) struct filter *filter = NULL;
	const char *namespace = call_checked_namespace(call);
	struct page page = {.request = request, .reply = reply};
	struct schema_fault fault = {};
	int r;

	if (!namespace)
		return 0;
	if (request->container_id && *request->container_id)
		return metrics_of(service, call, request, reply);
	r = filter_parse(&request->filters, &filter, &fault);
	if (r > 0)
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	page.filter = filter;
	if (!r)
		r = metrics_page(service, namespace, &page);
	return r > 0 ? call_fail_store(call, r, "tasks") : r;
}

/* ---- pids ---------------------------------------------------------------- */

struct roots {
	uint64_t init;
	struct {
		uint64_t pid;
		char exec_id[ENVELOPE_NAME_MAX + 1];
	} added[PROCESSES_MAX];
	size_t n_added;
};

static int add_root(void *userdata, const struct store_key *key, void *data)
{
	const struct task_exec_record *record = data;
	struct roots *roots = userdata;

	(void)key;
	if (record->status != TASK_RUNNING || roots->n_added == PROCESSES_MAX)
		return 0;
	roots->added[roots->n_added].pid = record->pid;
	snprintf(roots->added[roots->n_added].exec_id, sizeof(roots->added[0].exec_id), "%s",
		 record->exec_id);
	roots->n_added++;
	return 0;
}

static const char *root_named(const struct roots *roots, uint64_t pid)
{
	for (size_t i = 0; i < roots->n_added; i++) {
		if (roots->added[i].pid == pid)
			return roots->added[i].exec_id;
	}
	return NULL;
}

/* Field 4 of /proc/<pid>/stat; 0: it is gone. */
static uint64_t parent_of(uint64_t pid)
{
	_cleanup_(cleanup_free) char *text = NULL;
	const char *end;
	char path[48];

	snprintf(path, sizeof(path), "/proc/%llu/stat", (unsigned long long)pid);
	if (file_read_proc(path, LINE_MAX_SIZE, &text, NULL))
		return 0;
	end = strrchr(text, ')');
	return end && end[1] && end[2] && end[3] ? strtoull(end + 4, NULL, 10) : 0;
}

static const char *descends_from(const struct roots *roots, uint64_t pid)
{
	for (unsigned i = 0; i < DESCENT_MAX && pid > 1 && pid != roots->init; i++) {
		const char *exec_id = root_named(roots, pid);

		if (exec_id)
			return exec_id;
		pid = parent_of(pid);
	}
	return NULL;
}

/* Arguments are whatever the process says: what is no text is shown as '?'. */
static void make_printable(char *text, size_t size)
{
	while (size && !text[size - 1])
		size--;
	for (size_t i = 0; i < size; i++) {
		if (!text[i] || text[i] == '\n' || text[i] == '\t')
			text[i] = ' ';
		else if ((unsigned char)text[i] < ' ' || text[i] == 127)
			text[i] = '?';
	}
	text[size] = '\0';
	for (size_t i = 0; !schema_is_text(text, size) && i < size; i++) {
		if ((unsigned char)text[i] > 127)
			text[i] = '?';
	}
}

/* The start of a file of /proc, which may be longer. */
static size_t read_start(const char *format, uint64_t pid, char *buffer, size_t size)
{
	_cleanup_(cleanup_fd) int fd = -1;
	char path[48];
	ssize_t n;

	snprintf(path, sizeof(path), format, (unsigned long long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, buffer, size);
	return n > 0 ? (size_t)n : 0;
}

static int show_command(struct task_pid *item)
{
	char line[COMMAND_SHOWN + 1], name[32];
	size_t n = read_start("/proc/%llu/cmdline", item->pid, line, COMMAND_SHOWN);

	line[n] = '\0';
	make_printable(line, n);
	if (*line)
		return schema_set(&item->command, line);
	n = read_start("/proc/%llu/comm", item->pid, name, sizeof(name) - 1);
	name[n] = '\0';
	name[strcspn(name, "\n")] = '\0';
	make_printable(name, strlen(name));
	snprintf(line, sizeof(line), "[%s]", name);
	return schema_set(&item->command, line);
}

static int add_pid(struct task_pids_reply *reply, const struct roots *roots, pid_t pid)
{
	struct task_pid *item = schema_list_add(&reply->processes);
	const char *exec_id;

	if (!item)
		return error_origin(-ENOMEM);
	item->pid = (uint64_t)pid;
	if (reply->processes.count > PIDS_KNOWN)
		return 0;
	exec_id = descends_from(roots, item->pid);
	return (exec_id ? schema_set(&item->exec_id, exec_id) : 0) ?: show_command(item);
}

/* Without a cgroup of its own, what is known by its records. */
static int known_pids(const struct roots *roots, struct task_pids_reply *reply)
{
	int r = roots->init ? add_pid(reply, roots, (pid_t)roots->init) : 0;

	for (size_t i = 0; !r && i < roots->n_added; i++)
		r = add_pid(reply, roots, (pid_t)roots->added[i].pid);
	return r;
}

static int list_pids(const struct task_record *record, const struct roots *roots,
		     struct task_pids_reply *reply)
{
	_cleanup_(cgroup_deinit) struct cgroup cgroup = {};
	_cleanup_(cleanup_free) pid_t *pids = NULL;
	size_t count;
	int r;

	r = cgroup_init(&cgroup, CGROUP_MOUNT, record->cgroup, (pid_t)record->pid);
	if (!r)
		r = cgroup_processes(&cgroup, PIDS_MAX, &pids, &count);
	if (r)
		return r;
	if (!count)
		return known_pids(roots, reply);
	for (size_t i = 0; !r && i < count; i++)
		r = add_pid(reply, roots, pids[i]);
	return r;
}

int task_pids(struct task_service *service, const struct task_container_request *request,
	      struct task_pids_reply *reply, struct call *call)
{
	_cleanup_(task_record_clear) struct task_record record = {};
	_cleanup_(cleanup_free) struct roots *roots = calloc(1, sizeof(*roots));
	bool found;
	int r;

	if (!roots)
		return error_origin(-ENOMEM);
	r = task_find(service, call, request->container_id, &record, &found);
	if (r || !found || !has_figures(record.status))
		return r;
	roots->init = record.pid;
	r = added_walk(service, record.task_id, add_root, roots);
	if (r)
		return r > 0 ? call_fail_store(call, r, "the processes") : r;
	r = list_pids(&record, roots, reply);
	return r == -E2BIG ? call_fail(call, BUS_RESOURCE_EXHAUSTED,
				       "container '%s' has more than %d processes",
				       record.container_id, PIDS_MAX)
			   : error_trace(r);
}
