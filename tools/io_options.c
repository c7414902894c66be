/* See io_options.h. */

#include "tools/io_options.h"

#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "tools/streams.h"
#include "tools/terminal.h"

static bool has_log_limits(const struct io_options *options)
{
	return options->log_max_size || options->log_max_files || options->log_mode;
}

static int check_keys(struct context *context, const struct io_options *options)
{
	struct detach_keys keys;

	if (options->detach_keys && detach_keys_parse(options->detach_keys, &keys))
		return fail_usage(
			context,
			"--detach-keys '%s': use up to %d keys such as a or ctrl-p, with commas",
			options->detach_keys, DETACH_KEYS_MAX);
	return 0;
}

int io_options_check(struct context *context, const struct io_options *options, bool terminal)
{
	bool log = options->log || has_log_limits(options);
	const struct {
		bool both;
		const char *first, *second;
	} pairs[] = {
		{terminal && options->null_io, "--tty", "--null-io"},
		{terminal && options->log_uri, "--tty", "--log-uri"},
		{terminal && options->no_log, "--tty", "--no-log"},
		{options->null_io && options->log_uri, "--null-io", "--log-uri"},
		{options->null_io && log, "--null-io", "--log"},
		{options->null_io && options->interactive, "--null-io", "--interactive"},
		{options->log_uri && log, "--log-uri", "--log"},
		{options->no_log && log, "--no-log", "--log"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		if (pairs[i].both)
			return fail_usage(context, "%s and %s exclude each other", pairs[i].first,
					  pairs[i].second);
	}
	if (options->log_mode && strcmp(options->log_mode, "block") &&
	    strcmp(options->log_mode, "drop"))
		return fail_usage(context, "--log-mode '%s' is neither block nor drop",
				  options->log_mode);
	return check_keys(context, options);
}

struct detach_keys io_options_keys(const char *text)
{
	struct detach_keys keys = {};

	(void)detach_keys_parse(text ?: DETACH_KEYS_DEFAULT, &keys);
	return keys;
}

int io_options_set(struct context *context, const struct io_options *options, bool log_by_default,
		   struct task_io *io)
{
	bool log = options->log || has_log_limits(options) || (log_by_default && !options->no_log);

	if (options->log_uri) {
		if (schema_set(&io->stdout, options->log_uri) ||
		    schema_set(&io->stderr, options->log_uri))
			return fail(context, "out of memory");
		return 0;
	}
	if (!log)
		return 0;
	io->log = io->log ?: calloc(1, sizeof(*io->log));
	if (!io->log)
		return fail(context, "out of memory");
	io->log->max_size = options->log_max_size;
	io->log->max_files = options->log_max_files;
	io->log->drop = options->log_mode && !strcmp(options->log_mode, "drop");
	return 0;
}

int io_options_directory(struct context *context, const char *fifo_dir, char **ret_directory)
{
	struct why why = {};

	/* One that is there is the user's, and stays as it is. */
	if (fifo_dir && access(fifo_dir, F_OK) && file_make_dir(fifo_dir, 0700, &why))
		return fail(context, "--fifo-dir: %s", why.text);
	*ret_directory = fifo_dir ? realpath(fifo_dir, NULL)
				  : text_format("%s/fifo", context->paths.state);
	if (!*ret_directory)
		return fail(context, "FIFO directory %s: %s", fifo_dir ?: "", strerror(errno));
	return 0;
}

static int make_fifos(struct context *context, const struct io_options *options, const char *id,
		      struct task_io *io)
{
	_cleanup_(cleanup_free) char *directory = NULL;
	struct streams_options streams = {
		.id = id, .terminal = io->terminal, .input_only = !options->fifo_dir};
	struct why why = {};
	int code = io_options_directory(context, options->fifo_dir, &directory);

	if (code)
		return code;
	streams.directory = directory;
	return streams_make_fifos(&streams, io, &why) ? fail(context, "%s", why.text) : 0;
}

/* A terminal is one anyway. */
static bool needs_input(const struct io_options *options, const struct task_io *io)
{
	return options->interactive && !io->terminal && !options->fifo_dir;
}

int io_options_detached(struct context *context, const struct io_options *options, const char *id,
			bool terminal, bool log_by_default, struct task_io **ret_io)
{
	struct task_io *io;
	int code;

	if (options->null_io)
		return 0;
	io = *ret_io = calloc(1, sizeof(**ret_io));
	if (!io)
		return fail(context, "out of memory");
	io->terminal = terminal;
	if (terminal)
		terminal_size(&io->width, &io->height);
	code = io_options_set(context, options, log_by_default && !options->fifo_dir, io);
	if (!code && !options->log_uri && (options->fifo_dir || needs_input(options, io)))
		code = make_fifos(context, options, id, io);
	return code;
}

void io_options_release(const struct io_options *options, const struct task_io *io)
{
	_cleanup_(cleanup_free) char *directory = NULL;

	if (!io || !needs_input(options, io) || !io->stdin || !*io->stdin)
		return;
	directory = strndup(io->stdin, (size_t)(strrchr(io->stdin, '/') - io->stdin));
	if (directory)
		(void)file_remove_tree(AT_FDCWD, directory, NULL);
}

bool io_options_spec_has_terminal(const char *spec)
{
	json_t *json = spec ? json_parse(spec, strlen(spec), 1 << 20, NULL) : NULL;
	bool terminal = json_is_true(json_object_get(json_object_get(json, "process"), "terminal"));

	json_decref(json);
	return terminal;
}
