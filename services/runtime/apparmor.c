/* See apparmor.h. */

#include "services/runtime/apparmor.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "broker/lib/spawn.h"
#include "schemas/messages.h"
#include "services/runtime/spec.h"

#define ANSWER_FD  4
#define LOADED_MAX (4u << 20)

static const char head[] = "#include <tunables/global>\n";
static const char own_head[] = "@{PROC}=/proc/\n";

static const char rules[] =
	"  network,\n"
	"  capability,\n"
	"  file,\n"
	"  umount,\n"
	"  signal (receive) peer=unconfined,\n"
	"  deny mount,\n"
	/* Files of /proc itself, and its directories but for those of processes and sys. */
	"  deny @{PROC}/* w,\n"
	"  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,\n"
	/* /proc/sys but for kernel/shm*. */
	"  deny @{PROC}/sys/[^k]** w,\n"
	"  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,\n"
	"  deny @{PROC}/sysrq-trigger rwklx,\n"
	"  deny @{PROC}/mem rwklx,\n"
	"  deny @{PROC}/kmem rwklx,\n"
	"  deny @{PROC}/kcore rwklx,\n"
	/* /sys but for fs/cgroup. */
	"  deny /sys/[^f]*/** wklx,\n"
	"  deny /sys/f[^s]*/** wklx,\n"
	"  deny /sys/fs/[^c]*/** wklx,\n"
	"  deny /sys/fs/c[^g]*/** wklx,\n"
	"  deny /sys/fs/cg[^r]*/** wklx,\n"
	"  deny /sys/firmware/** rwklx,\n"
	"  deny /sys/devices/virtual/powercap/** rwklx,\n"
	"  deny /sys/kernel/security/** rwklx,\n";

char *apparmor_text(const char *name, bool has_includes)
{
	return text_format("%sprofile %s flags=(attach_disconnected,mediate_deleted) {\n"
			   "%s%s"
			   "  signal (send,receive) peer=%s,\n"
			   "  ptrace (trace,read,tracedby,readby) peer=%s,\n"
			   "}\n",
			   has_includes ? head : own_head, name,
			   has_includes ? "  #include <abstractions/base>\n" : "", rules, name,
			   name);
}

/* Lines are "name (mode)". */
bool apparmor_is_loaded(const char *profiles, const char *name)
{
	size_t size = strlen(name);

	for (; *profiles; profiles = strchrnul(profiles, '\n'), profiles += *profiles != '\0')
		if (!strncmp(profiles, name, size) && !strncmp(profiles + size, " (", 2))
			return true;
	return false;
}

int apparmor_check(const char *loaded, const char *name, struct why *why)
{
	_cleanup_(cleanup_free) char *profiles = NULL;

	if (!strcmp(name, "unconfined") || file_read_proc(loaded, LOADED_MAX, &profiles, NULL) ||
	    apparmor_is_loaded(profiles, name))
		return 0;
	return why_set(
		why, SPEC_E_INVALID,
		"AppArmor profile '%.128s' is not loaded: `apparmor_parser -r FILE` loads one",
		name);
}

/* -K: no cache, which may be read-only; -r: in place of an older one. It reads its standard input. */
static int run_parser(const char *parser, const char *text, int *ret_status, struct why *why)
{
	const char *const argv[] = {parser, "-Kr", NULL};
	_cleanup_(cleanup_fd) int fd = -1;
	struct spawn_fd fds[2];
	pid_t pid;
	int r = file_open_text("apparmor", text, &fd);

	if (r)
		return error_trace(r);
	fds[0] = (struct spawn_fd){.from = fd, .to = 0};
	fds[1] = (struct spawn_fd){.from = 2, .to = 2};
	r = spawn(&(struct spawn){.path = parser, .argv = argv, .fds = fds, .n_fds = 2}, &pid, why);
	if (r)
		return why_errno(why, r, "%s", parser);
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return error_origin(-errno);
	return 0;
}

int apparmor_load(const char *loaded, const char *parser, const char *name, struct why *why)
{
	bool has_includes = !access("/etc/apparmor.d/tunables/global", R_OK) &&
			    !access("/etc/apparmor.d/abstractions/base", R_OK);
	_cleanup_(cleanup_free) char *text = apparmor_text(name, has_includes), *profiles = NULL;
	int status = 0, r;

	if (!text)
		return error_origin(-ENOMEM);
	r = file_read_proc(loaded, LOADED_MAX, &profiles, NULL);
	if (r)
		return why_errno(why, r, "AppArmor's list of profiles, %s", loaded);
	if (apparmor_is_loaded(profiles, name))
		return 0;
	r = run_parser(parser, text, &status, why);
	if (r)
		return r;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return why_set(why, SPEC_E_INVALID, "%s does not load profile '%s' (status %d)",
			       parser, name, status);
	return 0;
}

/* ---- the child ---- */

static int find_parser(char *path, size_t size)
{
	static const char *const directories[] = {"/usr/local/sbin", "/usr/sbin", "/sbin",
						  "/usr/bin"};

	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		snprintf(path, size, "%s/apparmor_parser", directories[i]);
		if (!access(path, X_OK))
			return 0;
	}
	return -ENOENT;
}

int apparmor_main(const char *name)
{
	_cleanup_(runtime_loaded_clear) struct runtime_loaded answer = {};
	struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	char parser[64];
	struct why why = {};
	int r = find_parser(parser, sizeof(parser));

	r = r ? why_set(&why, SPEC_E_INVALID, "there is no apparmor_parser: install apparmor")
	      : apparmor_load(APPARMOR_LOADED, parser, name, &why);
	if (r)
		r = schema_set(&answer.error, why.text[0] ? why.text : strerror(-r));
	r = r ?: schema_pack(schema_runtime_loaded(), &answer, &buffer, &fault);
	r = r ?: file_write_all(ANSWER_FD, buffer.data, buffer.size);
	schema_buffer_clear(&buffer);
	return r ? EXIT_FAILURE : EXIT_SUCCESS;
}
