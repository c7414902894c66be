/*
 * The last look at a spec before an OCI runtime gets it, whoever wrote it: what
 * the runtimes of this host would get wrong or cannot do is refused or put
 * right. What is the caller's own business (capabilities, mounts, hooks) stays.
 */

#include <string.h>

#include "schemas/check.h"
#include "schemas/json.h"
#include "services/runtime/spec.h"

#define HOOKS_STDERR "run.oci.hooks.stderr" /* of crun */

void spec_facts_clear(struct spec_facts *facts)
{
	free(facts->rootfs);
	free(facts->cgroup);
	free(facts->oci_root);
	free(facts->apparmor);
	free(facts->uid_map);
	free(facts->gid_map);
	*facts = (struct spec_facts){};
}

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new(object, key, value) ? error_origin(-ENOMEM) : 0;
}

/* Present and of another type than @type. */
static int check_type(const json_t *object, const char *key, json_type type, bool is_needed,
		      struct why *why)
{
	static const char *const names[] = {
		[JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list", [JSON_STRING] = "a string"};
	const json_t *value = json_object_get(object, key);

	if (!value)
		return is_needed ? why_set(why, SPEC_E_INVALID, "OCI spec: '%s' is missing", key)
				 : 0;
	if (json_typeof(value) != type)
		return why_set(why, SPEC_E_INVALID, "OCI spec: '%s' is not %s", key, names[type]);
	return 0;
}

static int check_strings(const char *what, const json_t *array, struct why *why)
{
	json_t *item;
	size_t i;

	json_array_foreach(array, i,
			   item) if (!json_is_string(item) ||
				     strlen(json_string_value(item)) != json_string_length(item))
	{
		return why_set(why, SPEC_E_INVALID, "OCI spec: %s[%zu] is not a string", what, i);
	}
	return 0;
}

/* ---- process ---- */

static int check_id(const json_t *user, const char *key, struct why *why)
{
	const json_t *value = json_object_get(user, key);

	if (value && (!json_is_integer(value) || json_integer_value(value) < 0 ||
		      json_integer_value(value) > SPEC_USER_MAX))
		return why_set(why, SPEC_E_INVALID,
			       "OCI spec: process.user.%s is not a number from 0 to %d", key,
			       SPEC_USER_MAX);
	return 0;
}

static int check_user(const json_t *process, struct why *why)
{
	const json_t *user = json_object_get(process, "user"), *groups, *item;
	size_t i;
	int r;

	r = check_type(process, "user", JSON_OBJECT, false, why) ?: check_id(user, "uid", why);
	r = r ?: check_id(user, "gid", why);
	r = r ?: check_type(user, "additionalGids", JSON_ARRAY, false, why);
	if (r)
		return r;
	groups = json_object_get(user, "additionalGids");
	json_array_foreach(groups, i, item) if (!json_is_integer(item) ||
						json_integer_value(item) < 0 ||
						json_integer_value(item) > SPEC_USER_MAX)
	{
		return why_set(
			why, SPEC_E_INVALID,
			"OCI spec: process.user.additionalGids[%zu] is not a number from 0 to %d",
			i, SPEC_USER_MAX);
	}
	return 0;
}

/* Inheritable capabilities come back in whatever file capabilities the image has; ambient ones need them. */
static int drop_capabilities(json_t *process, struct why *why)
{
	json_t *capabilities = json_object_get(process, "capabilities");
	int r = check_type(process, "capabilities", JSON_OBJECT, false, why);

	if (r || !capabilities)
		return r;
	json_object_del(capabilities, "inheritable");
	json_object_del(capabilities, "ambient");
	return 0;
}

static int limit_number(const char *name)
{
	static const char *const names[] = {
		[RLIMIT_AS] = "AS",
		[RLIMIT_CORE] = "CORE",
		[RLIMIT_CPU] = "CPU",
		[RLIMIT_DATA] = "DATA",
		[RLIMIT_FSIZE] = "FSIZE",
		[RLIMIT_LOCKS] = "LOCKS",
		[RLIMIT_MEMLOCK] = "MEMLOCK",
		[RLIMIT_MSGQUEUE] = "MSGQUEUE",
		[RLIMIT_NICE] = "NICE",
		[RLIMIT_NOFILE] = "NOFILE",
		[RLIMIT_NPROC] = "NPROC",
		[RLIMIT_RSS] = "RSS",
		[RLIMIT_RTPRIO] = "RTPRIO",
		[RLIMIT_RTTIME] = "RTTIME",
		[RLIMIT_SIGPENDING] = "SIGPENDING",
		[RLIMIT_STACK] = "STACK",
	};

	for (size_t i = 0; !strncmp(name, "RLIMIT_", 7) && i < ARRAY_SIZE(names); i++)
		if (names[i] && !strcmp(names[i], name + 7))
			return (int)i;
	return -1;
}

static int clamp_limit(const struct spec_host *host, json_t *limit, struct why *why)
{
	const char *name = text_of(limit, "type");
	const json_t *hard = json_object_get(limit, "hard"), *soft = json_object_get(limit, "soft");
	int number = name ? limit_number(name) : -1;
	json_int_t highest;

	if (number < 0)
		return why_set(why, SPEC_E_INVALID, "OCI spec: '%.64s' is not a resource limit",
			       name ? name : "");
	if (!json_is_integer(hard) || !json_is_integer(soft) || json_integer_value(soft) < 0 ||
	    json_integer_value(soft) > json_integer_value(hard))
		return why_set(why, SPEC_E_INVALID,
			       "OCI spec: %s needs whole numbers with 0 <= soft <= hard", name);
	highest = host->limits[number] > INT64_MAX ? INT64_MAX : (json_int_t)host->limits[number];
	if (json_integer_value(hard) <= highest)
		return 0;
	return (json_integer_value(soft) > highest ? put(limit, "soft", json_integer(highest)) : 0)
		       ?: put(limit, "hard", json_integer(highest));
}

static int clamp_limits(const struct spec_host *host, json_t *process, struct why *why)
{
	json_t *limits = json_object_get(process, "rlimits"), *limit;
	int r = check_type(process, "rlimits", JSON_ARRAY, false, why);
	size_t i;

	json_array_foreach(limits, i, limit)
	{
		r = r ?: clamp_limit(host, limit, why);
	}
	return r;
}

int spec_check_process(const struct spec_host *host, json_t *process, struct why *why)
{
	int r;

	r = check_type(process, "args", JSON_ARRAY, true, why);
	r = r ?: check_type(process, "env", JSON_ARRAY, false, why);
	r = r ?: check_type(process, "cwd", JSON_STRING, true, why);
	r = r ?: check_strings("process.args", json_object_get(process, "args"), why);
	r = r ?: check_strings("process.env", json_object_get(process, "env"), why);
	r = r ?: spec_check_cwd(text_of(process, "cwd"), why);
	if (!r && (!json_array_size(json_object_get(process, "args")) ||
		   !*json_string_value(json_array_get(json_object_get(process, "args"), 0))))
		r = why_set(why, SPEC_E_INVALID, "OCI spec: process.args has no command");
	r = r ?: check_user(process, why);
	r = r ?: drop_capabilities(process, why);
	return r ?: clamp_limits(host, process, why);
}

/* ---- root and mounts ---- */

static int check_mount(const json_t *mount, size_t index, struct why *why)
{
	const char *target = text_of(mount, "destination");
	json_t *options = json_object_get(mount, "options"), *option;
	size_t i;
	int r;

	if (!target || *target != '/')
		return why_set(why, SPEC_E_INVALID,
			       "OCI spec: mounts[%zu] has no absolute destination", index);
	r = spec_check_path("mount target", target, why);
	r = r ?: check_type(mount, "type", JSON_STRING, false, why);
	r = r ?: check_type(mount, "source", JSON_STRING, false, why);
	r = r ?: check_type(mount, "options", JSON_ARRAY, false, why);
	r = r ?: check_strings("mounts.options", options, why);
	if (r)
		return r;
	json_array_foreach(options, i, option)
	{
		r = r ?: spec_check_propagation(target, json_string_value(option), why);
	}
	return r;
}

static int check_mounts(const json_t *spec, struct why *why)
{
	json_t *mounts = json_object_get(spec, "mounts"), *mount;
	int r = check_type(spec, "mounts", JSON_ARRAY, false, why);
	size_t i;

	json_array_foreach(mounts, i, mount)
	{
		r = r ?: check_mount(mount, i, why);
	}
	return r;
}

static int check_root(json_t *spec, const char *rootfs, struct spec_facts *facts, struct why *why)
{
	json_t *root = json_object_get(spec, "root");
	const char *path;
	int r = check_type(spec, "root", JSON_OBJECT, true, why);

	r = r ?: check_type(root, "path", JSON_STRING, true, why);
	if (r)
		return r;
	path = text_of(root, "path");
	if (*path != '/')
		return put(root, "path", json_string(rootfs));
	r = spec_check_path("root file system", path, why);
	if (!r && !path[strspn(path, "/")])
		r = why_set(why, SPEC_E_INVALID, "root file system '/' is the host's own");
	return r ?: schema_set(&facts->rootfs, path);
}

/* ---- linux ---- */

static int add_mapping(const json_t *mapping, struct schema_buffer *map, const char *key,
		       struct why *why)
{
	static const char *const names[] = {"containerID", "hostID", "size"};
	json_int_t numbers[ARRAY_SIZE(names)];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const json_t *value = json_object_get(mapping, names[i]);

		numbers[i] = json_integer_value(value);
		if (!json_is_integer(value) || numbers[i] < 0 || numbers[i] > UINT32_MAX)
			return why_set(why, SPEC_E_INVALID,
				       "OCI spec: %s of linux.%s is not a number below 2^32",
				       names[i], key);
	}
	return schema_buffer_addf(
		map, "%" JSON_INTEGER_FORMAT " %" JSON_INTEGER_FORMAT " %" JSON_INTEGER_FORMAT "\n",
		numbers[0], numbers[1], numbers[2]);
}

static int read_mappings(const json_t *linux_, const char *key, char **ret_map, struct why *why)
{
	const json_t *mappings = json_object_get(linux_, key), *mapping;
	_cleanup_(schema_buffer_clear) struct schema_buffer map = {};
	int r = check_type(linux_, key, JSON_ARRAY, true, why);
	size_t i;

	json_array_foreach(mappings, i, mapping)
	{
		r = r ?: add_mapping(mapping, &map, key, why);
	}
	if (!r && (!map.size || map.size > SPEC_ID_MAP_MAX))
		r = why_set(
			why, SPEC_E_INVALID,
			"OCI spec: linux.%s takes %zu bytes as a map; from 1 to %d are possible",
			key, map.size, SPEC_ID_MAP_MAX);
	if (r)
		return r;
	*ret_map = strndup((const char *)map.data, map.size);
	return *ret_map ? 0 : error_origin(-ENOMEM);
}

static int check_namespaces(const json_t *linux_, struct spec_facts *facts, struct why *why)
{
	json_t *namespaces = json_object_get(linux_, "namespaces"), *item;
	int r = check_type(linux_, "namespaces", JSON_ARRAY, true, why);
	bool has_mount = false, has_users = false;
	size_t i;

	json_array_foreach(namespaces, i, item)
	{
		const char *type = text_of(item, "type"), *path = text_of(item, "path");
		bool is_own = !path || !*path;

		if (!type)
			return why_set(why, SPEC_E_INVALID,
				       "OCI spec: linux.namespaces[%zu] has no type", i);
		has_mount = has_mount || (is_own && !strcmp(type, "mount"));
		has_users = has_users || (is_own && !strcmp(type, "user"));
		facts->own_pid_ns = facts->own_pid_ns || (is_own && !strcmp(type, "pid"));
	}
	if (!r && !has_mount)
		r = why_set(
			why, SPEC_E_INVALID,
			"OCI spec: without a mount namespace of its own a container would change the host's mounts");
	if (!r && has_users)
		r = read_mappings(linux_, "uidMappings", &facts->uid_map, why)
			    ?: read_mappings(linux_, "gidMappings", &facts->gid_map, why);
	return r;
}

static int check_linux(const json_t *spec, struct spec_facts *facts, struct why *why)
{
	const json_t *linux_ = json_object_get(spec, "linux");
	const char *propagation, *cgroup;
	int r;

	r = check_type(spec, "linux", JSON_OBJECT, true, why);
	r = r ?: check_namespaces(linux_, facts, why);
	r = r ?: check_type(linux_, "rootfsPropagation", JSON_STRING, false, why);
	r = r ?: check_type(linux_, "cgroupsPath", JSON_STRING, false, why);
	if (r)
		return r;
	propagation = text_of(linux_, "rootfsPropagation");
	if (propagation)
		r = spec_check_propagation("root file system", propagation, why);
	cgroup = text_of(linux_, "cgroupsPath");
	if (!r && cgroup && *cgroup)
		r = schema_set(&facts->cgroup, cgroup);
	if (!r && cgroup && *cgroup == '/')
		r = spec_check_path("cgroup", cgroup, why);
	return r;
}

static bool is_true(const json_t *annotations, const char *key)
{
	const char *value = text_of(annotations, key);

	return value && !strcmp(value, "true");
}

/* The name stands in the text of a profile. */
static int read_apparmor(const json_t *process, struct spec_facts *facts, struct why *why)
{
	const char *name = text_of(process, "apparmorProfile");

	if (!check_identifier(name))
		return why_set(why, SPEC_E_INVALID,
			       "apparmor-default-profile '%.128s' is not made of letters, digits, "
			       "and single '.', '_' or '-' between them",
			       name ? name : "");
	return schema_set(&facts->apparmor, name);
}

static int read_annotations(const json_t *spec, struct spec_facts *facts, struct why *why)
{
	const json_t *annotations = json_object_get(spec, "annotations");
	const char *oci_root;
	int r = check_type(spec, "annotations", JSON_OBJECT, false, why);

	if (r)
		return r;
	facts->no_pivot = is_true(annotations, SPEC_NO_PIVOT);
	facts->systemd_cgroup = is_true(annotations, SPEC_SYSTEMD_CGROUP);
	facts->no_cgroup = is_true(annotations, SPEC_NO_CGROUP);
	facts->cni = is_true(annotations, SPEC_CNI);
	if (is_true(annotations, SPEC_APPARMOR))
		r = read_apparmor(json_object_get(spec, "process"), facts, why);
	oci_root = text_of(annotations, SPEC_OCI_ROOT);
	if (r || !oci_root)
		return r;
	r = spec_check_path("runc-root", oci_root, why);
	return r ?: schema_set(&facts->oci_root, oci_root);
}

/* ---- the network ---- */

static int set_netns(const json_t *spec, const char *netns, struct why *why)
{
	json_t *namespaces = json_object_get(json_object_get(spec, "linux"), "namespaces"), *item;
	size_t i;

	json_array_foreach(namespaces, i, item)
	{
		const char *path = text_of(item, "path");

		if (!strcmp(text_of(item, "type"), "network") && (!path || !*path))
			return put(item, "path", json_string(netns));
	}
	return why_set(why, SPEC_E_INVALID,
		       "a CNI network needs a network namespace of the container's own");
}

/* ---- hooks ---- */

int spec_catch_hooks(json_t *spec, const char *path)
{
	json_t *annotations = json_object_get(spec, "annotations");

	if (!json_object_size(json_object_get(spec, "hooks")) ||
	    json_object_get(annotations, HOOKS_STDERR))
		return 0;
	if (!annotations) {
		annotations = json_object();
		if (json_object_set_new(spec, "annotations", annotations))
			return error_origin(-ENOMEM);
	}
	return put(annotations, HOOKS_STDERR, json_string(path));
}

/* ---- all of it ---- */

static int check_version(const json_t *spec, struct why *why)
{
	const char *version = text_of(spec, "ociVersion");

	if (!json_is_object(spec))
		return why_set(why, SPEC_E_INVALID, "OCI spec: not an object");
	if (!version || strncmp(version, "1.", 2) != 0)
		return why_set(why, SPEC_E_INVALID, "OCI spec: ociVersion is not 1.x");
	return 0;
}

int spec_check(const struct spec_host *host, const char *text, const char *rootfs,
	       const char *netns, json_t **ret_spec, struct spec_facts *ret_facts, struct why *why)
{
	_cleanup_(spec_facts_clear) struct spec_facts facts = {};
	_cleanup_(json_cleanup) json_t *spec = NULL;
	struct schema_fault fault = {};
	int r;

	spec = json_parse(text, strlen(text), SPEC_SIZE_MAX, &fault);
	if (!spec)
		return why_set(why, SPEC_E_INVALID, "OCI spec: %s", fault.text);
	r = check_version(spec, why);
	r = r ?: check_type(spec, "process", JSON_OBJECT, true, why);
	r = r ?: spec_check_process(host, json_object_get(spec, "process"), why);
	r = r ?: check_root(spec, rootfs, &facts, why);
	r = r ?: check_mounts(spec, why);
	r = r ?: check_linux(spec, &facts, why);
	r = r ?: read_annotations(spec, &facts, why);
	if (!r && facts.cni)
		r = set_netns(spec, netns, why);
	/* crun then goes there from the bundle: the container's root may not pass through what is above. */
	if (!r && facts.uid_map && !facts.rootfs)
		r = put(json_object_get(spec, "root"), "path", json_string("rootfs"));
	if (r)
		return r;
	*ret_spec = TAKE(spec);
	*ret_facts = facts;
	facts = (struct spec_facts){};
	return 0;
}
