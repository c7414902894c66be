/* See cgroup_path.h. */

#include "broker/lib/cgroup_path.h"

#include <stdbool.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"

static bool has_controller(const char *list, size_t size, const char *controller)
{
	size_t wanted = strlen(controller);

	if (!wanted)
		return !size;
	for (const char *end = list + size, *next; list < end; list = next + 1) {
		next = memchr(list, ',', (size_t)(end - list)) ?: end;
		if ((size_t)(next - list) == wanted && !memcmp(list, controller, wanted))
			return true;
	}
	return false;
}

/* Lines as "4:memory:/a/b"; that of v2 is "0::/a/b". */
char *cgroup_path_parse(const char *text, const char *controller)
{
	for (const char *line = text, *end; *line; line = *end ? end + 1 : end) {
		const char *list = strchr(line, ':'), *path;

		end = strchrnul(line, '\n');
		path = list ? strchr(list + 1, ':') : NULL;
		if (path && path < end &&
		    has_controller(list + 1, (size_t)(path - list - 1), controller))
			return strndup(path + 1, (size_t)(end - path - 1));
	}
	return NULL;
}

/* The end of @component, which starts with a slash, where @path has it; NULL: it has not. */
static const char *after(const char *path, const char *component)
{
	const char *at = strstr(path, component), *end = at ? at + strlen(component) : NULL;

	return end && (!*end || *end == '/') ? end : NULL;
}

char *cgroup_path_in_unit(const char *path, const char *unit)
{
	const char *prefix = strchr(unit, ':'), *name = prefix ? strchr(prefix + 1, ':') : NULL;
	_cleanup_(cleanup_free) char *scope = NULL;
	const char *end, *inner;

	if (!name || !name[1] || strstr(path, "/.."))
		return NULL;
	scope = text_format("/%.*s-%s.scope", (int)(name - prefix - 1), prefix + 1, name + 1);
	end = scope ? after(path, scope) : NULL;
	if (!end)
		return NULL;
	inner = after(end, "/container");
	if (inner == end + strlen("/container"))
		end = inner;
	return strndup(path, (size_t)(end - path));
}
