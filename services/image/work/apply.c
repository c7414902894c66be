/*
 * davit-image-work apply: one layer into one snapshot directory. libarchive only
 * reads; everything that is made is made here, by name in a directory that
 * tree.c found, and changed through its own descriptor or by a call that follows
 * no link.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "broker/lib/file.h"
#include "services/image/work/copy.h"
#include "services/image/work/entry.h"
#include "services/image/work/layers.h"
#include "services/image/work/stream.h"
#include "services/image/work/tree.h"

#define MODE_BITS 07777

struct apply {
	struct stream *stream;
	struct tree *tree;
	int upper;
	struct work_limits limits;
	struct work_apply_result result;
	const char *path; /* of the entry that is made, as it stands in the archive */
	struct why *why;
};

/* A failure of the system at the present entry. */
static int fail(struct apply *apply, int r)
{
	if (r == -ENOTDIR || r == -ELOOP || r == -ENAMETOOLONG || r == -EISDIR)
		return why_set(apply->why, WORK_E_INVALID, "entry '%s': %s", work_show(apply->path),
			       strerror(-r));
	return why_errno(apply->why, r, "entry '%s'", work_show(apply->path));
}

static int refuse(struct apply *apply, const char *problem)
{
	return why_set(apply->why, WORK_E_INVALID, "entry '%s' %s", work_show(apply->path),
		       problem);
}

/* ---- attributes ---- */

static void read_times(struct archive_entry *entry, struct timespec times[2])
{
	times[1] = (struct timespec){archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
	times[0] = times[1];
	if (archive_entry_atime_is_set(entry) && archive_entry_atime(entry) > times[1].tv_sec)
		times[0] = (struct timespec){archive_entry_atime(entry),
					     archive_entry_atime_nsec(entry)};
}

static int check_xattr(struct apply *apply, const char *name, size_t size, uint64_t *total)
{
	if (!name || !*name)
		return refuse(apply, "has an extended attribute without a name");
	if (!strncmp(name, "trusted.overlay.", 16) || !strncmp(name, "user.overlay.", 13))
		return refuse(apply, "has an extended attribute of overlayfs");
	*total += strlen(name) + size;
	if (*total > apply->limits.xattr_bytes)
		return why_set(
			apply->why, WORK_E_INVALID,
			"entry '%s' has more than %llu bytes of extended attributes (limit xattr_bytes)",
			work_show(apply->path), (unsigned long long)apply->limits.xattr_bytes);
	return 0;
}

/* Onto @fd; or, where there is nothing to open, onto @name of directory @dir, never followed. */
static int set_xattr(int fd, int dir, const char *name, const char *key, const void *value,
		     size_t size)
{
	int r;

	if (fd >= 0)
		r = fsetxattr(fd, key, value, size, 0);
	else if (fchdir(dir) < 0)
		return -errno;
	else
		r = lsetxattr(name, key, value, size, 0);
	return r < 0 && errno != EOPNOTSUPP ? -errno : 0;
}

static int set_xattrs(struct apply *apply, struct archive_entry *entry, int fd, int dir,
		      const char *name)
{
	uint64_t total = 0;
	const char *key;
	const void *value;
	size_t size;
	int r;

	if (!archive_entry_xattr_count(entry))
		return 0;
	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &key, &value, &size) == ARCHIVE_OK) {
		r = check_xattr(apply, key, size, &total);
		if (r)
			return error_trace(r);
		r = set_xattr(fd, dir, name, key, value, size);
		if (r)
			return why_errno(apply->why, error_origin(r),
					 "entry '%s': extended attribute %s",
					 work_show(apply->path), work_show(key));
	}
	return 0;
}

static int read_owner(struct apply *apply, struct archive_entry *entry, uid_t *ret_uid,
		      gid_t *ret_gid)
{
	la_int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);

	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return refuse(apply, "has an owner that no file can have");
	*ret_uid = (uid_t)uid;
	*ret_gid = (gid_t)gid;
	return 0;
}

/* Of a file or directory that is open: owner first, which takes away setuid bits and capabilities. */
static int set_attributes(struct apply *apply, struct archive_entry *entry, int fd)
{
	uid_t uid = 0;
	gid_t gid = 0;
	int r;

	r = read_owner(apply, entry, &uid, &gid);
	if (r)
		return error_trace(r);
	if (fchown(fd, uid, gid) < 0)
		return fail(apply, error_origin(-errno));
	r = set_xattrs(apply, entry, fd, -1, NULL);
	if (r)
		return error_trace(r);
	if (fchmod(fd, archive_entry_perm(entry) & MODE_BITS) < 0)
		return fail(apply, error_origin(-errno));
	return 0;
}

/* Of a link, a FIFO or a device, which must not be opened. */
static int set_attributes_at(struct apply *apply, struct archive_entry *entry, int dir,
			     const char *name)
{
	struct timespec times[2];
	uid_t uid = 0;
	gid_t gid = 0;
	int r;

	r = read_owner(apply, entry, &uid, &gid);
	if (r)
		return error_trace(r);
	if (fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(apply, error_origin(-errno));
	r = set_xattrs(apply, entry, -1, dir, name);
	if (r)
		return error_trace(r);
	read_times(entry, times);
	if (utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(apply, error_origin(-errno));
	return 0;
}

static int note(struct apply *apply, int fd)
{
	struct stat status;

	apply->result.inodes++;
	if (fstat(fd, &status) < 0 || tree_note(apply->tree, status.st_ino))
		return fail(apply, error_origin(-ENOMEM));
	return 0;
}

static int note_at(struct apply *apply, int dir, const char *name)
{
	struct stat status;

	apply->result.inodes++;
	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
	    tree_note(apply->tree, status.st_ino))
		return fail(apply, error_origin(-ENOMEM));
	return 0;
}

/* ---- regular files ---- */

static int write_at(int fd, const char *data, size_t size, int64_t offset)
{
	while (size) {
		ssize_t n = pwrite(fd, data, size, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_origin(-errno);
		data += n;
		size -= (size_t)n;
		offset += n;
	}
	return 0;
}

/* The content must be as long as the header says; holes stay holes. */
static int write_content(struct apply *apply, struct archive_entry *entry, int fd)
{
	int64_t size = archive_entry_size(entry), end = 0, offset;
	const void *data;
	size_t n;
	int r;

	for (;;) {
		r = stream_data(apply->stream, &data, &n, &offset, apply->why);
		if (r > 0)
			why_prefix(apply->why, r, "entry '%s'", work_show(apply->path));
		if (r || !n)
			break;
		if (offset < end || (uint64_t)offset + n > (uint64_t)size)
			return refuse(apply, "has more content than its header says");
		r = write_at(fd, data, n, offset);
		if (r)
			return fail(apply, r);
		end = offset + (int64_t)n;
	}
	if (r)
		return error_trace(r);
	if (end < size && !archive_entry_sparse_count(entry))
		return refuse(apply, "has less content than its header says");
	if (end < size && ftruncate(fd, size) < 0)
		return fail(apply, error_origin(-errno));
	apply->result.size += (uint64_t)size;
	return 0;
}

static int check_size(struct apply *apply, struct archive_entry *entry)
{
	int64_t size = archive_entry_size(entry);

	if (size < 0)
		return refuse(apply, "has a size below zero");
	if ((uint64_t)size > apply->limits.bytes)
		return why_set(apply->why, WORK_E_INVALID,
			       "entry '%s' has more than %llu bytes (limit bytes)",
			       work_show(apply->path), (unsigned long long)apply->limits.bytes);
	return 0;
}

static int open_new(struct apply *apply, const struct tree_place *place, const char *name,
		    int *ret_fd)
{
	int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int r;

	*ret_fd = openat(place->upper, name, flags, 0600);
	if (*ret_fd < 0 && errno == EEXIST) {
		r = tree_clear(apply->tree, place, name);
		if (r)
			return error_trace(r);
		*ret_fd = openat(place->upper, name, flags, 0600);
	}
	return *ret_fd < 0 ? error_origin(-errno) : 0;
}

static int make_file(struct apply *apply, struct archive_entry *entry,
		     const struct tree_place *place, const char *name)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct timespec times[2];
	int r;

	r = check_size(apply, entry);
	if (r)
		return error_trace(r);
	r = open_new(apply, place, name, &fd);
	if (r)
		return fail(apply, r);
	r = write_content(apply, entry, fd);
	if (!r)
		r = set_attributes(apply, entry, fd);
	if (r)
		return error_trace(r);
	read_times(entry, times);
	if (futimens(fd, times) < 0)
		return fail(apply, error_origin(-errno));
	return error_trace(note(apply, fd));
}

/* ---- everything else ---- */

static int make_dir(struct apply *apply, struct archive_entry *entry,
		    const struct tree_place *place, const char *name)
{
	_cleanup_(cleanup_fd) int fd = -1;
	struct timespec times[2];
	int r;

	r = tree_make_dir(apply->tree, place, name, &fd);
	if (r)
		return fail(apply, r);
	r = set_attributes(apply, entry, fd);
	if (r)
		return error_trace(r);
	apply->result.inodes++;
	read_times(entry, times);
	r = tree_note_times(apply->tree, name, times);
	return r ? fail(apply, r) : 0;
}

static int make_special_at(struct archive_entry *entry, int dir, const char *name)
{
	mode_t type = archive_entry_filetype(entry);
	int r;

	if (type == AE_IFLNK)
		r = symlinkat(archive_entry_symlink(entry), dir, name);
	else
		r = mknodat(dir, name, type | (archive_entry_perm(entry) & MODE_BITS),
			    type == AE_IFIFO ? 0 : archive_entry_rdev(entry));
	return r < 0 ? -errno : 0;
}

static int make_special(struct apply *apply, struct archive_entry *entry,
			const struct tree_place *place, const char *name)
{
	int r;

	r = make_special_at(entry, place->upper, name);
	if (r == -EEXIST) {
		r = tree_clear(apply->tree, place, name);
		if (!r)
			r = make_special_at(entry, place->upper, name);
	}
	if (r)
		return fail(apply, error_trace(r));
	r = set_attributes_at(apply, entry, place->upper, name);
	if (r)
		return error_trace(r);
	return error_trace(note_at(apply, place->upper, name));
}

/* The target is a name in a directory that was found in the tree; a link there is linked to, not followed. */
static int link_to(struct apply *apply, const struct entry *target, const struct entry *new)
{
	_cleanup_(cleanup_fd) int dir = -1;
	struct tree_place place;
	int r;

	r = tree_pull(apply->tree, target->parent, target->name, &dir);
	if (r == -EISDIR)
		return refuse(apply, "is a hard link to a directory");
	if (r == -ENOENT)
		return refuse(apply, "is a hard link to a file that is not there");
	if (!r)
		r = tree_find(apply->tree, new->parent, true, &place);
	if (r)
		return fail(apply, r);
	if (linkat(dir, target->name, place.upper, new->name, 0) < 0) {
		if (errno != EEXIST)
			return fail(apply, error_origin(-errno));
		r = tree_clear(apply->tree, &place, new->name);
		if (r)
			return fail(apply, r);
		if (linkat(dir, target->name, place.upper, new->name, 0) < 0)
			return refuse(apply, "is a hard link to what it replaces");
	}
	return error_trace(note_at(apply, place.upper, new->name));
}

static bool is_same_entry(const struct entry *a, const struct entry *b)
{
	return !strcmp(a->parent, b->parent) && !strcmp(a->name, b->name);
}

static int make_link(struct apply *apply, struct archive_entry *entry, const struct entry *new)
{
	_cleanup_(entry_clear) struct entry target = {};
	int r;

	r = entry_parse_link(archive_entry_hardlink(entry), &apply->limits, &target, apply->why);
	if (r)
		return error_trace(r);
	if (is_same_entry(&target, new))
		return refuse(apply, "is a hard link to itself");
	return error_trace(link_to(apply, &target, new));
}

static int check_special(struct apply *apply, struct archive_entry *entry)
{
	const char *target = archive_entry_symlink(entry);

	switch (archive_entry_filetype(entry)) {
	case AE_IFLNK:
		if (!target || !*target || strlen(target) >= PATH_MAX)
			return refuse(apply, "is a symbolic link to nothing or too far");
		return 0;
	case AE_IFCHR:
		if (archive_entry_rdev(entry) == makedev(0, 0))
			return refuse(apply, "is device 0:0, a whiteout in disguise");
		return 0;
	case AE_IFBLK:
	case AE_IFIFO:
		return 0;
	default:
		return refuse(apply, "is of a type that no layer can hold");
	}
}

static int make_plain(struct apply *apply, struct archive_entry *entry, const struct entry *new)
{
	mode_t type = archive_entry_filetype(entry);
	struct tree_place place;
	int r;

	if (archive_entry_hardlink(entry))
		return error_trace(make_link(apply, entry, new));
	if (type != AE_IFREG && type != AE_IFDIR) {
		r = check_special(apply, entry);
		if (r)
			return error_trace(r);
	}
	r = tree_find(apply->tree, new->parent, true, &place);
	if (r)
		return fail(apply, r);
	if (type == AE_IFREG)
		return error_trace(make_file(apply, entry, &place, new->name));
	if (type == AE_IFDIR)
		return error_trace(make_dir(apply, entry, &place, new->name));
	return error_trace(make_special(apply, entry, &place, new->name));
}

/* The root's own entry: only its attributes can be changed. */
static int change_root(struct apply *apply, struct archive_entry *entry)
{
	struct tree_place place;
	struct timespec times[2];
	int r;

	if (archive_entry_filetype(entry) != AE_IFDIR || archive_entry_hardlink(entry))
		return refuse(apply, "would replace the root");
	r = tree_find(apply->tree, "", true, &place);
	if (!r)
		r = copy_clear_xattrs(apply->upper);
	if (r)
		return fail(apply, r);
	r = set_attributes(apply, entry, apply->upper);
	if (r)
		return error_trace(r);
	read_times(entry, times);
	r = tree_note_times(apply->tree, "", times);
	return r ? fail(apply, r) : 0;
}

static int make_entry(struct apply *apply, struct archive_entry *entry)
{
	_cleanup_(entry_clear) struct entry new = {};
	int r;

	apply->path = archive_entry_pathname(entry);
	if (!apply->path) {
		apply->path = "?";
		return refuse(apply, "has no readable name");
	}
	r = entry_parse(apply->path, &apply->limits, &new, apply->why);
	if (r)
		return error_trace(r);
	switch (new.kind) {
	case ENTRY_SKIP:
		return 0;
	case ENTRY_ROOT:
		return error_trace(change_root(apply, entry));
	case ENTRY_WHITEOUT:
		r = tree_hide(apply->tree, new.parent, new.name);
		return r ? fail(apply, r) : 0;
	case ENTRY_OPAQUE:
		r = tree_hide_all(apply->tree, new.parent);
		return r ? fail(apply, r) : 0;
	case ENTRY_PLAIN:
		break;
	}
	return error_trace(make_plain(apply, entry, &new));
}

/* ---- the layer ---- */

static int make_entries(struct apply *apply)
{
	struct archive_entry *entry;
	int r;

	for (;;) {
		r = stream_next(apply->stream, &entry, apply->why);
		if (r || !entry)
			return error_trace(r);
		r = make_entry(apply, entry);
		if (r)
			return error_trace(r);
	}
}

/* The bytes must be those that the image's config names. */
static int check_diff_id(struct apply *apply, const char *wanted)
{
	char digest[DIGEST_SIZE];
	int r;

	r = stream_finish(apply->stream, digest, apply->why);
	if (r)
		return error_trace(r);
	if (wanted && *wanted && strcmp(wanted, digest))
		return why_set(apply->why, WORK_E_DAMAGED,
			       "the layer's content is %s, its image says %s", digest, wanted);
	return error_trace(schema_set(&apply->result.diff_id, digest));
}

static int apply_blob(struct apply *apply, const struct work_apply_request *request)
{
	struct archive *tar;
	int r;

	r = stream_open_tar(apply->stream, &tar, apply->why);
	if (!r)
		r = make_entries(apply);
	if (!r)
		r = check_diff_id(apply, request->diff_id);
	if (r)
		return error_trace(r);
	r = tree_finish(apply->tree);
	if (r)
		return why_errno(apply->why, r, "cannot set the times of directories");
	return 0;
}

/* ---- where it goes ---- */

static int open_parents(const struct work_apply_request *request, int snapshots, int *ret_fd,
			struct why *why)
{
	_cleanup_(cleanup_free) char *mount_point = text_format("%s/work", request->target);

	if (!mount_point)
		return error_origin(-ENOMEM);
	if (request->native && request->parents.count > 1)
		return why_set(why, error_origin(-EINVAL), "a native snapshot has one parent");
	return error_trace(layers_open(&request->parents, mount_point, snapshots, ret_fd, why));
}

/* The new directory's root looks like the one below, until the layer says otherwise. */
static int start_tree(struct apply *apply, const struct work_apply_request *request, int below)
{
	struct stat status;
	int r;

	if (request->native && below >= 0)
		return error_trace(copy_tree(below, apply->upper, apply->why));
	if (below < 0)
		return 0;
	if (fstat(below, &status) < 0)
		return error_origin(-errno);
	r = copy_metadata(below, apply->upper, &status);
	return r ? why_errno(apply->why, r, "cannot copy the root's attributes") : 0;
}

static int apply_all(struct apply *apply, const struct work_apply_request *request, int blob,
		     int below)
{
	int r;

	r = start_tree(apply, request, below);
	if (r || request->copy)
		return error_trace(r);
	r = tree_new(apply->upper, request->native ? -1 : below,
		     request->native && (below >= 0 || request->filled), &apply->tree);
	if (!r)
		r = stream_new(blob, true, &apply->limits, &apply->stream, apply->why);
	if (!r)
		r = apply_blob(apply, request);
	return error_trace(r);
}

static int hash_file(int fd, char ret_digest[DIGEST_SIZE])
{
	_cleanup_(hash_freep) struct hash *hash = NULL;
	static char block[65536];
	off_t offset = 0;
	ssize_t n;
	int r;

	r = hash_new(&hash);
	if (r)
		return error_trace(r);
	while ((n = pread(fd, block, sizeof(block), offset)) > 0) {
		hash_add(hash, block, (size_t)n);
		offset += n;
	}
	if (n < 0)
		return error_origin(-errno);
	hash_finish(hash, ret_digest);
	return 0;
}

/* The blob had its digest when it was stored. One that has it no more is damaged, whatever was found wrong in it. */
static int tell_damage(const struct work_apply_request *request, int blob, int r, struct why *why)
{
	char digest[DIGEST_SIZE];

	if (r <= 0 || !request->blob || !request->blob[0] || hash_file(blob, digest) ||
	    !strcmp(digest, request->blob))
		return r;
	*why = (struct why){};
	return why_set(why, WORK_E_DAMAGED,
		       "the blob is damaged, its content is %s: import or pull the image again",
		       digest);
}

static int confine(int upper, struct why *why)
{
	int r;

	r = sandbox_enter(upper, why);
	if (!r)
		r = sandbox_filter(why);
	return error_trace(r);
}

int work_apply(const struct work_apply_request *request, int blob, int snapshots, bool is_confined,
	       struct work_apply_result *ret_result, struct why *why)
{
	_cleanup_(cleanup_fd) int upper = -1, below = -1;
	struct apply apply = {.limits = work_limits_fill(request->limits), .why = why};
	int r;

	r = layers_open_one(request->target, snapshots, &upper, why);
	if (!r)
		r = open_parents(request, snapshots, &below, why);
	if (!r && is_confined)
		r = confine(upper, why);
	if (r)
		return error_trace(r);
	apply.upper = upper;
	r = apply_all(&apply, request, blob, below);
	if (r)
		r = tell_damage(request, blob, r, why);
	tree_free(apply.tree);
	stream_free(apply.stream);
	if (!r && !request->no_sync && syncfs(upper) < 0)
		r = why_errno(why, error_origin(-errno), "cannot sync the snapshot");
	if (r) {
		work_apply_result_clear(&apply.result);
		return error_trace(r);
	}
	*ret_result = apply.result;
	return 0;
}
