#pragma once
/*
 * A program's file, and sealed copies of it in memory. crun runs from a file that nobody can write to
 * (CVE-2019-5736): it looks for the seals of memfd_create(2) on its own, and else makes such a copy, or a mount,
 * and starts itself a second time from there, at every call. docs/decisions/0022.
 */

#include <stdbool.h>
#include <sys/stat.h>

/* A bigger one costs more memory than a copy saves time. */
#define PROGRAM_COPY_MAX (4u << 20)

/* Whether it is the same file with the same content: by device, inode, size and times. */
bool program_is_same(const struct stat *a, const struct stat *b);

/* Whether the copy @fd is of that file as it is: a copy has its size and its time of modification. */
bool program_is_copy(int fd, const struct stat *file);

/* Copies the program at @path, which must be an ELF file: what is not gets -ENOEXEC, what is larger than PROGRAM_COPY_MAX
 * -EFBIG, a host that forbids memory files to be executed (vm.memfd_noexec) -EACCES. @ret_status is of the file. */
int program_copy(const char *path, int *ret_fd, struct stat *ret_status);

/* The copy of the program that was asked for last, made anew when its file has changed. All zero is empty. */
struct program_cache {
	char *path;
	struct stat status;
	int fd; /* -1: it is not to be copied */
};

/* A copy of the program at @path, which the cache keeps; -1: there is none, and it is to be run from its file. */
int program_cache_get(struct program_cache *cache, const char *path);
void program_cache_clear(struct program_cache *cache);
