/* davit doctor: what this host lacks, and which flags need it. */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "broker/lib/file.h"
#include "tools/lists.h"

struct doctor {
	unsigned problems;
};

static void say(struct doctor *doctor, bool ok, const char *what, const char *mend)
{
	printf("%-6s %s%s%s\n", ok ? "ok" : "LACKS", what, ok ? "" : ": ", ok ? "" : mend);
	doctor->problems += !ok;
}

/* What only some flags need: not having it is no problem until they are used. */
static void say_optional(bool ok, const char *what, const char *mend)
{
	printf("%-6s %s%s%s\n", ok ? "ok" : "-", what, ok ? "" : ": ", ok ? "" : mend);
}

static bool in_path(const char *program)
{
	static const char *const directories[] = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin",
						  "/usr/bin",        "/sbin",          "/bin"};
	char path[256];

	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		snprintf(path, sizeof(path), "%s/%s", directories[i], program);
		if (!access(path, X_OK))
			return true;
	}
	return false;
}

static bool has_file_system(const char *name)
{
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	char line[64];

	snprintf(line, sizeof(line), "\t%s\n", name);
	return !file_read_proc("/proc/filesystems", 65536, &text, &size) && strstr(text, line);
}

static void check_host(struct doctor *doctor)
{
	struct utsname name;
	unsigned major = 0, minor = 0;

	uname(&name);
	(void)sscanf(name.release, "%u.%u", &major, &minor);
	say(doctor, geteuid() == 0, "root privileges", "run davit as root");
	say(doctor, major > 5 || (major == 5 && minor >= 10), "Linux 5.10 or newer",
	    "a newer kernel is needed (pidfd, openat2, new mount API)");
	say(doctor, has_file_system("overlay"), "overlayfs",
	    "load it with `modprobe overlay`; without it the native snapshotter copies every image");
	say(doctor, !access("/proc/self/ns/pid", F_OK) && !access("/proc/self/ns/net", F_OK),
	    "pid and network namespaces", "the kernel lacks CONFIG_PID_NS or CONFIG_NET_NS");
	say(doctor, !access("/sys/fs/cgroup", F_OK), "cgroups", "mount them on /sys/fs/cgroup");
	say(doctor, in_path("crun") || in_path("runc"), "an OCI runtime (crun or runc)",
	    "`apt-get install crun`");
	say(doctor, !access("/usr/lib/cni/bridge", X_OK) || !access("/opt/cni/bin/bridge", X_OK),
	    "CNI plugins (only for networks)", "`apt-get install containernetworking-plugins`");
}

/* ---- what flags need ----------------------------------------------------- */

static bool has_text(const char *path, const char *wanted)
{
	_cleanup_(cleanup_free) char *text = NULL;

	return !file_read_proc(path, 65536, &text, NULL) && strstr(text, wanted);
}

/* v1: a hierarchy of its own; v2: a word in cgroup.controllers. */
static bool has_controller(const char *v1, const char *v2)
{
	_cleanup_(cleanup_free) char *text = NULL;
	char path[64];
	char *rest, *word;

	if (file_read_proc("/sys/fs/cgroup/cgroup.controllers", 4096, &text, NULL)) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup/%s/cgroup.procs", v1);
		return !access(path, F_OK);
	}
	rest = text;
	while ((word = strsep(&rest, " \n")))
		if (!strcmp(word, v2))
			return true;
	return false;
}

static void check_controllers(void)
{
	static const struct {
		const char *v1, *v2, *flags;
	} controllers[] = {
		{"memory", "memory", "--memory-limit, kills for memory"},
		{"cpu", "cpu", "--cpus, --cpu-shares, --cpu-quota, --cpu-period"},
		{"cpuset", "cpuset", "--cpuset-cpus, --cpuset-mems"},
		{"pids", "pids", "--pids-limit"},
		{"blkio", "io", "--blkio-…"},
	};
	char line[128];

	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		snprintf(line, sizeof(line), "cgroup controller %s (%s)", controllers[i].v1,
			 controllers[i].flags);
		say_optional(has_controller(controllers[i].v1, controllers[i].v2), line,
			     "mount it, or enable it in the kernel");
	}
}

static bool has_user_namespaces(void)
{
	_cleanup_(cleanup_free) char *text = NULL;

	return !access("/proc/self/ns/user", F_OK) &&
	       !file_read_proc("/proc/sys/user/max_user_namespaces", 64, &text, NULL) &&
	       strtoull(text, NULL, 10) > 0;
}

static void check_features(void)
{
	say_optional(has_text("/sys/module/apparmor/parameters/enabled", "Y"),
		     "AppArmor (--apparmor-profile)", "boot with apparmor=1 security=apparmor");
	say_optional(!access("/run/systemd/system", F_OK), "systemd (--systemd-cgroup)",
		     "another init runs here; cgroups are made without it");
	say_optional(!access("/sys/fs/resctrl/schemata", F_OK), "resctrl (--rdt-class)",
		     "`mount -t resctrl resctrl /sys/fs/resctrl`, where the CPU has it");
	say_optional(has_text("/proc/self/status", "\nSeccomp:"), "seccomp (--seccomp)",
		     "the kernel lacks CONFIG_SECCOMP_FILTER");
	say_optional(has_user_namespaces(), "user namespaces (--uidmap, --gidmap)",
		     "the kernel lacks CONFIG_USER_NS, or user.max_user_namespaces is 0");
	say_optional(in_path("criu"), "CRIU (tasks checkpoint)", "`apt-get install criu`");
	say_optional(in_path("nvidia-container-cli"), "nvidia-container-cli (--gpus)",
		     "install NVIDIA's container toolkit");
	say_optional(in_path("apparmor_parser"), "apparmor_parser (--apparmor-default-profile)",
		     "`apt-get install apparmor`");
}

static void check_runtimes(struct doctor *doctor, struct context *context)
{
	_cleanup_(runtime_list_reply_clear) struct runtime_list_reply reply = {};
	static const struct empty nothing;
	char line[1400];

	if (runtime_list_ask(&context->ask, &nothing, &reply)) {
		say(doctor, false, "a running davit", context->ask.text);
		return;
	}
	for (size_t i = 0; i < reply.runtimes.count; i++) {
		const struct runtime_record *runtime = &reply.runtimes.items[i];

		printf("%-6s runtime %s %s%s: %s\n", runtime->usable ? "ok" : "-", runtime->name,
		       runtime->path ?: "", runtime->is_default ? " (default)" : "",
		       runtime->reason ?: "");
		if (!i) {
			snprintf(line, sizeof(line), "a usable OCI runtime");
			say(doctor, runtime->usable, line, runtime->reason ?: "none was found");
		}
	}
}

static void check_services(struct doctor *doctor, struct context *context)
{
	_cleanup_(bus_list_reply_clear) struct bus_list_reply reply = {};
	static const struct empty nothing;
	char line[128];

	if (bus_list_ask(&context->ask, &nothing, &reply))
		return;
	for (size_t i = 0; i < reply.services.count; i++) {
		snprintf(line, sizeof(line), "service %s", reply.services.items[i].name);
		say(doctor, !strcmp(reply.services.items[i].state, "live"), line,
		    "it is away; see the log of `davit up`");
	}
}

static int doctor(struct context *context, void *data, char **args, int n_args)
{
	struct doctor found = {};

	(void)data;
	(void)args;
	(void)n_args;
	check_host(&found);
	check_controllers();
	check_features();
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = 3000;
	if (access(context->paths.bus, F_OK)) {
		say(&found, false, "a running davit", "start it with `davit up --detach`");
	} else {
		check_services(&found, context);
		check_runtimes(&found, context);
	}
	return found.problems ? EXIT_ERROR : EXIT_OK;
}

const struct command doctor_command = {
	.name = "doctor",
	.summary = "say what this host lacks and how to get it",
	.details =
		"   LACKS: davit needs it. A dash: only the flags in brackets need it, and they say so when they are used.",
	.run = doctor,
};
