/* Archives that are written are read again as what they were, and are always the same bytes. */

#include "tests/lib/main.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "services/image/work/tar_writer.h"

static char long_name[400];

static int new_file(void)
{
	int fd = memfd_create("archive", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void put(struct writer *writer, const struct tar_head *head, const char *data)
{
	assert_int_equal(tar_put_head(writer, head), 0);
	assert_int_equal(writer_add(writer, data, head->size), 0);
	assert_int_equal(tar_put_fill(writer, head->size), 0);
}

/* An archive with all that needs more room than ustar has. */
static struct written write_archive(int fd, enum compression compression)
{
	struct tar_xattr xattrs[] = {{(char *)"user.bin", (void *)"a\0=\n", 4},
				     {(char *)"security.capability", (void *)"\1\0\0\2", 4}};
	struct writer *writer;
	struct written written;

	memset(long_name, 'n', sizeof(long_name) - 1);
	assert_int_equal(writer_new(fd, compression, true, UINT64_MAX, &writer), 0);
	put(writer,
	    &(struct tar_head){.path = "file",
			       .type = '0',
			       .mode = 04755,
			       .uid = 3000000,
			       .gid = 7,
			       .size = 5,
			       .mtime = {1700000000, 123456789},
			       .xattrs = xattrs,
			       .n_xattrs = 2},
	    "hello");
	put(writer,
	    &(struct tar_head){.path = long_name,
			       .type = '2',
			       .link = long_name,
			       .mode = 0777,
			       .mtime = {-2, 500000000}},
	    "");
	put(writer,
	    &(struct tar_head){.path = "odd\xff", .type = '1', .link = "file", .mode = 0644}, "");
	put(writer,
	    &(struct tar_head){
		    .path = "device", .type = '3', .mode = 0600, .device = makedev(5, 70000)},
	    "");
	put(writer, &(struct tar_head){.path = "d/", .type = '5', .mode = 01777}, "");
	assert_int_equal(tar_put_end(writer), 0);
	assert_int_equal(writer_finish(writer, &written), 0);
	writer_free(writer);
	return written;
}

static struct archive_entry *next(struct stream *stream)
{
	struct archive_entry *entry;
	struct why why = {};

	if (stream_next(stream, &entry, &why))
		fail_msg("%s", why.text);
	return entry;
}

static void check_file(struct stream *stream)
{
	struct archive_entry *entry = next(stream);
	const char *name;
	const void *value;
	int64_t offset;
	size_t size;

	assert_string_equal(archive_entry_pathname(entry), "file");
	assert_int_equal(archive_entry_perm(entry), 04755);
	assert_int_equal(archive_entry_uid(entry), 3000000);
	assert_int_equal(archive_entry_mtime(entry), 1700000000);
	assert_int_equal(archive_entry_mtime_nsec(entry), 123456789);
	assert_int_equal(archive_entry_xattr_reset(entry), 2);
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
		assert_int_equal(size, 4);
		assert_memory_equal(value, strcmp(name, "user.bin") ? "\1\0\0\2" : "a\0=\n", 4);
	}
	assert_int_equal(stream_data(stream, &value, &size, &offset, NULL), 0);
	assert_int_equal(size, 5);
	assert_memory_equal(value, "hello", 5);
}

static void check_archive(int fd, const struct written *written)
{
	struct archive_entry *entry;
	char digest[DIGEST_SIZE];
	struct stream *stream;
	struct archive *tar;
	struct why why = {};

	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(stream_new(fd, true, NULL, &stream, &why), 0);
	assert_int_equal(stream_open_tar(stream, &tar, &why), 0);
	check_file(stream);
	entry = next(stream);
	assert_string_equal(archive_entry_pathname(entry), long_name);
	assert_string_equal(archive_entry_symlink(entry), long_name);
	assert_int_equal(archive_entry_mtime(entry), -1);
	entry = next(stream);
	assert_string_equal(archive_entry_pathname(entry), "odd\xff");
	assert_string_equal(archive_entry_hardlink(entry), "file");
	entry = next(stream);
	assert_int_equal(archive_entry_filetype(entry), AE_IFCHR);
	assert_int_equal(archive_entry_rdevmajor(entry), 5);
	assert_int_equal(archive_entry_rdevminor(entry), 70000);
	entry = next(stream);
	assert_int_equal(archive_entry_filetype(entry), AE_IFDIR);
	assert_int_equal(archive_entry_perm(entry), 01777);
	assert_null(next(stream));
	assert_int_equal(stream_finish(stream, digest, &why), 0);
	assert_string_equal(digest, written->diff_id);
	stream_free(stream);
}

static void test_what_is_written_is_read_again(void **state)
{
	static const enum compression all[] = {COMPRESSION_NONE, COMPRESSION_GZIP,
					       COMPRESSION_ZSTD};
	char diff_id[DIGEST_SIZE] = "";

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		int one = new_file(), two = new_file();
		struct written first = write_archive(one, all[i]);
		struct written second = write_archive(two, all[i]);

		assert_string_equal(first.digest, second.digest);
		assert_int_equal(first.size, lseek(one, 0, SEEK_CUR));
		assert_true(!diff_id[0] || !strcmp(diff_id, first.diff_id));
		assert_int_equal(!strcmp(first.digest, first.diff_id), all[i] == COMPRESSION_NONE);
		memcpy(diff_id, first.diff_id, sizeof(diff_id));
		check_archive(one, &first);
		close(one);
		close(two);
	}
}

static void test_a_full_disk_is_an_error(void **state)
{
	static char block[1 << 20];
	struct writer *writer;
	int pipes[2], r;

	(void)state;
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)(i * 2654435761u >> 13);
	for (int compression = COMPRESSION_NONE; compression <= COMPRESSION_ZSTD; compression++) {
		assert_int_equal(pipe(pipes), 0);
		close(pipes[0]);
		assert_int_equal(writer_new(pipes[1], compression, true, UINT64_MAX, &writer), 0);
		r = writer_add(writer, block, sizeof(block));
		if (!r)
			r = writer_finish(writer, &(struct written){});
		assert_int_equal(r, -EPIPE);
		writer_free(writer);
		close(pipes[1]);
	}
}

static int ignore_pipes(void **state)
{
	(void)state;
	return signal(SIGPIPE, SIG_IGN) == SIG_ERR;
}

TEST_MAIN(cmocka_unit_test(test_what_is_written_is_read_again),
	  cmocka_unit_test_setup(test_a_full_disk_is_an_error, ignore_pipes))
