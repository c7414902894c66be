/* davit version and doctor. */

#include <sys/stat.h>
#include <sys/utsname.h>

#include "broker/lib/file.h"
#include "tools/lists.h"

#include <fcntl.h>
#include <string.h>

static int version(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(bus_list_reply_clear) struct bus_list_reply reply = {};
	static const struct empty nothing;
	int r;

	(void)data;
	(void)args;
	(void)n_args;
	printf("Client:\n  Version:  %s\n\n", DAVIT_VERSION);
	r = bus_list_ask(&context->ask, &nothing, &reply);
	if (r)
		return fail_ask(context, r);
	puts("Server:");
	for (size_t i = 0; i < reply.services.count; i++) {
		const struct bus_service *service = &reply.services.items[i];

		printf("  %-10s %s (%s)\n", service->name, service->program ?: "-", service->state);
	}
	return EXIT_OK;
}

const struct command version_command = {
	.name = "version",
	.summary = "print the client's and the services' versions",
	.run = version,
};

/* ---- doctor -------------------------------------------------------------- */

struct doctor {
	unsigned problems;
};

static void say(struct doctor *doctor, bool ok, const char *what, const char *mend)
{
	printf("%-6s %s%s%s\n", ok ? "ok" : "LACKS", what, ok ? "" : ": ", ok ? "" : mend);
	doctor->problems += !ok;
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
	.run = doctor,
};
