#pragma once
/* What commands on snapshots and on images share. */

#include "tools/command.h"

/* The commands that make @mounts on @target, as ctr prints them. */
void snapshots_print_mounts(const struct mount *mounts, size_t count, const char *target);
