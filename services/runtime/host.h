#pragma once
/* What spec code and the probe need to know of this host: the only part that looks. */

#include "services/runtime/spec.h"

enum cgroup_mode { CGROUP_V1, CGROUP_HYBRID, CGROUP_V2 };
const char *cgroup_mode_text(enum cgroup_mode mode); /* v1, hybrid, v2 */
/* What is mounted on @path (/sys/fs/cgroup). @ret_detach: a hybrid host with a v2 hierarchy at
 * cgroup/unified, which crun refuses to see. */
enum cgroup_mode cgroup_mode_read(const char *path, bool *ret_detach);
/* Removes the empty cgroups beneath /<parent> and itself in every hierarchy under @path; busy ones stay.
 * Whether nothing is left. */
bool cgroup_remove_empty(const char *path, const char *parent);

/* Limits, capabilities and the cgroup's name for this state directory. */
int host_read(const char *state, struct spec_host *ret_host);
/* What may be asked for in a new container: controllers, CPUs, AppArmor, systemd, resctrl. */
void host_read_features(struct spec_host *host);
/* Whether anybody may pass through @path and all directories above it. */
bool host_is_passable(const char *path);
/* "davit-" and 8 hex digits of the path's hash. */
void host_cgroup_parent(const char *state, char ret_name[16]);
/* Devices as asked for, path[:path[:rwm]]; a directory means all devices in it. */
int host_find_devices(const struct schema_strs *asked, struct spec_devices *ret_devices,
		      struct why *why);
/* The block devices that limits of block I/O name. */
int host_find_blkio(const struct spec_options *options, struct spec_blkio_limits *ret_limits,
		    struct why *why);
/* What GPUs need; nothing without options.gpus. */
int host_find_gpus(const struct spec_options *options, struct spec_gpus *ret_gpus, struct why *why);
bool host_is_program(const char *path);
/* In PATH, and where programs lie on hosts whose services have a short PATH. NULL: there is none. */
char *host_find_program(const char *name);
/* All devices of /dev that a privileged container gets. */
int host_all_devices(struct spec_devices *ret_devices, struct why *why);
