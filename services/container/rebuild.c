/*
 * The container service's part of making its store again. The event log tells
 * which containers there are and what they are called; what they run stands in the
 * bundles of those that have a task. One whose spec is nowhere is recorded
 * without: so it keeps its snapshot until a person removes it.
 */

#include "services/lib/rebuild.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "schemas/envelope.h"
#include "schemas/json.h"
#include "services/container/container.h"

#define SPEC_MAX   524288
#define SPEC_LOST  "{\"ociVersion\":\"1.0.2\"}" /* nothing can be started of it */
#define STOP_LABEL "io.containerd.image.config.stop-signal"

/* What tells of a container that was not salvaged. */
enum found { FOUND_IN_LOG, FOUND_IN_BUNDLE, FOUND_IN_BOTH };

struct finder {
	struct rebuild *rebuild;
	struct store *store;
	json_t *known; /* "<namespace> <id>" of those that were salvaged */
	json_t *found; /* the same of others, with an enum found */
};

static char *name_of(const char *namespace, const char *id)
{
	return text_format("%s %s", namespace && *namespace ? namespace : ENVELOPE_DEFAULT_NS, id);
}

static int is_known(const struct finder *finder, const char *namespace, const char *id,
		    bool *ret_known)
{
	_cleanup_(cleanup_free) char *name = name_of(namespace, id);

	if (!name)
		return error_origin(-ENOMEM);
	*ret_known = json_object_get(finder->known, name);
	return 0;
}

static int note(json_t *names, const char *namespace, const char *id, enum found found)
{
	_cleanup_(cleanup_free) char *name = name_of(namespace, id);

	return !name || json_object_set_new(names, name, json_integer(found))
		       ? error_origin(-ENOMEM)
		       : 0;
}

static int note_known(void *userdata, const struct store_key *key, void *data)
{
	struct finder *finder = userdata;

	return note(finder->known, store_key_part(key, 0), ((struct container_record *)data)->id,
		    FOUND_IN_BOTH);
}

/* ---- records ---- */

static int put_namespace(struct finder *finder, const char *name, const struct schema_map *labels)
{
	struct namespace_record record = {.name = (char *)name};
	struct store_key key;
	int r = store_key(&key, name, NULL);

	if (r || (!labels && store_has(finder->store, NAMESPACE_TABLE, &key)))
		return r;
	if (labels)
		record.labels = *labels;
	return store_put(finder->store, NAMESPACE_TABLE, &key, schema_namespace_record(), &record);
}

static int put(struct finder *finder, const char *namespace, const struct container_record *record)
{
	struct container_name_row row = {.created_at_ns = record->created_at_ns,
					 .uid = record->uid};
	struct store_key key;
	int r = record_key(&key, namespace, record->id);

	r = r ?: put_namespace(finder, namespace, NULL);
	r = r ?: store_put(finder->store, CONTAINER_TABLE, &key, schema_container_record(), record);
	if (r || !record->auto_remove)
		return r;
	return store_put(finder->store, AUTO_REMOVE_TABLE, &key, schema_container_name_row(), &row);
}

static int get(struct finder *finder, const char *namespace, const char *id,
	       struct container_record *ret_record)
{
	struct store_key key;
	int r = record_key(&key, namespace, id);

	return r
		       ?: store_get(finder->store, CONTAINER_TABLE, &key, schema_container_record(),
				    ret_record);
}

static int drop(struct finder *finder, const char *namespace, const char *id)
{
	_cleanup_(cleanup_free) char *name = name_of(namespace, id);
	struct store_key key;
	int r = name ? record_key(&key, namespace, id) : error_origin(-ENOMEM);

	if (r)
		return r;
	(void)json_object_del(finder->found, name);
	(void)store_delete(finder->store, AUTO_REMOVE_TABLE, &key);
	r = store_delete(finder->store, CONTAINER_TABLE, &key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

/* ---- what the log tells ---- */

/* Everything is borrowed. */
static int on_create(struct finder *finder, const char *namespace, uint64_t time_ns,
		     const struct event_container_create *told)
{
	const char *runtime = told->runtime ? told->runtime->name : NULL;
	struct container_record record = {
		.id = told->id,
		.image = told->image,
		.uid = told->uid,
		.labels = told->labels,
		.runtime = (char *)(runtime && *runtime ? runtime : "runc"),
		.runtime_options = told->runtime ? told->runtime->options : NULL,
		.spec = (char *)SPEC_LOST,
		.snapshotter = told->snapshotter,
		.snapshot_key = told->snapshot_key,
		.stop_signal = (char *)schema_map_get(&told->labels, STOP_LABEL),
		.auto_remove = told->auto_remove,
		.created_at_ns = time_ns,
		.updated_at_ns = time_ns,
	};

	return put(finder, namespace, &record)
		       ?: note(finder->found, namespace, told->id, FOUND_IN_LOG);
}

static int on_update(struct finder *finder, const char *namespace, uint64_t time_ns,
		     const struct event_container_update *told)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	int r = get(finder, namespace, told->id, &record);

	if (r)
		return r == STORE_E_NOT_FOUND ? 0 : r;
	record.updated_at_ns = time_ns;
	schema_map_clear(&record.labels);
	r = schema_map_copy(&told->labels, &record.labels)
	    ?: schema_set(&record.image, told->image)
	    ?: schema_set(&record.snapshot_key, told->snapshot_key);
	return r ?: put(finder, namespace, &record);
}

static int take(const struct schema_message *schema, const struct bus_event *event, void *ret_told)
{
	int r = schema_unpack(schema, event->event.data, event->event.size, ret_told, NULL);

	return r > 0 ? STORE_E_DAMAGED : r;
}

static int take_create(struct finder *finder, const struct bus_event *event, const char *namespace)
{
	_cleanup_(event_container_create_clear) struct event_container_create told = {};
	int r = take(schema_event_container_create(), event, &told);
	bool is = false;

	r = r ?: is_known(finder, namespace, told.id, &is);
	if (r || is)
		return r;
	return on_create(finder, namespace, event->time_ns, &told);
}

static int take_update(struct finder *finder, const struct bus_event *event, const char *namespace)
{
	_cleanup_(event_container_update_clear) struct event_container_update told = {};
	int r = take(schema_event_container_update(), event, &told);
	bool is = false;

	r = r ?: is_known(finder, namespace, told.id, &is);
	if (r || is)
		return r;
	return on_update(finder, namespace, event->time_ns, &told);
}

static int take_delete(struct finder *finder, const struct bus_event *event, const char *namespace)
{
	_cleanup_(event_container_delete_clear) struct event_container_delete told = {};
	int r = take(schema_event_container_delete(), event, &told);
	bool is = false;

	r = r ?: is_known(finder, namespace, told.id, &is);
	return r || is ? r : drop(finder, namespace, told.id);
}

static int take_namespace(struct finder *finder, const struct bus_event *event)
{
	_cleanup_(event_namespace_clear) struct event_namespace told = {};
	int r;

	if (rebuild_is_whole(finder->rebuild, NAMESPACE_TABLE))
		return 0;
	r = take(schema_event_namespace(), event, &told);
	return r ?: put_namespace(finder, told.name, &told.labels);
}

static int take_namespace_delete(struct finder *finder, const struct bus_event *event)
{
	_cleanup_(event_namespace_delete_clear) struct event_namespace_delete told = {};
	struct store_key key;
	int r;

	if (rebuild_is_whole(finder->rebuild, NAMESPACE_TABLE))
		return 0;
	r = take(schema_event_namespace_delete(), event, &told) ?: store_key(&key, told.name, NULL);
	r = r ?: store_delete(finder->store, NAMESPACE_TABLE, &key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

static int take_container(struct finder *finder, const struct bus_event *event)
{
	const char *namespace = event->namespace && *event->namespace ? event->namespace
								      : ENVELOPE_DEFAULT_NS;

	if (rebuild_is_whole(finder->rebuild, CONTAINER_TABLE))
		return 0;
	if (!strcmp(event->topic, "/containers/create"))
		return take_create(finder, event, namespace);
	if (!strcmp(event->topic, "/containers/update"))
		return take_update(finder, event, namespace);
	return !strcmp(event->topic, "/containers/delete") ? take_delete(finder, event, namespace)
							   : 0;
}

static int on_event(void *userdata, const struct bus_event *event)
{
	struct finder *finder = userdata;
	int r;

	if (!strcmp(event->topic, "/namespaces/delete"))
		r = take_namespace_delete(finder, event);
	else if (!strncmp(event->topic, "/namespaces/", 12))
		r = take_namespace(finder, event);
	else
		r = take_container(finder, event);
	/* One that cannot be read says nothing. */
	return r == STORE_E_DAMAGED ? 0 : r;
}

/* ---- bundles ---- */

/* Each task is given its own by the runtime service (services/runtime/spec_check.c). */
#define HOOKS_ANNOTATION "run.oci.hooks.stderr"

static void take_back_hooks(json_t *spec, const char *bundle)
{
	json_t *annotations = json_object_get(spec, "annotations");
	const char *path = json_string_value(json_object_get(annotations, HOOKS_ANNOTATION));
	size_t size = strlen(bundle);

	if (path && !strncmp(path, bundle, size) && path[size] == '/')
		json_object_del(annotations, HOOKS_ANNOTATION);
}

static void take_back(json_t *spec, const char *bundle, const char *netns)
{
	json_t *namespaces = json_object_get(json_object_get(spec, "linux"), "namespaces"), *item;
	_cleanup_(cleanup_free) char *rootfs = text_format("%s/rootfs", bundle);
	json_t *root = json_object_get(spec, "root");
	const char *path = json_string_value(json_object_get(root, "path"));
	size_t i;

	if (rootfs && path && !strcmp(path, rootfs))
		json_object_set_new(root, "path", json_string("rootfs"));
	take_back_hooks(spec, bundle);
	json_array_foreach(namespaces, i, item)
	{
		path = json_string_value(json_object_get(item, "path"));
		if (path && netns && !strcmp(path, netns))
			json_object_del(item, "path");
	}
}

/* NULL if it is lost. */
static int read_spec(struct finder *finder, const char *bundle, const char *task_id,
		     char **ret_spec)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/config.json", bundle), *text = NULL;
	_cleanup_(cleanup_free) char *netns = text_format("%s/netns/%s",
							  finder->rebuild->paths->state, task_id);
	struct schema_fault fault = {};
	json_t *spec;
	size_t size;
	int r = path && netns ? file_read(AT_FDCWD, path, SPEC_MAX, &text, &size)
			      : error_origin(-ENOMEM);

	if (r)
		return rebuild_is_lost(r) ? 0 : r;
	spec = json_parse(text, size, SPEC_MAX, &fault);
	free(TAKE(text));
	if (json_is_object(spec)) {
		take_back(spec, bundle, netns);
		text = json_dumps(spec, JSON_COMPACT);
	}
	json_decref(spec);
	if (text && strlen(text) <= SPEC_MAX)
		*ret_spec = TAKE(text);
	return 0;
}

static int read_config(const char *bundle, struct shim_config *ret_config)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/shim.msgpack", bundle), *data = NULL;
	size_t size;
	int r = path ? file_read(AT_FDCWD, path, SCHEMA_MESSAGE_MAX, &data, &size)
		     : error_origin(-ENOMEM);

	return r ?: schema_unpack(schema_shim_config(), data, size, ret_config, NULL);
}

/* One that the log does not tell of: its image, labels and snapshot are not known. */
static int fill_unknown(const struct shim_config *config, struct container_record *record)
{
	const char *slash = strrchr(config->runtime_path, '/');

	record->created_at_ns = record->updated_at_ns = time_real_ns();
	return schema_set(&record->id, config->container_id)
		       ?: schema_set(&record->runtime, slash ? slash + 1 : config->runtime_path);
}

static int add_bundle(struct finder *finder, const char *bundle, const struct shim_config *config)
{
	_cleanup_(container_record_clear) struct container_record record = {};
	_cleanup_(cleanup_free) char *spec = NULL;
	enum found found = FOUND_IN_BOTH;
	bool is = false;
	int r;

	r = read_spec(finder, bundle, config->task_id, &spec);
	r = r ?: is_known(finder, config->namespace, config->container_id, &is);
	if (r || !spec || is)
		return r;
	r = get(finder, config->namespace, config->container_id, &record);
	if (r == STORE_E_NOT_FOUND) {
		found = FOUND_IN_BUNDLE;
		r = fill_unknown(config, &record);
	}
	r = r ?: schema_set(&record.spec, spec);
	r = r ?: put(finder, config->namespace, &record);
	return r ?: note(finder->found, config->namespace, config->container_id, found);
}

static int take_bundle(struct finder *finder, const char *bundles, const char *name)
{
	_cleanup_(cleanup_free) char *bundle = text_format("%s/%s", bundles, name);
	_cleanup_(shim_config_clear) struct shim_config config = {};
	int r = bundle ? read_config(bundle, &config) : error_origin(-ENOMEM);

	if (r)
		return r > 0 || rebuild_is_lost(r) ? 0 : r;
	return add_bundle(finder, bundle, &config);
}

static int find_bundles(struct finder *finder)
{
	_cleanup_(cleanup_free) char *bundles = text_format("%s/bundles",
							    finder->rebuild->paths->state);
	_cleanup_(cleanup_dir) DIR *dir = bundles ? file_open_dir(AT_FDCWD, bundles) : NULL;
	const struct dirent *entry;
	uint8_t id[ID_SIZE];
	int r = 0;

	if (!dir)
		return bundles && errno == ENOENT ? 0 : error_origin(bundles ? -errno : -ENOMEM);
	while (!r && (entry = readdir(dir)))
		if (!id_parse(entry->d_name, id))
			r = take_bundle(finder, bundles, entry->d_name);
	return r;
}

/* ---- all of it ---- */

static void tell_found(const struct rebuild *rebuild, const char *name, enum found found)
{
	static const char *const texts[] = {
		[FOUND_IN_LOG] =
			"missing: the spec of container %s in namespace %.*s: it cannot be "
			"started; its snapshot is kept until it is removed",
		[FOUND_IN_BUNDLE] = "rebuilt: container %s in namespace %.*s: its spec from its "
				    "bundle; image, labels and extensions are lost",
		[FOUND_IN_BOTH] = "rebuilt: container %s in namespace %.*s: its spec from its "
				  "bundle, the rest from the log; extensions are lost",
	};
	int n = (int)strcspn(name, " ");

	rebuild_say(rebuild, texts[found], name + n + 1, n, name);
}

static void tell(const struct finder *finder)
{
	const struct rebuild *rebuild = finder->rebuild;
	const char *name;
	json_t *found;

	json_object_foreach(finder->found, name, found)
		tell_found(rebuild, name, (enum found)json_integer_value(found));
	rebuild_say_lost(rebuild, "containers");
}

int container_rebuild(struct rebuild *rebuild)
{
	static const char *const topics[] = {"/containers/", "/namespaces/", NULL};
	struct finder finder = {.rebuild = rebuild,
				.store = rebuild->store,
				.known = json_object(),
				.found = json_object()};
	bool is_whole = rebuild_is_whole(rebuild, CONTAINER_TABLE);
	int r = finder.known && finder.found ? 0 : error_origin(-ENOMEM);

	r = r
		    ?: store_walk(finder.store, CONTAINER_TABLE, NULL, NULL,
				  schema_container_record(), note_known, &finder);
	if (!r && !(is_whole && rebuild_is_whole(rebuild, NAMESPACE_TABLE)))
		r = rebuild_events(rebuild, topics, on_event, &finder);
	if (!r && !is_whole)
		r = find_bundles(&finder);
	if (!r)
		tell(&finder);
	json_decref(finder.known);
	json_decref(finder.found);
	return r;
}
