/* See criu.h. */

#include "shim/criu.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"

#define STDIO_FILE_MAX 512u
#define MOUNTS_MAX     (4u << 20)
#define LOG_MAX        (4u << 20)

/* ---- which streams lie outside ------------------------------------------- */

/* "mnt_id:\t31" of /proc/<pid>/fdinfo/<fd>; 0: there is no such descriptor. */
static unsigned mount_of(int pid, int fd)
{
	_cleanup_(cleanup_free) char *text = NULL;
	const char *line;
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	if (file_read_proc(path, 4096, &text, NULL))
		return 0;
	line = strstr(text, "mnt_id:");
	return line ? (unsigned)strtoul(line + strlen("mnt_id:"), NULL, 10) : 0;
}

/* In /proc/<pid>/mountinfo: each line starts with the mount's id. */
static bool has_mount(const char *mounts, unsigned id)
{
	for (; *mounts; mounts = strchrnul(mounts, '\n'), mounts += *mounts != '\0')
		if (strtoul(mounts, NULL, 10) == id)
			return true;
	return false;
}

/* Pipes and sockets have no path, and criu's users deal with them by themselves. */
static bool has_path(const char *link)
{
	char target[2];

	return readlink(link, target, sizeof(target)) > 0 && target[0] == '/';
}

static void find_key(int pid, int fd, const char *mounts, char key[CRIU_KEY_SIZE])
{
	unsigned mount = mount_of(pid, fd);
	struct stat stat_;
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	if (mount && !has_mount(mounts, mount) && has_path(path) && !stat(path, &stat_))
		snprintf(key, CRIU_KEY_SIZE, "file[%x:%llx]", mount,
			 (unsigned long long)stat_.st_ino);
}

int criu_find_stdio(int pid, struct criu_stdio *ret_stdio)
{
	_cleanup_(cleanup_free) char *mounts = NULL;
	struct criu_stdio stdio = {};
	char path[32];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/mountinfo", pid);
	r = file_read_proc(path, MOUNTS_MAX, &mounts, NULL);
	if (r)
		return error_trace(r);
	for (int fd = 0; fd < 3; fd++)
		find_key(pid, fd, mounts, stdio.keys[fd]);
	*ret_stdio = stdio;
	return 0;
}

/* ---- with the images ----------------------------------------------------- */

/* A line for each: @before, the stream's number if asked, @between, its key. */
static char *format_keys(const struct criu_stdio *stdio, const char *before, bool has_number,
			 const char *between)
{
	char text[STDIO_FILE_MAX] = "";
	size_t used = 0;

	for (int fd = 0; fd < 3; fd++)
		if (stdio->keys[fd][0])
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%.*s%s%s\n",
						 before, has_number, &"012"[fd], between,
						 stdio -> keys[fd]);
	return strdup(text);
}

int criu_write_stdio(const char *images, const struct criu_stdio *stdio, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" CRIU_STDIO_FILE, images);
	_cleanup_(cleanup_free) char *text = format_keys(stdio, "", true, " ");

	if (!path || !text)
		return error_origin(-ENOMEM);
	return file_write(path, text, strlen(text), 0600, false, why);
}

static bool is_key(const char *text, size_t size)
{
	const char *end = text + size, *at = text + strlen("file[");

	if (size >= CRIU_KEY_SIZE || strncmp(text, "file[", strlen("file[")) || end[-1] != ']')
		return false;
	for (unsigned part = 0; part < 2; part++) {
		if (!isxdigit((unsigned char)*at))
			return false;
		while (isxdigit((unsigned char)*at))
			at++;
		if (*at != (part ? ']' : ':'))
			return false;
		at++;
	}
	return at == end;
}

int criu_parse_stdio(const char *text, struct criu_stdio *ret_stdio)
{
	struct criu_stdio stdio = {};

	for (const char *line = text, *end; *line; line = end + (*end == '\n')) {
		unsigned fd = (unsigned)(line[0] - '0');

		end = strchrnul(line, '\n');
		if (fd > 2 || line[1] != ' ' || !is_key(line + 2, (size_t)(end - line - 2)))
			return -EBADMSG;
		snprintf(stdio.keys[fd], CRIU_KEY_SIZE, "%.*s", (int)(end - line - 2), line + 2);
	}
	*ret_stdio = stdio;
	return 0;
}

int criu_read_stdio(const char *images, struct criu_stdio *ret_stdio, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" CRIU_STDIO_FILE, images);
	_cleanup_(cleanup_free) char *text = NULL;
	int r = path ? file_read(AT_FDCWD, path, STDIO_FILE_MAX, &text, NULL)
		     : error_origin(-ENOMEM);

	if (r == -ENOENT) {
		*ret_stdio = (struct criu_stdio){};
		return 0;
	}
	r = r ?: criu_parse_stdio(text, ret_stdio);
	return r ? why_errno(why, error_trace(r), "cannot read %s", path) : 0;
}

/* ---- what criu is told --------------------------------------------------- */

static int configure(const char *bundle, const char *options, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/criu.conf", bundle);

	if (!path || !options)
		return error_origin(-ENOMEM);
	return file_write(path, options, strlen(options), 0600, false, why);
}

int criu_tell_dump(const char *bundle, const struct criu_stdio *stdio, struct why *why)
{
	_cleanup_(cleanup_free) char *options = format_keys(stdio, "external ", false, "");

	return configure(bundle, options, why);
}

/* An OCI runtime hands its own descriptors on to criu, and with v2 does not say where the cgroup is. */
int criu_tell_restore(const char *bundle, const struct criu_stdio *stdio, const char *cgroup,
		      struct why *why)
{
	_cleanup_(cleanup_free) char *keys = format_keys(stdio, "inherit-fd fd[", true, "]:");
	_cleanup_(cleanup_free) char *options = NULL;
	bool has_path = cgroup && cgroup[0] == '/' && !strpbrk(cgroup, " \t\n#");

	if (keys)
		options = text_format("%s%s%s%s", keys, has_path ? "cgroup-root " : "",
				      has_path ? cgroup : "", has_path ? "\n" : "");
	return configure(bundle, options, why);
}

char *criu_environment(const char *bundle)
{
	return text_format("CRIU_CONFIG_FILE=%s/criu.conf", bundle);
}

/* ---- why it failed ------------------------------------------------------- */

/* "(00.23)      1: Error (criu/fifo.c:104): Can't open …". */
void criu_parse_reason(const char *log, char text[CRIU_REASON_MAX])
{
	static const char mark[] = "Error (";
	const char *at = strstr(log, mark), *end = at ? strchrnul(at, '\n') : NULL;
	const char *reason = at ? strstr(at, "): ") : NULL;
	size_t used = 0;

	if (reason && reason < end)
		for (at = reason + 3; at < end && used + 1 < CRIU_REASON_MAX; at++)
			text[used++] = *at >= ' ' && *at < 127 ? *at : '?';
	text[used] = '\0';
}

void criu_add_reason(const char *directory, const char *log, char *text, size_t size)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", directory, log), *said = NULL;
	char reason[CRIU_REASON_MAX];
	size_t used = strlen(text);

	if (!path || file_read(AT_FDCWD, path, LOG_MAX, &said, NULL))
		return;
	criu_parse_reason(said, reason);
	if (reason[0] && used < size)
		snprintf(text + used, size - used, ": %s", reason);
}
