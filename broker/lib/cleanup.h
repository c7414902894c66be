#pragma once
/*
 * Ownership in declarations.
 *
 * Every local variable that owns something carries _cleanup_(fn) and an
 * initialiser; it is handed over with TAKE(), which leaves the empty value
 * behind so that the cleanup does nothing. `fn` gets the variable's address.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))

/* The pointer's value; the variable is NULL afterwards. */
#define TAKE(pointer)                                                                              \
	({                                                                                         \
		__typeof__(pointer) *take_from_ = &(pointer);                                      \
		__typeof__(pointer) taken_ = *take_from_;                                          \
		*take_from_ = NULL;                                                                \
		taken_;                                                                            \
	})

/* The file descriptor's number; the variable is -1 afterwards. */
#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int *take_from_ = &(fd);                                                           \
		int taken_ = *take_from_;                                                          \
		*take_from_ = -1;                                                                  \
		taken_;                                                                            \
	})

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#define container_of(pointer, type, member)                                                        \
	((type *)(void *)((char *)(pointer) - __builtin_offsetof(type, member)))

static inline void cleanup_free(void *variable)
{
	free(*(void **)variable);
}

/* Closes @fd if it is one; returns -1, so `fd = close_fd(fd)` leaves it empty. Keeps errno. */
int close_fd(int fd);

static inline void cleanup_fd(int *fd)
{
	*fd = close_fd(*fd);
}

static inline void cleanup_file(FILE **file)
{
	if (*file)
		fclose(*file);
	*file = NULL;
}

static inline void cleanup_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
	*dir = NULL;
}
