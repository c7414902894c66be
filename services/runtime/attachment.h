#pragma once
/*
 * What is kept of each network until plugins have taken it back: a file
 * <root>/runtime/networks/<attach id>@<task id>, which outlives the host's boot,
 * since addresses that a plugin gave away do. It is there before the first plugin
 * is run. <attach id>@lock is held by who works on networks of that attach id,
 * and by the plugins that it runs.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/lib/error.h"
#include "broker/lib/file.h"
#include "schemas/messages.h"

#define ATTACHMENT_DIRECTORY "runtime/networks" /* beneath the root */
#define ATTACHMENT_ID_SIZE   154 /* namespace-container and a NUL */

enum {
	_ATTACHMENT_E_SUCCESS,
	ATTACHMENT_E_BUSY,    /* the lock was not to be had in time */
	ATTACHMENT_E_DAMAGED, /* its file says nothing that can be read */
};

/* Malloc'd; NULL when memory is out. */
char *attachment_directory(const char *root);
char *attachment_path(const char *directory, const char *attach_id, const char *task_id);
/* The two parts of a file's name. False: it is none of an attachment. */
bool attachment_split(const char *name, char attach_id[ATTACHMENT_ID_SIZE],
		      char task_id[ID_TEXT_SIZE]);

/* -ENOENT: there is none. */
int attachment_read(const char *path, struct runtime_attachment *ret_attachment);
int attachment_write(const char *path, const struct runtime_attachment *attachment, bool durable,
		     struct why *why);

/* Waits for at most @seconds. */
int attachment_lock(const char *directory, const char *attach_id, unsigned seconds, int *ret_fd,
		    struct why *why);
/* Also for whoever has inherited it. */
void attachment_unlock(const char *directory, const char *attach_id, int fd);
/* Removes what those left who died at work: locks that nobody has any more, and files that they had not finished. How many are
 * worked on, and stay. */
size_t attachment_tidy(const char *directory);
