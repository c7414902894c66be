/* The part `linux` of a spec: namespaces, devices, resources, cgroup. */

#include <string.h>

#include "services/runtime/spec.h"

static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new(object, key, value) ? error_origin(-ENOMEM) : 0;
}

static int append(json_t *array, json_t *value)
{
	return json_array_append_new(array, value) ? error_origin(-ENOMEM) : 0;
}

void spec_devices_clear(struct spec_devices *devices)
{
	for (size_t i = 0; i < devices->count; i++)
		free(devices->items[i].path);
	free(devices->items);
	*devices = (struct spec_devices){};
}

/* ---- namespaces ---- */

static json_t *find_namespace(const json_t *namespaces, const char *type, size_t *ret_index)
{
	json_t *item;
	size_t i;

	json_array_foreach(namespaces, i, item)
	{
		if (strcmp(json_string_value(json_object_get(item, "type")), type) != 0)
			continue;
		*ret_index = i;
		return item;
	}
	return NULL;
}

/* "type:path": joins a namespace instead of making one. */
static int join_namespace(json_t *namespaces, const char *text, struct why *why)
{
	static const char *const types[] = {"pid", "ipc", "uts", "network", "cgroup", "time"};
	size_t length = strcspn(text, ":"), index = 0;
	char type[16];
	json_t *item;

	/* Neither runtime sets a container up in one, and its files would be nobody's. */
	if (!strncmp(text, "user:", 5))
		return why_set(why, SPEC_E_INVALID,
			       "with-ns '%.256s': a user namespace cannot be joined; uidmap and "
			       "gidmap make one with the same ids",
			       text);
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (strlen(types[i]) != length || strncmp(types[i], text, length) ||
		    strncmp(text + length, ":/", 2))
			continue;
		snprintf(type, sizeof(type), "%s", types[i]);
		item = find_namespace(namespaces, type, &index);
		if (item)
			return put(item, "path", json_string(text + length + 1));
		return append(namespaces,
			      json_pack("{s:s, s:s}", "type", type, "path", text + length + 1));
	}
	return why_set(
		why, SPEC_E_INVALID,
		"with-ns '%.256s' is not type:path of a namespace (pid, ipc, uts, network, cgroup, time)",
		text);
}

static int add_namespaces(const struct spec_options *options, json_t *namespaces, struct why *why)
{
	size_t index;
	int r = 0;

	if (options->net_host && find_namespace(namespaces, "network", &index))
		json_array_remove(namespaces, index);
	for (size_t i = 0; !r && i < options->with_ns.count; i++)
		r = join_namespace(namespaces, options->with_ns.items[i], why);
	return r;
}

/* Its own name, in a namespace of its own only. Names of containers may be longer than the kernel allows. */
static int add_hostname(const struct spec_input *input, json_t *spec, json_t *namespaces,
			struct why *why)
{
	const char *asked = input->options->hostname;
	const char *name = asked && *asked ? asked : input->container_id;
	size_t index;
	json_t *uts = find_namespace(namespaces, "uts", &index);

	if (!uts || json_object_get(uts, "path"))
		return 0;
	for (const char *c = name; *c; c++)
		if (*c <= ' ' || *c == 0x7f || *c == '/')
			return why_set(why, SPEC_E_INVALID,
				       "hostname '%s' has characters that no host name has", name);
	return put(spec, "hostname", json_stringn(name, strnlen(name, 63)));
}

/* ---- devices ---- */

bool spec_has_all_devices(const struct spec_options *options)
{
	return options->privileged && !options->privileged_without_host_devices;
}

static json_t *device_node(const struct spec_device *device)
{
	char type[2] = {device->type};

	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "path", device->path, "type", type,
			 "major", (json_int_t)device->major, "minor", (json_int_t)device->minor,
			 "fileMode", (json_int_t)(device->mode & 07777), "uid",
			 (json_int_t)device->uid, "gid", (json_int_t)device->gid);
}

static json_t *device_rule(const struct spec_device *device)
{
	char type[2] = {device->type};

	return json_pack("{s:b, s:s, s:I, s:I, s:s}", "allow", 1, "type", type, "major",
			 (json_int_t)device->major, "minor", (json_int_t)device->minor, "access",
			 device->access);
}

static int add_devices(const struct spec_input *input, json_t *linux_, json_t *resources)
{
	_cleanup_(json_cleanup) json_t *nodes = json_array();
	json_t *rules = json_object_get(resources, "devices");
	int r = nodes ? 0 : error_origin(-ENOMEM);

	if (!r && spec_has_all_devices(input->options))
		r = json_array_clear(rules)
			    ?: append(rules, json_pack("{s:b, s:s}", "allow", 1, "access", "rwm"));
	for (size_t i = 0; !r && i < input->devices->count; i++) {
		r = append(nodes, device_node(&input->devices->items[i]));
		if (!r && !spec_has_all_devices(input->options))
			r = append(rules, device_rule(&input->devices->items[i]));
	}
	if (!r && json_array_size(nodes))
		r = put(linux_, "devices", json_incref(nodes));
	return r;
}

/* ---- cgroup ---- */

/* systemd wants slice:prefix:name. */
static int add_systemd_cgroup(const struct spec_host *host, const struct spec_input *input,
			      json_t *spec, json_t *linux_, struct why *why)
{
	const char *asked = input->options->cgroup;
	const char *first = asked ? strchr(asked, ':') : NULL;
	json_t *annotations = json_object_get(spec, "annotations");
	json_t *path;

	if (!host->has_systemd)
		return why_set(why, SPEC_E_INVALID,
			       "systemd-cgroup: systemd does not run on this host");
	if (asked && *asked && (!first || !strchr(first + 1, ':')))
		return why_set(why, SPEC_E_INVALID,
			       "cgroup '%.256s' is not slice:prefix:name, as systemd needs it",
			       asked);
	path = asked && *asked ? json_string(asked)
			       : json_sprintf("system.slice:%s:%s-%s", host->cgroup_parent,
					      input->namespace, input->container_id);
	return put(linux_, "cgroupsPath", path)
		       ?: put(annotations, SPEC_SYSTEMD_CGROUP, json_string("true"));
}

static int add_cgroup(const struct spec_host *host, const struct spec_input *input, json_t *spec,
		      json_t *linux_, struct why *why)
{
	json_t *annotations = json_object_get(spec, "annotations");
	const char *asked = input->options->cgroup;
	int r;

	if (input->options->no_cgroup)
		return put(annotations, SPEC_NO_CGROUP, json_string("true"));
	if (input->options->systemd_cgroup)
		return add_systemd_cgroup(host, input, spec, linux_, why);
	if (!asked || !*asked)
		return put(linux_, "cgroupsPath",
			   json_sprintf("/%s/%s/%s", host->cgroup_parent, input->namespace,
					input->container_id));
	r = spec_check_path("cgroup", asked, why);
	if (!r && !asked[strspn(asked, "/")])
		r = why_set(why, SPEC_E_INVALID, "cgroup '/' is the host's own");
	return r ?: put(linux_, "cgroupsPath", json_string(asked));
}

/* ---- all of it ---- */

static int add_propagation(const struct spec_options *options, json_t *linux_, struct why *why)
{
	static const char *const known[] = {"private", "rprivate",   "slave",
					    "rslave",  "unbindable", "runbindable"};
	const char *asked = options->rootfs_propagation;
	int r;

	if (!asked || !*asked)
		return 0;
	r = spec_check_propagation("rootfs-propagation", asked, why);
	if (r)
		return error_trace(r);
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(known[i], asked))
			return put(linux_, "rootfsPropagation", json_string(asked));
	return why_set(why, SPEC_E_INVALID,
		       "rootfs-propagation '%s' is not a propagation: private, slave …", asked);
}

/* The kernel's resctrl: shares of a cache and of the memory's bandwidth. */
static int add_rdt(const struct spec_host *host, const struct spec_options *options, json_t *linux_,
		   struct why *why)
{
	const char *class = options->rdt_class;

	if (!class || !*class)
		return 0;
	if (!host->has_resctrl)
		return why_set(why, SPEC_E_INVALID,
			       "rdt-class: this host has no resource control of CPU caches "
			       "(nothing is mounted on /sys/fs/resctrl)");
	if (strchr(class, '/') || !strcmp(class, ".") || !strcmp(class, ".."))
		return why_set(why, SPEC_E_INVALID, "rdt-class: '%s' is not a name", class);
	return put(linux_, "intelRdt", json_pack("{s:s}", "closID", class));
}

int spec_add_linux(const struct spec_host *host, const struct spec_input *input, json_t *spec,
		   struct why *why)
{
	json_t *linux_ = json_object_get(spec, "linux");
	json_t *resources = json_object_get(linux_, "resources");
	json_t *namespaces = json_object_get(linux_, "namespaces");
	int r;

	r = add_namespaces(input->options, namespaces, why);
	r = r ?: add_hostname(input, spec, namespaces, why);
	r = r ?: add_devices(input, linux_, resources);
	r = r ?: spec_add_resources(host, input, resources, why);
	r = r ?: add_cgroup(host, input, spec, linux_, why);
	r = r ?: add_propagation(input->options, linux_, why);
	r = r ?: add_rdt(host, input->options, linux_, why);
	if (!r && input->options->privileged)
		r = json_object_del(linux_, "maskedPaths")
			    ?: json_object_del(linux_, "readonlyPaths");
	return r;
}
