/* Open addressing with a power of two of slots, at most half full: see inodes.h. */

#include <stdlib.h>

#include "broker/lib/error.h"
#include "services/image/work/inodes.h"

static struct inodes_slot *find(const struct inodes *inodes, uint64_t inode)
{
	size_t i = (inode * 0x9e3779b97f4a7c15ull) >> 20;

	for (;; i++) {
		struct inodes_slot *slot = &inodes->slots[i & (inodes->n_slots - 1)];

		if (!slot->inode || slot->inode == inode)
			return slot;
	}
}

uint64_t inodes_get(const struct inodes *inodes, uint64_t inode)
{
	return inodes->n_slots ? find(inodes, inode)->value : 0;
}

static int grow(struct inodes *inodes)
{
	struct inodes larger = {.n_slots = inodes->n_slots ? 2 * inodes->n_slots : 256};

	larger.slots = calloc(larger.n_slots, sizeof(*larger.slots));
	if (!larger.slots)
		return error_origin(-ENOMEM);
	for (size_t i = 0; i < inodes->n_slots; i++) {
		if (inodes->slots[i].inode)
			*find(&larger, inodes->slots[i].inode) = inodes->slots[i];
	}
	larger.count = inodes->count;
	free(inodes->slots);
	*inodes = larger;
	return 0;
}

int inodes_set(struct inodes *inodes, uint64_t inode, uint64_t value)
{
	struct inodes_slot *slot;
	int r;

	if (2 * (inodes->count + 1) > inodes->n_slots) {
		r = grow(inodes);
		if (r)
			return error_trace(r);
	}
	slot = find(inodes, inode);
	if (!slot->inode)
		inodes->count++;
	*slot = (struct inodes_slot){.inode = inode, .value = value};
	return 0;
}

void inodes_clear(struct inodes *inodes)
{
	free(inodes->slots);
	*inodes = (struct inodes){};
}
