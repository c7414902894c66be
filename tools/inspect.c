/* davit inspect, and davit operations: what there is to know, as JSON or a table. */

#include <string.h>

#include "broker/lib/file.h"
#include "tools/lists.h"

/* ---- inspect ------------------------------------------------------------- */

static int add_container(struct context *context, const char *name, json_t *json)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct container_get_request get = {.id = (char *)name};
	int r = container_get_ask(&context->ask, &get, &reply);
	json_t *container, *spec;

	if (r)
		return fail_ask(context, r);
	container = json_from_message(schema_container_record(), reply.container);
	spec = reply.container->spec ? json_loads(reply.container->spec, 0, NULL) : NULL;
	if (spec)
		json_object_set_new(container, "spec", spec);
	json_object_set_new(json, "container", container);
	return 0;
}

/* A container that never ran, or whose task is forgotten, has none. */
static int add_task(struct context *context, const char *name, json_t *json)
{
	_cleanup_(task_process_reply_clear) struct task_process_reply reply = {};
	_cleanup_(task_processes_reply_clear) struct task_processes_reply processes = {};
	struct task_name_request get = {.container_id = (char *)name};
	struct task_container_request list = {.container_id = (char *)name};
	int r = task_get_ask(&context->ask, &get, &reply);

	if (r && context->ask.status == BUS_NOT_FOUND)
		return 0;
	if (r)
		return fail_ask(context, r);
	json_object_set_new(json, "task", json_from_message(schema_task_process(), reply.process));
	r = task_processes_ask(&context->ask, &list, &processes);
	if (r && context->ask.status == BUS_NOT_FOUND)
		return 0;
	if (r)
		return fail_ask(context, r);
	json_object_set_new(json, "processes",
			    list_json(schema_task_process(), processes.processes.items,
				      processes.processes.count));
	return 0;
}

static int inspect_one(struct context *context, const char *name, void *data)
{
	json_t *json = json_object();
	int code = add_container(context, name, json) ?: add_task(context, name, json);

	if (code)
		json_decref(json);
	else
		json_array_append_new(data, json);
	return code;
}

static int inspect(struct context *context, void *data, char **args, int n_args)
{
	json_t *all = json_array();
	int code = list_each(context, args, n_args, inspect_one, all);

	(void)data;
	output_json(all);
	return code;
}

/* ---- operations ---------------------------------------------------------- */

struct operations_options {
	struct list_options list;
};

static void add_operation(struct table *table, const struct operation_record *operation)
{
	char id[ID_TEXT_SIZE] = "-", age[32];

	if (operation->id.size == ID_SIZE)
		id_format(operation->id.data, id);
	output_age(operation->started_at_ns, age);
	table_add(table, id, operation->method, operation->object ?: "-",
		  schema_enum_text(&schema_enum_operation_state, operation->state),
		  operation->step_name ?: "-", age);
}

static void print_operations(const struct operation_list_reply *reply, enum output_format format,
			     struct table *table, json_t *all)
{
	for (size_t i = 0; i < reply->operations.count; i++) {
		const struct operation_record *operation = &reply->operations.items[i];
		char id[ID_TEXT_SIZE] = "-";

		if (operation->id.size == ID_SIZE)
			id_format(operation->id.data, id);
		if (format == OUTPUT_QUIET)
			puts(id);
		else if (format == OUTPUT_JSON)
			json_array_append_new(
				all, json_from_message(schema_operation_record(), operation));
		else
			add_operation(table, operation);
	}
}

/* Every service that has such a method; one that is away is named, and does not hide the others. */
static int list_operations(struct context *context, const struct operations_options *options)
{
	_cleanup_(table_clear) struct table table = {};
	json_t *all = json_array();
	enum output_format format;
	int code = list_format(context, &options->list, &format);

	table_init(&table, "ID", "METHOD", "OBJECT", "STATE", "STEP", "STARTED", NULL);
	for (size_t i = 0; !(code && code != EXIT_ERROR) && i < schema_n_methods; i++) {
		_cleanup_(operation_list_reply_clear) struct operation_list_reply reply = {};
		int r;

		if (strcmp(schema_methods[i].name, "operations"))
			continue;
		r = ask_call(&context->ask, &schema_methods[i], NULL, &(struct empty){}, &reply);
		if (r)
			code = fail_ask(context, r);
		else
			print_operations(&reply, format, &table, all);
	}
	if (code != EXIT_USAGE && format == OUTPUT_TABLE)
		table_print(&table);
	if (code != EXIT_USAGE && format == OUTPUT_JSON)
		output_json(json_incref(all));
	json_decref(all);
	return code;
}

static int cancel_one(struct context *context, const char *name, void *data)
{
	uint8_t id[ID_SIZE];
	struct operation_cancel_request request = {.id = {id, sizeof(id)}};

	(void)data;
	if (id_parse(name, id))
		return fail_usage(context, "'%s' is not the id of an operation: 32 hex digits",
				  name);
	for (size_t i = 0; i < schema_n_methods; i++) {
		int r;

		if (strcmp(schema_methods[i].name, "operation_cancel"))
			continue;
		r = ask_call(&context->ask, &schema_methods[i], NULL, &request, NULL);
		if (!r)
			return EXIT_OK;
		if (context->ask.status != BUS_NOT_FOUND)
			return fail_ask(context, r);
	}
	return fail(context, "operation '%s' not found", name);
}

static int operations(struct context *context, void *data, char **args, int n_args)
{
	if (!n_args)
		return list_operations(context, data);
	if (strcmp(args[0], "cancel"))
		return fail_usage(context, "operations: '%s' is not cancel", args[0]);
	if (n_args == 1)
		return fail_usage(context, "operations cancel needs an id");
	return list_each(context, args + 1, n_args - 1, cancel_one, NULL);
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec operations_options[] = {LIST_OPTIONS(struct operations_options),
							{}};

const struct command inspect_command = {
	.name = "inspect",
	.arguments = "CONTAINER [CONTAINER...]",
	.summary = "print containers' records, tasks and processes as JSON",
	.min_args = 1,
	.max_args = -1,
	.run = inspect,
};
const struct command operations_command = {
	.name = "operations",
	.arguments = "[cancel ID...]",
	.summary = "list the operations of all services, or cancel some",
	.details =
		"   An operation is a request of several steps, such as run; one that is cancelled is undone.",
	.options = operations_options,
	.options_size = sizeof(struct operations_options),
	.max_args = -1,
	.run = operations,
};
