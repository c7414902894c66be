#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "tests/lib/scratch.h"

#define FDS_MAX 1024

/* Calls @fn with each open descriptor but the one that it reads them by. */
static void each_fd(void (*fn)(int fd, void *userdata), void *userdata)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && fd != dirfd(dir))
			fn(fd, userdata);
	}
}

static void count(int fd, void *n)
{
	(void)fd;
	++*(unsigned *)n;
}

unsigned fds_count(void)
{
	unsigned n = 0;

	each_fd(count, &n);
	return n;
}

static void note(int fd, void *userdata)
{
	struct scratch *scratch = userdata;

	if (fd < FDS_MAX)
		scratch->fds[fd / 64] |= 1ull << fd % 64;
}

void scratch_forgive_fds(struct scratch *scratch)
{
	memset(scratch->fds, 0, sizeof(scratch->fds));
	each_fd(note, scratch);
}

struct leak {
	const struct scratch *scratch;
	unsigned n;
};

static void report(int fd, void *userdata)
{
	struct leak *leak = userdata;
	char link[32], target[PATH_MAX] = "?";

	if (fd < FDS_MAX && leak->scratch->fds[fd / 64] & 1ull << fd % 64)
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, target, sizeof(target) - 1) < 0)
		return;
	fprintf(stderr, "leaked descriptor %d: %s\n", fd, target);
	leak->n++;
}

int scratch_init(struct scratch *scratch)
{
	const char *parent = getenv("TMPDIR");

	*scratch = (struct scratch){};
	/* A long TMPDIR would leave no room for a socket's name. */
	if (!parent || strlen(parent) > 24)
		parent = "/tmp";
	snprintf(scratch->dir, sizeof(scratch->dir), "%s/davit-test-XXXXXX", parent);
	if (!mkdtemp(scratch->dir)) {
		perror(scratch->dir);
		return -1;
	}
	scratch_forgive_fds(scratch);
	return 0;
}

int scratch_deinit(struct scratch *scratch)
{
	struct leak leak = {.scratch = scratch};
	struct why why = {};
	int r;

	r = file_remove_tree(AT_FDCWD, scratch->dir, &why);
	if (r)
		fprintf(stderr, "%s\n", why.text);
	each_fd(report, &leak);
	return r || leak.n ? -1 : 0;
}

char *scratch_path(const struct scratch *scratch, const char *name)
{
	char *path = text_format("%s/%s", scratch->dir, name);

	if (!path)
		abort();
	return path;
}

int scratch_setup(void **state)
{
	struct scratch *scratch = malloc(sizeof(*scratch));

	if (!scratch)
		return -1;
	*state = scratch;
	return scratch_init(scratch);
}

int scratch_teardown(void **state)
{
	int r = scratch_deinit(*state);

	free(*state);
	return r;
}
