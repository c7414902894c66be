#pragma once
/* The mounts of a snapshot, as containerd gives them. Pure. */

#include "schemas/messages.h"

/* An option string in one piece up to here; beyond it each layer is a `lowerdir+=` of its own. */
#define MOUNTS_LOWERDIR_MAX 3072

/*
 * @directory: where snapshots/<number> lie. @lowers: numbers of the layers below, top first. One mount, appended
 * to *ret_mounts (to be freed with mounts_free()). -ENOMEM.
 */
int mounts_make(const char *directory, bool is_overlay, enum snapshot_kind kind, uint64_t number,
		const uint64_t *lowers, size_t n_lowers, struct mount **ret_mounts,
		size_t *ret_count);
void mounts_free(struct mount *mounts, size_t count);
