#pragma once
/* A set of inode numbers, each with a small value. */

#include <stddef.h>
#include <stdint.h>

struct inodes {
	struct inodes_slot {
		uint64_t inode; /* 0: free */
		uint64_t value;
	} * slots;
	size_t n_slots, count;
};

/* 0 when absent. */
uint64_t inodes_get(const struct inodes *inodes, uint64_t inode);
/* Adds or replaces; @value is not 0. -ENOMEM. */
int inodes_set(struct inodes *inodes, uint64_t inode, uint64_t value);
void inodes_clear(struct inodes *inodes);
