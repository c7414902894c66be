/*
 * davit-runtime: the runtime service.
 *
 *	davit-runtime [--root DIR] [--state DIR] [--runtime NAME=PATH]…
 *	davit-runtime --probe NAME PATH		(started by itself)
 *	davit-runtime --user USER		(started by itself)
 *	davit-runtime --apparmor NAME		(started by itself)
 */

#include <stdio.h>
#include <string.h>

#include "services/runtime/apparmor.h"
#include "services/runtime/process.h"
#include "services/runtime/runtime.h"

/* Takes each --runtime out of @argv; the rest is for service_main(). */
static int take_runtimes(int argc, char *argv[])
{
	int n = 1;

	for (int i = 1; i < argc; i++) {
		char *value = NULL;

		if (!strncmp(argv[i], "--runtime=", 10))
			value = argv[i] + 10;
		else if (!strcmp(argv[i], "--runtime") && i + 1 < argc)
			value = argv[++i];
		if (!value)
			argv[n++] = argv[i];
		else if (!runtime_configure(value))
			return -1;
	}
	argv[n] = NULL;
	return n;
}

int main(int argc, char *argv[])
{
	if (argc == 4 && !strcmp(argv[1], "--probe"))
		return probe_main(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "--user"))
		return process_user_main(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "--apparmor"))
		return apparmor_main(argv[2]);
	argc = take_runtimes(argc, argv);
	if (argc < 0) {
		fprintf(stderr,
			"davit-runtime: --runtime needs NAME=PATH with an absolute path, at most %d times\n",
			RUNTIME_CONFIGURED_MAX);
		return EXIT_FAILURE;
	}
	return service_main(argc, argv, &runtime_definition);
}
