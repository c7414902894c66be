#pragma once
/* The options that run and containers create share, and the request made of them. */

#include "schemas/messages.h"
#include "tools/io_options.h"

struct container_options {
	bool rm, cni, rootfs, tty, net_host, privileged, read_only,
		allow_new_privs, no_pivot, seccomp;
	bool systemd_cgroup, privileged_without_host_devices, remap_labels;
	struct io_options io;
	char *checkpoint, *cgroup, *platform, *snapshotter, *config, *cwd, *env_file,
		*runtime, *runc_binary, *runc_root, *runtime_config_path, *pid_file, *dump_config;
	char *user, *hostname, *rootfs_propagation, *seccomp_profile, *apparmor_profile,
		*apparmor_default_profile, *rdt_class, *rlimit_nofile, *cpus;
	char *cpuset_cpus, *cpuset_mems, *cpu_quota, *pids_limit;
	uint64_t memory_limit, cpu_shares, cpu_period, blkio_weight;
	struct schema_strs env, labels, annotations, mounts, with_ns, devices, cap_add, cap_drop,
		gpus;
	struct schema_strs snapshotter_labels, uidmap, gidmap;
	struct schema_strs blkio_weight_device, blkio_read_bps, blkio_write_bps, blkio_read_iops,
		blkio_write_iops;
};

extern const struct option_spec run_options[];
extern const struct option_spec create_options[];

/* @args: IMAGE|ROOTFS ID [COMMAND…], or ID with --config. An exit code on failure, after saying why. */
int container_options_request(struct context *context, const struct container_options *options,
			      char **args, int n_args, struct container_run_request *ret_request);
/* 126 or 127 when the text of a failed run says that the program cannot be executed or was not found, else 125. */
int container_run_exit_code(const char *text);
