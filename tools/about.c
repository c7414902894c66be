/* davit version, info and oci spec. */

#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tools/lists.h"

static int version(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(bus_list_reply_clear) struct bus_list_reply reply = {};
	static const struct empty nothing;
	int r;

	(void)data;
	(void)args;
	(void)n_args;
	printf("Client:\n  Version:  %s\n\n", DAVIT_VERSION);
	r = bus_list_ask(&context->ask, &nothing, &reply);
	if (r)
		return fail_ask(context, r);
	puts("Server:");
	for (size_t i = 0; i < reply.services.count; i++) {
		const struct bus_service *service = &reply.services.items[i];

		printf("  %-10s %s (%s)\n", service->name, service->program ?: "-", service->state);
	}
	return EXIT_OK;
}

const struct command version_command = {
	.name = "version",
	.summary = "print the client's and the services' versions",
	.run = version,
};

/* ---- info ---------------------------------------------------------------- */

struct info_command {
	struct list_options list;
};

static const struct option_spec info_options[] = {LIST_OPTIONS(struct info_command), {}};

/* What an answer of the bus adds. */
static int add_services(struct context *context, json_t *info)
{
	_cleanup_(bus_list_reply_clear) struct bus_list_reply reply = {};
	static const struct empty nothing;
	json_t *services = json_object();
	int r = bus_list_ask(&context->ask, &nothing, &reply);

	json_object_set_new(info, "services", services);
	for (size_t i = 0; !r && i < reply.services.count; i++)
		json_object_set_new(services, reply.services.items[i].name,
				    json_string(reply.services.items[i].program ?: "-"));
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int add_runtimes(struct context *context, json_t *info)
{
	_cleanup_(runtime_list_reply_clear) struct runtime_list_reply reply = {};
	static const struct empty nothing;
	json_t *runtimes = json_object();
	int r = runtime_list_ask(&context->ask, &nothing, &reply);

	json_object_set_new(info, "runtimes", runtimes);
	for (size_t i = 0; !r && i < reply.runtimes.count; i++) {
		const struct runtime_record *runtime = &reply.runtimes.items[i];

		json_object_set_new(info, "cgroup", json_string(runtime->cgroup_mode ?: "-"));
		if (runtime->is_default)
			json_object_set_new(info, "default_runtime", json_string(runtime->name));
		if (runtime->usable)
			json_object_set_new(runtimes, runtime->name,
					    json_string(runtime->version ?: "not yet asked"));
	}
	return r ? fail_ask(context, r) : EXIT_OK;
}

static void add_host(struct context *context, json_t *info)
{
	struct utsname name;

	uname(&name);
	json_object_set_new(info, "version", json_string(DAVIT_VERSION));
	json_object_set_new(info, "address", json_string(context->paths.bus));
	json_object_set_new(info, "root", json_string(context->paths.root));
	json_object_set_new(info, "state", json_string(context->paths.state));
	json_object_set_new(info, "kernel", json_string(name.release));
	json_object_set_new(info, "architecture", json_string(name.machine));
	json_object_set_new(info, "host", json_string(name.nodename));
	json_object_set_new(info, "cpus", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
	json_object_set_new(info, "memory",
			    json_integer((json_int_t)sysconf(_SC_PHYS_PAGES) *
					 (json_int_t)sysconf(_SC_PAGESIZE)));
}

static void print_info(json_t *info, const char *indent)
{
	const char *key;
	json_t *value;

	json_object_foreach(info, key, value)
	{
		if (json_is_object(value)) {
			printf("%s%s:\n", indent, key);
			print_info(value, "  ");
		} else if (json_is_integer(value)) {
			printf("%s%s: %" JSON_INTEGER_FORMAT "\n", indent, key,
			       json_integer_value(value));
		} else {
			printf("%s%s: %s\n", indent, key, json_string_value(value));
		}
	}
}

static int info(struct context *context, void *data, char **args, int n_args)
{
	const struct info_command *options = data;
	json_t *object = json_object();
	enum output_format format;
	int code = list_format(context, &options->list, &format);

	(void)args;
	(void)n_args;
	if (!code)
		add_host(context, object);
	code = code ?: add_runtimes(context, object) ?: add_services(context, object);
	if (!code && format == OUTPUT_JSON)
		output_json(json_incref(object));
	else if (!code)
		print_info(object, "");
	json_decref(object);
	return code;
}

const struct command about_command = {
	.name = "info",
	.summary = "print what runs here: versions, places, OCI runtimes, services",
	.options = info_options,
	.options_size = sizeof(struct info_command),
	.run = info,
};

/* ---- oci spec ------------------------------------------------------------ */

static int oci_spec(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(runtime_spec_reply_clear) struct runtime_spec_reply reply = {};
	struct runtime_spec_request request = {.container_id = (char *)"default",
					       .check_only = true};
	int r = runtime_spec_ask(&context->ask, &request, &reply);

	(void)data;
	(void)args;
	(void)n_args;
	if (r)
		return fail_ask(context, r);
	output_json(json_loads(reply.spec, 0, NULL));
	return EXIT_OK;
}

static const struct command oci_spec_command = {
	.name = "spec",
	.summary =
		"print the default OCI spec: of a container named default, without image and flags",
	.run = oci_spec,
};

const struct command oci_command = {
	.name = "oci",
	.summary = "OCI tools",
	.subcommands = (const struct command *const[]){&oci_spec_command, NULL},
};
