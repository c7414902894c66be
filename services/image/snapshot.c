/* Snapshots: their records, directories and mounts. */

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "services/image/handlers.h"
#include "services/image/labels.h"
#include "services/image/lease.h"
#include "services/image/list.h"
#include "services/image/mounts.h"
#include "services/image/references.h"

/* ---- keys ---- */

static int make_key(const char *scope, const char *snapshotter, const char *key,
		    struct store_key *ret_key)
{
	return store_key(ret_key, scope, snapshotter, key, NULL);
}

int snapshot_key(const char *namespace, const char *snapshotter, const char *key,
		 struct store_key *ret_key)
{
	return make_key(check_digest(key) ? SCOPE_SHARED : namespace, snapshotter, key, ret_key);
}

int snapshot_check_name(struct image_service *image, const char *snapshotter, const char **ret_name,
			struct why *why)
{
	bool is_native = snapshotter && !strcmp(snapshotter, SNAPSHOTTER_NATIVE);

	if (!snapshotter || !snapshotter[0])
		is_native = !image->has_overlay;
	else if (!is_native && strcmp(snapshotter, SNAPSHOTTER_OVERLAY))
		return why_set(why, refused(BUS_NOT_FOUND),
			       "no snapshotter '%.76s': there are overlayfs and native",
			       snapshotter);
	if (!is_native && !image->has_overlay)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "snapshotter overlayfs does not work on this host: %s",
			       image->overlay_reason);
	*ret_name = is_native ? SNAPSHOTTER_NATIVE : SNAPSHOTTER_OVERLAY;
	return 0;
}

static int get_with_key(struct image_service *image, const char *namespace, const char *snapshotter,
			const char *key, struct store_key *ret_key,
			struct snapshot_record *ret_record)
{
	int r;

	r = snapshot_key(namespace, snapshotter, key, ret_key);
	if (r)
		return r == -ENAMETOOLONG ? STORE_E_NOT_FOUND : error_trace(r);
	return store_get(image->store, TABLE_SNAPSHOTS, ret_key, schema_snapshot_record(),
			 ret_record);
}

int snapshot_get(struct image_service *image, const char *namespace, const char *snapshotter,
		 const char *key, struct snapshot_record *ret_record)
{
	struct store_key stored;

	return get_with_key(image, namespace, snapshotter, key, &stored, ret_record);
}

bool snapshot_has_layer(struct image_service *image, const char *snapshotter, const char *chain)
{
	struct store_key key;

	return !make_key(SCOPE_SHARED, snapshotter, chain, &key) &&
	       store_has(image->store, TABLE_SNAPSHOTS, &key);
}

int snapshot_check_new(struct image_service *image, const char *namespace, const char *snapshotter,
		       const char *key, struct why *why)
{
	struct store_key stored;
	int r;

	for (const char *c = key; *c; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return why_set(why, refused(BUS_INVALID_ARGUMENT),
				       "a snapshot's key has a control character in it");
	}
	if (!key[0] || check_digest(key))
		return why_set(why, refused(BUS_INVALID_ARGUMENT),
			       "'%s' cannot be the key of a snapshot: digests name layers", key);
	r = make_key(namespace, snapshotter, key, &stored);
	if (r)
		return error_trace(r);
	if (store_has(image->store, TABLE_SNAPSHOTS, &stored))
		return why_set(why, refused(BUS_ALREADY_EXISTS), "snapshot '%s' exists already",
			       key);
	return 0;
}

/* ---- directories ---- */

static void name_directory(uint64_t number, char name[24])
{
	snprintf(name, 24, "%llu", (unsigned long long)number);
}

/* By path: with no descriptor left it could be made halfway, and not be taken back. */
static int make_parts(struct image_service *image, const char *name)
{
	char fs[32], work[32];

	snprintf(fs, sizeof(fs), "%s/fs", name);
	snprintf(work, sizeof(work), "%s/work", name);
	if (!mkdirat(image->snapshots, fs, 0755) && !mkdirat(image->snapshots, work, 0711) &&
	    !fchmodat(image->snapshots, fs, 0755, 0) && !fchmodat(image->snapshots, work, 0711, 0))
		return 0;
	return error_origin(-errno);
}

/* What snapshot_make_dir() has made, or a part of it. */
static void remove_made(struct image_service *image, uint64_t number)
{
	static const char *const parts[] = {"/work", "/fs", ""};
	char path[32];

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		snprintf(path, sizeof(path), "%llu%s", (unsigned long long)number, parts[i]);
		(void)unlinkat(image->snapshots, path, AT_REMOVEDIR);
	}
}

int snapshot_make_dir(struct image_service *image, uint64_t *ret_number, struct why *why)
{
	uint64_t number = image->next_number++;
	char name[24];
	int r;

	name_directory(number, name);
	if (mkdirat(image->snapshots, name, 0700) < 0)
		return why_errno(why, error_origin(-errno), "cannot make snapshot directory '%s'",
				 name);
	r = make_parts(image, name);
	if (r) {
		remove_made(image, number);
		return why_errno(why, r, "cannot make snapshot directory '%s'", name);
	}
	*ret_number = number;
	return 0;
}

struct made {
	struct image_service *image;
	uint64_t number;
};

/* At the end of the process it may be recorded all the same; if not, the next start removes it. */
static void not_recorded(void *userdata)
{
	struct made *made = userdata;

	if (!made->image->is_draining)
		remove_made(made->image, made->number);
	free(made);
}

int snapshot_make_dir_within(struct image_service *image, uint64_t *ret_number, struct why *why)
{
	_cleanup_(cleanup_free) struct made *made = calloc(1, sizeof(*made));
	uint64_t number;
	int r;

	if (!made)
		return error_origin(-ENOMEM);
	r = snapshot_make_dir(image, &number, why);
	if (r)
		return error_trace(r);
	*made = (struct made){image, number};
	r = service_after_commit(image->service, free, not_recorded, made);
	if (r) {
		remove_made(image, number);
		return error_trace(r);
	}
	*ret_number = TAKE(made)->number;
	return 0;
}

int snapshot_copy_root(struct image_service *image, const char *namespace, const char *snapshotter,
		       const char *parent, uint64_t number, struct why *why)
{
	char from[32], to[32];
	struct timespec times[2];
	struct stat status;
	uint64_t lowers[SNAPSHOT_DEPTH_MAX];
	size_t count;
	int r;

	r = snapshot_chain(image, namespace, snapshotter, parent, lowers, ARRAY_SIZE(lowers),
			   &count, why);
	if (r || !count)
		return r;
	snprintf(from, sizeof(from), "%llu/fs", (unsigned long long)lowers[0]);
	snprintf(to, sizeof(to), "%llu/fs", (unsigned long long)number);
	if (fstatat(image->snapshots, from, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return why_set(why, refused(BUS_DATA_LOSS),
			       "the directory of layer %s is missing: `davit snapshots repair %s` "
			       "makes it again",
			       parent, parent);
	times[0] = status.st_atim;
	times[1] = status.st_mtim;
	if (fchownat(image->snapshots, to, status.st_uid, status.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(image->snapshots, to, status.st_mode & 07777, 0) < 0 ||
	    utimensat(image->snapshots, to, times, AT_SYMLINK_NOFOLLOW) < 0)
		return why_errno(why, error_origin(-errno), "cannot prepare snapshot directory");
	return 0;
}

/* ---- records ---- */

static int emit_prepare(struct image_service *image, const char *namespace, const char *key,
			const char *parent, const char *snapshotter)
{
	struct event_snapshot_prepare event = {
		.key = (char *)key, .parent = (char *)parent, .snapshotter = (char *)snapshotter};

	return error_trace(service_emit(image->service, namespace,
					schema_find_event("/snapshot/prepare"), key, &event));
}

int snapshot_emit_commit(struct image_service *image, const char *namespace, const char *key,
			 const char *name, const char *snapshotter)
{
	struct event_snapshot_commit event = {
		.key = (char *)key, .name = (char *)name, .snapshotter = (char *)snapshotter};

	return error_trace(service_emit(image->service, namespace,
					schema_find_event("/snapshot/commit"), name, &event));
}

int snapshot_record_layer(struct image_service *image, const char *snapshotter, const char *chain,
			  const char *parent, uint64_t number,
			  const struct work_apply_result *result)
{
	struct snapshot_record record = {.key = (char *)chain,
					 .parent = (char *)parent,
					 .kind = SNAPSHOT_COMMITTED,
					 .snapshotter = (char *)snapshotter,
					 .number = number,
					 .created_at_ns = time_real_ns(),
					 .size = result->size,
					 .inodes = result->inodes,
					 .unsynced_boot = {image->boot, sizeof(image->boot)}};
	struct store_key key;
	char before[64];
	int r;

	record.updated_at_ns = record.created_at_ns;
	snprintf(before, sizeof(before), "extract-%llu", (unsigned long long)number);
	r = make_key(SCOPE_SHARED, snapshotter, chain, &key);
	if (!r)
		r = snapshot_put(image, &key, &record);
	if (!r)
		r = emit_prepare(image, "", before, parent, snapshotter);
	if (!r)
		r = snapshot_emit_commit(image, "", before, chain, snapshotter);
	return error_trace(r);
}

int snapshot_keep(struct schema_map *labels)
{
	char now[LABEL_TIME_SIZE];

	if (label_says_how_long(labels))
		return 0;
	label_format_time(time_real_ns(), now);
	return error_trace(schema_map_set(labels, LABEL_ROOT, now));
}

/* Who prepared it directly keeps it until it is released, as ctr does. */
static int hold_own(struct image_service *image, const char *namespace,
		    const struct image_prepare_request *request, const char *snapshotter,
		    struct schema_map *labels)
{
	int r;

	r = schema_map_copy(&request->labels, labels);
	if (!r && request->leased)
		r = lease_make(image, namespace, request->key, true)
			    ?: lease_add_snapshot(image, namespace, request->key, snapshotter,
						  request->key);
	return r || request->leased ? error_trace(r) : error_trace(snapshot_keep(labels));
}

int snapshot_record_own(struct image_service *image, const char *namespace,
			const struct image_prepare_request *request, const char *snapshotter,
			const char *parent, uint64_t number)
{
	struct snapshot_record record = {.key = request->key,
					 .parent = (char *)parent,
					 .kind = request->read_only ? SNAPSHOT_VIEW
								    : SNAPSHOT_ACTIVE,
					 .snapshotter = (char *)snapshotter,
					 .number = number,
					 .created_at_ns = time_real_ns()};
	_cleanup_(schema_map_clear) struct schema_map labels = {};
	struct store_key key;
	int r;

	record.updated_at_ns = record.created_at_ns;
	r = hold_own(image, namespace, request, snapshotter, &labels);
	record.labels = labels;
	if (!r)
		r = make_key(namespace, snapshotter, request->key, &key);
	if (!r)
		r = snapshot_put(image, &key, &record);
	collect_expires(image, label_expiry(&record.labels));
	if (!r)
		r = emit_prepare(image, namespace, request->key, parent, snapshotter);
	return error_trace(r);
}

int snapshot_forget(struct image_service *image, const struct store_key *key, const char *namespace,
		    const struct snapshot_record *record)
{
	struct event_snapshot_remove event = {.key = record->key,
					      .snapshotter = record->snapshotter};
	char name[24];
	int r;

	r = store_delete(image->store, TABLE_SNAPSHOTS, key);
	if (!r && namespace[0])
		r = lease_end_unused(image, namespace, record->key);
	if (!r)
		r = service_emit(image->service, namespace, schema_find_event("/snapshot/remove"),
				 record->key, &event);
	name_directory(record->number, name);
	if (!r)
		r = trash_after_commit(image, image->snapshots, name, NULL);
	return error_trace(r);
}

/* ---- what lies below ---- */

static int lost_layer(const char *chain, struct why *why)
{
	return why_set(why, refused(BUS_DATA_LOSS),
		       "layer %s is missing: `davit snapshots unpack` makes it again", chain);
}

int snapshot_chain(struct image_service *image, const char *namespace, const char *snapshotter,
		   const char *chain, uint64_t *numbers, size_t max, size_t *ret_count,
		   struct why *why)
{
	_cleanup_(cleanup_free) char *next = chain && chain[0] ? strdup(chain) : NULL;
	size_t count = 0;

	while (next && next[0]) {
		_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
		struct store_key key;
		int r;

		if (count == max)
			return why_set(why, refused(BUS_DATA_LOSS), "layer %s has no end", chain);
		r = get_with_key(image, namespace, snapshotter, next, &key, &record);
		if (r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED)
			return lost_layer(next, why);
		if (r)
			return error_trace(r);
		numbers[count++] = record.number;
		free(next);
		next = TAKE(record.parent);
	}
	*ret_count = count;
	return 0;
}

int snapshot_make_mounts(struct image_service *image, const char *namespace,
			 const struct snapshot_record *record, struct mount **ret_mounts,
			 size_t *ret_count, struct why *why)
{
	bool is_overlay = !strcmp(record->snapshotter, SNAPSHOTTER_OVERLAY);
	uint64_t lowers[SNAPSHOT_DEPTH_MAX];
	size_t n_lowers = 0;
	int r;

	if (record->kind == SNAPSHOT_COMMITTED)
		return why_set(why, refused(BUS_FAILED_PRECONDITION),
			       "snapshot '%s' is a layer: it has no mounts of its own",
			       record->key);
	if (is_overlay)
		r = snapshot_chain(image, namespace, record->snapshotter, record->parent, lowers,
				   ARRAY_SIZE(lowers), &n_lowers, why);
	else
		r = 0;
	if (r)
		return r;
	return error_trace(mounts_make(image->snapshots_path, is_overlay, record->kind,
				       record->number, lowers, n_lowers, ret_mounts, ret_count));
}

/* ---- methods ---- */

int snapshot_find(struct image_service *image, const char *namespace, const char *snapshotter,
		  const char *key, struct store_key *ret_key, struct snapshot_record *ret_record,
		  struct why *why)
{
	int r;

	r = snapshot_check_name(image, snapshotter, &snapshotter, why);
	if (r)
		return r;
	r = get_with_key(image, namespace, snapshotter, key, ret_key, ret_record);
	if (r == STORE_E_NOT_FOUND)
		return why_set(why, refused(BUS_NOT_FOUND), "no snapshot '%s' (%s)", key,
			       snapshotter);
	return error_trace(r);
}

static int find(struct image_service *image, struct call *call,
		const struct snapshot_key_request *request, struct store_key *ret_key,
		struct snapshot_record *ret_record, struct why *why)
{
	return snapshot_find(image, call_namespace(call), request->snapshotter, request->key,
			     ret_key, ret_record, why);
}

int image_mounts(struct image_service *image, const struct snapshot_key_request *request,
		 struct image_mounts_reply *reply, struct call *call)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	struct store_key key;
	struct why why = {};
	int r;

	r = find(image, call, request, &key, &record, &why);
	if (!r)
		r = snapshot_make_mounts(image, call_namespace(call), &record, &reply->mounts.items,
					 &reply->mounts.count, &why);
	return image_answer(call, r, &why, "the snapshot");
}

int image_release(struct image_service *image, const struct snapshot_key_request *request,
		  struct empty *reply, struct call *call)
{
	_cleanup_(snapshot_record_clear) struct snapshot_record record = {};
	struct store_key key;
	struct why why = {};
	int r;

	(void)reply;
	r = find(image, call, request, &key, &record, &why);
	if (r == refused(BUS_NOT_FOUND))
		return 0;
	if (!r && record.kind == SNAPSHOT_COMMITTED)
		r = why_set(&why, refused(BUS_FAILED_PRECONDITION),
			    "snapshot '%s' is a layer: it goes with the last image that needs it",
			    request->key);
	if (!r)
		r = snapshot_forget(image, &key, call_namespace(call), &record);
	if (!r)
		r = collect_later(image);
	return image_answer(call, r, &why, "the snapshot");
}

int snapshot_stat(struct image_service *image, const struct snapshot_key_request *request,
		  struct snapshot_reply *reply, struct call *call)
{
	struct store_key key;
	struct why why = {};
	int r;

	reply->snapshot = calloc(1, sizeof(*reply->snapshot));
	if (!reply->snapshot)
		return error_origin(-ENOMEM);
	r = find(image, call, request, &key, reply->snapshot, &why);
	return image_answer(call, r, &why, "the snapshot");
}

struct listing {
	struct list list;
	struct snapshot_list_reply *reply;
	struct references references;
	struct filter *filter;
	bool is_shared; /* layers are listed */
};

/* containerd calls the key the name. */
static const char *field_text(void *userdata, const char *const *path, size_t n_path, char *scratch)
{
	const struct snapshot_record *record = userdata;

	(void)scratch;
	if (n_path == 1 && (!strcmp(path[0], "name") || !strcmp(path[0], "key")))
		return record->key;
	if (n_path == 1 && !strcmp(path[0], "parent"))
		return record->parent;
	if (n_path == 1 && !strcmp(path[0], "snapshotter"))
		return record->snapshotter;
	if (n_path == 1 && !strcmp(path[0], "kind"))
		return schema_enum_text(&schema_enum_snapshot_kind, record->kind);
	return NULL;
}

static bool matches(const struct filter *filter, struct snapshot_record *record)
{
	return filter_match(filter, field_text, record) ||
	       filter_match_message(filter, schema_snapshot_record(), record);
}

static int list_one(void *userdata, const struct store_key *key, void *data)
{
	struct listing *listing = userdata;
	struct snapshot_record *record = data, *item;
	/* The place in the list: layers first, and a key may stand under both snapshotters. */
	_cleanup_(cleanup_free) char *place = text_format("%d/%s/%s", !listing->is_shared,
							  record->snapshotter, record->key);

	(void)key;
	if (!place)
		return error_origin(-ENOMEM);
	if (list_is_before(&listing->list, place) || !matches(listing->filter, record))
		return 0;
	if (listing->is_shared &&
	    !references_have_snapshot(&listing->references, SCOPE_SHARED, record))
		return 0;
	if (!list_has_room(&listing->list, schema_snapshot_record(), record))
		return list_stop(&listing->list, &listing->reply->after);
	item = schema_list_add(&listing->reply->snapshots);
	if (!item)
		return error_origin(-ENOMEM);
	return error_trace(list_added(&listing->list, place, snapshot_record_copy(record, item)));
}

static int list_scope(struct image_service *image, const char *scope, struct listing *listing)
{
	struct store_key prefix;
	int r;

	r = store_key(&prefix, scope, "", NULL);
	if (!r)
		r = store_walk(image->store, TABLE_SNAPSHOTS, &prefix, NULL,
			       schema_snapshot_record(), list_one, listing);
	return r;
}

int snapshot_list(struct image_service *image, const struct list_request *request,
		  struct snapshot_list_reply *reply, struct call *call)
{
	struct listing listing = {.reply = reply, .is_shared = true};
	const char *namespace = call_checked_namespace(call);
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	r = list_start(&listing.list, request, &listing.filter, &why);
	if (!r)
		r = references_find(image, namespace, &listing.references);
	if (!r)
		r = list_scope(image, SCOPE_SHARED, &listing);
	if (!r) {
		listing.is_shared = false;
		r = list_scope(image, namespace, &listing);
	}
	references_clear(&listing.references);
	filter_free(listing.filter);
	list_clear(&listing.list);
	return image_answer(call, r == LIST_FULL ? 0 : r, &why, "snapshots");
}

/* ---- at the start ---- */

struct known {
	struct set names;
	uint64_t highest;
	bool is_incomplete; /* a directory without a record may be that of one that was damaged */
	struct image_service *image;
};

/* Was it made in another boot, and may not have reached the disk before that ended? */
static bool is_lost(struct image_service *image, const struct snapshot_record *record)
{
	if (!record->unsynced_boot.size)
		return false;
	if (record->unsynced_boot.size == sizeof(image->boot) &&
	    !memcmp(record->unsynced_boot.data, image->boot, sizeof(image->boot))) {
		image->must_sync = true;
		return false;
	}
	return true;
}

/* A container's directory that a power cut took was empty still. */
static int mend(struct image_service *image, const struct snapshot_record *record, const char *name)
{
	struct stat status;

	if (fstatat(image->snapshots, name, &status, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	log_warning("snapshot=%s directory=%s error=\"it is missing\"", record->key, name);
	if (record->kind == SNAPSHOT_COMMITTED)
		return 0;
	image->next_number = record->number;
	return error_trace(snapshot_make_dir(image, &(uint64_t){0}, NULL));
}

static int note_known(void *userdata, const struct store_key *key, void *data)
{
	const struct snapshot_record *record = data;
	struct known *known = userdata;
	char name[24];
	int r;

	name_directory(record->number, name);
	if (record->number > known->highest)
		known->highest = record->number;
	if (is_lost(known->image, record)) {
		log_info("layer=%s dropped=\"not known to be on disk\"", record->key);
		return store_delete(known->image->store, TABLE_SNAPSHOTS, key);
	}
	r = set_add(&known->names, name) ?: mend(known->image, record, name);
	if (!r && !snapshot_is_marked(known->image, name))
		snapshot_mark(known->image, store_key_part(key, 0), record);
	return error_trace(r);
}

static int clean_directories(struct image_service *image, struct known *known)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int fd, r = 0;

	fd = openat(image->snapshots, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return error_origin(-EIO);
	}
	while (!r && (entry = readdir(dir))) {
		uint64_t number = strtoull(entry->d_name, NULL, 10);

		if (entry->d_name[0] == '.' || set_has(&known->names, entry->d_name))
			continue;
		if (number > known->highest && number < UINT64_MAX / 2)
			known->highest = number;
		if (store_rebuilt(image->store))
			r = schema_strs_add(&image->unrecorded_snapshots, entry->d_name);
		if (known->is_incomplete || store_rebuilt(image->store))
			continue;
		log_info("snapshots=orphan directory=%s", entry->d_name);
		trash_take(image, image->snapshots, entry->d_name);
	}
	return error_trace(r);
}

int snapshot_clean(struct image_service *image)
{
	struct known known = {.image = image};
	int r;

	r = store_begin(image->store);
	if (r)
		return error_fold(r);
	r = store_walk(image->store, TABLE_SNAPSHOTS, NULL, NULL, schema_snapshot_record(),
		       note_known, &known);
	store_end(image->store, !r);
	if (!r)
		r = store_commit(image->store);
	known.is_incomplete = store_is_damaged(image->store, TABLE_SNAPSHOTS);
	store_abort(image->store);
	if (!r)
		r = clean_directories(image, &known);
	image->next_number = known.highest + 1;
	set_clear(&known.names);
	return error_fold(r);
}

/* ---- can this host do overlayfs here? ---- */

static const char *const overlay_parts[] = {"l", "u", "w"};

static int make_overlay_parts(int dir)
{
	for (size_t i = 0; i < ARRAY_SIZE(overlay_parts); i++)
		if (mkdirat(dir, overlay_parts[i], 0700) < 0 && errno != EEXIST)
			return error_origin(-errno);
	return 0;
}

static int try_overlay(int dir)
{
	_cleanup_(cleanup_fd) int fs = -1, mounted = -1;
	static const char *const keys[] = {"lowerdir", "upperdir", "workdir"};
	char path[64];

	fs = (int)syscall(SYS_fsopen, "overlay", 1 /* FSOPEN_CLOEXEC */);
	if (fs < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(overlay_parts); i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, overlay_parts[i]);
		if (syscall(SYS_fsconfig, fs, 1 /* FSCONFIG_SET_STRING */, keys[i], path, 0) < 0)
			return -errno;
	}
	if (syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) < 0)
		return -errno;
	mounted = (int)syscall(SYS_fsmount, fs, 1 /* FSMOUNT_CLOEXEC */, 0);
	return mounted < 0 ? -errno : 0;
}

int snapshot_probe(struct image_service *image)
{
	_cleanup_(cleanup_free) char *name = text_format("probe-%d", getpid());
	_cleanup_(cleanup_fd) int dir = -1;
	int r;

	if (!name)
		return error_origin(-ENOMEM);
	if (mkdirat(image->trash, name, 0700) < 0)
		return error_origin(-errno);
	dir = openat(image->trash, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = dir < 0 ? error_origin(-errno) : make_overlay_parts(dir);
	if (r)
		return r;
	r = try_overlay(dir);
	dir = close_fd(dir);
	/* Who has no memory now does not look for all snapshots in another place from then on. */
	if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
		return error_origin(r);
	image->has_overlay = !r;
	if (r)
		snprintf(image->overlay_reason, sizeof(image->overlay_reason), "%s", strerror(-r));
	if (r)
		log_warning("snapshotter=overlayfs usable=no error=\"%s\"", strerror(-r));
	return error_trace(file_remove_tree(image->trash, name, NULL));
}
