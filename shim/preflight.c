#include "shim/preflight.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "broker/lib/file.h"
#include "shim/spec.h"

#define CONFIG_MAX (4u << 20)
#define LINKS_MAX  40

static const char *const kernel_dirs[] = {"proc", "sys", "dev"};

/* ---- directories that the kernel's file systems are mounted on ----------- */

static int open_beneath(int root_fd, const char *path, int flags)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC),
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
	int fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

static int check_kernel_dir(int root_fd, const char *name, struct why *why)
{
	_cleanup_(cleanup_fd) int fd = open_beneath(root_fd, name, O_PATH | O_NOFOLLOW);
	struct stat stat;

	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return why_errno(why, -EPERM, "the root's /%s cannot be opened (%s)", name,
				 strerror(-fd));
	if (fstat(fd, &stat))
		return error_origin(-errno);
	if (!S_ISDIR(stat.st_mode))
		return why_set(why, -EPERM,
			       "the root's /%s is not a directory: a runtime would mount or make "
			       "devices elsewhere",
			       name);
	return 0;
}

/* ---- the working directory ----------------------------------------------- */

static bool is_kernel_path(const char *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(kernel_dirs); i++) {
		size_t size = strlen(kernel_dirs[i]);

		if (!strncmp(path + 1, kernel_dirs[i], size) &&
		    (path[1 + size] == '/' || !path[1 + size]))
			return true;
	}
	return false;
}

static void drop_last(char *path)
{
	char *slash = strrchr(path, '/');

	if (slash)
		*slash = '\0';
}

/* Said of want, or of a link in place of a directory that was none a moment ago. */
static bool is_no_answer(int r)
{
	return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ELOOP;
}

/* The link @path of the root; 0: it is none, or absent; -errno: that cannot be said. */
static ssize_t read_link(int root_fd, const char *path, char *text, size_t size)
{
	_cleanup_(cleanup_fd) int fd = open_beneath(root_fd, path + 1, O_PATH | O_NOFOLLOW);
	ssize_t n;

	if (fd < 0)
		return is_no_answer(fd) ? fd : 0;
	n = readlinkat(fd, "", text, size - 1);
	if (n < 0)
		return is_no_answer(-errno) ? -errno : 0;
	text[n] = '\0';
	return n;
}

struct walk {
	char done[PATH_MAX]; /* resolved, no slash at the end; "" is / */
	char left[PATH_MAX]; /* still to be walked */
};

/* Puts a link's text in front of what is left. */
static int follow(struct walk *walk, const char *link)
{
	char left[PATH_MAX];
	int n = snprintf(left, sizeof(left), "%s/%s", link, walk->left);

	if (n < 0 || (size_t)n >= sizeof(left))
		return -ENAMETOOLONG;
	memcpy(walk->left, left, (size_t)n + 1);
	if (link[0] == '/')
		walk->done[0] = '\0';
	else
		drop_last(walk->done);
	return 0;
}

/* Takes the first name off what is left. */
static bool next_name(struct walk *walk, char *name)
{
	const char *at = walk->left + strspn(walk->left, "/");
	size_t size = strcspn(at, "/");

	memcpy(name, at, size);
	name[size] = '\0';
	memmove(walk->left, at + size, strlen(at + size) + 1);
	return size > 0;
}

static int step(struct walk *walk, int root_fd, const char *name, unsigned *links)
{
	char link[PATH_MAX];
	size_t used = strlen(walk->done);
	ssize_t n;

	if (!strcmp(name, "."))
		return 0;
	if (!strcmp(name, "..")) {
		drop_last(walk->done);
		return 0;
	}
	if (used + strlen(name) + 2 > sizeof(walk->done))
		return -ENAMETOOLONG;
	sprintf(walk->done + used, "/%s", name);
	if (is_kernel_path(walk->done))
		return -ELOOP;
	n = read_link(root_fd, walk->done, link, sizeof(link));
	if (n <= 0)
		return (int)n;
	return ++*links > LINKS_MAX ? -ELOOP : follow(walk, link);
}

int preflight_resolve(int root_fd, const char *path, char *ret_path, size_t size)
{
	struct walk walk = {};
	char name[PATH_MAX];
	unsigned links = 0;
	int r;

	if (strlen(path) >= sizeof(walk.left))
		return -ENAMETOOLONG;
	strcpy(walk.left, path);
	while (next_name(&walk, name)) {
		r = step(&walk, root_fd, name, &links);
		if (r)
			return r;
	}
	if (strlen(walk.done) >= size)
		return -ENAMETOOLONG;
	strcpy(ret_path, walk.done[0] ? walk.done : "/");
	return 0;
}

static int check_cwd(int root_fd, const char *cwd, struct why *why)
{
	char resolved[PATH_MAX];
	int r;

	if (cwd[0] != '/')
		return why_set(why, -EPERM, "the working directory '%s' is not absolute", cwd);
	r = preflight_resolve(root_fd, cwd, resolved, sizeof(resolved));
	if (r == -ELOOP)
		return why_set(
			why, -EPERM,
			"the working directory '%s' leads to /proc, /sys or /dev, or through "
			"too many links",
			cwd);
	if (r == -ENAMETOOLONG)
		return why_set(why, -EPERM, "the working directory '%.100s' is too long", cwd);
	return r ? why_errno(why, r, "the working directory '%.100s'", cwd) : 0;
}

/* ---- all of it ----------------------------------------------------------- */

static int check_process(const char *file, const struct spec *spec, struct why *why)
{
	if (spec->has_inheritable)
		return why_set(why, -EPERM, "%s: process.capabilities.inheritable must be empty",
			       file);
	if (!spec->cwd)
		return why_set(why, -EPERM, "%s has no process.cwd", file);
	return 0;
}

static int read_spec(const char *path, bool is_process, struct spec *ret_spec, struct why *why)
{
	_cleanup_(cleanup_free) char *text = NULL, *whole = NULL;
	struct schema_fault fault = {};
	size_t size;
	int r;

	r = file_read(AT_FDCWD, path, CONFIG_MAX, &text, &size);
	if (r)
		return why_errno(why, r, "cannot read %s", path);
	/* A lone process is parsed where it stands in a spec. */
	whole = is_process && strlen(text) == size ? text_format("{\"process\":%s}", text)
						   : TAKE(text);
	if (!whole)
		return error_origin(-ENOMEM);
	r = spec_parse(whole, is_process ? strlen(whole) : size, ret_spec, &fault);
	return r > 0 ? why_set(why, -EPERM, "%s: %s", path, fault.text) : r;
}

int preflight_check_process(const char *path, int init_pid, struct why *why)
{
	_cleanup_(spec_clear) struct spec spec = {};
	_cleanup_(cleanup_fd) int root_fd = -1;
	char root[32];
	int r;

	r = read_spec(path, true, &spec, why);
	if (!r)
		r = check_process(path, &spec, why);
	if (r)
		return r;
	snprintf(root, sizeof(root), "/proc/%d/root", init_pid);
	root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root_fd < 0)
		return why_errno(why, -errno, "cannot open the root of process %d", init_pid);
	return check_cwd(root_fd, spec.cwd, why);
}

static int open_root(const char *bundle, const struct spec *spec, int *ret_fd, struct why *why)
{
	_cleanup_(cleanup_free) char *path = NULL;

	if (!spec->root)
		return why_set(why, -EPERM, "%s/config.json has no root.path", bundle);
	path = spec->root[0] == '/' ? strdup(spec->root) : text_format("%s/%s", bundle, spec->root);
	if (!path)
		return error_origin(-ENOMEM);
	*ret_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? why_errno(why, -errno, "cannot open the root %s", path) : 0;
}

int preflight_check(const char *bundle, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/config.json", bundle);
	_cleanup_(spec_clear) struct spec spec = {};
	_cleanup_(cleanup_fd) int root_fd = -1;
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	r = read_spec(path, false, &spec, why);
	if (!r)
		r = check_process("config.json", &spec, why);
	if (!r)
		r = open_root(bundle, &spec, &root_fd, why);
	for (size_t i = 0; i < ARRAY_SIZE(kernel_dirs) && !r; i++)
		r = check_kernel_dir(root_fd, kernel_dirs[i], why);
	if (!r)
		r = check_cwd(root_fd, spec.cwd, why);
	return r;
}
