#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "broker/lib/file.h"
#include "broker/lib/paths.h"

#define SOCKET_PATH_MAX (sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1)

/* An empty variable is as good as none. */
static const char *from_environment(const char *name)
{
	const char *value = getenv(name);

	return value && value[0] ? value : NULL;
}

static bool is_dots(const char *part, size_t size)
{
	return (size == 1 && part[0] == '.') || (size == 2 && part[0] == '.' && part[1] == '.');
}

/* Whether every part of the path says what it names: none empty, "." or "..". */
static bool is_clean(const char *path, size_t size)
{
	const char *at = path, *end = path + size;

	if (!size)
		return false;
	while (at < end) {
		const char *part = at + 1, *next;

		if (*at != '/')
			return false;
		next = memchr(part, '/', (size_t)(end - part));
		at = next ? next : end;
		if (at == part || is_dots(part, (size_t)(at - part)))
			return false;
	}
	return true;
}

/* Copies @value without slashes at its end. @what names it in the sentence. */
static int take_path(const char *value, const char *what, size_t max, char **ret_path,
		     struct why *why)
{
	size_t size = strlen(value);
	char *path;

	while (size && value[size - 1] == '/')
		size--;
	if (!is_clean(value, size))
		return why_set(why, error_origin(-EINVAL),
			       "%s '%s' is not an absolute path without '.', '..' and '//'", what,
			       value);
	if (size > max)
		return why_set(why, error_origin(-ENAMETOOLONG),
			       "%s '%s' has %zu bytes, over the limit of %zu: choose a shorter one",
			       what, value, size, max);
	path = strndup(value, size);
	if (!path)
		return error_origin(-ENOMEM);
	*ret_path = path;
	return 0;
}

/* bus.sock, and events.sock in the same directory. */
static int init_bus(struct paths *paths, const char *address, struct why *why)
{
	/* The longer name of the two must fit as well, whatever the first is called. */
	size_t max = SOCKET_PATH_MAX - strlen("events.sock");
	int r;

	if (address) {
		r = take_path(address, "the bus address", max, &paths->bus, why);
		if (r)
			return error_trace(r);
	} else {
		paths->bus = text_format("%s/bus.sock", paths->state);
		if (!paths->bus)
			return error_origin(-ENOMEM);
	}
	paths->events = text_format("%.*s/events.sock",
				    (int)(strrchr(paths->bus, '/') - paths->bus), paths->bus);
	return paths->events ? 0 : error_origin(-ENOMEM);
}

static int init_all(struct paths *paths, const char *root, const char *state, const char *address,
		    struct why *why)
{
	int r;

	r = take_path(root, "the root directory", 4000, &paths->root, why);
	if (r)
		return error_trace(r);
	r = take_path(state, "the state directory", PATHS_STATE_MAX, &paths->state, why);
	if (r)
		return error_trace(r);
	r = init_bus(paths, address, why);
	if (r)
		return error_trace(r);
	paths->registry = text_format("%s/registry.sock", paths->state);
	return paths->registry ? 0 : error_origin(-ENOMEM);
}

int paths_init(struct paths *paths, const char *root, const char *state, const char *address,
	       struct why *why)
{
	int r;

	*paths = (struct paths){};
	/* Who names a state directory means the bus in it, whatever the environment says. */
	if (!address && !state)
		address = from_environment("DAVIT_ADDRESS");
	if (!root)
		root = from_environment("DAVIT_ROOT");
	if (!state)
		state = from_environment("DAVIT_STATE");
	r = init_all(paths, root ? root : PATHS_DEFAULT_ROOT, state ? state : PATHS_DEFAULT_STATE,
		     address, why);
	if (r)
		paths_deinit(paths);
	return r;
}

void paths_deinit(struct paths *paths)
{
	free(paths->root);
	free(paths->state);
	free(paths->bus);
	free(paths->events);
	free(paths->registry);
	*paths = (struct paths){};
}
