#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/points.h"
#include "broker/lib/spawn.h"

/* The highest number that a child's descriptor may be given. */
#define SPAWN_FD_MAX 255

/*
 * What the child shall have, by its own numbers: all of these lie in the parent
 * above the highest wanted number, so that no dup2() in the child can overwrite
 * one that is still to be used. They are close-on-exec and go away with it.
 */
struct lifted {
	int fds[SPAWN_FD_MAX + 1]; /* -1: closed in the child */
	int highest;
};

struct recipe {
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	bool has_actions, has_attributes;
};

static void lifted_clear(struct lifted *lifted)
{
	for (int i = 0; i <= lifted->highest; i++)
		lifted->fds[i] = close_fd(lifted->fds[i]);
}

static void recipe_clear(struct recipe *recipe)
{
	if (recipe->has_actions)
		posix_spawn_file_actions_destroy(&recipe->actions);
	if (recipe->has_attributes)
		posix_spawnattr_destroy(&recipe->attributes);
}

static int lift(struct lifted *lifted, int from, int to)
{
	if (lifted->fds[to] >= 0)
		return error_origin(-EINVAL);
	lifted->fds[to] = fcntl(from, F_DUPFD_CLOEXEC, lifted->highest + 1);
	return lifted->fds[to] < 0 ? error_origin(-errno) : 0;
}

static int find_highest(const struct spawn *spawn, struct lifted *lifted)
{
	for (size_t i = 0; i < spawn->n_fds; i++) {
		int to = spawn->fds[i].to;

		if (to < 0 || to > SPAWN_FD_MAX)
			return error_origin(-EINVAL);
		if (to > lifted->highest)
			lifted->highest = to;
	}
	for (int i = 0; i <= lifted->highest; i++)
		lifted->fds[i] = -1;
	return 0;
}

static int lift_all(const struct spawn *spawn, struct lifted *lifted)
{
	_cleanup_(cleanup_fd) int null = -1;
	int r;

	r = find_highest(spawn, lifted);
	if (r)
		return error_trace(r);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return error_origin(-errno);
	for (size_t i = 0; i < spawn->n_fds; i++) {
		int from = spawn->fds[i].from;

		r = lift(lifted, from < 0 ? null : from, spawn->fds[i].to);
		if (r)
			return error_trace(r);
	}
	for (int i = 0; i <= STDERR_FILENO; i++) {
		if (lifted->fds[i] >= 0)
			continue;
		r = lift(lifted, null, i);
		if (r)
			return error_trace(r);
	}
	return 0;
}

static int recipe_add_actions(struct recipe *recipe, const struct spawn *spawn,
			      const struct lifted *lifted)
{
	posix_spawn_file_actions_t *actions = &recipe->actions;
	int r;

	r = posix_spawn_file_actions_init(actions);
	if (r)
		return error_origin(-r);
	recipe->has_actions = true;
	for (int i = 0; i <= lifted->highest && !r; i++) {
		if (lifted->fds[i] >= 0)
			r = posix_spawn_file_actions_adddup2(actions, lifted->fds[i], i);
		else /* closing one that is not open is no error there */
			r = posix_spawn_file_actions_addclose(actions, i);
	}
	if (!r)
		r = posix_spawn_file_actions_addclosefrom_np(actions, lifted->highest + 1);
	if (!r && spawn->cwd)
		r = posix_spawn_file_actions_addchdir_np(actions, spawn->cwd);
	return r ? error_origin(-r) : 0;
}

static int recipe_add_attributes(struct recipe *recipe, const struct spawn *spawn)
{
	posix_spawnattr_t *attributes = &recipe->attributes;
	short flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
	sigset_t all, none;
	int r;

	r = posix_spawnattr_init(attributes);
	if (r)
		return error_origin(-r);
	recipe->has_attributes = true;
	/* sigfillset() leaves out 32 and 33, which glibc would then hand on as ignored. */
	memset(&all, 0xff, sizeof(all));
	sigemptyset(&none);
	if (spawn->new_session)
		flags |= POSIX_SPAWN_SETSID;
	r = posix_spawnattr_setsigdefault(attributes, &all);
	if (!r)
		r = posix_spawnattr_setsigmask(attributes, &none);
	if (!r)
		r = posix_spawnattr_setflags(attributes, flags);
	return r ? error_origin(-r) : 0;
}

/* The kernel's answer does not say whether the program or the directory was at fault. */
static int explain(const struct spawn *spawn, int r, struct why *why)
{
	if (spawn->cwd && access(spawn->cwd, X_OK) < 0)
		return why_errno(why, r, "cannot run %s in %s", spawn->path, spawn->cwd);
	return why_errno(why, r, "cannot run %s", spawn->path);
}

int spawn(const struct spawn *spawn, pid_t *ret_pid, struct why *why)
{
	_cleanup_(lifted_clear) struct lifted lifted = {.highest = STDERR_FILENO};
	_cleanup_(recipe_clear) struct recipe recipe = {};
	static const char *const nothing[] = {NULL};
	const char *const *envp = spawn->envp ? spawn->envp : nothing;
	int r;

	if (spawn->path[0] != '/')
		return why_set(why, -EINVAL, "cannot run %s: not an absolute path", spawn->path);
	r = lift_all(spawn, &lifted);
	if (!r)
		r = recipe_add_actions(&recipe, spawn, &lifted);
	if (!r)
		r = recipe_add_attributes(&recipe, spawn);
	if (r)
		return why_errno(why, error_trace(r), "cannot prepare to run %s", spawn->path);
	r = posix_spawn(ret_pid, spawn->path, &recipe.actions, &recipe.attributes,
			(char *const *)spawn->argv, (char *const *)point_environment(envp));
	return r ? explain(spawn, error_origin(-r), why) : 0;
}

/* An upgrade replaces the file under a running program; the kernel then says so in the link. */
static void drop_deleted(char *path)
{
	static const char deleted[] = " (deleted)";
	size_t size = strlen(path), tail = sizeof(deleted) - 1;

	if (size > tail && !strcmp(path + size - tail, deleted))
		path[size - tail] = '\0';
}

int spawn_find_program(const char *name, char **ret_path)
{
	char self[4096];
	ssize_t n;
	char *path;

	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return error_origin(-errno);
	self[n] = '\0';
	drop_deleted(self);
	if (!strrchr(self, '/') || strchr(name, '/'))
		return error_origin(-EINVAL);
	*strrchr(self, '/') = '\0';
	path = text_format("%s/%s", self, name);
	if (!path)
		return error_origin(-ENOMEM);
	*ret_path = path;
	return 0;
}
