#pragma once
/* What a command prints: stdout and stderr go into one file while it runs. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Before cmocka, which has a macro fail(). */
#include "tools/command.h"

#include "tests/lib/main.h"

struct capture {
	int out, err;
	FILE *file;
	char text[1 << 16];
};

static inline void capture_begin(struct capture *capture)
{
	fflush(stdout);
	capture->out = dup(STDOUT_FILENO);
	capture->err = dup(STDERR_FILENO);
	capture->file = tmpfile();
	assert_non_null(capture->file);
	dup2(fileno(capture->file), STDOUT_FILENO);
	dup2(fileno(capture->file), STDERR_FILENO);
}

static inline void capture_end(struct capture *capture)
{
	size_t n;

	fflush(stdout);
	dup2(capture->out, STDOUT_FILENO);
	dup2(capture->err, STDERR_FILENO);
	close(capture->out);
	close(capture->err);
	rewind(capture->file);
	n = fread(capture->text, 1, sizeof(capture->text) - 1, capture->file);
	capture->text[n] = '\0';
	fclose(capture->file);
}

/* davit WORD...; the words are copied, for parsing moves and cuts them. NULL-terminated. */
static inline int capture_command(struct capture *capture, const char *const *words)
{
	char *argv[64] = {strdup("davit")}, *freed[64];
	int argc = 1, code;

	for (; *words; words++)
		argv[argc++] = strdup(*words);
	memcpy(freed, argv, sizeof(argv));
	capture_begin(capture);
	code = command_main(argc, argv);
	capture_end(capture);
	while (argc--)
		free(freed[argc]);
	return code;
}
#define CAPTURE(capture_, ...) capture_command(capture_, (const char *const[]){__VA_ARGS__, NULL})
