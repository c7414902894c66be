#pragma once
/*
 * Which OCI runtimes this host has and what they can do.
 *
 * The service finds programs by name and runs itself as `davit-runtime --probe
 * NAME PATH` for each: that child detaches cgroup/unified in a mount namespace of
 * its own where the host is hybrid, asks the runtime, and answers with a
 * runtime_record on fd 4. Until a child has answered, a program that was found
 * counts as usable.
 */

#include "services/lib/service.h"

#define PROBE_TIMEOUT_MS 5000

struct probe;

/* `--runtime NAME=PATH` of the command line. */
struct probe_configured {
	const char *name, *path;
};

/* Finds programs at once; starts the children. */
int probe_new(struct service *service, const struct probe_configured *configured,
	      size_t n_configured, struct probe **ret_probe);
struct probe *probe_free(struct probe *probe);
bool probe_is_busy(const struct probe *probe);
/* Looks again, unless that was done less than a second ago. */
void probe_again(struct probe *probe);
/* The default first. Borrowed. */
size_t probe_count(const struct probe *probe);
const struct runtime_record *probe_record(const struct probe *probe, size_t index);
/*
 * The runtime for @name: "" the default, a name, containerd's io.containerd.<name>.v2, or an absolute
 * path. Fills in name, path and detach_unified. 1: none; @why says what there is instead.
 */
int probe_choose(const struct probe *probe, const char *name, struct runtime_record *ret_record,
		 struct why *why);

/* The child: `--probe NAME PATH`. Returns the exit code. */
int probe_main(const char *name, const char *path);
/* Of `--version` and `features`: pure. */
int probe_read_version(const char *text, struct runtime_record *record);
int probe_read_features(const char *text, struct runtime_record *record);
