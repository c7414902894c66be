#pragma once
/* Mount options as in fstab(5): which are flags of the mount, which are the file system's. Pure. */

#include <stdbool.h>
#include <stddef.h>

#include "schemas/messages.h"

struct mount_options {
	unsigned long flags;       /* MS_*, without propagation */
	unsigned long propagation; /* MS_PRIVATE, MS_SLAVE …, 0: none named */
	bool is_bind;
	bool is_recursive;
	struct schema_strs layers; /* overlay: lowerdir and lowerdir+, uppermost first; owned */
	struct schema_strs data;   /* the rest, "key=value" or "key"; owned */
};

/* 0, -ENOMEM, or -EINVAL with @fault: shared propagation is refused, an empty lowerdir too. */
int mount_options_parse(const struct schema_strs *options, struct mount_options *ret_options,
			struct schema_fault *fault);
void mount_options_clear(struct mount_options *options);
/* As mount(2)'s last argument, malloc'd: layers joined to one lowerdir. */
int mount_options_join(const struct mount_options *options, char **ret_text);
