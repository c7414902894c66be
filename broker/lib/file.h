#pragma once
/*
 * Files and directories as davit keeps them: directories 0700, files complete
 * or absent (write to a temporary name, sync, rename, sync the directory).
 */

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "broker/lib/error.h"

/* asprintf that owns its result: NULL only when memory is out. */
char *text_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* mkdir -p with @mode for those that are made; an existing directory of ours with a wider mode is
 * tightened to @mode. A link in the last component is refused. */
int file_make_dir(const char *path, mode_t mode, struct why *why);
/* The whole file, NUL-terminated (size without it; @ret_size may be NULL); -EFBIG above @limit; only
 * regular files (-EINVAL); does not follow a link in the last component (-ELOOP). */
int file_read(int dirfd, const char *path, size_t limit, char **ret_data, size_t *ret_size);
/* As file_read(), of an open file from where it stands, whatever has become of its name. */
int file_read_open(int fd, size_t limit, char **ret_data, size_t *ret_size);
/* As file_read() for /proc, /sys and the like: no size, no type check. */
int file_read_proc(const char *path, size_t limit, char **ret_data, size_t *ret_size);
/* Complete or absent: "<path>.tmp-<pid>", fdatasync (unless !durable), rename, fsync of the directory. */
int file_write(const char *path, const void *data, size_t size, mode_t mode, bool durable,
	       struct why *why);
/* Until all is written; for a descriptor that blocks. */
int file_write_all(int fd, const void *data, size_t size);
/* A file without a name that holds @text, to be read from its start. @name shows in /proc only. */
int file_open_text(const char *name, const char *text, int *ret_fd);
/* The directory @dirfd/@path, whose last component is no link, to be walked; NULL with errno. */
DIR *file_open_dir(int dirfd, const char *path);
/* openat2(2) of @path ("": @dirfd itself) with the O_ @flags and how it is to @resolve: the descriptor, close-on-exec, or
 * -errno. Asks again where somebody renamed or mounted something, anywhere, while the kernel went through a "..". */
int file_open_in(int dirfd, const char *path, int flags, uint64_t resolve);
/* rm -rf of @dirfd/@name without following links or crossing mounts; absent is fine. Stops at the
 * first failure. Links in the directories above the last component of @name are followed. */
int file_remove_tree(int dirfd, const char *name, struct why *why);
/* Is there address space for @size bytes of it? LMDB gives up the map it has before it makes a larger one, and cannot go on
 * without: it is asked for here first. */
bool file_can_map(int fd, size_t size);
/* flock(LOCK_EX|LOCK_NB) on @path, created 0600, O_CLOEXEC; @ret_fd holds it. -EWOULDBLOCK if held. */
int file_lock(const char *path, int *ret_fd);

/* 16 random bytes (getrandom); text form is 32 lower-case hex digits and a NUL. */
#define ID_SIZE      16
#define ID_TEXT_SIZE 33
void id_make(uint8_t id[ID_SIZE]);
void id_format(const uint8_t id[ID_SIZE], char text[ID_TEXT_SIZE]);
int id_parse(const char *text, uint8_t id[ID_SIZE]);
/* A request id that is the same each time it is made from the same parts (FNV-based 128 bit hash of
 * parent, step name and attempt): a step that is resumed after a crash repeats its id. */
void id_derive(const uint8_t parent[ID_SIZE], const char *step, uint32_t attempt,
	       uint8_t id[ID_SIZE]);
/* CRC32C of @data, continuing @crc (start with 0). */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

/* Of this boot: /proc/sys/kernel/random/boot_id as 16 bytes. */
int boot_id_read(uint8_t id[ID_SIZE]);
/* Start time of a process: field 22 of /proc/<pid>/stat; with the pid it names a process for good.
 * -ESRCH if there is none. A zombie still has its own. */
int process_start_time(pid_t pid, uint64_t *ret_ticks);
