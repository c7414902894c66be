/*
 * task.list: two tables, the live tasks and the last ones of containers that have
 * none, merged in order of namespace and container id, a page at a time.
 */

#include <string.h>

#include "services/task/task.h"

#define PAGE_DEFAULT 250
#define PAGE_SIZE    (512u << 10) /* of text, so that a reply stays below what a message may hold */

/* What one table has for the page, and one more item, which tells that there is more. */
struct column {
	const struct task_list_request *request;
	struct filter *filter;
	struct store_key after; /* size 0: from the start */
	size_t limit;
	struct {
		struct task_process *items;
		size_t count;
	} found;
};

static void column_clear(struct column *column)
{
	for (size_t i = 0; i < column->found.count; i++)
		task_process_clear(&column->found.items[i]);
	free(column->found.items);
}

static bool is_after(const struct column *column, const struct store_key *key)
{
	return key->size != column->after.size ||
	       memcmp(key->data, column->after.data, key->size) != 0;
}

static int take_row(void *userdata, const struct store_key *key, void *data)
{
	_cleanup_(task_process_clear) struct task_process process = {};
	struct column *column = userdata;
	struct task_process *item;
	int r;

	if (!is_after(column, key) || ((const struct task_record *)data)->forgotten)
		return 0;
	r = task_describe(data, &process);
	if (r)
		return error_trace(r);
	if (!filter_match_message(column->filter, schema_task_process(), &process))
		return 0;
	item = schema_list_add(&column->found);
	if (!item)
		return error_origin(-ENOMEM);
	*item = process;
	process = (struct task_process){};
	return column->found.count > column->limit ? 1 : 0;
}

static int walk(struct task_service *service, const char *table, const struct store_key *prefix,
		struct column *column)
{
	int r;

	r = store_walk(service->store, table, prefix, column->after.size ? &column->after : prefix,
		       schema_task_record(), take_row, column);
	return r == 1 ? 0 : r;
}

static int compare(const struct task_process *a, const struct task_process *b)
{
	return strcmp(a->namespace, b->namespace) ?: strcmp(a->container_id, b->container_id);
}

static size_t text_size(const struct task_process *process)
{
	size_t size = 512; /* names of fields, numbers, and what has a small limit */

	size += process->bundle ? strlen(process->bundle) : 0;
	size += process->runtime ? strlen(process->runtime) : 0;
	size += process->reason ? strlen(process->reason) : 0;
	size += process->log ? strlen(process->log) : 0;
	if (process->io) {
		size += process->io->stdin ? strlen(process->io->stdin) : 0;
		size += process->io->stdout ? strlen(process->io->stdout) : 0;
		size += process->io->stderr ? strlen(process->io->stderr) : 0;
	}
	return size;
}

static int end_page(struct task_list_reply *reply)
{
	const struct task_process *last = &reply->tasks.items[reply->tasks.count - 1];

	return schema_set(&reply->after, last->container_id)
		       ?: schema_set(&reply->after_namespace, last->namespace);
}

/* Of the same container the live task counts. */
static int merge(struct column *live, struct column *ended, struct task_list_reply *reply)
{
	size_t i = 0, j = 0, size = 0;

	while (i < live->found.count || j < ended->found.count) {
		struct task_process *left = i < live->found.count ? &live->found.items[i] : NULL;
		struct task_process *right = j < ended->found.count ? &ended->found.items[j] : NULL;
		int order = !left ? 1 : !right ? -1 : compare(left, right);
		struct task_process *next = order <= 0 ? left : right, *item;

		size += text_size(next);
		if (reply->tasks.count && (reply->tasks.count == live->limit || size > PAGE_SIZE))
			return end_page(reply);
		item = schema_list_add(&reply->tasks);
		if (!item)
			return error_origin(-ENOMEM);
		*item = *next;
		*next = (struct task_process){};
		i += order <= 0;
		j += order >= 0;
	}
	return 0;
}

static int find_start(const struct task_list_request *request, const char *namespace,
		      struct store_key *ret_after)
{
	bool is_named = request->after_namespace && *request->after_namespace;

	if (!request->after || !*request->after)
		return 0;
	if (request->all_namespaces && is_named)
	namespace = request->after_namespace;
	return store_key(ret_after, namespace, request->after, NULL);
}

int task_list_page(struct task_service *service, const struct task_list_request *request,
		   const char *namespace, struct filter *filter, struct task_list_reply *reply)
{
	_cleanup_(column_clear) struct column live = {
		.request = request, .filter = filter, .limit = request->limit ?: PAGE_DEFAULT};
	_cleanup_(column_clear) struct column ended = live;
	struct store_key prefix;
	bool all = request->all_namespaces;
	int r;

	r = store_key(&prefix, namespace, "", NULL) ?: find_start(request, namespace, &live.after);
	if (r)
		return error_fold(r);
	ended.after = live.after;
	r = walk(service, TASK_TABLE, all ? NULL : &prefix, &live);
	if (!r && request->deleted)
		r = walk(service, ENDED_TABLE, all ? NULL : &prefix, &ended);
	return r ?: merge(&live, &ended, reply);
}
