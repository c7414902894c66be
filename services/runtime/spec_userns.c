/* The user namespace of a spec: which ids of the container are which of the host. */

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "services/runtime/spec.h"

#define MAPPINGS_MAX 340 /* the kernel's limit */
#define ID_END       (UINT64_C(1) << 32)
#define TTY_GROUP    5 /* of the default spec's /dev/pts */

struct mapping {
	uint64_t container, host, size;
};

static int put(json_t *object, const char *key, json_t *value)
{
	return json_object_set_new(object, key, value) ? error_origin(-ENOMEM) : 0;
}

static const char *read_id(const char *text, uint64_t *ret_id)
{
	char *end;

	if (!isdigit((unsigned char)*text))
		return NULL;
	errno = 0;
	*ret_id = strtoull(text, &end, 10);
	return errno || *ret_id >= ID_END ? NULL : end;
}

static int read_mapping(const char *option, const char *text, struct mapping *ret_mapping,
			struct why *why)
{
	const char *rest = read_id(text, &ret_mapping->container);

	rest = rest && *rest == ':' ? read_id(rest + 1, &ret_mapping->host) : NULL;
	rest = rest && *rest == ':' ? read_id(rest + 1, &ret_mapping->size) : NULL;
	if (!rest || *rest || !ret_mapping->size)
		return why_set(
			why, SPEC_E_INVALID,
			"%s: '%.64s' is not container-id:host-id:length with a length above 0",
			option, text);
	/* The last id, 2^32-1, is none. */
	if (ret_mapping->container + ret_mapping->size >= ID_END ||
	    ret_mapping->host + ret_mapping->size >= ID_END)
		return why_set(why, SPEC_E_INVALID, "%s: '%.64s' goes beyond the largest id, %llu",
			       option, text, (unsigned long long)ID_END - 2);
	return 0;
}

static bool overlap(uint64_t one, uint64_t size, uint64_t other, uint64_t other_size)
{
	return one < other + other_size && other < one + size;
}

static int check_overlaps(const char *option, const struct mapping *mappings, size_t n,
			  struct why *why)
{
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < i; j++)
			if (overlap(mappings[i].container, mappings[i].size, mappings[j].container,
				    mappings[j].size) ||
			    overlap(mappings[i].host, mappings[i].size, mappings[j].host,
				    mappings[j].size))
				return why_set(why, SPEC_E_INVALID,
					       "%s: two of the ranges overlap (%llu:%llu:%llu)",
					       option, (unsigned long long)mappings[i].container,
					       (unsigned long long)mappings[i].host,
					       (unsigned long long)mappings[i].size);
	return 0;
}

static bool is_mapped(const struct mapping *mappings, size_t n, uint64_t id)
{
	for (size_t i = 0; i < n; i++)
		if (id >= mappings[i].container && id < mappings[i].container + mappings[i].size)
			return true;
	return false;
}

static int read_mappings(const char *option, const struct schema_strs *asked,
			 struct mapping mappings[MAPPINGS_MAX], struct why *why)
{
	int r = 0;

	if (asked->count > MAPPINGS_MAX)
		return why_set(why, SPEC_E_INVALID, "%s: more than %d ranges", option,
			       MAPPINGS_MAX);
	for (size_t i = 0; !r && i < asked->count; i++)
		r = read_mapping(option, asked->items[i], &mappings[i], why);
	r = r ?: check_overlaps(option, mappings, asked->count, why);
	if (!r && !is_mapped(mappings, asked->count, 0))
		r = why_set(why, SPEC_E_INVALID,
			    "%s: id 0 of the container is not mapped, as whom it is set up",
			    option);
	return r;
}

static json_t *list_of(const struct mapping *mappings, size_t n)
{
	_cleanup_(json_cleanup) json_t *list = json_array();

	for (size_t i = 0; list && i < n; i++)
		if (json_array_append_new(list, json_pack("{s:I, s:I, s:I}", "containerID",
							  (json_int_t)mappings[i].container,
							  "hostID", (json_int_t)mappings[i].host,
							  "size", (json_int_t)mappings[i].size)))
			return NULL;
	return TAKE(list);
}

/* A mount option that names a group which is not there fails. */
static void drop_tty_group(json_t *mounts)
{
	json_t *mount, *option;
	size_t i, j;

	json_array_foreach(mounts, i, mount)
	{
		json_t *options = json_object_get(mount, "options");

		if (strcmp(json_string_value(json_object_get(mount, "destination")), "/dev/pts"))
			continue;
		json_array_foreach(options, j, option)
		{
			if (!strcmp(json_string_value(option), "gid=5")) {
				json_array_remove(options, j);
				break;
			}
		}
	}
}

static bool has_own_network(const json_t *namespaces)
{
	json_t *item;
	size_t i;

	json_array_foreach(namespaces, i, item)
	{
		if (!strcmp(json_string_value(json_object_get(item, "type")), "network"))
			return !json_object_get(item, "path");
	}
	return false;
}

/* A new sysfs shows a network namespace, and only who owns that may mount one: the host's is bound instead. */
static int bind_sys(json_t *mounts)
{
	json_t *mount, *options;
	size_t i;

	json_array_foreach(mounts, i, mount)
	{
		if (strcmp(json_string_value(json_object_get(mount, "type")), "sysfs"))
			continue;
		options = json_object_get(mount, "options");
		if (json_array_insert_new(options, 0, json_string("rbind")))
			return error_origin(-ENOMEM);
		return put(mount, "type", json_string("bind"))
			       ?: put(mount, "source", json_string("/sys"));
	}
	return 0;
}

static int add_namespace(json_t *namespaces)
{
	return json_array_append_new(namespaces, json_pack("{s:s}", "type", "user"))
		       ? error_origin(-ENOMEM)
		       : 0;
}

int spec_add_userns(const struct spec_input *input, json_t *spec, struct why *why)
{
	struct mapping users[MAPPINGS_MAX] = {}, groups[MAPPINGS_MAX] = {};
	const struct schema_strs *uidmap = &input->options->uidmap;
	const struct schema_strs *gidmap = &input->options->gidmap;
	json_t *linux_ = json_object_get(spec, "linux");
	int r;

	if (!uidmap->count && !gidmap->count)
		return 0;
	if (!uidmap->count || !gidmap->count)
		return why_set(why, SPEC_E_INVALID, "uidmap and gidmap are needed together");
	r = read_mappings("uidmap", uidmap, users, why);
	r = r ?: read_mappings("gidmap", gidmap, groups, why);
	r = r ?: add_namespace(json_object_get(linux_, "namespaces"));
	r = r ?: put(linux_, "uidMappings", list_of(users, uidmap->count));
	r = r ?: put(linux_, "gidMappings", list_of(groups, gidmap->count));
	if (!r && !is_mapped(groups, gidmap->count, TTY_GROUP))
		drop_tty_group(json_object_get(spec, "mounts"));
	if (!r && (input->options->cni || !has_own_network(json_object_get(linux_, "namespaces"))))
		r = bind_sys(json_object_get(spec, "mounts"));
	return r;
}
