/* Reading files again: their digests, and that they are on disk. */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "services/image/work/hash.h"
#include "services/image/work/work.h"

#define BLOCK_SIZE (1u << 18)

static int hash_file(int fd, struct hash *hash, void *block, struct work_digest *digest)
{
	char text[DIGEST_SIZE];
	ssize_t n;

	while ((n = read(fd, block, BLOCK_SIZE)) > 0) {
		hash_add(hash, block, (size_t)n);
		digest->size += (uint64_t)n;
	}
	if (n < 0)
		return -errno;
	hash_finish(hash, text);
	return schema_set(&digest->digest, text);
}

static int read_file(int directory, const char *name, bool must_sync, void *block,
		     struct work_digest *digest)
{
	_cleanup_(hash_freep) struct hash *hash = NULL;
	_cleanup_(cleanup_fd) int fd = -1;
	struct stat status;
	int r;

	fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status) < 0)
		return -errno;
	if (!S_ISREG(status.st_mode))
		return -EINVAL;
	r = hash_new(&hash);
	if (!r)
		r = hash_file(fd, hash, block, digest);
	if (!r && must_sync && fsync(fd) < 0)
		r = -errno;
	return r;
}

int work_digest_files(const struct work_digest_request *request, int directory,
		      struct work_digest_result *ret_result, struct why *why)
{
	_cleanup_(cleanup_free) void *block = malloc(BLOCK_SIZE);

	for (size_t i = 0; block && i < request->names.count; i++) {
		struct work_digest *digest = schema_list_add(&ret_result->files);
		const char *name = request->names.items[i];
		int r;

		if (strchr(name, '/'))
			return why_set(why, WORK_E_INVALID, "'%s' is not a name", work_show(name));
		r = digest ? read_file(directory, name, request->sync, block, digest) : -ENOMEM;
		if (r && r != -ENOMEM) {
			schema_set(&digest->digest, NULL);
			r = schema_set(&digest->error, strerror(-r));
		}
		if (r)
			return error_trace(r);
	}
	return block ? 0 : error_origin(-ENOMEM);
}
