/* See attachment.h. */

#include "services/runtime/attachment.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define LOCK_NAME "lock"

char *attachment_directory(const char *root)
{
	return text_format("%s/" ATTACHMENT_DIRECTORY, root);
}

char *attachment_path(const char *directory, const char *attach_id, const char *task_id)
{
	return text_format("%s/%s@%s", directory, attach_id, task_id);
}

bool attachment_split(const char *name, char attach_id[ATTACHMENT_ID_SIZE],
		      char task_id[ID_TEXT_SIZE])
{
	const char *at = strchr(name, '@');
	uint8_t id[ID_SIZE];

	if (!at || at == name || at - name >= ATTACHMENT_ID_SIZE || id_parse(at + 1, id))
		return false;
	snprintf(attach_id, ATTACHMENT_ID_SIZE, "%.*s", (int)(at - name), name);
	id_format(id, task_id);
	return true;
}

/* ---- the file ---- */

int attachment_read(const char *path, struct runtime_attachment *ret_attachment)
{
	_cleanup_(cleanup_free) char *data = NULL;
	struct schema_fault fault = {};
	size_t size;
	int r = file_read(AT_FDCWD, path, SCHEMA_MESSAGE_MAX, &data, &size);

	if (r)
		return r == -ENOENT ? r : r == -EFBIG ? ATTACHMENT_E_DAMAGED : error_trace(r);
	r = schema_unpack(schema_runtime_attachment(), data, size, ret_attachment, &fault);
	return r > 0 ? ATTACHMENT_E_DAMAGED : error_trace(r);
}

int attachment_write(const char *path, const struct runtime_attachment *attachment, bool durable,
		     struct why *why)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	int r = schema_pack(schema_runtime_attachment(), attachment, &buffer, &fault);

	if (r)
		return why_set(why, r < 0 ? r : -EMSGSIZE, "what is kept of it: %s", fault.text);
	return file_write(path, buffer.data, buffer.size, 0600, durable, why);
}

/* ---- the lock ---- */

static void on_alarm(int signal)
{
	(void)signal;
}

/* Whoever had it before may have removed the file. */
static bool is_there(const char *path, int fd)
{
	struct stat ours, theirs;

	return !fstat(fd, &ours) && !stat(path, &theirs) && ours.st_ino == theirs.st_ino &&
	       ours.st_dev == theirs.st_dev;
}

/* -EINTR: the alarm has come. */
static int take_lock(const char *path, int *ret_fd)
{
	for (;;) {
		_cleanup_(cleanup_fd) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
						    0600);

		if (fd < 0 || flock(fd, LOCK_EX))
			return -errno;
		if (is_there(path, fd)) {
			*ret_fd = TAKE_FD(fd);
			return 0;
		}
	}
}

/* The signal breaks off flock(2), and comes again in case that it came just before. */
static void set_alarm(unsigned seconds)
{
	struct itimerval timer = {.it_value.tv_sec = seconds,
				  .it_interval.tv_sec = seconds ? 1 : 0};
	struct sigaction action = {.sa_handler = on_alarm};

	(void)sigaction(SIGALRM, &action, NULL);
	(void)setitimer(ITIMER_REAL, &timer, NULL);
}

int attachment_lock(const char *directory, const char *attach_id, unsigned seconds, int *ret_fd,
		    struct why *why)
{
	_cleanup_(cleanup_free) char *path = attachment_path(directory, attach_id, LOCK_NAME);
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	set_alarm(seconds);
	r = take_lock(path, ret_fd);
	set_alarm(0);
	if (r == -EINTR)
		return why_set(why, ATTACHMENT_E_BUSY,
			       "plugins that were started for '%s' before have not ended after %u "
			       "seconds",
			       attach_id, seconds);
	return r ? why_errno(why, error_origin(r), "%s", path) : 0;
}

void attachment_unlock(const char *directory, const char *attach_id, int fd)
{
	_cleanup_(cleanup_free) char *path = attachment_path(directory, attach_id, LOCK_NAME);

	if (path)
		(void)unlink(path);
	(void)flock(fd, LOCK_UN);
	close_fd(fd);
}

/* ---- what the dead left ---- */

/* A lock, or an unfinished file: of which attach id? */
static bool is_left(const char *name, char attach_id[ATTACHMENT_ID_SIZE])
{
	const char *at = strchr(name, '@');

	if (!at || at == name || at - name >= ATTACHMENT_ID_SIZE)
		return false;
	snprintf(attach_id, ATTACHMENT_ID_SIZE, "%.*s", (int)(at - name), name);
	return !strcmp(at + 1, LOCK_NAME) || strstr(at + 1, ".tmp-");
}

/* False: somebody is at work. */
static bool tidy_one(int directory_fd, const char *directory, const char *attach_id,
		     const char *name)
{
	_cleanup_(cleanup_free) char *path = attachment_path(directory, attach_id, LOCK_NAME);
	_cleanup_(cleanup_fd) int fd =
		path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) || !is_there(path, fd))
		return false;
	/* The lock's own name goes once: by then another may have it. */
	if (strstr(name, ".tmp-"))
		(void)unlinkat(directory_fd, name, 0);
	attachment_unlock(directory, attach_id, TAKE_FD(fd));
	return true;
}

size_t attachment_tidy(const char *directory)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(directory);
	char attach_id[ATTACHMENT_ID_SIZE];
	struct dirent *entry;
	size_t n_used = 0;

	while (dir && (entry = readdir(dir)))
		if (is_left(entry->d_name, attach_id))
			n_used += !tidy_one(dirfd(dir), directory, attach_id, entry->d_name);
	return n_used;
}
