/*
 * The image service's part of making its store again: blobs that are what their
 * names say, names of images from the events that told of them, and snapshots by
 * what is noted at their directories. Blobs, and snapshots that are no layers,
 * stay until a person lets them go. Layers without a record are made again from
 * their blobs when they are needed; directories without one stay until the store
 * is accepted, and are set aside then.
 */

#include "services/lib/rebuild.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/log.h"
#include "schemas/check.h"
#include "schemas/envelope.h"
#include "services/image/collect.h"
#include "services/image/handlers.h"
#include "services/image/labels.h"
#include "services/image/lease.h"

#define BATCH 500 /* records of one transaction */

struct finder {
	struct rebuild *rebuild;
	struct store *store;
	int blobs; /* directory */
	char lease[64];
	struct set known; /* names that were salvaged: "<namespace> <name>" */
	struct set lost;  /* that an event tells of without its target */
	size_t n_held, n_found, n_wrong, n_batch, n_layers, n_snapshots;
};

/* Large stores are not one transaction. */
static int put(struct finder *finder, const char *table, const struct store_key *key,
	       const struct schema_message *schema, const void *record)
{
	int r = store_put(finder->store, table, key, schema, record);

	if (!r && ++finder->n_batch % BATCH == 0)
		r = store_commit(finder->store);
	return r;
}

/* ---- the lease ---- */

static int make_lease(struct finder *finder)
{
	struct lease_record lease = {.id = finder->lease, .created_at_ns = time_real_ns()};
	struct store_key key;
	int r;

	snprintf(finder->lease, sizeof(finder->lease), "rebuilt-%s", finder->rebuild->stamp);
	r = store_key(&key, ENVELOPE_DEFAULT_NS, finder->lease, NULL);
	return r ?: put(finder, TABLE_LEASES, &key, schema_lease_record(), &lease);
}

static int hold(struct finder *finder, const char *digest)
{
	struct lease_resource resource = {.type = (char *)LEASE_CONTENT, .id = (char *)digest};
	struct store_key key;
	int r;

	r = lease_resource_key(ENVELOPE_DEFAULT_NS, finder->lease, LEASE_CONTENT, digest, &key);
	if (!r)
		r = put(finder, TABLE_LEASE_RESOURCES, &key, schema_lease_resource(), &resource);
	finder->n_held += !r;
	return r;
}

/* One that was lost, and of which it is known what it holds. It ends when a container has the snapshot of its name, if there is one. */
static int take_resource(void *userdata, const struct store_key *key, void *data)
{
	struct finder *finder = userdata;
	struct lease_record lease = {.id = (char *)store_key_part(key, 1),
				     .created_at_ns = time_real_ns(),
				     .until_used = true};
	const char *namespace = store_key_part(key, 0);
	struct store_key at;
	int r = store_key(&at, namespace, lease.id, NULL);

	(void)data;
	if (r || store_has(finder->store, TABLE_LEASES, &at))
		return r;
	rebuild_say(
		finder->rebuild,
		"rebuilt: lease %s in namespace %s, by what it holds; its labels and its end are lost",
		lease.id, namespace);
	return put(finder, TABLE_LEASES, &at, schema_lease_record(), &lease);
}

static int find_leases(struct finder *finder)
{
	return store_walk(finder->store, TABLE_LEASE_RESOURCES, NULL, NULL, schema_lease_resource(),
			  take_resource, finder);
}

/* ---- blobs ---- */

static bool has_blob(struct finder *finder, const char *digest)
{
	struct store_key key;

	return !content_key(digest, &key) && store_has(finder->store, TABLE_BLOBS, &key);
}

/* Is the file's content what its name says? */
static int read_blob(struct finder *finder, const char *name, const char *digest,
		     struct content_record *record, bool *ret_same)
{
	_cleanup_(cleanup_fd) int fd = openat(finder->blobs, name,
					      O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char actual[DIGEST_SIZE];
	struct stat status;
	int r;

	*ret_same = false;
	if (fd < 0)
		return rebuild_is_lost(errno) ? 0 : error_origin(-errno);
	if (fstat(fd, &status) || !S_ISREG(status.st_mode))
		return 0;
	r = digest_of_file(fd, actual, &record->size);
	/* What the disk does not give is not there. */
	if (r)
		return rebuild_is_lost(r) ? 0 : r;
	record->created_at_ns = (uint64_t)status.st_mtim.tv_sec * 1000000000 +
				(uint64_t)status.st_mtim.tv_nsec;
	*ret_same = !strcmp(actual, digest);
	return 0;
}

static int add_blob(struct finder *finder, const char *name, const char *digest)
{
	struct content_record record = {.digest = (char *)digest, .updated_at_ns = time_real_ns()};
	struct store_key key;
	bool is_same;
	int r;

	r = read_blob(finder, name, digest, &record, &is_same);
	if (r)
		return r;
	if (!is_same) {
		finder->n_wrong++;
		rebuild_say(finder->rebuild,
			    "missing: blob %s: its file has another content, or cannot be read",
			    digest);
		return 0;
	}
	r = content_key(digest, &key);
	if (!r)
		r = put(finder, TABLE_BLOBS, &key, schema_content_record(), &record);
	finder->n_found += !r;
	return r;
}

/* Those that were salvaged are held too: what kept them may be lost. */
static int take_blob(struct finder *finder, const char *name)
{
	char digest[DIGEST_SIZE];
	int r = 0;

	if (snprintf(digest, sizeof(digest), "sha256:%.64s", name) != DIGEST_SIZE - 1 ||
	    strlen(name) != 64 || !check_digest(digest))
		return 0;
	if (!has_blob(finder, digest) && !rebuild_is_whole(finder->rebuild, TABLE_BLOBS))
		r = add_blob(finder, name, digest);
	return !r && has_blob(finder, digest) ? hold(finder, digest) : r;
}

static int find_blobs(struct finder *finder)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int r, fd;

	fd = openat(finder->blobs, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return fd < 0 && errno == ENOENT ? 0 : error_origin(-EIO);
	}
	r = make_lease(finder);
	while (!r && (entry = readdir(dir)))
		r = take_blob(finder, entry->d_name);
	if (finder->n_found)
		rebuild_say(finder->rebuild,
			    "rebuilt: %zu blobs, by their digests; their labels are lost",
			    finder->n_found);
	if (finder->n_held)
		rebuild_say(finder->rebuild,
			    "rebuilt: lease %s in namespace " ENVELOPE_DEFAULT_NS
			    " holds all %zu blobs",
			    finder->lease, finder->n_held);
	return r;
}

/* ---- names ---- */

static char *name_of(const char *namespace, const char *name)
{
	return text_format("%s %s", namespace && *namespace ? namespace : ENVELOPE_DEFAULT_NS,
			   name);
}

static int note_known(void *userdata, const struct store_key *key, void *data)
{
	_cleanup_(cleanup_free) char *name = name_of(store_key_part(key, 0),
						     ((struct image_record *)data)->name);

	return name ? set_add(userdata, name) : error_origin(-ENOMEM);
}

static int put_name(struct finder *finder, const struct bus_event *event,
		    const struct event_image *told)
{
	struct image_record record = {.name = told->name,
				      .labels = told->labels,
				      .target = told->target,
				      .created_at_ns = event->time_ns,
				      .updated_at_ns = event->time_ns};
	struct store_key key;
	int r;

	r = store_key(&key, event->namespace ?: ENVELOPE_DEFAULT_NS, told->name, NULL);
	return r ?: put(finder, TABLE_IMAGES, &key, schema_image_record(), &record);
}

static int take_change(struct finder *finder, const struct bus_event *event)
{
	_cleanup_(event_image_clear) struct event_image told = {};
	_cleanup_(cleanup_free) char *name = NULL;
	int r = schema_unpack(schema_event_image(), event->event.data, event->event.size, &told,
			      NULL);

	if (r)
		return r > 0 ? 0 : r;
	name = name_of(event->namespace, told.name);
	if (!name)
		return error_origin(-ENOMEM);
	if (set_has(&finder->known, name))
		return 0;
	return told.target ? put_name(finder, event, &told) : set_add(&finder->lost, name);
}

static int take_delete(struct finder *finder, const struct bus_event *event)
{
	_cleanup_(event_image_delete_clear) struct event_image_delete told = {};
	_cleanup_(cleanup_free) char *name = NULL;
	struct store_key key;
	int r;

	r = schema_unpack(schema_event_image_delete(), event->event.data, event->event.size, &told,
			  NULL);
	if (r)
		return r > 0 ? 0 : r;
	name = name_of(event->namespace, told.name);
	if (!name)
		return error_origin(-ENOMEM);
	if (set_has(&finder->known, name))
		return 0;
	set_remove(&finder->lost, name);
	r = store_key(&key, event->namespace ?: ENVELOPE_DEFAULT_NS, told.name, NULL);
	r = r ?: store_delete(finder->store, TABLE_IMAGES, &key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

static int on_event(void *userdata, const struct bus_event *event)
{
	if (!strcmp(event->topic, "/images/delete"))
		return take_delete(userdata, event);
	if (!strcmp(event->topic, "/images/create") || !strcmp(event->topic, "/images/update"))
		return take_change(userdata, event);
	return 0; /* progress, and whatever else begins so */
}

/* One that was told is here only if its target is. */
static int check_name(void *userdata, const struct store_key *key, void *data)
{
	const char *namespace = store_key_part(key, 0);
	const struct image_record *record = data;
	struct finder *finder = userdata;
	_cleanup_(cleanup_free) char *name = name_of(namespace, record->name);

	if (!name)
		return error_origin(-ENOMEM);
	if (set_has(&finder->known, name))
		return 0;
	if (has_blob(finder, record->target->digest)) {
		rebuild_say(finder->rebuild, "rebuilt: image %s in namespace %s: %s", record->name,
			    namespace, record->target->digest);
		return 0;
	}
	rebuild_say(finder->rebuild,
		    "missing: image %s in namespace %s: its target %s is not there", record->name,
		    namespace, record->target->digest);
	return store_delete(finder->store, TABLE_IMAGES, key);
}

static bool has_image(struct finder *finder, const char *name)
{
	const char *space = strchr(name, ' ');
	_cleanup_(cleanup_free) char *namespace = strndup(name, (size_t)(space - name));
	struct store_key key;

	return namespace && !store_key(&key, namespace, space + 1, NULL) &&
	       store_has(finder->store, TABLE_IMAGES, &key);
}

static void tell_lost(struct finder *finder)
{
	for (size_t i = 0; i < finder->lost.n_slots; i++)
		if (finder->lost.slots[i] && !has_image(finder, finder->lost.slots[i]))
			rebuild_say(
				finder->rebuild,
				"missing: image (namespace and name) %s: the log does not say what it was, "
				"or that it was deleted",
				finder->lost.slots[i]);
	rebuild_say_lost(finder->rebuild, "names of images");
}

static int find_names(struct finder *finder)
{
	static const char *const topics[] = {"/images/", NULL};
	int r;

	if (rebuild_is_whole(finder->rebuild, TABLE_IMAGES))
		return 0;
	r = store_walk(finder->store, TABLE_IMAGES, NULL, NULL, schema_image_record(), note_known,
		       &finder->known);
	r = r ?: rebuild_events(finder->rebuild, topics, on_event, finder);
	r = r
		    ?: store_walk(finder->store, TABLE_IMAGES, NULL, NULL, schema_image_record(),
				  check_name, finder);
	if (!r)
		tell_lost(finder);
	return r;
}

/* ---- snapshots ---- */

static int note_number(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	char name[24];

	(void)key;
	snprintf(name, sizeof(name), "%llu", (unsigned long long)record->number);
	return set_add(userdata, name);
}

/* Is it what this directory may be? */
static bool is_sound(const struct snapshot_mark *mark, const char *name)
{
	const struct snapshot_record *record = mark->snapshot;
	bool is_layer = !strcmp(mark->scope, SCOPE_SHARED);
	char number[24];

	snprintf(number, sizeof(number), "%llu", (unsigned long long)record->number);
	return !strcmp(number, name) && record->key[0] && is_layer == check_digest(record->key) &&
	       (is_layer || check_identifier(mark->scope)) &&
	       (!is_layer || record->kind == SNAPSHOT_COMMITTED) &&
	       (!strcmp(record->snapshotter, SNAPSHOTTER_OVERLAY) ||
		!strcmp(record->snapshotter, SNAPSHOTTER_NATIVE));
}

/* One that is no layer is kept until its container, or a person, removes it: what kept it may be lost. */
static int put_snapshot(struct finder *finder, struct snapshot_mark *mark, bool *ret_new)
{
	struct snapshot_record *record = mark->snapshot;
	bool is_layer = !strcmp(mark->scope, SCOPE_SHARED);
	struct store_key key;
	int r;

	r = store_key(&key, mark->scope, record->snapshotter, record->key, NULL);
	if (r || store_has(finder->store, TABLE_SNAPSHOTS, &key))
		return r == -ENAMETOOLONG ? 0 : r;
	if (!is_layer)
		r = snapshot_keep(&record->labels);
	if (!r)
		r = put(finder, TABLE_SNAPSHOTS, &key, schema_snapshot_record(), record);
	*ret_new = !r;
	if (!r)
		(*(is_layer ? &finder->n_layers : &finder->n_snapshots))++;
	return r;
}

static int take_directory(struct finder *finder, int snapshots, const char *name, bool *ret_new)
{
	_cleanup_(snapshot_mark_clear) struct snapshot_mark mark = {};
	int r;

	*ret_new = false;
	if (rebuild_is_whole(finder->rebuild, TABLE_SNAPSHOTS))
		return 0;
	r = snapshot_read_mark(snapshots, name, &mark);
	if (r)
		return r > 0 ? 0 : r;
	return is_sound(&mark, name) ? put_snapshot(finder, &mark, ret_new) : 0;
}

static void tell_snapshots(struct finder *finder, size_t n_unknown, const char *path)
{
	if (finder->n_layers)
		rebuild_say(finder->rebuild,
			    "rebuilt: %zu layers, by what is noted at their directories",
			    finder->n_layers);
	if (finder->n_snapshots)
		rebuild_say(finder->rebuild,
			    "rebuilt: %zu snapshots, by what is noted at their directories; each "
			    "is kept until it is removed, as its label " LABEL_ROOT " says",
			    finder->n_snapshots);
	if (n_unknown)
		rebuild_say(
			finder->rebuild,
			"missing: records of %zu directories in %s: they stay; layers are unpacked "
			"again, containers that run go on, what others wrote has to be taken from there",
			n_unknown, path);
}

static int find_snapshots(struct finder *finder, const char *path)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(path);
	_cleanup_(set_clear) struct set known = {};
	struct dirent *entry;
	size_t n_unknown = 0;
	bool is_new;
	int r;

	if (!dir && errno != ENOENT)
		return error_origin(-errno);
	r = store_walk(finder->store, TABLE_SNAPSHOTS, NULL, NULL, schema_snapshot_record(),
		       note_number, &known);
	while (!r && dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || set_has(&known, entry->d_name))
			continue;
		r = take_directory(finder, dirfd(dir), entry->d_name, &is_new);
		n_unknown += !is_new;
	}
	if (!r)
		tell_snapshots(finder, n_unknown, path);
	return r;
}

int image_rebuild(struct rebuild *rebuild)
{
	struct finder finder = {.rebuild = rebuild, .store = rebuild->store, .blobs = -1};
	_cleanup_(cleanup_free) char *blobs = text_format("%s/image/content/blobs/sha256",
							  rebuild->paths->root);
	_cleanup_(cleanup_free) char *snapshots = text_format("%s/image/snapshots",
							      rebuild->paths->root);
	int r = 0;

	if (!blobs || !snapshots)
		return error_origin(-ENOMEM);
	finder.blobs = open(blobs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (finder.blobs >= 0)
		r = find_blobs(&finder) ?: find_names(&finder) ?: find_leases(&finder);
	else if (errno == ENOENT)
		rebuild_say(rebuild, "missing: all blobs: %s: %s", blobs, strerror(errno));
	else
		r = error_origin(-errno);
	r = r ?: find_snapshots(&finder, snapshots);
	set_clear(&finder.known);
	set_clear(&finder.lost);
	close_fd(finder.blobs);
	return r;
}

/* ---- accepting ---- */

static int move_one(int from, const char *directory, const char *name)
{
	_cleanup_(cleanup_free) char *to = text_format("%s/%s", directory, name);

	if (!to)
		return error_origin(-ENOMEM);
	return renameat2(from, name, AT_FDCWD, to, RENAME_NOREPLACE) && errno != ENOENT ? -errno
											: 0;
}

/* Those that cannot be moved stay in @names. */
static int move_aside(struct image_service *image, int from, const char *kind,
		      struct schema_strs *names)
{
	_cleanup_(cleanup_free) char *directory = text_format("%s/%s", image->unrecorded, kind);
	struct why why = {};
	size_t n = 0;
	int r;

	if (!names->count)
		return 0;
	r = directory ? file_make_dir(directory, 0700, &why) : error_origin(-ENOMEM);
	for (size_t i = 0; i < names->count; i++) {
		r = r ?: move_one(from, directory, names->items[i]);
		if (r) {
			log_error("unrecorded=%s name=%s error=\"it cannot be set aside: %s\"",
				  kind, names->items[i], strerror(r < 0 ? -r : EIO));
			names->items[n++] = names->items[i];
		} else {
			free(names->items[i]);
		}
	}
	names->count = n;
	return r ?: store_sync_directory(directory) ?: fsync(from) ? -errno : 0;
}

static bool is_unrecorded_blob(struct image_service *image, const char *name)
{
	char digest[DIGEST_SIZE];

	return snprintf(digest, sizeof(digest), "sha256:%.64s", name) != DIGEST_SIZE - 1 ||
	       strlen(name) != 64 || content_find(image, digest) == STORE_E_NOT_FOUND;
}

/* What was pulled or imported meanwhile has taken its place, and has a record. */
static int drop_recorded(void *userdata)
{
	struct image_service *image = userdata;
	struct schema_strs *blobs = &image->unrecorded_blobs;
	size_t n = 0;

	for (size_t i = 0; i < blobs->count; i++) {
		if (is_unrecorded_blob(image, blobs->items[i]))
			blobs->items[n++] = blobs->items[i];
		else
			free(blobs->items[i]);
	}
	blobs->count = n;
	return 0;
}

/* Looked at again: a blob may have come back within the turn that accepted. */
static int set_aside(void *userdata)
{
	struct image_service *image = userdata;
	int r = service_transact(image->service, drop_recorded, image);

	r = r ?: move_aside(image, image->blobs, "blobs", &image->unrecorded_blobs);
	r = r ?: move_aside(image, image->snapshots, "snapshots", &image->unrecorded_snapshots);
	if (!r)
		collect(image);
	return error_trace(r);
}

int image_store_accept(struct image_service *image, const struct empty *request,
		       struct store_accept_reply *reply, struct call *call)
{
	int r;

	(void)request;
	if (!store_rebuilt(service_store(image->service)))
		return 0;
	(void)drop_recorded(image);
	reply->count = image->unrecorded_blobs.count + image->unrecorded_snapshots.count;
	if (!image->unrecorded)
		image->unrecorded = text_format("%s/unrecorded-%llu", image->directory,
						(unsigned long long)(time_real_ns() / 1000000000));
	if (!image->unrecorded)
		return error_origin(-ENOMEM);
	r = reply->count ? schema_set(&reply->aside, image->unrecorded) : 0;
	return error_trace(r ?: service_accept(image->service, call, reply, set_aside, image));
}
