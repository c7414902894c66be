/* See container_options.h. */

#include "tools/container_options.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"

#define O(member_, kind_, name_, letter_, value_, help_)                                           \
	OPTION(struct container_options, member_, kind_, name_, letter_, value_, help_)

/* clang-format off */
#define CREATE_OPTIONS \
	{ .name = "snapshotter", .kind = OPTION_TEXT, .offset = offsetof(struct container_options, snapshotter), .value = "NAME", \
	  .help = "overlayfs or native (default: what this host can do)", .environment = "CONTAINERD_SNAPSHOTTER" }, \
	O(config, TEXT, "config", 'c', "FILE", "whole OCI spec instead of the options below"), \
	O(cwd, TEXT, "cwd", 0, "DIR", "working directory of the process"), \
	O(env, LIST, "env", 'e', "NAME=VALUE", "environment variable; may be repeated"), \
	O(env_file, TEXT, "env-file", 0, "FILE", "environment variables, one a line"), \
	O(user, TEXT, "user", 'u', "USER[:GROUP]", "names or numbers, looked up in the image"), \
	O(labels, LIST, "label", 'l', "KEY=VALUE", "label of the container; may be repeated"), \
	O(annotations, LIST, "annotation", 0, "KEY=VALUE", "OCI annotation; may be repeated"), \
	O(mounts, LIST, "mount", 0, "type=…,src=…,dst=…,options=…", "further mount; options are joined by colons; may be repeated"), \
	O(net_host, FLAG, "net-host", 0, NULL, "the host's network"), \
	O(privileged, FLAG, "privileged", 0, NULL, "all capabilities and devices, nothing masked"), \
	O(read_only, FLAG, "read-only", 0, NULL, "root file system read-only"), \
	O(runtime, TEXT, "runtime", 0, "NAME|PATH", "OCI runtime (default: as `davit doctor` says)"), \
	O(tty, FLAG, "tty", 't', NULL, "allocate a terminal"), \
	O(with_ns, LIST, "with-ns", 0, "TYPE:PATH", "join a namespace; may be repeated"), \
	O(pid_file, TEXT, "pid-file", 0, "FILE", "write the pid of the container's init process there"), \
	O(allow_new_privs, FLAG, "allow-new-privs", 0, NULL, "do not set no_new_privs"), \
	O(memory_limit, NUMBER, "memory-limit", 0, "BYTES", "memory limit"), \
	O(cpu_shares, NUMBER, "cpu-shares", 0, "N", "relative CPU weight"), \
	O(cpu_quota, TEXT, "cpu-quota", 0, "US", "CFS quota"), \
	O(cpu_period, NUMBER, "cpu-period", 0, "US", "CFS period"), \
	O(cpuset_cpus, TEXT, "cpuset-cpus", 0, "LIST", "CPUs to run on"), \
	O(cpuset_mems, TEXT, "cpuset-mems", 0, "LIST", "memory nodes to use"), \
	O(pids_limit, NUMBER, "pids-limit", 0, "N", "limit of processes"), \
	O(cpus, TEXT, "cpus", 0, "N", "CPUs' worth of time, e.g. 1.5"), \
	O(devices, LIST, "device", 0, "PATH", "device of the host to pass in; may be repeated"), \
	O(cap_add, LIST, "cap-add", 0, "CAP_…", "capability to add; may be repeated"), \
	O(cap_drop, LIST, "cap-drop", 0, "CAP_…", "capability to drop; may be repeated"), \
	O(seccomp, FLAG, "seccomp", 0, NULL, "the default seccomp profile"), \
	O(seccomp_profile, TEXT, "seccomp-profile", 0, "FILE", "a seccomp profile of your own; with --seccomp"), \
	O(apparmor_profile, TEXT, "apparmor-profile", 0, "NAME", "AppArmor profile"), \
	O(hostname, TEXT, "hostname", 0, "NAME", "host name (default: the container's id)"), \
	O(rlimit_nofile, TEXT, "rlimit-nofile", 0, "SOFT[:HARD]", "limit of open files"), \
	O(rootfs, FLAG, "rootfs", 0, NULL, "the first argument is a directory, not an image"), \
	O(rootfs_propagation, TEXT, "rootfs-propagation", 0, "MODE", "mount propagation of the root"), \
	O(no_pivot, FLAG, "no-pivot", 0, NULL, "do not use pivot_root"), \
	O(cgroup, TEXT, "cgroup", 0, "PATH", "cgroup path; \"\" for none"), \
	O(systemd_cgroup, FLAG, "systemd-cgroup", 0, NULL, "let systemd make the cgroup"), \
	O(platform, TEXT, "platform", 0, "OS/ARCH", "choose from a multi-platform image")

const struct option_spec create_options[] = { CREATE_OPTIONS, {} };

const struct option_spec run_options[] = {
	O(rm, FLAG, "rm", 0, NULL, "remove the container when it has ended; done by the service, so it holds if this command dies"),
	O(null_io, FLAG, "null-io", 0, NULL, "all streams are /dev/null"),
	O(log_uri, TEXT, "log-uri", 0, "URI", "file:///path for standard output and error"),
	O(detach, FLAG, "detach", 'd', NULL, "return when the container has started"),
	O(fifo_dir, TEXT, "fifo-dir", 0, "DIR", "directory of the FIFOs for the streams"),
	CREATE_OPTIONS,
	{}
};
/* clang-format on */

/* ---- words --------------------------------------------------------------- */

static int split_pair(struct context *context, const char *option, const char *text,
		      struct schema_map *map)
{
	_cleanup_(cleanup_free) char *key = strdup(text);
	char *value = key ? strchr(key, '=') : NULL;

	if (!key)
		return fail(context, "out of memory");
	if (!value || value == key)
		return fail_usage(context, "--%s '%s' is not KEY=VALUE", option, text);
	*value++ = '\0';
	return schema_map_set(map, key, value) ? fail(context, "out of memory") : 0;
}

static int split_pairs(struct context *context, const char *option, const struct schema_strs *list,
		       struct schema_map *map)
{
	for (size_t i = 0; i < list->count; i++) {
		int code = split_pair(context, option, list->items[i], map);

		if (code)
			return code;
	}
	return 0;
}

static int set_mount_word(struct mount *mount, const char *key, char *value)
{
	if (!strcmp(key, "type"))
		return schema_set(&mount->type, value);
	if (!strcmp(key, "src") || !strcmp(key, "source"))
		return schema_set(&mount->source, value);
	if (!strcmp(key, "dst") || !strcmp(key, "destination") || !strcmp(key, "target"))
		return schema_set(&mount->target, value);
	if (strcmp(key, "options"))
		return -EINVAL;
	for (char *rest = value, *word; (word = strsep(&rest, ":"));) {
		if (*word && schema_strs_add(&mount->options, word))
			return -ENOMEM;
	}
	return 0;
}

static int parse_mount(struct context *context, const char *text, struct mount *mount)
{
	_cleanup_(cleanup_free) char *copy = strdup(text);
	char *rest = copy, *word;

	while ((word = strsep(&rest, ","))) {
		char *value = strchr(word, '=');

		if (value)
			*value++ = '\0';
		if (!value || set_mount_word(mount, word, value))
			return fail_usage(context,
					  "--mount '%s': expected type=…,src=…,dst=…,options=a:b",
					  text);
	}
	if (!mount->target)
		return fail_usage(context, "--mount '%s' has no dst", text);
	return 0;
}

static int add_env_file(struct context *context, const char *path, struct schema_strs *env)
{
	_cleanup_(cleanup_free) char *data = NULL;
	char *rest, *line;
	size_t size;
	int r;

	r = file_read(AT_FDCWD, path, 1 << 20, &data, &size);
	if (r)
		return fail(context, "--env-file %s: %s", path, strerror(-r));
	rest = data;
	while ((line = strsep(&rest, "\n"))) {
		while (isspace((unsigned char)*line))
			line++;
		if (*line && *line != '#' && schema_strs_add(env, line))
			return fail(context, "out of memory");
	}
	return 0;
}

/* ---- the request --------------------------------------------------------- */

static int set_cpus(struct context *context, const struct container_options *options,
		    struct spec_options *spec)
{
	char *end;
	double cpus;

	spec->cpu_period = options->cpu_period;
	if (options->cpu_quota) {
		spec->cpu_quota = strtoll(options->cpu_quota, &end, 10);
		if (*end || end == options->cpu_quota)
			return fail_usage(context, "--cpu-quota '%s' is not a number",
					  options->cpu_quota);
		if (spec->cpu_quota == -1)
			spec->cpu_quota = 0;
	}
	if (!options->cpus)
		return 0;
	if (options->cpu_quota || options->cpu_period)
		return fail_usage(context, "--cpus excludes --cpu-quota and --cpu-period");
	cpus = strtod(options->cpus, &end);
	if (*end || end == options->cpus || !(cpus > 0) || cpus > 1e6)
		return fail_usage(context, "--cpus '%s' is not a positive number", options->cpus);
	spec->cpu_period = 100000;
	spec->cpu_quota = (int64_t)(cpus * 100000);
	return 0;
}

static int set_lists(struct context *context, const struct container_options *options,
		     struct spec_options *spec)
{
	int code = options->env_file ? add_env_file(context, options->env_file, &spec->env) : 0;

	for (size_t i = 0; !code && i < options->env.count; i++)
		code = schema_strs_add(&spec->env, options->env.items[i])
			       ? fail(context, "out of memory")
			       : 0;
	for (size_t i = 0; !code && i < options->mounts.count; i++) {
		struct mount *mount = schema_list_add(&spec->mounts);

		code = mount ? parse_mount(context, options->mounts.items[i], mount)
			     : fail(context, "out of memory");
	}
	if (!code)
		code = split_pairs(context, "annotation", &options->annotations,
				   &spec->annotations);
	if (!code && (schema_strs_copy(&options->with_ns, &spec->with_ns) ||
		      schema_strs_copy(&options->devices, &spec->devices) ||
		      schema_strs_copy(&options->cap_add, &spec->cap_add) ||
		      schema_strs_copy(&options->cap_drop, &spec->cap_drop)))
		code = fail(context, "out of memory");
	return code;
}

static int set_options(struct context *context, const struct container_options *options,
		       struct spec_options *spec)
{
	int r;

	spec->terminal = options->tty;
	spec->read_only = options->read_only;
	spec->net_host = options->net_host;
	spec->privileged = options->privileged;
	spec->allow_new_privs = options->allow_new_privs;
	spec->memory_limit = options->memory_limit;
	spec->cpu_shares = options->cpu_shares;
	spec->pids_limit = (int64_t)options->pids_limit;
	spec->no_pivot = options->no_pivot;
	spec->seccomp = options->seccomp;
	spec->systemd_cgroup = options->systemd_cgroup;
	spec->no_cgroup = options->cgroup && !*options->cgroup;
	r = schema_set(&spec->cwd, options->cwd) ?: schema_set(&spec->user, options->user)
	    ?: schema_set(&spec->hostname, options->hostname) ?: schema_set(&spec->cgroup, options->cgroup)
	    ?: schema_set(&spec->cpuset_cpus, options->cpuset_cpus)
	    ?: schema_set(&spec->cpuset_mems, options->cpuset_mems)
	    ?: schema_set(&spec->rlimit_nofile, options->rlimit_nofile)
	    ?: schema_set(&spec->rootfs_propagation, options->rootfs_propagation)
	    ?: schema_set(&spec->seccomp_profile, options->seccomp_profile)
	    ?: schema_set(&spec->apparmor_profile, options->apparmor_profile);
	if (r)
		return fail(context, "out of memory");
	return set_cpus(context, options, spec) ?: set_lists(context, options, spec);
}

static int read_config(struct context *context, const char *path, char **ret_spec)
{
	size_t size;
	int r = file_read(AT_FDCWD, path, 512 << 10, ret_spec, &size);

	return r ? fail(context, "--config %s: %s", path, strerror(-r)) : 0;
}

/* IMAGE|ROOTFS ID [COMMAND…], or with --config only ID. */
static int set_arguments(struct context *context, const struct container_options *options,
			 char **args, int n_args, struct container_run_request *request)
{
	_cleanup_(cleanup_free) char *directory = NULL;

	if (options->config && n_args == 1)
		return schema_set(&request->id, args[0]) ? fail(context, "out of memory") : 0;
	if (n_args < 2)
		return fail_usage(context, "an image and a container id are needed");
	if (options->rootfs) {
		directory = realpath(args[0], NULL);
		if (!directory)
			return fail(context, "root directory %s: %s", args[0], strerror(errno));
	}
	if (schema_set(options->rootfs ? &request->options->rootfs : &request->image,
		       options->rootfs ? directory : args[0]) ||
	    schema_set(&request->id, args[1]))
		return fail(context, "out of memory");
	for (int i = 2; i < n_args; i++) {
		if (schema_strs_add(&request->options->args, args[i]))
			return fail(context, "out of memory");
	}
	return 0;
}

int container_options_request(struct context *context, const struct container_options *options,
			      char **args, int n_args, struct container_run_request *ret_request)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	int code;

	request.options = calloc(1, sizeof(*request.options));
	if (!request.options)
		return fail(context, "out of memory");
	request.auto_remove = options->rm;
	code = set_arguments(context, options, args, n_args, &request);
	if (!code)
		code = set_options(context, options, request.options);
	if (!code)
		code = split_pairs(context, "label", &options->labels, &request.labels);
	if (!code && options->config)
		code = read_config(context, options->config, &request.spec);
	if (!code && (schema_set(&request.platform, options->platform) ||
		      schema_set(&request.snapshotter, options->snapshotter) ||
		      schema_set(&request.runtime, options->runtime)))
		code = fail(context, "out of memory");
	if (code)
		return code;
	*ret_request = request;
	request = (struct container_run_request){};
	return 0;
}

int container_run_exit_code(const char *text)
{
	if (strstr(text, "executable file") || strstr(text, "no such file or directory: unknown") ||
	    (strstr(text, "execve") && strstr(text, "No such file")) ||
	    strstr(text, "open executable"))
		return strstr(text, "ermission denied") ? EXIT_CANNOT_EXECUTE : EXIT_NO_PROGRAM;
	if (strstr(text, "exec") && strstr(text, "ermission denied"))
		return EXIT_CANNOT_EXECUTE;
	return EXIT_RUN_FAILED;
}
