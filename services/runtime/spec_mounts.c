/* The mounts of a spec, and the rules for paths and propagation. */

#include <string.h>

#include "services/runtime/spec.h"

static int append(json_t *array, json_t *value)
{
	return json_array_append_new(array, value) ? error_origin(-ENOMEM) : 0;
}

int spec_check_propagation(const char *what, const char *option, struct why *why)
{
	if (!strcmp(option, "shared") || !strcmp(option, "rshared"))
		return why_set(
			why, SPEC_E_INVALID,
			"%.256s: propagation '%s' is refused: the container is mounted in a mount "
			"namespace of its own, from which nothing may come back to the host",
			what, option);
	return 0;
}

/* What containers may cover under /proc: files that programs read to learn their limits. */
static bool may_cover(const char *target)
{
	static const char *const allowed[] = {"/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg",
					      "/proc/meminfo", "/proc/slabinfo",  "/proc/stat",
					      "/proc/swaps",   "/proc/uptime",    "/proc/net/dev"};

	if (strncmp(target, "/proc/", 6))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
		if (!strcmp(target, allowed[i]))
			return true;
	return false;
}

static bool has_option(const struct mount *mount, const char *option)
{
	for (size_t i = 0; i < mount->options.count; i++)
		if (!strcmp(mount->options.items[i], option))
			return true;
	return false;
}

static int check_mount(const struct mount *mount, bool is_bind, struct why *why)
{
	int r;

	if (!mount->target || !*mount->target)
		return why_set(why, SPEC_E_INVALID, "a mount of '%.256s' has no target",
			       mount->source ? mount->source : "");
	r = spec_check_path("mount target", mount->target, why);
	if (r)
		return error_trace(r);
	if (!mount->target[strspn(mount->target, "/")] || !may_cover(mount->target))
		return why_set(why, SPEC_E_INVALID, "mount target '%.256s' is refused",
			       mount->target);
	if (is_bind && (!mount->source || *mount->source != '/'))
		return why_set(why, SPEC_E_INVALID,
			       "mount on '%.256s': its source '%.256s' is not an absolute path",
			       mount->target, mount->source ? mount->source : "");
	for (size_t i = 0; !r && i < mount->options.count; i++)
		r = spec_check_propagation(mount->target, mount->options.items[i], why);
	return r;
}

/* Runtimes look for the option, not for the type. */
static json_t *mount_options(const struct mount *mount, bool is_bind)
{
	_cleanup_(json_cleanup) json_t *options = json_array();

	if (!options || (is_bind && !has_option(mount, "bind") && !has_option(mount, "rbind") &&
			 json_array_append_new(options, json_string("rbind"))))
		return NULL;
	for (size_t i = 0; i < mount->options.count; i++)
		if (json_array_append_new(options, json_string(mount->options.items[i])))
			return NULL;
	return TAKE(options);
}

static int add_mount(json_t *mounts, const struct mount *mount, struct why *why)
{
	bool has_type = mount->type && *mount->type;
	bool is_bind = has_option(mount, "bind") || has_option(mount, "rbind") ||
		       (has_type ? !strcmp(mount->type, "bind")
				 : mount->source && *mount->source == '/');
	int r = check_mount(mount, is_bind, why);

	if (r)
		return error_trace(r);
	if (!has_type && !is_bind)
		return why_set(why, SPEC_E_INVALID, "mount on '%.256s' has no type", mount->target);
	return append(mounts,
		      json_pack("{s:s, s:s, s:s, s:o}", "destination", mount->target, "type",
				has_type ? mount->type : "bind", "source",
				mount->source && *mount->source ? mount->source : mount->type,
				"options", mount_options(mount, is_bind)));
}

static int bind_file(json_t *mounts, const char *path)
{
	return append(mounts, json_pack("{s:s, s:s, s:s, s:[s, s]}", "destination", path, "type",
					"bind", "source", path, "options", "rbind", "ro"));
}

/* A privileged container writes /sys. */
static int make_sys_writable(json_t *mounts)
{
	json_t *mount, *option;
	size_t i, j;

	json_array_foreach(mounts, i, mount)
	{
		json_t *options = json_object_get(mount, "options");

		if (strcmp(json_string_value(json_object_get(mount, "destination")), "/sys") != 0)
			continue;
		json_array_foreach(options, j, option) if (!strcmp(json_string_value(option), "ro"))
		{
			json_array_set_new(options, j, json_string("rw"));
		}
	}
	return 0;
}

int spec_add_mounts(const struct spec_host *host, const struct spec_input *input, json_t *spec,
		    struct why *why)
{
	const struct spec_options *options = input->options;
	json_t *mounts = json_object_get(spec, "mounts");
	int r = 0;

	if (options->privileged)
		r = make_sys_writable(mounts);
	if (!r && options->net_host && host->has_hosts)
		r = bind_file(mounts, "/etc/hosts");
	if (!r && options->net_host && host->has_resolv_conf)
		r = bind_file(mounts, "/etc/resolv.conf");
	for (size_t i = 0; !r && i < options->mounts.count; i++)
		r = add_mount(mounts, &options->mounts.items[i], why);
	return r;
}
