#pragma once
/*
 * A directory for one test, removed with all that is in it, and a check that
 * the test closed every descriptor that it opened.
 */

#include <stdbool.h>

struct scratch {
	char dir[64];
	unsigned long long fds[16]; /* which descriptors below 1024 were open at the start */
};

/* For a test that has a fixture of its own. 0, or -1 with a line on stderr. */
int scratch_init(struct scratch *scratch);
/* Fails, naming them, if descriptors are open that were not at scratch_init(). */
int scratch_deinit(struct scratch *scratch);
/* Path of @name in the directory; malloc'd. */
char *scratch_path(const struct scratch *scratch, const char *name);
/* From here on these descriptors are not the test's: what a library keeps for good (nng's). */
void scratch_forgive_fds(struct scratch *scratch);

/* For cmocka; *state is the struct scratch. */
int scratch_setup(void **state);
int scratch_teardown(void **state);

/* How many descriptors this process has open. */
unsigned fds_count(void);
