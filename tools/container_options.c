/* See container_options.h. */

#include "tools/container_options.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/json.h"

extern char **environ;

#define O(member_, kind_, name_, letter_, value_, help_)                                           \
	OPTION(struct container_options, member_, kind_, name_, letter_, value_, help_)

/* clang-format off */
#define BLKIO(member_, name_, alias_, value_, help_) \
	{ .name = name_, .kind = OPTION_LIST, .offset = offsetof(struct container_options, member_), .value = value_, .help = help_, .alias = alias_ }

#define CREATE_OPTIONS \
	{ .name = "snapshotter", .kind = OPTION_TEXT, .offset = offsetof(struct container_options, snapshotter), .value = "NAME", \
	  .help = "overlayfs or native (default: what this host can do)", .environment = "CONTAINERD_SNAPSHOTTER" }, \
	O(snapshotter_labels, LIST, "snapshotter-label", 0, "KEY=VALUE", "label of the container's snapshot; may be repeated"), \
	O(config, TEXT, "config", 'c', "FILE", "whole OCI spec; excludes the options that make one"), \
	O(dump_config, TEXT, "dump-config", 0, "FILE", "write the OCI spec there first"), \
	O(cwd, TEXT, "cwd", 0, "DIR", "working directory of the process"), \
	O(env, LIST, "env", 'e', "NAME=VALUE", "environment variable; may be repeated"), \
	O(env_file, TEXT, "env-file", 0, "FILE", "environment variables, one a line"), \
	O(user, TEXT, "user", 'u', "USER[:GROUP]", "names or numbers, looked up in the image"), \
	O(labels, LIST, "label", 'l', "KEY=VALUE", "label of the container; may be repeated"), \
	O(annotations, LIST, "annotation", 0, "KEY=VALUE", "OCI annotation; may be repeated"), \
	O(mounts, LIST, "mount", 0, "type=…,src=…,dst=…,options=…", "further mount; options are joined by colons; may be repeated"), \
	O(net_host, FLAG, "net-host", 0, NULL, "the host's network"), \
	O(privileged, FLAG, "privileged", 0, NULL, "all capabilities and devices, nothing masked"), \
	O(privileged_without_host_devices, FLAG, "privileged-without-host-devices", 0, NULL, "with --privileged: none of the host's devices"), \
	O(read_only, FLAG, "read-only", 0, NULL, "root file system read-only"), \
	O(runtime, TEXT, "runtime", 0, "NAME|PATH", "OCI runtime (default: as `davit doctor` says)"), \
	O(runc_binary, TEXT, "runc-binary", 0, "PATH", "program of the OCI runtime; instead of --runtime"), \
	O(runc_root, TEXT, "runc-root", 0, "DIR", "the OCI runtime's own directory"), \
	O(runtime_config_path, TEXT, "runtime-config-path", 0, "FILE", "taken and not used, as by containerd's shim of runc: an OCI runtime has no such file"), \
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
	O(pids_limit, TEXT, "pids-limit", 0, "N", "limit of processes; -1 for none"), \
	{ .name = "blkio-weight", .kind = OPTION_NUMBER, .offset = offsetof(struct container_options, blkio_weight), .value = "N", \
	  .help = "block I/O weight, 10 to 1000"}, \
	BLKIO(blkio_weight_device, "blkio-weight-device", NULL, "DEV:N", "block I/O weight on one device; may be repeated"), \
	BLKIO(blkio_read_bps, "blkio-read-bps", "device-read-bps", "DEV:BYTES", "limit of bytes read a second; may be repeated"), \
	BLKIO(blkio_write_bps, "blkio-write-bps", "device-write-bps", "DEV:BYTES", "limit of bytes written a second; may be repeated"), \
	BLKIO(blkio_read_iops, "blkio-read-iops", "device-read-iops", "DEV:N", "limit of reads a second; may be repeated"), \
	BLKIO(blkio_write_iops, "blkio-write-iops", "device-write-iops", "DEV:N", "limit of writes a second; may be repeated"), \
	O(cpus, TEXT, "cpus", 0, "N", "CPUs' worth of time, e.g. 1.5"), \
	O(devices, LIST, "device", 0, "PATH", "device of the host to pass in; may be repeated"), \
	O(cap_add, LIST, "cap-add", 0, "CAP_…", "capability to add; may be repeated"), \
	O(cap_drop, LIST, "cap-drop", 0, "CAP_…", "capability to drop; may be repeated"), \
	O(seccomp, FLAG, "seccomp", 0, NULL, "the default seccomp profile"), \
	O(seccomp_profile, TEXT, "seccomp-profile", 0, "FILE", "a seccomp profile of your own; with --seccomp"), \
	O(apparmor_profile, TEXT, "apparmor-profile", 0, "NAME", "AppArmor profile that is loaded already"), \
	O(apparmor_default_profile, TEXT, "apparmor-default-profile", 0, "NAME", "AppArmor profile of this name with davit's rules; loaded if it is not"), \
	O(rdt_class, TEXT, "rdt-class", 0, "NAME", "class of service for CPU caches (resctrl)"), \
	O(gpus, LIST, "gpus", 0, "N[,N]", "NVIDIA GPUs to put in, by nvidia-container-cli; may be repeated"), \
	O(uidmap, LIST, "uidmap", 0, "ID:HOSTID:COUNT", "user namespace: users of the container; may be repeated"), \
	O(gidmap, LIST, "gidmap", 0, "ID:HOSTID:COUNT", "user namespace: groups of the container; may be repeated"), \
	O(remap_labels, FLAG, "remap-labels", 0, NULL, "write --uidmap and --gidmap to labels of the snapshot"), \
	O(hostname, TEXT, "hostname", 0, "NAME", "host name (default: the container's id)"), \
	O(rlimit_nofile, TEXT, "rlimit-nofile", 0, "SOFT[:HARD]", "limit of open files"), \
	O(rootfs, FLAG, "rootfs", 0, NULL, "the first argument is a directory, not an image"), \
	O(rootfs_propagation, TEXT, "rootfs-propagation", 0, "MODE", "mount propagation of the root"), \
	O(no_pivot, FLAG, "no-pivot", 0, NULL, "do not use pivot_root"), \
	O(cgroup, TEXT, "cgroup", 0, "PATH", "cgroup path; \"\" for none"), \
	{ .name = "systemd-cgroup", .kind = OPTION_FLAG, .offset = offsetof(struct container_options, systemd_cgroup), \
	  .help = "let systemd make the cgroup", .alias = "runc-systemd-cgroup" }, \
	O(platform, TEXT, "platform", 0, "OS/ARCH", "choose from a multi-platform image")

const struct option_spec create_options[] = { CREATE_OPTIONS, {} };

const struct option_spec run_options[] = {
	O(rm, FLAG, "rm", 0, NULL, "remove the container when it has ended; done by the service, so it holds if this command dies"),
	IO_OPTIONS(struct container_options, io),
	O(cni, FLAG, "cni", 0, NULL, "attach it to the host's CNI network: the first configuration in /etc/cni/net.d"),
	O(checkpoint, TEXT, "checkpoint", 0, "REF|DIR", "restore its processes from a checkpoint image, or from a directory of `davit tasks checkpoint`"),
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
	int r;

	r = file_read_proc(path, 1 << 20, &data, NULL);
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

/* ---- the spec ------------------------------------------------------------ */

static int set_integer(struct context *context, const char *option, const char *text,
		       int64_t *ret_number)
{
	char *end;

	if (!text)
		return 0;
	errno = 0;
	*ret_number = strtoll(text, &end, 10);
	if (*end || end == text || errno)
		return fail_usage(context, "--%s '%s' is not a whole number", option, text);
	return 0;
}

static int set_cpus(struct context *context, const struct container_options *options,
		    struct spec_options *spec)
{
	int code = set_integer(context, "cpu-quota", options->cpu_quota, &spec->cpu_quota);
	char *end;
	double cpus;

	spec->cpu_period = options->cpu_period;
	if (code || !options->cpus)
		return code;
	if (options->cpu_quota || options->cpu_period)
		return fail_usage(context, "--cpus excludes --cpu-quota and --cpu-period");
	cpus = strtod(options->cpus, &end);
	if (*end || end == options->cpus || !(cpus >= 0.01) || cpus > 1e6)
		return fail_usage(context, "--cpus '%s' is not a number from 0.01 to 1000000",
				  options->cpus);
	spec->cpu_period = 100000;
	spec->cpu_quota = (int64_t)(cpus * 100000);
	return 0;
}

static int set_resources(struct context *context, const struct container_options *options,
			 struct spec_options *spec)
{
	int code = set_integer(context, "pids-limit", options->pids_limit, &spec->pids_limit)
			   ?: set_cpus(context, options, spec);

	spec->memory_limit = options->memory_limit;
	spec->cpu_shares = options->cpu_shares;
	spec->blkio_weight = options->blkio_weight;
	if (!code && (schema_set(&spec->cpuset_cpus, options->cpuset_cpus) ||
		      schema_set(&spec->cpuset_mems, options->cpuset_mems) ||
		      schema_strs_copy(&options->blkio_weight_device, &spec->blkio_weight_device) ||
		      schema_strs_copy(&options->blkio_read_bps, &spec->blkio_read_bps) ||
		      schema_strs_copy(&options->blkio_write_bps, &spec->blkio_write_bps) ||
		      schema_strs_copy(&options->blkio_read_iops, &spec->blkio_read_iops) ||
		      schema_strs_copy(&options->blkio_write_iops, &spec->blkio_write_iops)))
		code = fail(context, "out of memory");
	return code;
}

#define GPU_TOOL "nvidia-container-cli"

/* In the caller's PATH, as ctr looks. */
static int find_gpu_tool(struct context *context, char **ret_path)
{
	_cleanup_(cleanup_free) char *list = strdup(getenv("PATH") ?: "");
	char *rest = list, *directory;

	while (rest && (directory = strsep(&rest, ":"))) {
		_cleanup_(cleanup_free) char *path = text_format("%s/" GPU_TOOL, directory);

		if (path && *directory == '/' && !access(path, X_OK)) {
			*ret_path = TAKE(path);
			return 0;
		}
	}
	return fail(context,
		    "--gpus: " GPU_TOOL ", which puts GPUs into a container, is not in PATH: "
		    "install NVIDIA's container toolkit");
}

/* What the tool goes by. Nothing else of the caller's environment is its business, and a spec is read by many. */
static int copy_gpu_environment(struct schema_strs *env)
{
	static const char *const prefixes[] = {"PATH=", "LD_LIBRARY_PATH=", "NVC_", "NVIDIA_"};
	int r = 0;

	for (char **variable = environ; !r && *variable; variable++)
		for (size_t i = 0; !r && i < ARRAY_SIZE(prefixes); i++)
			if (!strncmp(*variable, prefixes[i], strlen(prefixes[i])))
				r = schema_strs_add(env, *variable);
	return r;
}

/* N[,N], as often as one likes. */
static int set_gpus(struct context *context, const struct schema_strs *asked,
		    struct spec_options *spec)
{
	int code = asked->count ? find_gpu_tool(context, &spec->gpu_tool) : 0;

	if (!asked->count || code)
		return code;
	for (size_t i = 0; i < asked->count; i++) {
		_cleanup_(cleanup_free) char *copy = strdup(asked->items[i]);
		char *rest = copy, *word;

		if (!copy)
			return fail(context, "out of memory");
		while ((word = strsep(&rest, ",")))
			if (schema_strs_add(&spec->gpus, word))
				return fail(context, "out of memory");
	}
	return copy_gpu_environment(&spec->gpu_env) ? fail(context, "out of memory") : 0;
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
	code = code ?: set_gpus(context, &options->gpus, spec);
	if (!code && (schema_strs_copy(&options->with_ns, &spec->with_ns) ||
		      schema_strs_copy(&options->devices, &spec->devices) ||
		      schema_strs_copy(&options->cap_add, &spec->cap_add) ||
		      schema_strs_copy(&options->cap_drop, &spec->cap_drop) ||
		      schema_strs_copy(&options->uidmap, &spec->uidmap) ||
		      schema_strs_copy(&options->gidmap, &spec->gidmap)))
		code = fail(context, "out of memory");
	return code;
}

/* The service reads the file, and it is elsewhere. */
static int set_seccomp(struct context *context, const struct container_options *options,
		       struct spec_options *spec)
{
	spec->seccomp = options->seccomp;
	if (!options->seccomp_profile)
		return 0;
	if (!options->seccomp)
		return fail_usage(context, "--seccomp-profile needs --seccomp");
	spec->seccomp_profile = realpath(options->seccomp_profile, NULL);
	if (!spec->seccomp_profile)
		return fail(context, "--seccomp-profile %s: %s", options->seccomp_profile,
			    strerror(errno));
	return 0;
}

static void set_flags(const struct container_options *options, struct spec_options *spec)
{
	spec->terminal = options->tty;
	spec->read_only = options->read_only;
	spec->net_host = options->net_host;
	spec->cni = options->cni;
	spec->privileged = options->privileged;
	spec->privileged_without_host_devices = options->privileged_without_host_devices;
	spec->allow_new_privs = options->allow_new_privs;
	spec->no_pivot = options->no_pivot;
	spec->systemd_cgroup = options->systemd_cgroup;
	spec->no_cgroup = options->cgroup && !*options->cgroup;
}

static int set_options(struct context *context, const struct container_options *options,
		       struct spec_options *spec)
{
	int r;

	set_flags(options, spec);
	r = schema_set(&spec->cwd, options->cwd) ?: schema_set(&spec->user, options->user)
	    ?: schema_set(&spec->hostname, options->hostname) ?: schema_set(&spec->cgroup, options->cgroup)
	    ?: schema_set(&spec->rlimit_nofile, options->rlimit_nofile)
	    ?: schema_set(&spec->rootfs_propagation, options->rootfs_propagation)
	    ?: schema_set(&spec->apparmor_profile, options->apparmor_profile)
	    ?: schema_set(&spec->apparmor_default_profile, options->apparmor_default_profile)
	    ?: schema_set(&spec->rdt_class, options->rdt_class)
	    ?: schema_set(&spec->oci_root, options->runc_root);
	if (r)
		return fail(context, "out of memory");
	return set_seccomp(context, options, spec) ?: set_resources(context, options, spec)
	       ?: set_lists(context, options, spec);
}

/* ---- what excludes what -------------------------------------------------- */

static bool is_given(const struct option_spec *option, const struct container_options *options)
{
	const void *member = (const char *)options + option->offset;

	switch (option->kind) {
	case OPTION_FLAG:
		return *(const bool *)member;
	case OPTION_TEXT:
		return *(char *const *)member;
	case OPTION_NUMBER:
	case OPTION_SECONDS:
		return *(const uint64_t *)member;
	case OPTION_LIST:
		return ((const struct schema_strs *)member)->count;
	}
	return false;
}

/* A whole spec says it all: an option that would say something else must not be passed over in silence. */
static int check_config(struct context *context, const struct container_options *options)
{
	static const char *const beside[] = {
		"config",      "dump-config",       "label",
		"platform",    "pid-file",          "rootfs",
		"runc-binary", "runtime",           "runtime-config-path",
		"snapshotter", "snapshotter-label", "tty"};

	if (!options->config)
		return 0;
	for (const struct option_spec *option = create_options; option->name; option++) {
		bool is_beside = false;

		for (size_t i = 0; i < ARRAY_SIZE(beside); i++)
			is_beside = is_beside || !strcmp(beside[i], option->name);
		if (!is_beside && is_given(option, options))
			return fail_usage(context, "--config excludes --%s: the file says it all",
					  option->name);
	}
	return 0;
}

static int check_options(struct context *context, const struct container_options *options)
{
	if (options->runtime_config_path)
		log_warning(
			"--runtime-config-path %s is not used: OCI runtimes are called without a "
			"configuration file, it is for other shims of containerd than runc's",
			options->runtime_config_path);
	if (options->runtime && options->runc_binary)
		return fail_usage(context, "--runtime and --runc-binary exclude each other");
	if (options->remap_labels && !options->uidmap.count)
		return fail_usage(context, "--remap-labels needs --uidmap and --gidmap");
	return check_config(context, options);
}

/* ---- the request --------------------------------------------------------- */

static int read_config(struct context *context, const char *path, char **ret_spec)
{
	int r = file_read_proc(path, 512 << 10, ret_spec, NULL);

	return r ? fail(context, "--config %s: %s", path, strerror(-r)) : 0;
}

/* What a spec of davit's own making says by itself. What is no spec is refused by the service. */
static int add_cni(struct context *context, char **spec)
{
	json_t *json = json_parse(*spec, strlen(*spec), 512 << 10, NULL);
	json_t *annotations = json_object_get(json, "annotations");
	char *text = NULL;

	if (json_is_object(json) && !annotations) {
		annotations = json_object();
		(void)json_object_set_new(json, "annotations", annotations);
	}
	if (!json_is_object(annotations)) {
		json_decref(json);
		return 0;
	}
	if (!json_object_set_new(annotations, "io.davit.cni", json_string("true")))
		text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	if (!text)
		return fail(context, "out of memory");
	free(*spec);
	*spec = text;
	return 0;
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

/* Ranges as one label: 0:1000:1,1:2000:9. */
static int label_mapping(const char *key, const struct schema_strs *mapping,
			 struct schema_map *labels)
{
	_cleanup_(cleanup_free) char *text = NULL;

	for (size_t i = 0; i < mapping->count; i++) {
		char *longer = text_format("%s%s%s", text ?: "", text ? "," : "",
					   mapping->items[i]);

		free(text);
		text = longer;
		if (!text)
			return -ENOMEM;
	}
	return text ? schema_map_set(labels, key, text) : 0;
}

static int set_snapshot_labels(struct context *context, const struct container_options *options,
			       struct schema_map *labels)
{
	int code = split_pairs(context, "snapshotter-label", &options->snapshotter_labels, labels);

	if (code || !options->remap_labels)
		return code;
	if (label_mapping("containerd.io/snapshot/uidmapping", &options->uidmap, labels) ||
	    label_mapping("containerd.io/snapshot/gidmapping", &options->gidmap, labels))
		return fail(context, "out of memory");
	return 0;
}

static int write_spec(struct context *context, const char *path, const char *id)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct container_get_request get = {.id = (char *)id};
	_cleanup_(cleanup_free) char *text = NULL;
	struct why why = {};
	json_t *spec;
	int r = container_get_ask(&context->ask, &get, &reply);

	if (r)
		return fail_ask(context, r);
	spec = json_loads(reply.container->spec ?: "", 0, NULL);
	text = json_dumps(spec, JSON_INDENT(2));
	json_decref(spec);
	if (!text)
		return fail(context, "out of memory");
	if (file_write(path, text, strlen(text), 0644, false, &why))
		return fail(context, "--dump-config: %s", why.text);
	return 0;
}

/* The container is made to see its spec, and taken away: so the file is there when the run itself fails. */
static int dump_config(struct context *context, const char *path,
		       struct container_run_request *request)
{
	struct container_remove_request remove = {.id = request->id};
	int code, r;

	request->create_only = true;
	r = container_run_ask(&context->ask, request, NULL);
	request->create_only = false;
	if (r)
		return fail_ask(context, r);
	code = write_spec(context, path, request->id);
	r = container_remove_ask(&context->ask, &remove, NULL);
	return code ?: r ? fail_ask(context, r) : 0;
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
	code = check_options(context, options)
		       ?: set_arguments(context, options, args, n_args, &request);
	if (!code)
		code = set_options(context, options, request.options);
	if (!code)
		code = split_pairs(context, "label", &options->labels, &request.labels);
	if (!code)
		code = set_snapshot_labels(context, options, &request.snapshot_labels);
	if (!code && options->config)
		code = read_config(context, options->config, &request.spec);
	if (!code && options->config && options->cni)
		code = add_cni(context, &request.spec);
	if (!code && (schema_set(&request.platform, options->platform) ||
		      schema_set(&request.snapshotter, options->snapshotter) ||
		      schema_set(&request.runtime, options->runc_binary ?: options->runtime)))
		code = fail(context, "out of memory");
	if (!code && options->dump_config)
		code = dump_config(context, options->dump_config, &request);
	if (code)
		return code;
	*ret_request = request;
	request = (struct container_run_request){};
	return 0;
}

static bool cannot_be_executed(const char *text)
{
	static const char *const reasons[] = {"ermission denied", "s a directory",
					      "xec format error",
					      /* crun's word for a directory */
					      "open executable: Operation not permitted"};

	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (strstr(text, reasons[i]))
			return true;
	return false;
}

int container_run_exit_code(const char *text)
{
	/* A hook's program is not the container's. */
	if (strstr(text, "executing hook") || strstr(text, "running hook"))
		return EXIT_RUN_FAILED;
	if (strstr(text, "executable file") || strstr(text, "no such file or directory: unknown") ||
	    (strstr(text, "execve") && strstr(text, "No such file")) ||
	    strstr(text, "open executable"))
		return cannot_be_executed(text) ? EXIT_CANNOT_EXECUTE : EXIT_NO_PROGRAM;
	if (strstr(text, "exec") && cannot_be_executed(text))
		return EXIT_CANNOT_EXECUTE;
	return EXIT_RUN_FAILED;
}
