#pragma once
/*
 * From "user[:group]" to numbers. user_parse() and user_resolve() are pure: text
 * in, numbers out. user_files.c reads the two files out of an image's root.
 */

#include "services/runtime/spec.h"

#define USER_FILE_MAX (10u << 20) /* bytes of etc/passwd and etc/group */

struct user_name {
	char user[129], group[129]; /* empty: not given as a name */
	bool has_uid, has_group, has_gid;
	uint32_t uid, gid;
};
/* "", "user", "user:group", names or numbers; "" is root. SPEC_E_INVALID. */
int user_parse(const char *text, struct user_name *ret_name, struct why *why);
/* @passwd and @group are the files' texts; NULL: there is none. Only names need them. */
int user_resolve(const struct user_name *name, const char *passwd, const char *group,
		 struct spec_user *ret_user, struct why *why);

struct user_files {
	char *passwd, *group; /* NULL: the image has none */
};
void user_files_clear(struct user_files *files);
/*
 * Reads etc/passwd and etc/group of the root that @mounts make (their first is the root) or of the
 * directory @rootfs. Nothing is mounted where anybody sees it, no link leads out of the root, and only
 * regular files of at most USER_FILE_MAX bytes are opened. Mounts NULL and rootfs NULL: no files.
 */
int user_files_read(const struct mount *mounts, size_t n_mounts, const char *rootfs,
		    struct user_files *ret_files, struct why *why);
/* The same of a root that is open as @root. */
int user_files_read_root(int root, struct user_files *ret_files, struct why *why);
/* The same of an overlay, layer by layer, for kernels that cannot put one together detached. */
int user_files_read_layers(const struct mount *mount, struct user_files *ret_files, struct why *why);
