/* Limits, capabilities, cgroup hierarchies. */

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "broker/lib/file.h"
#include "services/runtime/host.h"

#define CGROUP2_MAGIC 0x63677270
#define DEPTH_MAX     16
#define CGROUPS       "/sys/fs/cgroup"

const char *cgroup_mode_text(enum cgroup_mode mode)
{
	static const char *const texts[] = {"v1", "hybrid", "v2"};

	return texts[mode];
}

static bool is_cgroup2(const char *path)
{
	struct statfs status;

	return !statfs(path, &status) && status.f_type == CGROUP2_MAGIC;
}

enum cgroup_mode cgroup_mode_read(const char *path, bool *ret_detach)
{
	_cleanup_(cleanup_free) char *unified = text_format("%s/unified", path);

	*ret_detach = false;
	if (is_cgroup2(path))
		return CGROUP_V2;
	*ret_detach = unified && is_cgroup2(unified);
	return *ret_detach ? CGROUP_HYBRID : CGROUP_V1;
}

/* rmdir fails on every cgroup that has a process or a child: that is the check. */
static bool remove_empty(int parent, const char *name, unsigned depth)
{
	_cleanup_(cleanup_dir) DIR *dir = file_open_dir(parent, name);
	struct dirent *entry;

	if (!dir)
		return errno == ENOENT || errno == ENOTDIR;
	while (depth < DEPTH_MAX && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && *entry->d_name != '.')
			remove_empty(dirfd(dir), entry->d_name, depth + 1);
	return !unlinkat(parent, name, AT_REMOVEDIR) || errno == ENOENT;
}

bool cgroup_remove_empty(const char *path, const char *parent)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(path);
	struct dirent *entry;
	bool is_gone;

	if (!dir)
		return true;
	is_gone = remove_empty(dirfd(dir), parent, 0);
	while ((entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *below = NULL;

		if (*entry->d_name == '.' || entry->d_type != DT_DIR)
			continue;
		below = text_format("%s/%s", entry->d_name, parent);
		is_gone = below && remove_empty(dirfd(dir), below, 0) && is_gone;
	}
	return is_gone;
}

void host_cgroup_parent(const char *state, char ret_name[16])
{
	snprintf(ret_name, 16, "davit-%08x", crc32c(0, state, strlen(state)));
}

/* Those that davit itself has and can pass on. */
static int read_capabilities(uint64_t *ret_capabilities)
{
	static const char *const keys[] = {"\nCapPrm:", "\nCapBnd:"};
	_cleanup_(cleanup_free) char *text = NULL;
	uint64_t capabilities = UINT64_MAX;
	int r = file_read_proc("/proc/self/status", 65536, &text, NULL);

	if (r)
		return error_fold(r);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *line = strstr(text, keys[i]);

		capabilities &= line ? strtoull(line + strlen(keys[i]), NULL, 16) : 0;
	}
	*ret_capabilities = capabilities;
	return 0;
}

/* ---- cgroups and what else a container may ask for ---- */

static void add_word(char *words, size_t size, const char *word)
{
	size_t used = strlen(words);

	snprintf(words + used, size - used, "%s%s", used ? " " : "", word);
}

/* Those that are mounted where runtimes look for them. */
static void read_v1_controllers(struct spec_host *host)
{
	static const char *const names[] = {"blkio",   "cpu",    "cpuset", "devices",
					    "freezer", "memory", "pids"};
	char path[64];

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), CGROUPS "/%s/cgroup.procs", names[i]);
		if (!access(path, F_OK))
			add_word(host->controllers, sizeof(host->controllers), names[i]);
	}
}

static bool has_file(int dirfd, const char *directory, const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%.400s/%s", directory, name);
	return !faccessat(dirfd, path, F_OK, 0);
}

/* The root cgroup never has weights: any other one tells. */
static void read_v1_weights(struct spec_host *host)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(CGROUPS "/blkio");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		bool has_weights, has_bfq;

		if (entry->d_name[0] == '.' || !has_file(dirfd(dir), entry->d_name, "cgroup.procs"))
			continue;
		has_weights = has_file(dirfd(dir), entry->d_name, "blkio.weight");
		has_bfq = has_file(dirfd(dir), entry->d_name, "blkio.bfq.weight");
		host->lacks_weights = !has_weights && !has_bfq;
		host->has_bfq_weights_only = !has_weights && has_bfq;
		return;
	}
}

/* A line of a small file of the kernel's; empty if it is not there. */
static void read_line(const char *path, char *line, size_t size)
{
	_cleanup_(cleanup_free) char *text = NULL;

	line[0] = '\0';
	if (!file_read_proc(path, 65536, &text, NULL))
		snprintf(line, size, "%.*s", (int)strcspn(text, "\n"), text);
}

void host_read_features(struct spec_host *host)
{
	char enabled[8];
	bool detach;

	host->controllers[0] = '\0';
	host->is_cgroup_v2 = cgroup_mode_read(CGROUPS, &detach) == CGROUP_V2;
	if (host->is_cgroup_v2)
		read_line(CGROUPS "/cgroup.controllers", host->controllers,
			  sizeof(host->controllers));
	else
		read_v1_controllers(host);
	if (!host->is_cgroup_v2)
		read_v1_weights(host);
	read_line("/sys/devices/system/cpu/online", host->cpus, sizeof(host->cpus));
	read_line("/sys/devices/system/node/online", host->memory_nodes,
		  sizeof(host->memory_nodes));
	read_line("/sys/module/apparmor/parameters/enabled", enabled, sizeof(enabled));
	host->has_apparmor = enabled[0] == 'Y';
	host->has_systemd = !access("/run/systemd/system", F_OK);
	host->has_resctrl = !access("/sys/fs/resctrl/schemata", F_OK);
}

bool host_is_passable(const char *path)
{
	_cleanup_(cleanup_free) char *copy = realpath(path, NULL);
	struct stat status;
	char *slash;

	while (copy && *copy) {
		if (stat(copy, &status) || !(status.st_mode & S_IXOTH))
			return false;
		slash = strrchr(copy, '/');
		*slash = '\0';
	}
	return copy;
}

/* Who may raise limits is bound by the kernel's own alone. */
static void read_limits(struct spec_host *host)
{
	bool can_raise = host->capabilities & UINT64_C(1) << CAP_SYS_RESOURCE;
	struct rlimit limit;
	char line[32];

	for (int i = 0; i < (int)RLIM_NLIMITS; i++)
		if (can_raise)
			host->limits[i] = RLIM_INFINITY;
		else
			host->limits[i] = getrlimit((__rlimit_resource_t)i, &limit)
						  ? 0
						  : limit.rlim_max;
	read_line("/proc/sys/fs/nr_open", line, sizeof(line));
	if (can_raise && *line)
		host->limits[RLIMIT_NOFILE] = strtoull(line, NULL, 10);
}

int host_read(const char *state, struct spec_host *ret_host)
{
	struct spec_host host = {};
	int r = read_capabilities(&host.capabilities);

	if (r)
		return error_trace(r);
	read_limits(&host);
	host_cgroup_parent(state, host.cgroup_parent);
	host.has_hosts = !access("/etc/hosts", R_OK);
	host.has_resolv_conf = !access("/etc/resolv.conf", R_OK);
	*ret_host = host;
	return 0;
}
