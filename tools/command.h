#pragma once
/*
 * The command line as data: one table of commands, each with its options, from
 * which parsing, --help, completions and the manual page are made. An option
 * lands in a struct of the command's own, by offset.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/lib/ask.h"
#include "broker/lib/cleanup.h"
#include "broker/lib/paths.h"
#include "schemas/json.h"

/* Exit codes of davit itself; run, start and exec give the container's own otherwise. */
enum {
	EXIT_OK = 0,
	EXIT_ERROR = 1,            /* a command failed */
	EXIT_USAGE = 2,            /* the command line makes no sense */
	EXIT_RUN_FAILED = 125,     /* run, start, exec: davit failed */
	EXIT_CANNOT_EXECUTE = 126, /* run, start, exec: the program cannot be executed */
	EXIT_NO_PROGRAM = 127,     /* run, start, exec: the program was not found */
};

enum option_kind {
	OPTION_FLAG,    /* bool */
	OPTION_TEXT,    /* char *, borrowed from argv or the environment */
	OPTION_NUMBER,  /* uint64_t; a size takes K, M, G behind it */
	OPTION_SECONDS, /* uint64_t ms: 10s, 1m30s, 500ms, 0 */
	OPTION_LIST,    /* struct schema_strs: may be given several times */
};

struct option_spec {
	const char *name; /* --name */
	char letter;      /* -l, or 0 */
	enum option_kind kind;
	size_t offset;
	const char *value; /* what stands for the value in --help */
	const char *help;
	const char *environment; /* variable that gives the default, or NULL */
	const char *alias;       /* another long name, or NULL */
};

#define OPTION(type_, member_, kind_, name_, letter_, value_, help_)                               \
	{                                                                                          \
		.name = name_, .letter = letter_, .kind = OPTION_##kind_,                          \
		.offset = offsetof(type_, member_), .value = value_, .help = help_                 \
	}

struct context;
struct command {
	const char *name;
	const char *aliases;   /* separated by spaces, or NULL */
	const char *arguments; /* for the usage line, or NULL */
	const char *summary;
	const char *details;                      /* paragraphs for --help, or NULL */
	const struct command *const *subcommands; /* NULL-terminated, or NULL */
	/* Terminated by a NULL name, or NULL. Those of a group of commands stand before the command and land in
	 * the context. */
	const struct option_spec *options;
	size_t options_size;
	int min_args, max_args; /* max_args -1: any number */
	bool is_run;            /* failures exit with 125 */
	bool stops_at_argument; /* options after the first arguments belong to the container's program */
	/* @args are min_args..max_args words. Returns the exit code. */
	int (*run)(struct context *context, void *options, char **args, int n_args);
};

struct context {
	const struct command *command;
	char *address, *namespace, *root, *state;
	char *snapshotter; /* of a group of commands that has such an option */
	uint64_t timeout_ms;
	bool debug, help, version;
	struct paths paths;
	struct ask ask;
};

extern const struct command *const commands[];
extern const struct option_spec global_options[];

/* Parses and runs; returns the exit code. */
int command_main(int argc, char *argv[]);
void command_print_help(const struct command *command, const char *path, FILE *out);

/* Says `davit: text` on stderr; returns the command's failure code. */
int fail(struct context *context, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* For the last call of context->ask. */
int fail_ask(struct context *context, int r);
/* A usage error: says what was meant and how to see the help. */
int fail_usage(struct context *context, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* The commands, each group in a file of its own. */
extern const struct command run_command, ps_command, rm_command, events_command, up_command,
	down_command, doctor_command, version_command, containers_command, tasks_command,
	images_command, namespaces_command, snapshots_command, content_command, prune_command, bus_command,
	wait_command, kill_command, bus_bench_command, start_command, restart_command,
	exec_command, attach_command, logs_command, stop_command, pause_command, resume_command,
	top_command, stats_command, update_command, inspect_command, operations_command,
	cp_command, leases_command, fsck_command, store_command, backup_command, restore_command, about_command, oci_command,
	upgrade_command, oci_hook_command;
/* Of tasks only. */
extern const struct command task_ps_command, metrics_command, checkpoint_command;
/* Of containers only. */
extern const struct command containers_checkpoint_command, containers_restore_command;
