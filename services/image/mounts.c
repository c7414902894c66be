/* Mounts of snapshots: see mounts.h. */

#include <stdlib.h>

#include "broker/lib/error.h"
#include "broker/lib/file.h"
#include "services/image/mounts.h"

void mounts_free(struct mount *mounts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		mount_clear(&mounts[i]);
	free(mounts);
}

/* Takes @text. */
static int add_option(struct mount *mount, char *text)
{
	int r = text ? schema_strs_add(&mount->options, text) : -ENOMEM;

	free(text);
	return error_trace(r);
}

static int make_bind(struct mount *mount, const char *directory, uint64_t number, bool is_read_only)
{
	_cleanup_(cleanup_free) char *source = NULL;
	int r;

	source = text_format("%s/%llu/fs", directory, (unsigned long long)number);
	if (!source)
		return error_origin(-ENOMEM);
	r = schema_set(&mount->type, "bind");
	if (!r)
		r = schema_set(&mount->source, source);
	if (!r)
		r = schema_strs_add(&mount->options, is_read_only ? "ro" : "rw");
	if (!r)
		r = schema_strs_add(&mount->options, "rbind");
	return error_trace(r);
}

static int add_lowers_one_by_one(struct mount *mount, const char *directory, const uint64_t *lowers,
				 size_t n_lowers)
{
	int r = 0;

	for (size_t i = 0; i < n_lowers && !r; i++)
		r = add_option(mount, text_format("lowerdir+=%s/%llu/fs", directory,
						  (unsigned long long)lowers[i]));
	return error_trace(r);
}

static int add_lowers(struct mount *mount, const char *directory, const uint64_t *lowers,
		      size_t n_lowers)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer joined = {};

	for (size_t i = 0; i < n_lowers; i++) {
		if (schema_buffer_addf(&joined, "%s%s/%llu/fs", i ? ":" : "lowerdir=", directory,
				       (unsigned long long)lowers[i]))
			return error_origin(-ENOMEM);
	}
	if (joined.size > MOUNTS_LOWERDIR_MAX)
		return error_trace(add_lowers_one_by_one(mount, directory, lowers, n_lowers));
	if (schema_buffer_add(&joined, "", 1))
		return error_origin(-ENOMEM);
	return error_trace(schema_strs_add(&mount->options, (char *)joined.data));
}

static int make_overlay(struct mount *mount, const char *directory, bool is_view, uint64_t number,
			const uint64_t *lowers, size_t n_lowers)
{
	int r;

	r = schema_set(&mount->type, "overlay");
	if (!r)
		r = schema_set(&mount->source, "overlay");
	if (!r)
		r = schema_strs_add(&mount->options, "index=off");
	if (!r && !is_view)
		r = add_option(mount, text_format("workdir=%s/%llu/work", directory,
						  (unsigned long long)number));
	if (!r && !is_view)
		r = add_option(mount, text_format("upperdir=%s/%llu/fs", directory,
						  (unsigned long long)number));
	if (!r)
		r = add_lowers(mount, directory, lowers, n_lowers);
	return error_trace(r);
}

static int make(struct mount *mount, const char *directory, bool is_overlay,
		enum snapshot_kind kind, uint64_t number, const uint64_t *lowers, size_t n_lowers)
{
	bool is_view = kind != SNAPSHOT_ACTIVE;

	if (!is_overlay || !n_lowers)
		return make_bind(mount, directory, number, is_view);
	/* An overlay of one layer alone is that layer. */
	if (is_view && n_lowers == 1)
		return make_bind(mount, directory, lowers[0], true);
	return make_overlay(mount, directory, is_view, number, lowers, n_lowers);
}

int mounts_make(const char *directory, bool is_overlay, enum snapshot_kind kind, uint64_t number,
		const uint64_t *lowers, size_t n_lowers, struct mount **ret_mounts,
		size_t *ret_count)
{
	struct mount *mount = calloc(1, sizeof(*mount));
	int r;

	if (!mount)
		return error_origin(-ENOMEM);
	r = make(mount, directory, is_overlay, kind, number, lowers, n_lowers);
	if (r) {
		mounts_free(mount, 1);
		return error_trace(r);
	}
	*ret_mounts = mount;
	*ret_count = 1;
	return 0;
}
