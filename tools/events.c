/* davit events: the numbered log. */

#include <signal.h>
#include <string.h>

#include "schemas/filter.h"
#include "tools/lists.h"

struct events_options {
	char *cursor, *format, *object;
	bool no_follow, all_namespaces, has_from;
	char *from;
	struct schema_strs topics;
	uint64_t count;
};

static json_t *event_json(const struct bus_event *event)
{
	json_t *json = json_from_message(schema_bus_event(), event);
	char time[40];

	output_time(event->time_ns, time);
	if (json)
		json_object_set_new(json, "time", json_string(time));
	return json;
}

static void print_event(const struct bus_event *event, bool as_json)
{
	json_t *json = as_json ? event_json(event)
			       : json_from_msgpack(event->event.data, event->event.size);
	_cleanup_(cleanup_free) char *text = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY)
						  : NULL;
	char time[40];

	output_time(event->time_ns, time);
	if (as_json)
		printf("%s\n", text ?: "{}");
	else
		printf("%llu %s %s %s %s\n", (unsigned long long)event->seq, time,
		       event->namespace ?: "-", event->topic, text ?: "");
	json_decref(json);
}

/* Filter fields: topic, namespace, event.<field>. */
struct filtered {
	const struct bus_event *event;
	json_t *body;
};

static const char *filter_field(void *userdata, const char *const *path, size_t n_path,
				char *scratch)
{
	struct filtered *filtered = userdata;
	json_t *value = filtered->body;

	if (n_path == 1 && !strcmp(path[0], "topic"))
		return filtered->event->topic;
	if (n_path == 1 && !strcmp(path[0], "namespace"))
		return filtered->event->namespace;
	if (n_path < 2 || strcmp(path[0], "event"))
		return NULL;
	for (size_t i = 1; value && i < n_path; i++)
		value = json_object_get(value, path[i]);
	if (json_is_string(value))
		return json_string_value(value);
	if (json_is_integer(value))
		snprintf(scratch, 256, "%lld", (long long)json_integer_value(value));
	else if (json_is_boolean(value))
		snprintf(scratch, 256, "%s", json_is_true(value) ? "true" : "false");
	else
		return NULL;
	return scratch;
}

static bool matches(const struct filter *filter, const struct bus_event *event)
{
	struct filtered filtered = {.event = event};
	bool result;

	if (filter_is_empty(filter))
		return true;
	filtered.body = json_from_msgpack(event->event.data, event->event.size);
	result = filter_match(filter, filter_field, &filtered);
	json_decref(filtered.body);
	return result;
}

static int set_start(struct context *context, const struct events_options *options,
		     struct event_read_request *request)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {};
	struct event_read_request now = {};
	char *end;
	int r;

	if (options->from && strcmp(options->from, "now")) {
		request->from = strtoull(options->from, &end, 10);
		return *end || !request->from
			       ? fail_usage(context,
					    "--from '%s' is neither a number above 0 nor now",
					    options->from)
			       : 0;
	}
	if (options->cursor)
		return 0;
	r = event_read_ask(&context->ask, &now, &reply);
	request->from = reply.last_seq + 1;
	return r ? fail_ask(context, r) : 0;
}

/* 1: as many as were asked for are printed. *ret_next: the first number that was not looked at. */
static int print_page(const struct events_options *options, const struct event_read_reply *reply,
		      const struct filter *filter, uint64_t *printed, uint64_t *ret_next)
{
	*ret_next = reply->next;

	if (reply->truncated)
		fprintf(stderr, "davit: events before number %llu are no longer kept\n",
			(unsigned long long)reply->first_seq);
	for (size_t i = 0; i < reply->events.count; i++) {
		if (!matches(filter, &reply->events.items[i]))
			continue;
		print_event(&reply->events.items[i],
			    options->format && !strcmp(options->format, "json"));
		if (options->count && ++*printed == options->count) {
			*ret_next = reply->events.items[i].seq + 1;
			return 1;
		}
	}
	return fflush(stdout) ? -errno : 0;
}

/* The next number that is still to be printed, for a cursor's acknowledgement: only after it was printed. */
static int read_on(struct context *context, const struct events_options *options,
		   struct event_read_request *request, const struct filter *filter)
{
	uint64_t printed = 0;
	int r;

	for (;;) {
		_cleanup_(event_read_reply_clear) struct event_read_reply reply = {};
		uint64_t next;

		r = event_read_ask(&context->ask, request, &reply);
		if (r)
			return fail_ask(context, r);
		r = print_page(options, &reply, filter, &printed, &next);
		if (r < 0)
			return fail(context, "stdout: %s", strerror(-r));
		request->from = next;
		request->ack = options->cursor && next ? next - 1 : 0;
		if (r || (options->no_follow && reply.next > reply.last_seq))
			break;
	}
	if (!options->cursor)
		return EXIT_OK;
	request->wait_ms = 0;
	request->limit = 1;
	r = event_read_ask(&context->ask, request, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int events(struct context *context, void *data, char **args, int n_args)
{
	const struct events_options *options = data;
	_cleanup_(filter_freep) struct filter *filter = NULL;
	struct schema_strs filters = list_filters(args, n_args);
	struct event_read_request request = {.cursor = options->cursor,
					     .object = options->object,
					     .topics = options->topics,
					     .wait_ms = options->no_follow ? 0 : 10000};
	struct schema_fault fault = {};
	int code;

	if (options->format && strcmp(options->format, "json") && strcmp(options->format, "table"))
		return fail_usage(context, "--format '%s' is neither table nor json",
				  options->format);
	if (filter_parse(&filters, &filter, &fault))
		return fail_usage(context, "%s", fault.text);
	/* As in ctr, events of every namespace are shown unless one is asked for. */
	request.namespace = context->namespace;
	code = set_start(context, options, &request);
	return code ?: read_on(context, options, &request, filter);
}

static const struct option_spec events_options[] = {
	OPTION(struct events_options, from, TEXT, "from", 0, "N|now",
	       "first number (default: now)"),
	OPTION(struct events_options, cursor, TEXT, "cursor", 0, "NAME",
	       "go on where this cursor stopped; the broker keeps it"),
	OPTION(struct events_options, topics, LIST, "topic", 0, "PREFIX",
	       "only topics that start so; may be repeated"),
	OPTION(struct events_options, object, TEXT, "object", 0, "ID",
	       "only events of this object"),
	OPTION(struct events_options, no_follow, FLAG, "no-follow", 0, NULL,
	       "stop at the end of the log"),
	OPTION(struct events_options, count, NUMBER, "count", 0, "N", "stop after so many"),
	OPTION(struct events_options, format, TEXT, "format", 0, "table|json",
	       "how to print; json is one object a line"),
	{}};

const struct command events_command = {
	.name = "events",
	.aliases = "event",
	.arguments = "[FILTER...]",
	.summary = "show events with their numbers",
	.details =
		"   FILTER is containerd's syntax over topic, namespace and event.FIELD, e.g. 'topic~=\"^/tasks\",event.container_id==web'.",
	.options = events_options,
	.options_size = sizeof(struct events_options),
	.max_args = -1,
	.run = events,
};
