#pragma once
/*
 * Logging programs: binary:///absolute/path?argument=value&… as containerd has it.
 * Arguments are each name and its value, in their order. The program gets stdout
 * of the process as descriptor 3, stderr as 4 (FIFOs, whose end is the end of the
 * output), and as 5 a pipe: one byte, or its end, says that it is ready, before
 * which the process is not made. CONTAINER_ID, CONTAINER_NAMESPACE and PATH are its
 * environment.
 *
 * One that dies before the process does, or leaves output behind, is started again
 * after a pause; meanwhile the process waits when the FIFOs are full. When the
 * streams are closed and it still runs, it gets SIGTERM, then SIGKILL; the shim
 * stays until it has ended.
 */

#include <stdbool.h>

#include "broker/lib/error.h"
#include "broker/lib/loop.h"
#include "schemas/messages.h"

#define LOGGER_READY_MS     5000  /* within which it has to be ready */
#define LOGGER_TERM_MS      5000  /* between SIGTERM and SIGKILL */
#define LOGGER_PAUSE_MS     100   /* before it is started again, doubled up to the next; and anew */
#define LOGGER_PAUSE_MAX_MS 30000 /* when it has run so long */
#define LOGGER_ARGUMENTS    64

struct process;
struct logger;

enum {
	_LOGGER_E_SUCCESS,
	LOGGER_E_INVALID, /* the URI, or the program that it names */
};

struct logger_command {
	char *path;
	char *arguments[2 * LOGGER_ARGUMENTS + 2]; /* NULL-terminated; the first is the path */
};

/* Pure. */
bool logger_is_uri(const char *uri);
int logger_parse(const char *uri, struct logger_command *ret_command, struct why *why);
void logger_command_clear(struct logger_command *command);

/* @error NULL: it is ready. */
typedef void (*logger_fn)(struct process *process, const char *error);

/* Makes the FIFOs and starts the program; @fn is called once, later, unless it is closed before. */
int logger_start(struct process *process, const struct task_io *io, logger_fn fn,
		 struct logger **ret_logger, struct why *why);
/* After another shim: watches the program, or starts it again. */
int logger_recover(struct process *process, const struct task_io *io, struct logger **ret_logger,
		   struct why *why);
/* The process' ends of the FIFOs; -1 for a stream that is not logged. */
int logger_open(const struct logger *logger, int stream, int *ret_fd, struct why *why);
/* The process has its ends: the shim's own go. */
void logger_release(struct logger *logger);
/* The process has ended: the program is to end by itself. */
void logger_finish(struct logger *logger);
bool logger_has_ended(const struct logger *logger);
/* Frees it, when the program has ended. */
void logger_close(struct logger *logger);
/* Those that were closed and have not ended. */
void loggers_kill(struct logger *loggers);
