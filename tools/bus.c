/* davit bus: list, describe, call, subscribe, monitor, publish, stats. */

#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "tools/lists.h"

struct list_command {
	struct list_options list;
};

static const struct option_spec list_options[] = {LIST_OPTIONS(struct list_command), {}};

/* ---- list, describe ------------------------------------------------------ */

static void service_row(struct table *table, const struct bus_service *service)
{
	char pid[24], since[32], requests[24], in_flight[24], held[24];

	snprintf(pid, sizeof(pid), "%llu", (unsigned long long)service->pid);
	output_age(service->since_ns, since);
	snprintf(requests, sizeof(requests), "%llu", (unsigned long long)service->requests);
	snprintf(in_flight, sizeof(in_flight), "%llu", (unsigned long long)service->in_flight);
	snprintf(held, sizeof(held), "%llu", (unsigned long long)service->held);
	table_add(table, service->name, service->state, pid, since, requests, in_flight, held,
		  service->program ?: "-");
}

static int list(struct context *context, void *data, char **args, int n_args)
{
	const struct list_command *options = data;
	_cleanup_(bus_list_reply_clear) struct bus_list_reply reply = {};
	_cleanup_(table_clear) struct table table = {};
	static const struct empty nothing;
	enum output_format format;
	int code = list_format(context, &options->list, &format), r;

	(void)args;
	(void)n_args;
	if (code)
		return code;
	r = bus_list_ask(&context->ask, &nothing, &reply);
	if (r)
		return fail_ask(context, r);
	table_init(&table, "SERVICE", "STATE", "PID", "SINCE", "REQUESTS", "IN FLIGHT", "HELD",
		   "PROGRAM", NULL);
	for (size_t i = 0; i < reply.services.count; i++) {
		if (format == OUTPUT_QUIET)
			puts(reply.services.items[i].name);
		else
			service_row(&table, &reply.services.items[i]);
	}
	if (format == OUTPUT_TABLE)
		table_print(&table);
	else if (format == OUTPUT_JSON)
		output_json(list_json(schema_bus_service(), reply.services.items,
				      reply.services.count));
	return EXIT_OK;
}

static int describe(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(bus_describe_reply_clear) struct bus_describe_reply reply = {};
	struct bus_describe_request request = {.name = n_args ? args[0] : NULL};
	int r = bus_describe_ask(&context->ask, &request, &reply);

	(void)data;
	if (r)
		return fail_ask(context, r);
	fputs(reply.schema, stdout);
	return EXIT_OK;
}

/* ---- call ---------------------------------------------------------------- */

struct call_options {
	bool no_schema;
};

static int pack_known(struct context *context, const struct schema_method *method, char **words,
		      int n_words, struct schema_buffer *body)
{
	const struct schema_message *schema = method->request();
	_cleanup_(cleanup_free) void *message = calloc(1, schema->size ?: 1);
	struct schema_fault fault = {};
	int r;

	if (!message)
		return fail(context, "out of memory");
	r = json_parse_words(schema, words, (size_t)n_words, message, &fault);
	if (!r)
		r = schema_pack(schema, message, body, &fault);
	schema_clear(schema, message);
	return r ? fail(context, "%s", fault.text[0] ? fault.text : "the request cannot be packed")
		 : 0;
}

/* A service whose schema this program was not built with: words are text, `key:=JSON` anything. */
static int pack_unknown(struct context *context, char **words, int n_words,
			struct schema_buffer *body)
{
	json_t *object = json_object();
	int code = 0;

	for (int i = 0; !code && i < n_words; i++) {
		char *value = strchr(words[i], '=');
		bool as_json = value && value > words[i] && value[-1] == ':';
		json_t *json;

		if (!value) {
			code = fail_usage(context, "'%s' is neither key=value nor key:=JSON",
					  words[i]);
			break;
		}
		value[as_json ? -1 : 0] = '\0';
		json = as_json ? json_loads(value + 1, JSON_DECODE_ANY, NULL)
			       : json_string(value + 1);
		if (!json || json_object_set_new(object, words[i], json))
			code = fail_usage(context, "%s: '%s' is not a value", words[i], value + 1);
	}
	if (!code && json_to_msgpack(object, body))
		code = fail(context, "out of memory");
	json_decref(object);
	return code;
}

static int call(struct context *context, void *data, char **args, int n_args)
{
	const struct call_options *options = data;
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	_cleanup_(cleanup_free) void *reply = NULL;
	char service[ENVELOPE_NAME_MAX + 1];
	const char *name = envelope_split_method(args[0], service);
	const struct schema_method *method = name && !options->no_schema
						     ? schema_find_method(service, name)
						     : NULL;
	size_t size;
	int code, r;

	if (!name)
		return fail_usage(context, "'%s' is not service.method", args[0]);
	code = method ? pack_known(context, method, args + 1, n_args - 1, &body)
		      : pack_unknown(context, args + 1, n_args - 1, &body);
	if (code)
		return code;
	r = ask_raw(&context->ask, args[0], NULL, body.data, body.size, &reply, &size);
	if (r)
		return fail_ask(context, r);
	output_json(json_from_msgpack(reply, size));
	return EXIT_OK;
}

/* ---- subscribe, monitor -------------------------------------------------- */

static void print_message(const void *data, size_t size)
{
	const char *topic = data;
	size_t n_topic = strnlen(topic, size);
	struct envelope_event event;
	_cleanup_(cleanup_free) char *text = NULL;
	json_t *json;
	char time[40];

	if (n_topic == size || envelope_read_event((const uint8_t *)data + n_topic + 1,
						   size - n_topic - 1, &event, NULL))
		return;
	json = json_from_msgpack(event.event.data, event.event.size);
	text = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	json_decref(json);
	output_time(event.time_ns, time);
	printf("%llu %s %s %s %s\n", (unsigned long long)event.seq, time,
	       event.namespace[0] ? event.namespace : "-", event.topic, text ?: "");
	fflush(stdout);
}

static bool wants(const void *data, size_t size, char **prefixes, int n_prefixes, bool heartbeats)
{
	if (!heartbeats && size >= 15 && !memcmp(data, "/bus/heartbeat", 15))
		return false;
	for (int i = 0; i < n_prefixes; i++) {
		if (size >= strlen(prefixes[i]) && !memcmp(data, prefixes[i], strlen(prefixes[i])))
			return true;
	}
	return !n_prefixes;
}

/* Live only, straight from PUB: `davit events` is the one that misses nothing. */
static int subscribe(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(sp_freep) struct sp *sp = NULL;
	int r;

	(void)data;
	for (;;) {
		_cleanup_(cleanup_free) void *message = NULL;
		size_t size;

		r = sp ? 0 : sp_connect(context->paths.events, SP_SUB, time_boot_ms() + 10000, &sp);
		if (r)
			return fail(context, "no bus at %s", context->paths.events);
		r = sp_receive(sp, UINT64_MAX, &message, &size);
		if (r == SP_E_CLOSED) {
			fputs("davit: the broker went away; connecting again\n", stderr);
			sp = sp_free(sp);
		} else if (r) {
			return fail(context, "%s", r < 0 ? strerror(-r) : "malformed message");
		} else if (wants(message, size, args, n_args, false)) {
			print_message(message, size);
		}
	}
}

/* ---- top ----------------------------------------------------------------- */

static int stats(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(bus_stats_reply_clear) struct bus_stats_reply reply = {};
	static const struct empty nothing;
	int r = bus_stats_ask(&context->ask, &nothing, &reply);

	(void)data;
	(void)args;
	(void)n_args;
	if (r)
		return fail_ask(context, r);
	output_json(json_from_message(schema_bus_stats_reply(), &reply));
	return EXIT_OK;
}

/* ---- publish ------------------------------------------------------------- */

struct publish_options {
	char *object;
};

static int publish(struct context *context, void *data, char **args, int n_args)
{
	const struct publish_options *options = data;
	_cleanup_(schema_buffer_clear) struct schema_buffer body = {};
	_cleanup_(event_publish_reply_clear) struct event_publish_reply reply = {};
	uint8_t publisher[ID_SIZE];
	struct event_item item = {.seq = 1,
				  .time_ns = time_real_ns(),
				  .topic = args[0],
				  .object = options->object,
				  .namespace = context->namespace};
	struct event_publish_request request = {.publisher = {publisher, sizeof(publisher)},
						.events = {.items = &item, .count = 1}};
	int code = pack_unknown(context, args + 1, n_args - 1, &body), r;

	if (code)
		return code;
	id_make(publisher);
	item.event = (struct schema_bytes){body.data, body.size};
	r = event_publish_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	printf("%llu\n", (unsigned long long)reply.last_seq);
	return EXIT_OK;
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec call_options[] = {
	OPTION(struct call_options, no_schema, FLAG, "no-schema", 0, NULL,
	       "send the words as they are typed, without checking them"),
	{}};
static const struct option_spec publish_options[] = {
	OPTION(struct publish_options, object, TEXT, "object", 0, "ID", "object of the event"), {}};
static const struct command list_command = {
	.name = "list",
	.aliases = "ls",
	.summary = "services and their state",
	.options = list_options,
	.options_size = sizeof(struct list_command),
	.run = list,
};
static const struct command describe_command = {
	.name = "describe",
	.arguments = "[SERVICE]",
	.summary = "methods, events, fields and limits of a service",
	.max_args = 1,
	.run = describe,
};
static const struct command call_command = {
	.name = "call",
	.arguments = "SERVICE.METHOD [KEY=VALUE|KEY:=JSON...]",
	.summary = "call a method; prints the reply as JSON",
	.details =
		"   Lists and maps by repeating (env=A=1 env=B=2, labels.a=b), nested messages by dots (container.id=web).",
	.options = call_options,
	.options_size = sizeof(struct call_options),
	.min_args = 1,
	.max_args = -1,
	.run = call,
};
static const struct command subscribe_command = {
	.name = "subscribe",
	.arguments = "[TOPIC_PREFIX...]",
	.summary = "print events as they are sent out; `davit events` misses none",
	.max_args = -1,
	.run = subscribe,
};
static const struct command monitor_command = {
	.name = "monitor",
	.summary = "print all events as they are sent out",
	.max_args = 0,
	.run = subscribe,
};
static const struct command service_stats_command = {
	.name = "stats",
	.aliases = "top",
	.summary = "figures of the broker",
	.run = stats,
};
static const struct command publish_command = {
	.name = "publish",
	.arguments = "TOPIC [KEY=VALUE|KEY:=JSON...]",
	.summary = "append an event to the log; prints its number",
	.options = publish_options,
	.options_size = sizeof(struct publish_options),
	.min_args = 1,
	.max_args = -1,
	.run = publish,
};
const struct command bus_command = {
	.name = "bus",
	.summary = "look at the bus, call and watch",
	.subcommands = (const struct command *const[]){&list_command, &describe_command,
						       &call_command, &subscribe_command,
						       &monitor_command, &publish_command,
						       &service_stats_command, &bus_bench_command,
						       NULL},
};
