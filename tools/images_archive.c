/* davit images import and export. */

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/spawn.h"
#include "tools/images.h"
#include "tools/lists.h"
#include "tools/progress.h"
#include "tools/streams.h"

/* ---- import -------------------------------------------------------------- */

struct import_options {
	char *base_name, *index_name, *platform, *snapshotter;
	bool digests, skip_digest_for_named, all_platforms, no_unpack, compress_blobs;
};

/* Standard input and output reach the service through a FIFO, which a thread fills or empties while the call waits. */
struct feeder {
	pthread_t thread;
	char *directory, *path;
	int lock_fd; /* of the directory */
	int stop[2]; /* a pipe: its end tells the thread to end */
	bool is_running;
};

#define FEEDER                                                                                     \
	{                                                                                          \
		.lock_fd = -1, .stop = { -1, -1 }                                                  \
	}

/* False when it is to end. */
static bool wait_until(const struct feeder *feeder, int fd, short events)
{
	struct pollfd fds[] = {{.fd = fd, .events = events},
			       {.fd = feeder->stop[0], .events = POLLIN}};
	int r;

	do
		r = poll(fds, 2, -1);
	while (r < 0 && errno == EINTR);
	return r > 0 && !fds[1].revents;
}

/* At most @most at a time: so much does not block once it may be written. */
static bool write_all(const struct feeder *feeder, int fd, const char *data, size_t size,
		      size_t most)
{
	while (size && wait_until(feeder, fd, POLLOUT)) {
		ssize_t n = write(fd, data, size < most ? size : most);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		data += n < 0 ? 0 : n;
		size -= n < 0 ? 0 : (size_t)n;
	}
	return !size;
}

static void copy(const struct feeder *feeder, int from, int to, size_t most)
{
	char buffer[65536];

	while (wait_until(feeder, from, POLLIN)) {
		ssize_t n = read(from, buffer, sizeof(buffer));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0 || !write_all(feeder, to, buffer, (size_t)n, most))
			return;
	}
}

static void *feed(void *data)
{
	const struct feeder *feeder = data;
	_cleanup_(cleanup_fd) int fd = open(feeder->path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && !fcntl(fd, F_SETFL, O_NONBLOCK))
		copy(feeder, STDIN_FILENO, fd, SIZE_MAX);
	return NULL;
}

/* Others have standard output, too: it stays as it is. */
static void *drain(void *data)
{
	const struct feeder *feeder = data;
	_cleanup_(cleanup_fd) int fd = open(feeder->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		copy(feeder, fd, STDOUT_FILENO, PIPE_BUF);
	return NULL;
}

static int feeder_start(struct context *context, struct feeder *feeder, void *(*run)(void *data))
{
	_cleanup_(cleanup_free) char *directory = text_format("%s/fifo", context->paths.state);
	struct why why = {};

	/* Whoever reads standard output may stop: the FIFO goes then, too. */
	signal(SIGPIPE, SIG_IGN);
	if (!directory ||
	    streams_make_directory(directory, &feeder->directory, &feeder->lock_fd, &why))
		return fail(context, "%s", why.text[0] ? why.text : "out of memory");
	feeder->path = text_format("%s/archive", feeder->directory);
	if (pipe2(feeder->stop, O_CLOEXEC) < 0)
		return fail(context, "cannot make a pipe: %s", strerror(errno));
	if (!feeder->path || mkfifo(feeder->path, 0600))
		return fail(context, "cannot make a FIFO in %s: %s", feeder->directory,
			    strerror(errno));
	if (pthread_create(&feeder->thread, NULL, run, feeder))
		return fail(context, "cannot start a thread");
	feeder->is_running = true;
	return 0;
}

static void feeder_stop(struct feeder *feeder)
{
	_cleanup_(cleanup_fd) int fd = -1;

	feeder->stop[1] = close_fd(feeder->stop[1]);
	if (feeder->is_running) {
		/* A reader that never came would leave the thread waiting in open(2): we are one. */
		fd = open(feeder->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		pthread_join(feeder->thread, NULL);
	}
	close_fd(feeder->stop[0]);
	if (feeder->path)
		unlink(feeder->path);
	if (feeder->directory)
		rmdir(feeder->directory);
	close_fd(feeder->lock_fd);
	free(feeder->directory);
	free(feeder->path);
}

/* All that was written reaches standard output; a writer that never came does not keep the thread waiting. */
static void drain_stop(struct feeder *feeder)
{
	_cleanup_(cleanup_fd) int fd = -1;

	if (!feeder->is_running)
		return;
	fd = open(feeder->path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	fd = close_fd(fd);
	pthread_join(feeder->thread, NULL);
	feeder->is_running = false;
}

static int import(struct context *context, void *data, char **args, int n_args)
{
	const struct import_options *options = data;
	_cleanup_(image_import_reply_clear) struct image_import_reply reply = {};
	_cleanup_(feeder_stop) struct feeder feeder = FEEDER;
	_cleanup_(cleanup_free) char *path = NULL;
	struct image_import_request request = {
		.base_name = options->base_name,
		.index_name = options->index_name,
		.platform = options->platform,
		.snapshotter = options->snapshotter,
		.digests = options->digests,
		.skip_digest_for_named = options->skip_digest_for_named,
		.compress_blobs = options->compress_blobs,
		.all_platforms = options->all_platforms,
		.no_unpack = options->no_unpack,
	};
	int code;

	(void)n_args;
	if (!strcmp(args[0], "-")) {
		code = feeder_start(context, &feeder, feed);
		if (code)
			return code;
	} else {
		path = realpath(args[0], NULL);
		if (!path)
			return fail(context, "%s: %s", args[0], strerror(errno));
	}
	request.path = path ?: feeder.path;
	request.stream = !path;
	code = progress_ask_image(context, "import", NULL, &request, &reply);
	if (code)
		return code;
	for (size_t i = 0; i < reply.images.count; i++)
		printf("imported %s (%s)\n", reply.images.items[i].name,
		       reply.images.items[i].target->digest);
	return EXIT_OK;
}

/* ---- export -------------------------------------------------------------- */

struct export_options {
	char *platform;
	bool skip_manifest_json, skip_non_distributable, all_platforms;
};

/* The file need not exist: its directory does. */
static char *absolute(const char *path)
{
	_cleanup_(cleanup_free) char *here = path[0] == '/' ? NULL : getcwd(NULL, 0);

	return text_format("%s%s%s", here ?: "", here ? "/" : "", path);
}

static int export(struct context *context, void *data, char **args, int n_args)
{
	const struct export_options *options = data;
	_cleanup_(feeder_stop) struct feeder feeder = FEEDER;
	_cleanup_(cleanup_free) char *path = NULL;
	struct image_export_request request = {
		.names = list_filters(args + 1, n_args - 1),
		.platform = options->platform,
		.all_platforms = options->all_platforms,
		.skip_manifest_json = options->skip_manifest_json,
		.skip_non_distributable = options->skip_non_distributable,
	};
	int code;

	if (!strcmp(args[0], "-")) {
		code = feeder_start(context, &feeder, drain);
		if (code)
			return code;
	} else {
		path = absolute(args[0]);
		if (!path)
			return fail(context, "out of memory");
	}
	request.path = path ?: feeder.path;
	request.stream = !path;
	code = progress_ask_image(context, "export", NULL, &request, NULL);
	/* Of half an archive nobody waits for the rest: whoever reads it may have stopped. */
	if (code == EXIT_OK)
		drain_stop(&feeder);
	return code;
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec import_options[] = {
	OPTION(struct import_options, base_name, TEXT, "base-name", 0, "NAME",
	       "name of images that the archive gives only a tag; import only images with this prefix"),
	OPTION(struct import_options, index_name, TEXT, "index-name", 0, "NAME",
	       "keep the archive's index under this name"),
	OPTION(struct import_options, digests, FLAG, "digests", 0, NULL,
	       "also make NAME@DIGEST images"),
	OPTION(struct import_options, skip_digest_for_named, FLAG, "skip-digest-for-named", 0, NULL,
	       "no NAME@DIGEST for images that have a name in the archive"),
	OPTION(struct import_options, compress_blobs, FLAG, "compress-blobs", 0, NULL,
	       "compress layers that are not (docker-save archives only)"),
	OPTION(struct import_options, all_platforms, FLAG, "all-platforms", 0, NULL,
	       "import all platforms of an index"),
	OPTION(struct import_options, platform, TEXT, "platform", 0, "OS/ARCH",
	       "import this platform (default: this host's)"),
	OPTION(struct import_options, no_unpack, FLAG, "no-unpack", 0, NULL, "do not unpack"),
	OPTION(struct import_options, snapshotter, TEXT, "snapshotter", 0, "NAME",
	       "unpack for this snapshotter"),
	{}};
static const struct option_spec export_options[] = {
	OPTION(struct export_options, skip_manifest_json, FLAG, "skip-manifest-json", 0, NULL,
	       "leave out manifest.json, which docker reads"),
	OPTION(struct export_options, skip_non_distributable, FLAG, "skip-non-distributable", 0,
	       NULL, "leave out layers that are not to be distributed"),
	OPTION(struct export_options, platform, TEXT, "platform", 0, "OS/ARCH",
	       "export this platform (default: this host's)"),
	OPTION(struct export_options, all_platforms, FLAG, "all-platforms", 0, NULL,
	       "export all platforms of an index"),
	{}};

const struct command images_import_command = {
	.name = "import",
	.arguments = "FILE|-",
	.summary = "import an OCI or docker-save archive",
	.options = import_options,
	.options_size = sizeof(struct import_options),
	.min_args = 1,
	.max_args = 1,
	.run = import,
};
const struct command images_export_command = {
	.name = "export",
	.arguments = "FILE|- REF [REF...]",
	.summary = "write images into an archive: OCI layout, which docker loads too",
	.options = export_options,
	.options_size = sizeof(struct export_options),
	.min_args = 2,
	.max_args = -1,
	.run = export,
};
