/* Reading and writing an image's documents: see document.h. */

#include <string.h>

#include "schemas/check.h"
#include "schemas/json.h"
#include "services/image/document.h"

#define NAME_MAX_SIZE   512
#define PATH_MAX_SIZE   4096
#define SAVED_MAX       256
#define SAVED_NAMES_MAX 256

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

/* ---- pieces ---- */

/* Copies the string @key of @object; absent is fine unless @required. */
static int get_text(const json_t *object, const char *key, size_t max, bool required, char **ret,
		    struct why *why)
{
	const json_t *value = json_object_get(object, key);

	if (!value || json_is_null(value))
		return required ? why_set(why, DOCUMENT_E_INVALID, "%s is missing", key) : 0;
	if (!json_is_string(value))
		return why_set(why, DOCUMENT_E_INVALID, "%s is not a string", key);
	if (json_string_length(value) > max)
		return why_set(why, DOCUMENT_E_INVALID, "%s is longer than %zu bytes", key, max);
	if (strlen(json_string_value(value)) != json_string_length(value))
		return why_set(why, DOCUMENT_E_INVALID, "%s holds a NUL", key);
	return error_trace(schema_set(ret, json_string_value(value)));
}

/* The array @key of @object; NULL in @ret_array when absent. */
static int get_array(const json_t *object, const char *key, size_t max, json_t **ret_array,
		     struct why *why)
{
	json_t *array = json_object_get(object, key);

	*ret_array = NULL;
	if (!array || json_is_null(array))
		return 0;
	if (!json_is_array(array))
		return why_set(why, DOCUMENT_E_INVALID, "%s is not a list", key);
	if (json_array_size(array) > max)
		return why_set(why, DOCUMENT_E_INVALID, "%s has %zu items, more than %zu", key,
			       json_array_size(array), max);
	*ret_array = array;
	return 0;
}

static int get_texts(const json_t *object, const char *key, size_t max, size_t max_size,
		     struct schema_strs *texts, struct why *why)
{
	json_t *array;
	int r;

	r = get_array(object, key, max, &array, why);
	if (r)
		return error_trace(r);
	for (size_t i = 0; i < json_array_size(array); i++) {
		const json_t *item = json_array_get(array, i);

		if (!json_is_string(item) || json_string_length(item) > max_size ||
		    strlen(json_string_value(item)) != json_string_length(item))
			return why_set(why, DOCUMENT_E_INVALID,
				       "item %zu of %s is not a text of at most %zu bytes", i, key,
				       max_size);
		r = schema_strs_add(texts, json_string_value(item));
		if (r)
			return error_trace(r);
	}
	return 0;
}

static int get_annotations(const json_t *object, struct schema_map *map, struct why *why)
{
	json_t *annotations = json_object_get(object, "annotations"), *value;
	const char *key;
	int r;

	if (!annotations || json_is_null(annotations))
		return 0;
	if (!json_is_object(annotations) || json_object_size(annotations) > 256)
		return why_set(why, DOCUMENT_E_INVALID,
			       "annotations is not a map of at most 256 texts");
	json_object_foreach(annotations, key, value)
	{
		if (!json_is_string(value) ||
		    strlen(json_string_value(value)) != json_string_length(value))
			return why_set(why, DOCUMENT_E_INVALID, "annotation '%.128s' is not a text",
				       key);
		/* Too long for a message: nothing here needs it. */
		if (strlen(key) + json_string_length(value) > SCHEMA_MAP_PAIR_MAX)
			continue;
		r = schema_map_set(map, key, json_string_value(value));
		if (r)
			return error_trace(r);
	}
	return 0;
}

static int get_platform(const json_t *object, struct platform *platform, struct why *why)
{
	int r;

	r = get_text(object, "os", 32, false, &platform->os, why);
	if (!r)
		r = get_text(object, "architecture", 32, false, &platform->architecture, why);
	if (!r)
		r = get_text(object, "variant", 32, false, &platform->variant, why);
	return error_trace(r);
}

static int get_descriptor(const json_t *object, struct descriptor *descriptor, struct why *why)
{
	const json_t *size = json_object_get(object, "size");
	int r;

	if (!json_is_object(object))
		return why_set(why, DOCUMENT_E_INVALID, "a descriptor is not an object");
	r = get_text(object, "digest", 71, true, &descriptor->digest, why);
	if (r)
		return error_trace(r);
	if (!check_digest(descriptor->digest))
		return why_set(why, DOCUMENT_E_INVALID,
			       "digest '%s' is not sha256: and 64 lower-case hex digits",
			       descriptor->digest);
	if (!json_is_integer(size) || json_integer_value(size) < 0)
		return why_set(why, DOCUMENT_E_INVALID, "the size of %s is not a positive number",
			       descriptor->digest);
	descriptor->size = (uint64_t)json_integer_value(size);
	r = get_text(object, "mediaType", 256, false, &descriptor->media_type, why);
	if (!r)
		r = get_annotations(object, &descriptor->annotations, why);
	return error_trace(r);
}

/* Parses a document that must be an object; checks that its kind is what its descriptor says. */
static int parse_object(const char *text, size_t size, const char *media_type, json_t **ret_json,
			struct why *why)
{
	_cleanup_(cleanup_json) json_t *json = NULL;
	_cleanup_(cleanup_free) char *own = NULL;
	struct schema_fault fault = {};
	int r;

	json = json_parse(text, size, DOCUMENT_SIZE_MAX, &fault);
	if (!json)
		return errno == ENOMEM ? error_origin(-ENOMEM)
				       : why_set(why, DOCUMENT_E_INVALID, "not a JSON document: %s",
						 fault.text);
	if (!json_is_object(json))
		return why_set(why, DOCUMENT_E_INVALID, "not a JSON object");
	r = get_text(json, "mediaType", 256, false, &own, why);
	if (r)
		return error_trace(r);
	if (own && media_type && strcmp(own, media_type))
		return why_set(why, DOCUMENT_E_INVALID, "it says that it is %s, its descriptor %s",
			       own, media_type);
	/* The same bytes must not be an index for one reader and a manifest for another. */
	if (json_object_get(json, "manifests") &&
	    (json_object_get(json, "layers") || json_object_get(json, "config") ||
	     json_object_get(json, "fsLayers")))
		return why_set(why, DOCUMENT_E_INVALID, "it is both an index and a manifest");
	*ret_json = TAKE(json);
	return 0;
}

static int check_version(const json_t *json, struct why *why)
{
	const json_t *version = json_object_get(json, "schemaVersion");

	if (!json_is_integer(version) || json_integer_value(version) != 2)
		return why_set(why, DOCUMENT_E_INVALID, "schemaVersion is not 2");
	return 0;
}

/* ---- documents ---- */

bool document_layer_compression(const char *media_type, enum compression *ret_compression)
{
	static const struct {
		const char *media_type;
		enum compression compression;
	} known[] = {
		{MEDIA_OCI_LAYER, COMPRESSION_NONE},
		{MEDIA_OCI_LAYER_GZIP, COMPRESSION_GZIP},
		{MEDIA_OCI_LAYER_ZSTD, COMPRESSION_ZSTD},
		{MEDIA_DOCKER_LAYER, COMPRESSION_NONE},
		{MEDIA_DOCKER_LAYER_GZIP, COMPRESSION_GZIP},
	};

	for (size_t i = 0; media_type && i < sizeof(known) / sizeof(known[0]); i++) {
		if (strcmp(media_type, known[i].media_type))
			continue;
		*ret_compression = known[i].compression;
		return true;
	}
	return false;
}

bool document_is_index(const char *media_type)
{
	return media_type &&
	       (!strcmp(media_type, MEDIA_OCI_INDEX) || !strcmp(media_type, MEDIA_DOCKER_LIST));
}

bool document_is_manifest(const char *media_type)
{
	return media_type && (!strcmp(media_type, MEDIA_OCI_MANIFEST) ||
			      !strcmp(media_type, MEDIA_DOCKER_MANIFEST));
}

bool document_is_part(const char *media_type)
{
	static const char prefix[] = "application/vnd.containerd.container.";
	enum compression compression;

	return media_type && (document_layer_compression(media_type, &compression) ||
			      !strncmp(media_type, prefix, sizeof(prefix) - 1));
}

static int add_entry(struct document_index *index, const json_t *object, struct why *why)
{
	const json_t *platform = json_object_get(object, "platform");
	struct document_entry *entry;
	int r;

	entry = schema_list_add(index);
	if (!entry)
		return error_origin(-ENOMEM);
	r = get_descriptor(object, &entry->descriptor, why);
	if (!r && platform && !json_is_null(platform))
		r = get_platform(platform, &entry->platform, why);
	return error_trace(r);
}

int document_parse_index(const char *text, size_t size, const char *media_type,
			 struct document_index *ret_index, struct why *why)
{
	_cleanup_(document_index_clear) struct document_index index = {};
	_cleanup_(cleanup_json) json_t *json = NULL;
	json_t *manifests;
	int r;

	r = parse_object(text, size, media_type, &json, why);
	if (!r)
		r = check_version(json, why);
	if (!r)
		r = get_array(json, "manifests", DOCUMENT_ENTRIES_MAX, &manifests, why);
	if (r)
		return error_trace(r);
	if (!manifests)
		return why_set(why, DOCUMENT_E_INVALID, "an index without manifests");
	for (size_t i = 0; i < json_array_size(manifests); i++) {
		r = add_entry(&index, json_array_get(manifests, i), why);
		if (r)
			return r > 0 ? why_prefix(why, r, "manifests[%zu]", i) : error_trace(r);
	}
	*ret_index = index;
	index = (struct document_index){};
	return 0;
}

static int get_layers(const json_t *json, struct document_manifest *manifest, struct why *why)
{
	json_t *layers;
	int r;

	r = get_array(json, "layers", DOCUMENT_LAYERS_MAX, &layers, why);
	if (r)
		return error_trace(r);
	for (size_t i = 0; i < json_array_size(layers); i++) {
		struct descriptor *layer = schema_list_add(&manifest->layers);

		if (!layer)
			return error_origin(-ENOMEM);
		r = get_descriptor(json_array_get(layers, i), layer, why);
		if (r)
			return r > 0 ? why_prefix(why, r, "layers[%zu]", i) : error_trace(r);
	}
	return 0;
}

int document_parse_manifest(const char *text, size_t size, const char *media_type,
			    struct document_manifest *ret_manifest, struct why *why)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	_cleanup_(cleanup_json) json_t *json = NULL;
	int r;

	r = parse_object(text, size, media_type, &json, why);
	if (!r)
		r = check_version(json, why);
	if (!r)
		r = get_text(json, "mediaType", 256, false, &manifest.media_type, why);
	if (r)
		return error_trace(r);
	if (json_object_get(json, "manifests") || !json_object_get(json, "config"))
		return why_set(why, DOCUMENT_E_INVALID, "a manifest without config");
	r = get_descriptor(json_object_get(json, "config"), &manifest.config, why);
	if (r)
		return r > 0 ? why_prefix(why, r, "config") : error_trace(r);
	r = get_layers(json, &manifest, why);
	if (r)
		return error_trace(r);
	*ret_manifest = manifest;
	manifest = (struct document_manifest){};
	return 0;
}

int document_parse_config(const char *text, size_t size, struct document_config *ret_config,
			  struct why *why)
{
	_cleanup_(document_config_clear) struct document_config config = {};
	_cleanup_(cleanup_json) json_t *json = NULL;
	const json_t *rootfs;
	int r;

	if (size > DOCUMENT_CONFIG_MAX)
		return why_set(why, DOCUMENT_E_INVALID, "it has %zu bytes, more than %d", size,
			       DOCUMENT_CONFIG_MAX);
	r = parse_object(text, size, NULL, &json, why);
	if (!r)
		r = get_platform(json, &config.platform, why);
	if (r)
		return error_trace(r);
	rootfs = json_object_get(json, "rootfs");
	if (rootfs && !json_is_object(rootfs))
		return why_set(why, DOCUMENT_E_INVALID, "rootfs is not an object");
	r = get_texts(rootfs, "diff_ids", DOCUMENT_LAYERS_MAX, 71, &config.diff_ids, why);
	if (r)
		return error_trace(r);
	for (size_t i = 0; i < config.diff_ids.count; i++) {
		if (!check_digest(config.diff_ids.items[i]))
			return why_set(why, DOCUMENT_E_INVALID, "diff_ids[%zu] is not a digest", i);
	}
	*ret_config = config;
	config = (struct document_config){};
	return 0;
}

static int add_saved(struct document_saved_list *list, const json_t *object, struct why *why)
{
	struct document_saved *saved;
	int r;

	if (!json_is_object(object))
		return why_set(why, DOCUMENT_E_INVALID, "not an object");
	saved = schema_list_add(list);
	if (!saved)
		return error_origin(-ENOMEM);
	r = get_text(object, "Config", PATH_MAX_SIZE, true, &saved->config, why);
	if (!r)
		r = get_texts(object, "RepoTags", SAVED_NAMES_MAX, NAME_MAX_SIZE, &saved->names,
			      why);
	if (!r)
		r = get_texts(object, "Layers", DOCUMENT_LAYERS_MAX, PATH_MAX_SIZE, &saved->layers,
			      why);
	return error_trace(r);
}

int document_parse_saved(const char *text, size_t size, struct document_saved_list *ret_list,
			 struct why *why)
{
	_cleanup_(document_saved_list_clear) struct document_saved_list list = {};
	_cleanup_(cleanup_json) json_t *json = NULL;
	struct schema_fault fault = {};
	int r;

	json = json_parse(text, size, DOCUMENT_SIZE_MAX, &fault);
	if (!json)
		return why_set(why, DOCUMENT_E_INVALID, "not a JSON document: %s", fault.text);
	if (!json_is_array(json) || json_array_size(json) > SAVED_MAX)
		return why_set(why, DOCUMENT_E_INVALID, "not a list of at most %d images",
			       SAVED_MAX);
	for (size_t i = 0; i < json_array_size(json); i++) {
		r = add_saved(&list, json_array_get(json, i), why);
		if (r)
			return r > 0 ? why_prefix(why, r, "image %zu", i) : error_trace(r);
	}
	*ret_list = list;
	list = (struct document_saved_list){};
	return 0;
}

int document_check_layout(const char *text, size_t size, struct why *why)
{
	_cleanup_(cleanup_json) json_t *json = NULL;
	_cleanup_(cleanup_free) char *version = NULL;
	int r;

	r = parse_object(text, size, NULL, &json, why);
	if (!r)
		r = get_text(json, "imageLayoutVersion", 32, true, &version, why);
	if (r)
		return error_trace(r);
	if (strncmp(version, "1.", 2))
		return why_set(why, DOCUMENT_E_INVALID, "imageLayoutVersion is '%s', not 1.x",
			       version);
	return 0;
}

/* ---- clearing ---- */

void document_index_clear(struct document_index *index)
{
	for (size_t i = 0; i < index->count; i++) {
		descriptor_clear(&index->items[i].descriptor);
		platform_clear(&index->items[i].platform);
	}
	free(index->items);
	*index = (struct document_index){};
}

void document_manifest_clear(struct document_manifest *manifest)
{
	for (size_t i = 0; i < manifest->layers.count; i++)
		descriptor_clear(&manifest->layers.items[i]);
	free(manifest->layers.items);
	free(manifest->media_type);
	descriptor_clear(&manifest->config);
	*manifest = (struct document_manifest){};
}

void document_config_clear(struct document_config *config)
{
	platform_clear(&config->platform);
	schema_strs_clear(&config->diff_ids);
}

void document_saved_list_clear(struct document_saved_list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		free(list->items[i].config);
		schema_strs_clear(&list->items[i].names);
		schema_strs_clear(&list->items[i].layers);
	}
	free(list->items);
	*list = (struct document_saved_list){};
}

/* ---- writing ---- */

static json_t *descriptor_json(const struct descriptor *descriptor)
{
	return json_pack("{s:s?, s:s, s:I}", "mediaType", descriptor->media_type, "digest",
			 descriptor->digest, "size", (json_int_t)descriptor->size);
}

static char *dump(json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	return text;
}

char *document_write_manifest(const struct descriptor *config, const struct descriptor *layers,
			      size_t n_layers)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n_layers; i++) {
		if (json_array_append_new(list, descriptor_json(&layers[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return dump(json_pack("{s:i, s:s, s:o, s:o}", "schemaVersion", 2, "mediaType",
			      MEDIA_DOCKER_MANIFEST, "config", descriptor_json(config), "layers",
			      list));
}

static json_t *entry_json(const struct document_entry *entry)
{
	const struct schema_map *annotations = &entry->descriptor.annotations;
	json_t *json = descriptor_json(&entry->descriptor), *map;

	if (!json)
		return NULL;
	if (annotations->count) {
		map = json_object();
		for (size_t i = 0; i < annotations->count; i++)
			json_object_set_new(map, annotations->items[i].key,
					    json_string(annotations->items[i].value));
		json_object_set_new(json, "annotations", map);
	}
	if (entry->platform.os)
		json_object_set_new(
			json, "platform",
			json_pack("{s:s*, s:s, s:s*}", "architecture", entry->platform.architecture,
				  "os", entry->platform.os, "variant", entry->platform.variant));
	return json;
}

char *document_write_index(const struct document_entry *entries, size_t n_entries)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n_entries; i++) {
		if (json_array_append_new(list, entry_json(&entries[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return dump(json_pack("{s:i, s:s, s:o}", "schemaVersion", 2, "mediaType", MEDIA_OCI_INDEX,
			      "manifests", list));
}

static json_t *texts_json(const struct schema_strs *texts)
{
	json_t *list = json_array();

	for (size_t i = 0; i < texts->count; i++)
		json_array_append_new(list, json_string(texts->items[i]));
	return list;
}

char *document_write_saved(const struct document_saved_list *list)
{
	json_t *array = json_array();

	for (size_t i = 0; i < list->count; i++) {
		const struct document_saved *saved = &list->items[i];

		if (json_array_append_new(array,
					  json_pack("{s:s, s:o, s:o}", "Config", saved->config,
						    "RepoTags", texts_json(&saved->names), "Layers",
						    texts_json(&saved->layers))) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return dump(array);
}
