#pragma once
/* The broker's command line. */

#include <stdbool.h>
#include <stdint.h>

#include "broker/lib/paths.h"

struct options {
	struct paths paths;
	int ready_fd; /* -1: none */
	uint64_t log_max_bytes;
	uint64_t log_max_age_ns;
	unsigned watchdog_ms;
	bool is_debug;
	bool takes_over;
	char *copy_to; /* --copy-stores: nothing else is done; borrowed from argv */
	bool is_print; /* --print-events: the same; topics are in argv */
	bool is_rebuild; /* --rebuild-store: the same */
	char *const *topics;
	size_t n_topics;
	bool has_printed; /* --help or --version: nothing else is to be done */
};

/* 0, or -EINVAL with the sentence in @why. */
int options_parse(struct options *options, int argc, char *argv[], struct why *why);
void options_deinit(struct options *options);
