/* Another process of a container: what the container's spec says of its first one, changed. */

#include <string.h>

#include "schemas/json.h"
#include "services/runtime/spec.h"

static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new(object, key, value) ? error_origin(-ENOMEM) : 0;
}

static bool is_set(const char *text)
{
	return text && *text;
}

/* A whole process of the caller's, or the one in the container's spec. */
static int read_base(const struct spec_host *host, const char *spec,
		     const struct runtime_process_request *request, json_t **ret_process,
		     struct why *why)
{
	bool is_whole = is_set(request->process);
	const char *text = is_whole ? request->process : spec;
	_cleanup_(json_cleanup) json_t *json = NULL;
	struct schema_fault fault = {};
	json_t *process;
	int r;

	json = json_parse(text, strlen(text), 2 * (size_t)SPEC_SIZE_MAX, &fault);
	if (!json)
		return why_set(why, SPEC_E_INVALID, "%s: %s",
			       is_whole ? "OCI process" : "OCI spec of the task", fault.text);
	process = is_whole ? json : json_object_get(json, "process");
	if (!json_is_object(process))
		return why_set(why, SPEC_E_INVALID, "%s",
			       is_whole ? "OCI process: not an object"
					: "the OCI spec of the task has no process");
	if (!is_whole && !request->args.count)
		return why_set(why, SPEC_E_INVALID, "no command was given");
	r = spec_check_process(host, process, why);
	if (!r)
		*ret_process = json_incref(process);
	return r;
}

/* ---- the changes ---- */

static int set_args(const struct schema_strs *args, json_t *process)
{
	json_t *array = json_array();
	int r = put(process, "args", array);

	for (size_t i = 0; !r && i < args->count; i++)
		if (json_array_append_new(array, json_string(args->items[i])))
			r = error_origin(-ENOMEM);
	return r;
}

static bool has_term(const json_t *env)
{
	json_t *item;
	size_t i;

	json_array_foreach(env, i, item)
	{
		if (!strncmp(json_string_value(item), "TERM=", 5))
			return true;
	}
	return false;
}

static int set_env(const struct runtime_process_request *request, json_t *process, struct why *why)
{
	json_t *env = json_object_get(process, "env");
	int r = 0;

	if (!env) {
		env = json_array();
		r = put(process, "env", env);
	}
	if (!r && request->terminal && !has_term(env) &&
	    json_array_append_new(env, json_string("TERM=xterm")))
		r = error_origin(-ENOMEM);
	return r ?: spec_set_env(env, &request->env, why);
}

/* Who asked for the terminal must be there to take it, so a spec's own word does not count. */
static int set_terminal(const struct runtime_process_request *request, json_t *process)
{
	bool is_wanted = request->terminal || (is_set(request->process) &&
					       json_is_true(json_object_get(process, "terminal")));
	int r = put(process, "terminal", json_boolean(is_wanted));

	if (!is_wanted)
		json_object_del(process, "consoleSize");
	else if (!r && request->console_width && request->console_height)
		r = put(process, "consoleSize",
			json_pack("{s:I, s:I}", "width", (json_int_t)request->console_width,
				  "height", (json_int_t)request->console_height));
	return r;
}

static int set_cwd(const struct runtime_process_request *request, json_t *process, struct why *why)
{
	int r;

	if (!is_set(request->cwd))
		return 0;
	r = spec_check_cwd(request->cwd, why);
	return r ?: put(process, "cwd", json_string(request->cwd));
}

/* ---- capabilities ---- */

static int read_set(const json_t *names, uint64_t *ret_set, struct why *why)
{
	json_t *item;
	size_t i;

	if (names && !json_is_array(names))
		return why_set(why, SPEC_E_INVALID, "OCI process: capabilities are not lists");
	json_array_foreach(names, i, item)
	{
		const char *name = json_string_value(item);
		int number = name ? spec_capability_number(name) : -1;

		if (number < 0)
			return why_set(why, SPEC_E_INVALID, "'%.64s' is not a capability",
				       name ? name : "");
		*ret_set |= UINT64_C(1) << number;
	}
	return 0;
}

static int change_set(const struct spec_host *host, const struct runtime_process_request *request,
		      json_t *capabilities, const char *key, struct why *why)
{
	uint64_t set = 0;
	int r = read_set(json_object_get(capabilities, key), &set, why);

	r = r ?: spec_change_capabilities(host, &request->cap_add, &request->cap_drop, &set, why);
	return r ?: put(capabilities, key, spec_capability_names(set));
}

static int set_capabilities(const struct spec_host *host,
			    const struct runtime_process_request *request, json_t *process,
			    struct why *why)
{
	static const char *const keys[] = {"bounding", "effective", "permitted"};
	json_t *capabilities = json_object_get(process, "capabilities");
	int r = 0;

	if (!request->cap_add.count && !request->cap_drop.count)
		return 0;
	if (!capabilities) {
		capabilities = json_object();
		r = put(process, "capabilities", capabilities);
	}
	for (size_t i = 0; !r && i < ARRAY_SIZE(keys); i++)
		r = change_set(host, request, capabilities, keys[i], why);
	return r;
}

/* ---- all of it ---- */

static int change(const struct spec_host *host, const struct runtime_process_request *request,
		  const struct spec_user *user, json_t *process, struct why *why)
{
	int r = request->args.count ? set_args(&request->args, process) : 0;

	r = r ?: set_env(request, process, why);
	r = r ?: set_terminal(request, process);
	r = r ?: set_cwd(request, process, why);
	r = r ?: set_capabilities(host, request, process, why);
	if (!r && user)
		r = spec_set_user(process, user);
	return r;
}

int spec_make_process(const struct spec_host *host, const char *spec,
		      const struct runtime_process_request *request, const struct spec_user *user,
		      json_t **ret_process, struct why *why)
{
	_cleanup_(json_cleanup) json_t *process = NULL;
	int r = read_base(host, spec, request, &process, why);

	r = r ?: change(host, request, user, process, why);
	r = r ?: spec_check_process(host, process, why);
	if (r)
		return r;
	*ret_process = TAKE(process);
	return 0;
}
