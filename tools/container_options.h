#pragma once
/* The options that run and containers create share, and the request made of them. */

#include "schemas/messages.h"
#include "tools/command.h"

struct container_options {
	bool rm, null_io, detach, cni, rootfs, tty, net_host, privileged, read_only,
		allow_new_privs, no_pivot, seccomp;
	bool systemd_cgroup;
	char *log_uri, *fifo_dir, *cgroup, *platform, *snapshotter, *config, *cwd, *env_file,
		*runtime, *runc_binary, *pid_file;
	char *user, *hostname, *rootfs_propagation, *seccomp_profile, *apparmor_profile,
		*rlimit_nofile, *cpus;
	char *cpuset_cpus, *cpuset_mems, *cpu_quota;
	uint64_t memory_limit, cpu_shares, cpu_period, pids_limit;
	struct schema_strs env, labels, annotations, mounts, with_ns, devices, cap_add, cap_drop;
};

extern const struct option_spec run_options[];
extern const struct option_spec create_options[];

/* @args: IMAGE|ROOTFS ID [COMMAND…], or ID with --config. An exit code on failure, after saying why. */
int container_options_request(struct context *context, const struct container_options *options,
			      char **args, int n_args, struct container_run_request *ret_request);
/* 126 or 127 when the text of a failed run says that the program cannot be executed or was not found, else 125. */
int container_run_exit_code(const char *text);
