#pragma once
/* What a tar entry's names mean, before anything is done: pure checks. */

#include <stdbool.h>

#include "services/image/work/work.h"

enum entry_kind {
	ENTRY_ROOT,     /* the tree's root itself */
	ENTRY_PLAIN,    /* an entry to make */
	ENTRY_WHITEOUT, /* hides entry.name of the layers below */
	ENTRY_OPAQUE,   /* hides all of entry.parent of the layers below */
	ENTRY_SKIP,     /* aufs' own bookkeeping */
};

struct entry {
	enum entry_kind kind;
	char *parent; /* of the entry, clean and relative; "" is the root */
	char *name;   /* its last component */
};

/* Reads @path as it stands in an archive. WORK_E_INVALID names what is wrong with it. */
int entry_parse(const char *path, const struct work_limits *limits, struct entry *ret_entry,
		struct why *why);
/* The same for a hard link's target: no whiteouts. */
int entry_parse_link(const char *path, const struct work_limits *limits, struct entry *ret_entry,
		     struct why *why);
void entry_clear(struct entry *entry);
