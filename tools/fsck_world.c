/* See fsck.h. */

#include "tools/fsck.h"

#include <ctype.h>
#include <dirent.h>
#include <string.h>
#include <unistd.h>

#include "broker/lib/file.h"

#define CMDLINE_MAX 65536
#define LOG_MAX     100000 /* the newest events, which are looked at */
#define LOG_PAGE    1000

/* ---- processes ---- */

/* The task of a shim's command line: davit-shim --config <state>/bundles/<task id>/shim.msgpack … */
static bool parse_shim(const char *words, size_t size, const char *bundles,
		       char task_id[ID_TEXT_SIZE])
{
	const char *program = strrchr(words, '/') ? strrchr(words, '/') + 1 : words;
	size_t length = strlen(bundles);

	if (strcmp(program, "davit-shim"))
		return false;
	for (const char *word = words; word < words + size; word += strlen(word) + 1) {
		if (strncmp(word, bundles, length) || strlen(word + length) < ID_TEXT_SIZE)
			continue;
		memcpy(task_id, word + length, ID_TEXT_SIZE - 1);
		task_id[ID_TEXT_SIZE - 1] = '\0';
		return word[length + ID_TEXT_SIZE - 1] == '/';
	}
	return false;
}

static int add_shim(struct facts *facts, const char *pid, const char *task_id)
{
	struct fsck_fact fact = {.role = FACT_SEEN};
	_cleanup_(cleanup_free) char *text = text_format("process %s is its shim", pid);
	int r;

	r = text ? schema_set(&fact.kind, "shim") : -ENOMEM;
	r = r ?: schema_set(&fact.id, task_id);
	r = r ?: schema_set(&fact.text, text);
	if (!r)
		return facts_add(facts, NULL, &fact);
	fsck_fact_clear(&fact);
	return error_trace(r);
}

int fsck_add_shims(struct context *context, struct facts *facts)
{
	_cleanup_(cleanup_free) char *bundles = text_format("%s/bundles/", context->paths.state);
	_cleanup_(cleanup_dir) DIR *dir = opendir("/proc");
	struct dirent *entry;
	int r = bundles ? 0 : error_origin(-ENOMEM);

	while (!r && dir && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *path = NULL, *words = NULL;
		char task_id[ID_TEXT_SIZE];
		size_t size;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		path = text_format("/proc/%s/cmdline", entry->d_name);
		if (path && !file_read_proc(path, CMDLINE_MAX, &words, &size) && size &&
		    parse_shim(words, size, bundles, task_id))
			r = add_shim(facts, entry->d_name, task_id);
	}
	return r;
}

/* ---- FIFOs ---- */

static bool is_open_in(const char *pid, const char *wanted)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%s/fd", pid);
	_cleanup_(cleanup_dir) DIR *dir = path ? opendir(path) : NULL;
	size_t size = strlen(wanted);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char target[4096];
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

		if (n <= 0)
			continue;
		target[n] = '\0';
		if (!strncmp(target, wanted, size) && (!target[size] || target[size] == '/'))
			return true;
	}
	return false;
}

bool fsck_is_fifo_open(struct context *context, const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/fifo/%s", context->paths.state, name);
	_cleanup_(cleanup_free) char *wanted = path ? realpath(path, NULL) : NULL;
	_cleanup_(cleanup_dir) DIR *dir = opendir("/proc");
	struct dirent *entry;

	while (wanted && dir && (entry = readdir(dir)))
		if (isdigit((unsigned char)entry->d_name[0]) && is_open_in(entry->d_name, wanted))
			return true;
	return false;
}

/* ---- the log ---- */

static int add_fault(struct facts *facts, uint64_t seq, const char *text)
{
	_cleanup_(cleanup_free) char *id = text_format("event %llu", (unsigned long long)seq);
	struct fsck_fact fact = {.role = FACT_FAULT};
	int r;

	r = id ? schema_set(&fact.kind, "log") : -ENOMEM;
	r = r ?: schema_set(&fact.id, id);
	r = r ?: schema_set(&fact.text, text);
	if (!r)
		return facts_add(facts, NULL, &fact);
	fsck_fact_clear(&fact);
	return error_trace(r);
}

static int look_at(const struct event_read_reply *reply, uint64_t *next, struct facts *facts)
{
	int r = 0;

	for (size_t i = 0; !r && i < reply->events.count; i++) {
		uint64_t seq = reply->events.items[i].seq;

		if (seq != *next)
			r = add_fault(facts, *next,
				      "the log has no event of this number, and later ones");
		*next = seq + 1;
	}
	return r;
}

static int ask_page(struct context *context, uint64_t from, struct event_read_reply *reply)
{
	struct event_read_request request = {.from = from, .limit = LOG_PAGE};

	event_read_reply_clear(reply);
	*reply = (struct event_read_reply){};
	return event_read_ask(&context->ask, &request, reply);
}

int fsck_add_log(struct context *context, struct facts *facts)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {};
	uint64_t next, last;
	int r = ask_page(context, 0, &reply);

	if (r)
		return fail_ask(context, r);
	last = reply.last_seq;
	next = last > LOG_MAX ? last - LOG_MAX : 1;
	if (next < reply.first_seq)
		next = reply.first_seq;
	while (next <= last) {
		uint64_t from = next;

		r = ask_page(context, next, &reply);
		if (r)
			return fail_ask(context, r);
		if (reply.truncated) { /* trimmed meanwhile */
			next = reply.first_seq;
			continue;
		}
		if (look_at(&reply, &next, facts))
			return fail(context, "out of memory");
		if (next == from) {
			if (add_fault(facts, next, "the log ends before its last number"))
				return fail(context, "out of memory");
			break;
		}
	}
	return EXIT_OK;
}
