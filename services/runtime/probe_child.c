/* The child that asks one OCI runtime what it is, and reads its answers. */

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/spawn.h"
#include "schemas/json.h"
#include "services/runtime/host.h"
#include "services/runtime/probe.h"

#define ANSWER_MAX 65536
#define ANSWER_FD  4

/* ---- what it says ---- */

/* "crun version 1.8.1", then "+SECCOMP +APPARMOR …" somewhere below. */
int probe_read_version(const char *text, struct runtime_record *record)
{
	size_t length = strcspn(text, "\n");
	_cleanup_(cleanup_free) char *first = strndup(text, length < 127 ? length : 127);
	char word[32];
	int end, r;

	r = first ? schema_set(&record->version, first) : error_origin(-ENOMEM);
	for (const char *line = text; !r && line; line = strchr(line, '\n')) {
		line += *line == '\n';
		for (const char *at = line;
		     *line == '+' && sscanf(at, " +%31[A-Z0-9]%n", word, &end) == 1; at += end) {
			for (char *c = word; *c; c++)
				*c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
			if (record->features.count < 64)
				r = r ?: schema_strs_add(&record->features, word);
		}
	}
	return r;
}

static int add_feature(struct runtime_record *record, const char *name)
{
	for (size_t i = 0; i < record->features.count; i++)
		if (!strcmp(record->features.items[i], name))
			return 0;
	return record->features.count < 64 ? schema_strs_add(&record->features, name) : 0;
}

/* The OCI features document, of runtimes that have one. */
int probe_read_features(const char *text, struct runtime_record *record)
{
	static const char *const parts[] = {"seccomp", "apparmor", "selinux", "intelRdt"};
	struct schema_fault fault = {};
	json_t *json = json_parse(text, strlen(text), ANSWER_MAX, &fault), *linux_, *cgroup;
	int r = 0;

	linux_ = json_object_get(json, "linux");
	for (size_t i = 0; !r && i < ARRAY_SIZE(parts); i++)
		if (json_is_true(json_object_get(json_object_get(linux_, parts[i]), "enabled")))
			r = add_feature(record, parts[i]);
	cgroup = json_object_get(linux_, "cgroup");
	if (!r && json_is_true(json_object_get(cgroup, "systemd")))
		r = add_feature(record, "systemd");
	json_decref(json);
	return r;
}

/* ---- asking ---- */

/* It has closed its output; what does not end soon after that is killed. */
static void wait_end(pid_t pid, int *ret_status)
{
	_cleanup_(cleanup_fd) int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (pidfd < 0 ||
	    poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, PROBE_TIMEOUT_MS) <= 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
		;
}

/* Until the end of its output, PROBE_TIMEOUT_MS or ANSWER_MAX; then it is killed if it still runs. */
static void read_answer(int fd, pid_t pid, char *text)
{
	uint64_t end_ms = time_boot_ms() + PROBE_TIMEOUT_MS, now;
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	size_t size = 0;
	ssize_t n = 1;

	while (n > 0 && size < ANSWER_MAX - 1 && (now = time_boot_ms()) < end_ms) {
		if (poll(&pollfd, 1, (int)(end_ms - now)) <= 0)
			break;
		n = read(fd, text + size, ANSWER_MAX - 1 - size);
		size += n > 0 ? (size_t)n : 0;
	}
	text[size] = '\0';
	if (n)
		kill(pid, SIGKILL);
}

/* 0, or with the reason: it could not be run or failed, or had not ended in time. */
enum { ASK_E_FAILED = 1, ASK_E_SLOW };
static int ask(const char *path, const char *word, char *text, struct why *why)
{
	const char *const argv[] = {path, word, NULL};
	const char *const envp[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	_cleanup_(cleanup_fd) int output = -1;
	int ends[2], status = 0, r;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		return error_origin(-errno);
	output = ends[0];
	r = spawn(&(struct spawn){.path = path,
				  .argv = argv,
				  .envp = envp,
				  .n_fds = 2,
				  .cwd = "/",
				  .fds = (struct spawn_fd[]){{ends[1], 1}, {ends[1], 2}}},
		  &pid, why);
	close(ends[1]);
	if (r)
		return why_set(why, ASK_E_FAILED, "cannot be run");
	read_answer(output, pid, text);
	wait_end(pid, &status);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	text[strcspn(text, "\n")] = '\0';
	return WIFEXITED(status)
		       ? why_set(why, ASK_E_FAILED, "'%s %s' failed with code %d: %.200s", path,
				 word, WEXITSTATUS(status), text)
		       : why_set(why, ASK_E_SLOW, "'%s %s' did not end within %d ms or was killed",
				 path, word, PROBE_TIMEOUT_MS);
}

/* Nothing of this reaches the host: the namespace ends with this process. */
static int detach_unified(void)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return error_origin(-errno);
	return umount2("/sys/fs/cgroup/unified", MNT_DETACH) ? error_origin(-errno) : 0;
}

static int describe(struct runtime_record *record, const char *path)
{
	_cleanup_(cleanup_free) char *text = malloc(ANSWER_MAX);
	struct why why = {};
	int r;

	if (!text)
		return error_origin(-ENOMEM);
	r = ask(path, "--version", text, &why);
	record->usable = r == 0 || r == ASK_E_SLOW;
	if (r)
		return r < 0 ? r : schema_set(&record->reason, why.text);
	r = probe_read_version(text, record);
	if (!r && !ask(path, "features", text, NULL))
		r = probe_read_features(text, record);
	return r
		       ?: schema_set(
				  &record->reason,
				  record->detach_unified
					  ? "it works here with cgroup/unified of this hybrid host detached"
					  : "it works here");
}

static int answer(const struct runtime_record *record)
{
	struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	int r = schema_pack(schema_runtime_record(), record, &buffer, &fault);

	if (!r)
		r = file_write_all(ANSWER_FD, buffer.data, buffer.size);
	schema_buffer_clear(&buffer);
	return error_fold(r);
}

int probe_main(const char *name, const char *path)
{
	_cleanup_(runtime_record_clear) struct runtime_record record = {};
	enum cgroup_mode mode = cgroup_mode_read("/sys/fs/cgroup", &record.detach_unified);
	int r;

	r = schema_set(&record.name, name) ?: schema_set(&record.path, path)
		    ?: schema_set(&record.cgroup_mode, cgroup_mode_text(mode));
	if (!r && record.detach_unified && detach_unified())
		r = schema_set(&record.reason,
			       "cgroup/unified of this hybrid host cannot be detached");
	else
		r = r ?: describe(&record, path);
	return r || answer(&record) ? EXIT_FAILURE : EXIT_SUCCESS;
}
