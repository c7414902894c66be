/* What a record must be like, and how a field mask changes it: containerd's rules. */

#include <jansson.h>
#include <string.h>

#include "broker/lib/error.h"
#include "schemas/check.h"
#include "schemas/json.h"
#include "services/container/container.h"

#define SPEC_MAX   524288
#define CONFIG_MAX 262144

static int __attribute__((format(printf, 2, 3)))
refuse(struct schema_fault *fault, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(fault->text, sizeof(fault->text), format, arguments);
	va_end(arguments);
	return 1;
}

int check_spec_text(const char *spec, struct schema_fault *fault)
{
	struct schema_fault inner = {};
	json_t *json = json_parse(spec, strlen(spec), SPEC_MAX, &inner);
	int r = 0;

	if (!json)
		r = refuse(fault, "the OCI spec is not JSON: %.200s", inner.text);
	else if (!json_is_object(json))
		r = refuse(fault, "the OCI spec is not a JSON object");
	json_decref(json);
	return r;
}

static bool is_set(const char *text)
{
	return text && *text;
}

int check_container(const struct container_record *record, struct schema_fault *fault)
{
	if (check_identifier_why("container id", record->id, fault))
		return 1;
	if (!is_set(record->runtime))
		return refuse(fault, "container '%s' names no runtime", record->id);
	if (!is_set(record->spec))
		return refuse(fault, "container '%s' has no OCI spec", record->id);
	if (is_set(record->snapshot_key) && !is_set(record->snapshotter))
		return refuse(fault, "container '%s' has a snapshot_key but no snapshotter",
			      record->id);
	for (size_t i = 0; i < record->extensions.count; i++)
		if (!*record->extensions.items[i].key)
			return refuse(fault, "container '%s' has an extension without a name",
				      record->id);
	if (check_labels(&record->labels, fault))
		return 1;
	return check_spec_text(record->spec, fault);
}

int check_namespace(const struct namespace_record *record, struct schema_fault *fault)
{
	if (check_identifier_why("namespace", record->name, fault))
		return 1;
	if (!strcmp(record->name, "version"))
		return refuse(fault, "no namespace can be named 'version'");
	return check_labels(&record->labels, fault) ? 1 : 0;
}

/* ---- field masks ---- */

static int replace_map(struct schema_map *map, const struct schema_map *from)
{
	struct schema_map copy = {};
	int r = schema_map_copy(from, &copy);

	if (r)
		return error_trace(r);
	schema_map_clear(map);
	*map = copy;
	return 0;
}

/* An empty value takes the key away. */
static int set_key(struct schema_map *map, const struct schema_map *from, const char *key)
{
	const char *value = schema_map_get(from, key);

	if (value && *value)
		return schema_map_set(map, key, value);
	schema_map_remove(map, key);
	return 0;
}

static const char *after_prefix(const char *path, const char *prefix)
{
	size_t length = strlen(prefix);

	return !strncmp(path, prefix, length) && path[length] ? path + length : NULL;
}

static int apply_path(struct container_record *record, const struct container_record *from,
		      const char *path, struct schema_fault *fault)
{
	const char *key;

	if (!strcmp(path, "labels"))
		return replace_map(&record->labels, &from->labels);
	if ((key = after_prefix(path, "labels.")))
		return set_key(&record->labels, &from->labels, key);
	if (!strcmp(path, "extensions"))
		return replace_map(&record->extensions, &from->extensions);
	if ((key = after_prefix(path, "extensions.")))
		return set_key(&record->extensions, &from->extensions, key);
	if (!strcmp(path, "spec"))
		return schema_set(&record->spec, from->spec);
	if (!strcmp(path, "image"))
		return schema_set(&record->image, from->image);
	if (!strcmp(path, "snapshot_key") || !strcmp(path, "snapshotkey"))
		return schema_set(&record->snapshot_key, from->snapshot_key);
	return refuse(fault, "'%.128s' is not a field that an update of container '%s' can change",
		      path, record->id);
}

static bool is_other(const char *asked, const char *present)
{
	return is_set(asked) && (!present || strcmp(asked, present) != 0);
}

int check_apply_mask(struct container_record *record, const struct container_record *from,
		     const struct schema_strs *mask, struct schema_fault *fault)
{
	static const char *const all[] = {"labels", "spec", "extensions", "image", "snapshot_key"};
	int r = 0;

	if (mask->count) {
		for (size_t i = 0; !r && i < mask->count; i++)
			r = apply_path(record, from, mask->items[i], fault);
		return r;
	}
	if (is_other(from->snapshotter, record->snapshotter))
		return refuse(fault, "the snapshotter of container '%s' cannot be changed",
			      record->id);
	if (is_other(from->runtime, record->runtime))
		return refuse(fault, "the runtime of container '%s' cannot be changed", record->id);
	for (size_t i = 0; !r && i < ARRAY_SIZE(all); i++)
		r = apply_path(record, from, all[i], fault);
	return r;
}

int check_apply_labels(struct schema_map *labels, const struct schema_map *from,
		       const struct schema_strs *mask, struct schema_fault *fault)
{
	int r = 0;

	if (!mask->count)
		return replace_map(labels, from);
	for (size_t i = 0; !r && i < mask->count; i++) {
		const char *path = mask->items[i], *key = after_prefix(path, "labels.");

		if (key)
			r = set_key(labels, from, key);
		else if (!strcmp(path, "labels"))
			r = replace_map(labels, from);
		else
			r = refuse(
				fault,
				"'%.128s' is not a field that an update of a namespace can change",
				path);
	}
	return r;
}

/* ---- image labels ---- */

/* An image's author says nothing to davit or containerd through labels. */
static bool is_harmless(const char *key, const char *value)
{
	static const char *const prefixes[] = {"containerd.io/", "io.containerd.", "io.davit.",
					       "davit."};
	struct schema_pair pair = {.key = (char *)key, .value = (char *)value};
	struct schema_map one = {.items = &pair, .count = 1};

	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (!strncmp(key, prefixes[i], strlen(prefixes[i])))
			return false;
	return !check_labels(&one, NULL);
}

int check_image_labels(const char *image_config, struct schema_map *labels)
{
	struct schema_fault fault = {};
	json_t *json = json_parse(image_config, strlen(image_config), CONFIG_MAX, &fault), *value;
	json_t *from = json_object_get(json_object_get(json, "config"), "Labels");
	const char *key;
	int r = 0;

	json_object_foreach(from, key, value)
	{
		const char *text = json_string_value(value);

		if (!r && labels->count < 128 && text &&
		    strlen(text) == json_string_length(value) && is_harmless(key, text) &&
		    !schema_map_get(labels, key))
			r = schema_map_set(labels, key, text);
		if (!r && check_labels(labels, NULL))
			schema_map_remove(labels, key);
	}
	json_decref(json);
	return error_fold(r);
}
