/*
 * What a snapshot is, noted at its directory: an extended attribute with its
 * record. Nothing reads it but a store that is made again (rebuild.c); so it is
 * written in passing, neither synced nor waited for, and what cannot be noted is
 * not: a file system without such attributes, or one that is full.
 */

#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

#include "broker/lib/log.h"
#include "services/image/image.h"

/* Of the trusted ones: only root sees it, and no archive, layer or overlay carries it (xattr(7)). */
#define MARK_NAME "trusted.davit.snapshot"
/* ext4 has some 4000 bytes for all attributes of a file. */
#define MARK_MAX 2048

/* There is no lsetxattrat() yet: Linux 6.13 brings setxattrat(2). */
static void name_path(int snapshots, const char *name, char path[SNAPSHOT_MARK_PATH])
{
	snprintf(path, SNAPSHOT_MARK_PATH, "/proc/self/fd/%d/%s", snapshots, name);
}

static int pack(const char *scope, const struct snapshot_record *record,
		struct schema_buffer *ret_packed)
{
	struct snapshot_record short_one = *record;
	struct snapshot_mark mark = {.scope = (char *)scope, .snapshot = &short_one};
	int r;

	r = schema_pack(schema_snapshot_mark(), &mark, ret_packed, NULL);
	if (!r && ret_packed->size > MARK_MAX) {
		ret_packed->size = 0;
		short_one.labels = (struct schema_map){};
		r = schema_pack(schema_snapshot_mark(), &mark, ret_packed, NULL);
	}
	return error_fold(r);
}

void snapshot_mark(struct image_service *image, const char *scope,
		   const struct snapshot_record *record)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	char path[SNAPSHOT_MARK_PATH], name[24];
	int r;

	snprintf(name, sizeof(name), "%llu", (unsigned long long)record->number);
	name_path(image->snapshots, name, path);
	r = pack(scope, record, &packed);
	if (!r && lsetxattr(path, MARK_NAME, packed.data, packed.size, 0) < 0)
		r = -errno;
	if (r)
		log_debug("snapshot=%s directory=%s error=\"it cannot be noted: %s\"", record->key,
			  name, strerror(-r));
}

bool snapshot_is_marked(struct image_service *image, const char *name)
{
	char path[SNAPSHOT_MARK_PATH];

	name_path(image->snapshots, name, path);
	return lgetxattr(path, MARK_NAME, NULL, 0) >= 0;
}

int snapshot_read_mark(int snapshots, const char *name, struct snapshot_mark *ret_mark)
{
	char path[SNAPSHOT_MARK_PATH], data[2 * MARK_MAX];
	ssize_t size;

	name_path(snapshots, name, path);
	size = lgetxattr(path, MARK_NAME, data, sizeof(data));
	if (size < 0)
		return errno == ENOMEM ? error_origin(-ENOMEM) : 1;
	return schema_unpack(schema_snapshot_mark(), data, (size_t)size, ret_mark, NULL);
}

int snapshot_put(struct image_service *image, const struct store_key *key,
		 const struct snapshot_record *record)
{
	int r = store_put(image->store, TABLE_SNAPSHOTS, key, schema_snapshot_record(), record);

	if (!r)
		snapshot_mark(image, store_key_part(key, 0), record);
	return r;
}
