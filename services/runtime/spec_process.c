/* The process of a spec: arguments, environment, working directory, user, capabilities, limits. */

#include <ctype.h>
#include <errno.h>
#include <linux/capability.h>
#include <string.h>

#include "schemas/check.h"
#include "schemas/schema.h"
#include "services/runtime/spec.h"

#define DEFAULT_PATH    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define DEFAULT_NOFILE  1024
#define BIT(capability) (UINT64_C(1) << (capability))

static const uint64_t default_capabilities = BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) |
					     BIT(CAP_FSETID) | BIT(CAP_FOWNER) | BIT(CAP_MKNOD) |
					     BIT(CAP_NET_RAW) | BIT(CAP_SETGID) | BIT(CAP_SETUID) |
					     BIT(CAP_SETFCAP) | BIT(CAP_SETPCAP) |
					     BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_SYS_CHROOT) |
					     BIT(CAP_KILL) | BIT(CAP_AUDIT_WRITE);

static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new(object, key, value) ? error_origin(-ENOMEM) : 0;
}

/* ---- arguments ---- */

static int append(json_t *array, const struct schema_strs *strings)
{
	for (size_t i = 0; i < strings->count; i++)
		if (json_array_append_new(array, json_string(strings->items[i])))
			return error_origin(-ENOMEM);
	return 0;
}

/* The client's words replace entrypoint and command, as `ctr run IMAGE ID CMD` does. */
static int add_args(const struct spec_input *input, json_t *process, struct why *why)
{
	json_t *args = json_object_get(process, "args");
	int r = 0;

	if (input->options->args.count)
		r = append(args, &input->options->args);
	else if (input->image)
		r = append(args, &input->image->entrypoint) ?: append(args, &input->image->cmd);
	if (r)
		return error_trace(r);
	if (!json_array_size(args) && input->check_only)
		return 0;
	if (!json_array_size(args))
		return why_set(why, SPEC_E_INVALID, "container '%s': no command was given%s",
			       input->container_id,
			       input->image ? ", and the image has neither Entrypoint nor Cmd"
					    : "");
	if (!*json_string_value(json_array_get(args, 0)))
		return why_set(why, SPEC_E_INVALID,
			       "container '%s': the command is an empty string",
			       input->container_id);
	return 0;
}

/* ---- environment ---- */

static int check_env(const char *variable, struct why *why)
{
	size_t length = strcspn(variable, "=");

	if (!length)
		return why_set(why, SPEC_E_INVALID, "environment variable '%.64s' has no name",
			       variable);
	for (size_t i = 0; i < length; i++)
		if (iscntrl((unsigned char)variable[i]))
			return why_set(
				why, SPEC_E_INVALID,
				"environment variable %.64s: its name has control characters",
				variable + i + 1);
	return 0;
}

static size_t find_env(const json_t *env, const char *variable)
{
	size_t length = strcspn(variable, "="), i;
	json_t *item;

	json_array_foreach(env, i, item)
	{
		const char *text = json_string_value(item);

		if (!strncmp(text, variable, length) && text[length] == '=')
			break;
	}
	return i;
}

/* Sets, replaces in place, or, for a name without "=", takes away. */
static int set_env(json_t *env, const char *variable, struct why *why)
{
	size_t at = find_env(env, variable);
	int r = check_env(variable, why);

	if (r)
		return error_trace(r);
	if (!strchr(variable, '='))
		return at < json_array_size(env) ? json_array_remove(env, at) : 0;
	r = at < json_array_size(env) ? json_array_set_new(env, at, json_string(variable))
				      : json_array_append_new(env, json_string(variable));
	return r ? error_origin(-ENOMEM) : 0;
}

int spec_set_env(json_t *env, const struct schema_strs *variables, struct why *why)
{
	int r = 0;

	for (size_t i = 0; !r && i < variables->count; i++)
		r = set_env(env, variables->items[i], why);
	return r;
}

static int add_env(const struct spec_input *input, json_t *process, struct why *why)
{
	json_t *env = json_object_get(process, "env");
	int r = 0;

	if (!input->image || !input->image->env.count)
		r = set_env(env, DEFAULT_PATH, why);
	if (!r && input->options->terminal)
		r = set_env(env, "TERM=xterm", why);
	if (!r && input->image)
		r = spec_set_env(env, &input->image->env, why);
	if (r)
		return r;
	r = spec_set_env(env, &input->options->env, why);
	return r > 0 ? why_prefix(why, r, "env") : r;
}

/* ---- working directory ---- */

int spec_check_path(const char *what, const char *path, struct why *why)
{
	const char *part = path;

	if (*path != '/')
		return why_set(why, SPEC_E_INVALID, "%s '%.256s' is not an absolute path", what,
			       path);
	while (*part) {
		size_t length = strcspn(++part, "/");

		if ((length == 1 && part[0] == '.') || (length == 2 && !strncmp(part, "..", 2)))
			return why_set(why, SPEC_E_INVALID, "%s '%.256s' has '.' or '..' in it",
				       what, path);
		part += length;
	}
	return 0;
}

int spec_check_cwd(const char *cwd, struct why *why)
{
	static const char *const refused[] = {"proc", "sys", "dev"};
	const char *first = cwd + strspn(cwd, "/");
	size_t length = strcspn(first, "/");
	int r = spec_check_path("working directory", cwd, why);

	for (size_t i = 0; !r && i < ARRAY_SIZE(refused); i++)
		if (length == strlen(refused[i]) && !strncmp(first, refused[i], length))
			r = why_set(
				why, SPEC_E_INVALID,
				"working directory '%.256s' lies under /%s, where it could reach the host",
				cwd, refused[i]);
	return r;
}

static int add_cwd(const struct spec_input *input, json_t *process, struct why *why)
{
	const char *cwd = input->options->cwd;
	bool is_asked = cwd && *cwd;
	int r;

	if (!is_asked && input->image)
		cwd = input->image->cwd;
	if (!cwd || !*cwd)
		return 0;
	r = spec_check_cwd(cwd, why);
	if (r > 0 && is_asked)
		return why_prefix(why, r, "cwd");
	return r ?: put(process, "cwd", json_string(cwd));
}

/* ---- user ---- */

int spec_set_user(json_t *process, const struct spec_user *user)
{
	_cleanup_(json_cleanup) json_t *groups = json_array();
	json_t *object = json_object();
	int r = groups ? put(process, "user", object) : error_origin(-ENOMEM);

	for (size_t i = 0; !r && i < user->n_groups; i++)
		if (json_array_append_new(groups, json_integer(user->groups[i])))
			r = error_origin(-ENOMEM);
	r = r ?: put(object, "uid", json_integer(user->uid));
	r = r ?: put(object, "gid", json_integer(user->gid));
	if (!r && json_array_size(groups))
		r = put(object, "additionalGids", json_incref(groups));
	return r;
}

/* ---- capabilities ---- */

static int read_capability(const char *option, const char *name, uint64_t *ret_bit, struct why *why)
{
	int number = spec_capability_number(name);

	if (number < 0)
		return why_set(why, SPEC_E_INVALID,
			       "%s '%.64s' is not a capability (their names start with CAP_)",
			       option, name);
	*ret_bit = BIT(number);
	return 0;
}

int spec_change_capabilities(const struct spec_host *host, const struct schema_strs *add,
			     const struct schema_strs *drop, uint64_t *capabilities,
			     struct why *why)
{
	uint64_t bit = 0;
	int r;

	for (size_t i = 0; i < add->count; i++) {
		r = read_capability("cap-add", add->items[i], &bit, why);
		if (r)
			return error_trace(r);
		if (!(host->capabilities & bit))
			return why_set(why, SPEC_E_INVALID,
				       "cap-add: davit does not have %s here and cannot give it",
				       add->items[i]);
		*capabilities |= bit;
	}
	for (size_t i = 0; i < drop->count; i++) {
		r = read_capability("cap-drop", drop->items[i], &bit, why);
		if (r)
			return error_trace(r);
		*capabilities &= ~bit;
	}
	return 0;
}

static int choose_capabilities(const struct spec_host *host, const struct spec_options *options,
			       uint64_t *ret_capabilities, struct why *why)
{
	*ret_capabilities = options->privileged ? host->capabilities
						: host->capabilities & default_capabilities;
	return spec_change_capabilities(host, &options->cap_add, &options->cap_drop,
					ret_capabilities, why);
}

static int add_capabilities(json_t *process, uint64_t capabilities)
{
	static const char *const sets[] = {"bounding", "effective", "permitted"};
	json_t *object = json_object_get(process, "capabilities");
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(sets); i++)
		r = put(object, sets[i], spec_capability_names(capabilities));
	return r;
}

/* ---- limits ---- */

/* What follows the number at the start of @text; NULL if there is none. */
static const char *read_number(const char *text, rlim_t *ret_number)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return NULL;
	errno = 0;
	*ret_number = strtoull(text, &end, 10);
	return errno || *ret_number > INT64_MAX ? NULL : end;
}

/* "soft[:hard]". */
static int read_limit(const char *text, rlim_t *ret_soft, rlim_t *ret_hard, struct why *why)
{
	const char *rest = read_number(text, ret_soft);

	*ret_hard = *ret_soft;
	if (rest && *rest == ':')
		rest = read_number(rest + 1, ret_hard);
	if (rest && !*rest && *ret_soft <= *ret_hard)
		return 0;
	return why_set(why, SPEC_E_INVALID,
		       "rlimit-nofile '%.64s' is not soft[:hard] with soft <= hard", text);
}

/* Never above what this host allows; only what was asked for is refused for that. */
static int add_limits(const struct spec_host *host, const struct spec_input *input, json_t *process,
		      struct why *why)
{
	rlim_t soft = DEFAULT_NOFILE, hard = DEFAULT_NOFILE, highest = host->limits[RLIMIT_NOFILE];
	json_t *limit = json_array_get(json_object_get(process, "rlimits"), 0);
	const char *asked = input->options->rlimit_nofile;
	int r = asked && *asked ? read_limit(asked, &soft, &hard, why) : 0;

	if (r)
		return error_trace(r);
	if (asked && *asked && hard > highest)
		return why_set(why, SPEC_E_INVALID,
			       "rlimit-nofile '%.64s': more than %llu is not possible on this host",
			       asked, (unsigned long long)highest);
	hard = hard < highest ? hard : highest;
	soft = soft < hard ? soft : hard;
	return put(limit, "hard", json_integer((json_int_t)hard))
		       ?: put(limit, "soft", json_integer((json_int_t)soft));
}

/* ---- AppArmor ---- */

static int add_apparmor(const struct spec_host *host, const struct spec_options *options,
			json_t *process, struct why *why)
{
	const char *own = options->apparmor_profile, *made = options->apparmor_default_profile;
	bool has_own = own && *own, has_made = made && *made;

	if (!has_own && !has_made)
		return 0;
	if (has_own && has_made)
		return why_set(why, SPEC_E_INVALID,
			       "apparmor-profile and apparmor-default-profile exclude each other");
	if (!host->has_apparmor)
		return why_set(why, SPEC_E_INVALID, "%s '%s': AppArmor is not enabled on this host",
			       has_own ? "apparmor-profile" : "apparmor-default-profile",
			       has_own ? own : made);
	if (has_made && !check_identifier(made))
		return why_set(why, SPEC_E_INVALID,
			       "apparmor-default-profile '%.128s' is not made of letters, digits, "
			       "and single '.', '_' or '-' between them",
			       made);
	return put(process, "apparmorProfile", json_string(has_own ? own : made));
}

/* ---- all of it ---- */

static int add_seccomp(const struct spec_input *input, json_t *spec, uint64_t capabilities)
{
	json_t *linux_ = json_object_get(spec, "linux");

	if (input->options->privileged || !input->options->seccomp)
		return 0;
	return put(linux_, "seccomp",
		   input->seccomp ? json_deep_copy(input->seccomp)
				  : spec_default_seccomp(capabilities));
}

int spec_add_process(const struct spec_host *host, const struct spec_input *input, json_t *spec,
		     struct why *why)
{
	const struct spec_options *options = input->options;
	json_t *process = json_object_get(spec, "process");
	uint64_t capabilities = 0;
	int r;

	r = add_args(input, process, why) ?: add_env(input, process, why) ?: add_cwd(input, process, why);
	r = r ?: spec_set_user(process, input->user);
	r = r ?: add_apparmor(host, options, process, why);
	r = r ?: choose_capabilities(host, options, &capabilities, why);
	r = r ?: add_capabilities(process, capabilities);
	r = r ?: add_limits(host, input, process, why);
	if (!r && options->terminal)
		r = put(process, "terminal", json_true());
	if (!r && options->allow_new_privs)
		r = put(process, "noNewPrivileges", json_false());
	return r ?: add_seccomp(input, spec, capabilities);
}
