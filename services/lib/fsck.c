/* See fsck.h. */

#include "services/lib/fsck.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/lib/store_private.h"

#define FACTS_MAX  1000   /* of a page, before the last thing that is looked at */
#define THINGS_MAX 2000   /* that a page looks at */
#define BYTES_MAX  400000 /* of its facts' texts */
#define NAMES_MAX  200000 /* of one directory */
#define PAGE_FULL  1000   /* no code of the store */

struct fsck {
	struct store *store;
	void *object;
	const struct fsck_request *request;
	struct fsck_reply *reply;
	uint64_t stage;
	size_t n_things, size;
	struct store_key last; /* of the stage: what was looked at last */
};

void *fsck_object(const struct fsck *fsck)
{
	return fsck->object;
}

int fsck_add(struct fsck *fsck, const struct fsck_fact *fact)
{
	struct fsck_fact *item = schema_list_add(&fsck->reply->facts);

	if (!item)
		return error_origin(-ENOMEM);
	fsck->size += 64 + strlen(fact->kind) + strlen(fact->id) +
		      (fact->object ? strlen(fact->object) : 0) +
		      (fact->text ? strlen(fact->text) : 0);
	return error_trace(fsck_fact_copy(fact, item));
}

static bool has_room(const struct fsck *fsck)
{
	return fsck->n_things < THINGS_MAX && fsck->reply->facts.count < FACTS_MAX &&
	       fsck->size < BYTES_MAX;
}

/* In the stage in which the page begins: behind the last thing of the page before. */
static bool is_resumed(const struct fsck *fsck)
{
	return fsck->request->stage == fsck->stage && fsck->request->after.size;
}

/* ---- tables ---- */

struct walk {
	struct fsck *fsck;
	fsck_record_fn fn;
};

static int on_record(void *userdata, const struct store_key *key, void *record)
{
	struct walk *walk = userdata;
	struct fsck *fsck = walk->fsck;
	const struct schema_bytes *after = &fsck->request->after;

	if (is_resumed(fsck) && after->size == key->size &&
	    !memcmp(after->data, key->data, key->size))
		return 0;
	if (!has_room(fsck))
		return PAGE_FULL;
	fsck->n_things++;
	fsck->last = *key;
	return walk->fn(fsck, key, record);
}

int fsck_walk(struct fsck *fsck, struct store *store, const char *table,
	      const struct schema_message *schema, fsck_record_fn fn)
{
	struct walk walk = {.fsck = fsck, .fn = fn};
	struct store_key from;

	if (is_resumed(fsck))
		store_key_bytes(&from, fsck->request->after.data, fsck->request->after.size);
	return store_walk(store, table, NULL, is_resumed(fsck) ? &from : NULL, schema, on_record,
			  &walk);
}

/* ---- directories ---- */

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_names(int fd, struct schema_strs *ret_names)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(cleanup_dir) DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *entry;
	int r = 0;

	if (!dir) {
		close_fd(copy);
		return error_origin(-EIO);
	}
	while (!r && (entry = readdir(dir)) && ret_names->count < NAMES_MAX)
		if (entry->d_name[0] != '.')
			r = schema_strs_add(ret_names, entry->d_name);
	if (ret_names->count)
		qsort(ret_names->items, ret_names->count, sizeof(*ret_names->items), compare_names);
	return r;
}

static bool is_behind(const struct fsck *fsck, const char *name)
{
	const struct schema_bytes *after = &fsck->request->after;
	size_t size = strlen(name), common = size < after->size ? size : after->size;
	int order;

	if (!is_resumed(fsck))
		return true;
	order = memcmp(name, after->data, common);
	return order > 0 || (!order && size > after->size);
}

int fsck_names(struct fsck *fsck, const char *path, fsck_name_fn fn)
{
	_cleanup_(schema_strs_clear) struct schema_strs names = {};
	_cleanup_(cleanup_fd) int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (dir < 0)
		return errno == ENOENT ? 0 : error_origin(-errno);
	r = read_names(dir, &names);
	for (size_t i = 0; !r && i < names.count; i++) {
		if (!is_behind(fsck, names.items[i]))
			continue;
		if (!has_room(fsck))
			return PAGE_FULL;
		fsck->n_things++;
		store_key_bytes(&fsck->last, names.items[i], strlen(names.items[i]));
		r = fn(fsck, dir, names.items[i]);
	}
	return r;
}

uint64_t fsck_since(int dir, const char *name)
{
	struct stat status;

	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	return (uint64_t)status.st_ctim.tv_sec * 1000000000 + (uint64_t)status.st_ctim.tv_nsec;
}

int fsck_add_seen(struct fsck *fsck, int dir, const char *name, const char *kind, const char *id,
		  const char *text, bool mendable)
{
	struct fsck_fact fact = {
		.role = FACT_SEEN,
		.kind = (char *)kind,
		.id = (char *)id,
		.since_ns = fsck_since(dir, name),
		.text = (char *)text,
		.mendable = mendable,
	};

	return fact.since_ns ? fsck_add(fsck, &fact) : 0;
}

/* ---- what every store has ---- */

static int on_damaged(void *userdata, const struct store_key *key)
{
	const char *table = store_key_part(key, 0);
	struct fsck *fsck = userdata;
	_cleanup_(cleanup_free) char *id = NULL, *text = NULL;
	struct fsck_fact fact = {.role = FACT_FAULT, .kind = (char *)"record"};
	char name[400];
	size_t size = 0;

	for (size_t i = 0; i < key->size && size < sizeof(name) - 1; i++)
		name[size++] = key->data[i] > ' ' && key->data[i] < 0x7f ? (char)key->data[i] : '/';
	name[size] = '\0';
	id = text_format("%s %s", fsck->store->directory, name);
	text = text_format("a record of table '%s' is damaged and lies in quarantine",
			   table ? table : "?");
	if (!id || !text)
		return error_origin(-ENOMEM);
	fact.id = strlen(id) > 700 ? name : id;
	fact.text = text;
	return has_room(fsck) ? fsck_add(fsck, &fact) : 0;
}

static int add_unaccepted(struct fsck *fsck)
{
	struct fsck_fact fact = {
		.role = FACT_FAULT,
		.kind = (char *)"store",
		.id = fsck->store->directory,
		.text = (char *)store_rebuilt(fsck->store),
	};

	return fact.text ? fsck_add(fsck, &fact) : 0;
}

static int run_store(struct fsck *fsck)
{
	if (is_resumed(fsck))
		return 0;
	return add_unaccepted(fsck) ?: store_quarantined(fsck->store, on_damaged, fsck);
}

/* ---- pages ---- */

static int set_position(struct fsck_reply *reply, uint64_t stage, const struct store_key *last)
{
	reply->more = true;
	reply->stage = stage;
	return schema_bytes_set(&reply->after, last->data, last->size);
}

int fsck_page(struct store *store, const struct fsck_stage *stages, void *object,
	      const struct fsck_request *request, struct fsck_reply *reply)
{
	struct fsck fsck = {.store = store, .object = object, .request = request, .reply = reply};
	int r = 0;

	if (!request->stage)
		r = run_store(&fsck);
	for (size_t i = 0; !r && stages[i].run; i++) {
		fsck.stage = i + 1;
		fsck.last.size = 0;
		if (fsck.stage >= request->stage)
			r = stages[i].run(&fsck);
	}
	if (r != PAGE_FULL)
		return error_fold(r);
	/* Nothing of this stage was looked at yet: it begins with the next page. */
	return error_trace(set_position(reply, fsck.stage, &fsck.last));
}
