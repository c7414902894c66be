/* FIFOs that a client made under the state directory: they go with the task, for the client may be gone. */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "services/task/task.h"

/* <state>/fifo/<directory>/<name>, no deeper and no dots: what others name is none of ours. */
static const char *own_name(const struct task_service *service, const char *uri)
{
	const char *state = service_paths(service->service)->state;
	size_t size = strlen(state);
	const char *path = uri && !strncmp(uri, "fifo://", 7) ? uri + 7 : uri, *slash;

	if (!path || strncmp(path, state, size) != 0 || strncmp(path + size, "/fifo/", 6) != 0)
		return NULL;
	slash = strchr(path + size + 6, '/');
	if (!slash || slash == path + size + 6 || !slash[1] || strchr(slash + 1, '/') ||
	    strstr(path + size, "/."))
		return NULL;
	return path;
}

static void remove_one(const struct task_service *service, const char *uri)
{
	const char *path = own_name(service, uri);
	_cleanup_(cleanup_free) char *directory = path ? strdup(path) : NULL;
	struct stat stat;

	if (!directory || lstat(path, &stat) || !S_ISFIFO(stat.st_mode))
		return;
	(void)unlink(path);
	*strrchr(directory, '/') = '\0';
	(void)rmdir(directory);
}

void task_remove_fifos(const struct task_service *service, const struct task_io *io)
{
	if (!io)
		return;
	remove_one(service, io->stdin);
	remove_one(service, io->stdout);
	remove_one(service, io->stderr);
}
