#pragma once
/* Where a process' streams go: the options that run, start and exec share, and what is asked of the service for them. */

#include "tools/command.h"
#include "tools/detach_keys.h"

struct io_options {
	bool null_io, detach, interactive, log, no_log;
	char *log_uri, *fifo_dir, *log_mode, *detach_keys;
	uint64_t log_max_size, log_max_files;
};

/* clang-format off */
#define IO_OPTIONS(type_, member_) \
	OPTION(type_, member_.null_io, FLAG, "null-io", 0, NULL, "all streams are /dev/null"), \
	OPTION(type_, member_.log_uri, TEXT, "log-uri", 0, "URI", "file:///path, or binary:///path?argument=value, for standard output and error"), \
	OPTION(type_, member_.fifo_dir, TEXT, "fifo-dir", 0, "DIR", "directory of the FIFOs for the streams"), \
	OPTION(type_, member_.detach, FLAG, "detach", 'd', NULL, "return when it has started"), \
	OPTION(type_, member_.interactive, FLAG, "interactive", 'i', NULL, "with --detach: keep the input open for `davit attach` (in the foreground it always is)"), \
	OPTION(type_, member_.detach_keys, TEXT, "detach-keys", 0, "KEYS", "with a terminal: leave it running (default: " DETACH_KEYS_DEFAULT "; \"\" for none)"), \
	OPTION(type_, member_.log, FLAG, "log", 0, NULL, "keep the output for `davit logs` (a terminal's always is)"), \
	OPTION(type_, member_.no_log, FLAG, "no-log", 0, NULL, "with --detach: output goes to /dev/null"), \
	OPTION(type_, member_.log_max_size, NUMBER, "log-max-size", 0, "BYTES", "of one file of the log (default: 10M)"), \
	OPTION(type_, member_.log_max_files, NUMBER, "log-max-files", 0, "N", "files that are kept (default: 3)"), \
	OPTION(type_, member_.log_mode, TEXT, "log-mode", 0, "block|drop", "when the log can take no more: the process waits, or output is dropped and counted (default: block)")
/* clang-format on */

/* Whether they go together, and with a terminal. An exit code, after saying why. */
int io_options_check(struct context *context, const struct io_options *options, bool terminal);
/* The detach keys; call after io_options_check(). */
struct detach_keys io_options_keys(const char *text);
/* The log and the URI; fills in @io. @log_by_default: what a detached container has. */
int io_options_set(struct context *context, const struct io_options *options, bool log_by_default,
		   struct task_io *io);
/* The directory of the FIFOs, malloc'd: the state directory's without --fifo-dir. */
int io_options_directory(struct context *context, const char *fifo_dir, char **ret_directory);
/* The streams of a process that nobody waits for. @ret_io stays NULL when all are /dev/null. */
int io_options_detached(struct context *context, const struct io_options *options, const char *id,
			bool terminal, bool log_by_default, struct task_io **ret_io);
/* It runs, or does not: removes the FIFO that was made only to say that it has an input. */
void io_options_release(const struct io_options *options, const struct task_io *io);
/* Whether an OCI spec (JSON; NULL: none) asks for a terminal. */
bool io_options_spec_has_terminal(const char *spec);
