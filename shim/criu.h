#pragma once
/*
 * What criu cannot know by itself when an OCI runtime has it dump or restore a
 * container. The FIFOs and files of stdio lie outside of the container's mounts:
 * a dump must be told that they are external, by mount and inode, and a restore
 * which descriptor takes the place of each. criu reads both from the file that
 * CRIU_CONFIG_FILE names (criu(8), "configuration files"); which stream had which
 * key goes along in the images' directory. An images' directory may come from
 * anywhere: nothing but keys is taken from it.
 */

#include "broker/lib/error.h"

#define CRIU_KEY_SIZE   48
#define CRIU_STDIO_FILE "davit-stdio"
#define CRIU_REASON_MAX 200 /* bytes of criu's own reason */

struct criu_stdio {
	char keys[3][CRIU_KEY_SIZE]; /* "file[<mount id>:<inode>]" in hex; "": not outside */
};

/* Of a living process. */
int criu_find_stdio(int pid, struct criu_stdio *ret_stdio);
/* CRIU_STDIO_FILE of a directory of images: written, and read; one without it has none. */
int criu_write_stdio(const char *images, const struct criu_stdio *stdio, struct why *why);
int criu_read_stdio(const char *images, struct criu_stdio *ret_stdio, struct why *why);

/* Writes what a dump, or a restore, is to be told where the runtime's next calls find it. @cgroup: as
 * the container's spec has it, may be NULL; a path is where the restored processes shall be. */
int criu_tell_dump(const char *bundle, const struct criu_stdio *stdio, struct why *why);
int criu_tell_restore(const char *bundle, const struct criu_stdio *stdio, const char *cgroup,
		      struct why *why);
/* The runtime's environment: CRIU_CONFIG_FILE=…. NULL: no memory. */
char *criu_environment(const char *bundle);

/* Adds the first error of @directory/@log to @text, which says that criu failed. */
void criu_add_reason(const char *directory, const char *log, char *text, size_t size);

/* Pure: the lines of CRIU_STDIO_FILE ("1 file[1f:2a]"); -EBADMSG: they are something else. */
int criu_parse_stdio(const char *text, struct criu_stdio *ret_stdio);
/* Pure: the first error in criu's log, without its time and place; "": none. */
void criu_parse_reason(const char *log, char text[CRIU_REASON_MAX]);
