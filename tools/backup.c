/* davit backup: copies of all stores, made by their own programs while the services go on. */

#include "tools/backup.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/spawn.h"
#include "tools/output.h"

#define LINES_MAX 4096
#define CHUNK     65536

/* The log last: what a service's copy holds of events that are on their way is in it then. */
static const char *const programs[] = {"davit-container", "davit-image", "davit-runtime",
				       "davit-task", "davit-broker"};

static void json_cleanup(json_t **json)
{
	json_decref(*json);
}

int backup_digest(const char *path, uint64_t *ret_size, char ret_digest[BACKUP_DIGEST_SIZE])
{
	_cleanup_(cleanup_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint8_t buffer[CHUNK];
	uint64_t size = 0;
	uint32_t crc = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
		crc = crc32c(crc, buffer, (size_t)n);
		size += (uint64_t)n;
	}
	if (n < 0)
		return -errno;
	*ret_size = size;
	snprintf(ret_digest, BACKUP_DIGEST_SIZE, "crc32c:%08x", crc);
	return 0;
}

/* ---- the directory ---- */

static bool is_empty(const char *directory)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(directory);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			return false;
	return dir;
}

/* Stores hold what only root may know. */
static int make_directory(struct context *context, const char *directory)
{
	struct stat status;

	if (mkdir(directory, 0700) && errno != EEXIST)
		return fail(context, "cannot make '%s': %s", directory, strerror(errno));
	if (lstat(directory, &status) || !S_ISDIR(status.st_mode))
		return fail(context, "'%s' is not a directory", directory);
	if (status.st_uid != geteuid() || status.st_mode & 022)
		return fail(context,
			    "others may write into '%s': a backup goes into one of your own",
			    directory);
	if (!is_empty(directory))
		return fail(context, "'%s' is not empty: a backup goes into a new directory",
			    directory);
	return chmod(directory, 0700) ? fail(context, "'%s': %s", directory, strerror(errno))
				      : EXIT_OK;
}

/* ---- copies ---- */

static int spawn_copy(struct context *context, const char *program, const char *directory,
		      int lines_fd, pid_t *ret_pid)
{
	_cleanup_(cleanup_free) char *path = NULL;
	const char *argv[] = {program,
			      "--root",
			      context->paths.root,
			      "--state",
			      context->paths.state,
			      "--copy-stores",
			      directory,
			      NULL};
	struct spawn_fd fds[] = {{lines_fd, 1}, {STDERR_FILENO, 2}};
	struct why why = {};
	int r = spawn_find_program(program, &path);

	if (!r)
		r = spawn(&(struct spawn){.path = path,
					  .argv = argv,
					  .cwd = "/",
					  .fds = fds,
					  .n_fds = ARRAY_SIZE(fds)},
			  ret_pid, &why);
	return r ? fail(context, "cannot run %s: %s", program,
			why.text[0] ? why.text : strerror(-r))
		 : EXIT_OK;
}

/* What it says is a few lines: less than a pipe holds. */
static int copy_stores(struct context *context, const char *program, const char *directory,
		       char ret_lines[LINES_MAX])
{
	_cleanup_(cleanup_fd) int ours = -1, theirs = -1;
	int pipe_fds[2], status = 0, code;
	size_t size = 0;
	pid_t pid = 0;
	ssize_t n;

	if (pipe2(pipe_fds, O_CLOEXEC))
		return fail(context, "pipe: %s", strerror(errno));
	ours = pipe_fds[0];
	theirs = pipe_fds[1];
	code = spawn_copy(context, program, directory, theirs, &pid);
	if (code)
		return code;
	theirs = close_fd(theirs);
	while (size < LINES_MAX - 1 && (n = read(ours, ret_lines + size, LINES_MAX - 1 - size)) > 0)
		size += (size_t)n;
	ret_lines[size] = '\0';
	if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
		return fail(context, "%s could not copy its stores", program);
	return EXIT_OK;
}

static int add_store(struct context *context, const char *directory, const char *kind,
		     const char *name, json_t *stores)
{
	_cleanup_(cleanup_free) char *file = text_format("%s/%s/data.mdb", kind, name);
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", directory, file ?: "");
	char digest[BACKUP_DIGEST_SIZE];
	uint64_t size;
	int r = file && path ? backup_digest(path, &size, digest) : -ENOMEM;

	if (r)
		return fail(context, "%s: %s", path ?: "", strerror(-r));
	json_array_append_new(stores,
			      json_pack("{s:s, s:s, s:s, s:I, s:s}", "kind", kind, "name", name,
					"file", file, "size", (json_int_t)size, "digest", digest));
	return EXIT_OK;
}

static int add_file(struct context *context, const char *directory, const char *name, json_t *files)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/files/%s", directory, name);
	char digest[BACKUP_DIGEST_SIZE];
	uint64_t size;
	int r = path ? backup_digest(path, &size, digest) : -ENOMEM;

	if (r)
		return fail(context, "%s: %s", path ?: name, strerror(-r));
	json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "name", name, "size",
					       (json_int_t)size, "digest", digest));
	return EXIT_OK;
}

/* All that were copied of the directory @name. */
static int add_files(struct context *context, const char *directory, const char *name,
		     json_t *files)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/files/%s", directory, name);
	_cleanup_(cleanup_dir) DIR *dir = path ? opendir(path) : NULL;
	struct dirent *entry;
	int code = dir ? EXIT_OK : fail(context, "%s: %s", path ?: name, strerror(errno));

	while (!code && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *file = text_format("%s/%s", name, entry->d_name);

		if (entry->d_name[0] != '.')
			code = file ? add_file(context, directory, file, files)
				    : fail(context, "out of memory");
	}
	return code;
}

/* Lines of "durable NAME", "volatile NAME" and "files DIRECTORY". */
static int add_copies(struct context *context, const char *directory, char *lines, json_t *stores,
		      json_t *files)
{
	char *line, *name;
	int code = EXIT_OK;

	while (!code && (line = strsep(&lines, "\n"))) {
		name = strchr(line, ' ');
		if (!name)
			continue;
		*name++ = '\0';
		code = !strcmp(line, "files") ? add_files(context, directory, name, files)
					      : add_store(context, directory, line, name, stores);
	}
	return code;
}

/* ---- the manifest, last: a directory without one is no backup ---- */

static int write_manifest(struct context *context, const char *directory, const json_t *stores,
			  const json_t *files, uint64_t time_ns)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" BACKUP_MANIFEST, directory);
	_cleanup_(json_cleanup) json_t *manifest = NULL;
	_cleanup_(cleanup_free) char *text = NULL;
	char boot[ID_TEXT_SIZE] = "", when[40];
	struct why why = {};
	uint8_t id[ID_SIZE];

	if (!boot_id_read(id))
		id_format(id, boot);
	output_time(time_ns, when);
	manifest = json_pack("{s:i, s:s, s:s, s:s, s:I, s:s, s:s, s:O, s:O}", "format",
			     BACKUP_FORMAT, "version", DAVIT_VERSION, "boot_id", boot, "time", when,
			     "time_ns", (json_int_t)time_ns, "root", context->paths.root, "state",
			     context->paths.state, "stores", stores, "files", files);
	text = manifest ? json_dumps(manifest, JSON_INDENT(2)) : NULL;
	if (!path || !text)
		return fail(context, "out of memory");
	if (file_write(path, text, strlen(text), 0600, true, &why))
		return fail(context, "%s", why.text);
	return EXIT_OK;
}

static int backup(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(cleanup_free) char *directory = NULL;
	_cleanup_(json_cleanup) json_t *stores = json_array(), *files = json_array();
	uint64_t time_ns = time_real_ns();
	char lines[LINES_MAX];
	int code;

	(void)data;
	(void)n_args;
	code = make_directory(context, args[0]);
	if (code)
		return code;
	directory = realpath(args[0], NULL);
	for (size_t i = 0; !code && i < ARRAY_SIZE(programs); i++) {
		code = copy_stores(context, programs[i], directory, lines);
		if (!code)
			code = add_copies(context, directory, lines, stores, files);
	}
	if (!code && !json_array_size(stores))
		code = fail(context, "there is no store in %s", context->paths.root);
	if (!code)
		code = write_manifest(context, directory, stores, files, time_ns);
	if (!code)
		printf("%s: %zu stores\n", directory, json_array_size(stores));
	return code;
}

const struct command backup_command = {
	.name = "backup",
	.arguments = "DIR",
	.summary = "copy all stores and the event log into a new directory, while davit runs",
	.details =
		"Records only: images, containers, snapshots and leases by name, what is needed to take CNI "
		"networks back, and the event log. Blobs and "
		"the files of snapshots are not copied. Each store is as it is at one instant; the manifest has "
		"the digest of each file.",
	.min_args = 1,
	.max_args = 1,
	.run = backup,
};
