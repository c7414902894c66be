#pragma once
/*
 * A file that a user wants written: what he has under that name stays until the new
 * one is whole and on disk. FIFOs, terminals and the like are written as they are.
 */

#include <stdbool.h>

#include "broker/lib/error.h"

struct output {
	int fd;	       /* to be written to */
	int directory; /* -1: written as it is */
	char *name;    /* in it */
	char *beside;  /* there, until it is whole … */
	bool is_named; /* … if it has a name yet */
};

#define OUTPUT                                                                                     \
	{                                                                                          \
		.fd = -1, .directory = -1                                                          \
	}

int output_open(const char *path, struct output *ret_output, struct why *why);
/* It is whole: it is on disk under its name when this returns. */
int output_keep(struct output *output);
/* What was not kept is gone; where files without a name cannot be made, it is by this alone. */
void output_clear(struct output *output);
