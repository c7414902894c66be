/*
 * davit-runtime: the runtime service.
 *
 *	davit-runtime [--root DIR] [--state DIR] [--runtime NAME=PATH]…
 *		[--cni-conf-dir DIR] [--cni-bin-dir DIR[:DIR…]] [--cni-timeout SECONDS]
 *	davit-runtime --probe NAME PATH		(started by itself)
 *	davit-runtime --user USER		(started by itself)
 *	davit-runtime --apparmor NAME		(started by itself)
 *	davit-runtime --network			(started by itself)
 *	davit-runtime --cni-plugin PATH PARENT	(started by that)
 */

#include <stdio.h>
#include <string.h>

#include "services/runtime/apparmor.h"
#include "services/runtime/cni_exec.h"
#include "services/runtime/network_child.h"
#include "services/runtime/process.h"
#include "services/runtime/runtime.h"

/* The value of option @name if argv[*i] is it, and *i then at its last word. */
static char *value_of(const char *name, int argc, char *argv[], int *i)
{
	size_t length = strlen(name);

	if (strncmp(argv[*i], name, length))
		return NULL;
	if (argv[*i][length] == '=')
		return argv[*i] + length + 1;
	return !argv[*i][length] && *i + 1 < argc ? argv[++*i] : NULL;
}

static bool set_timeout(const char *text, struct network_options *networks)
{
	char *end;
	unsigned long seconds = strtoul(text, &end, 10);

	networks->timeout_ms = seconds * 1000;
	return *text >= '0' && *text <= '9' && !*end && seconds && seconds <= 3600;
}

/* One that is not ours is no fault. */
static bool take_option(int argc, char *argv[], int *i, struct network_options *networks,
			const char **ret_fault)
{
	char *value;

	if ((value = value_of("--runtime", argc, argv, i))) {
		if (!runtime_configure(value))
			*ret_fault = "--runtime needs NAME=PATH with an absolute path, at most "
				     "8 times";
	} else if ((value = value_of("--cni-conf-dir", argc, argv, i))) {
		networks->conf_dir = value;
		if (*value != '/')
			*ret_fault = "--cni-conf-dir needs an absolute path";
	} else if ((value = value_of("--cni-bin-dir", argc, argv, i))) {
		networks->bin_dirs = value;
		if (*value != '/')
			*ret_fault = "--cni-bin-dir needs absolute paths, with colons between";
	} else if ((value = value_of("--cni-timeout", argc, argv, i))) {
		if (!set_timeout(value, networks))
			*ret_fault = "--cni-timeout needs a number of seconds from 1 to 3600";
	}
	return value;
}

/* Takes what is not service_main()'s out of @argv. */
static int take_options(int argc, char *argv[])
{
	struct network_options networks = {.conf_dir = NETWORK_CONF_DIR,
					   .bin_dirs = NETWORK_BIN_DIRS,
					   .timeout_ms = NETWORK_TIMEOUT_MS};
	const char *fault = NULL;
	int n = 1;

	for (int i = 1; i < argc && !fault; i++)
		if (!take_option(argc, argv, &i, &networks, &fault))
			argv[n++] = argv[i];
	if (fault) {
		fprintf(stderr, "davit-runtime: %s\n", fault);
		return -1;
	}
	runtime_configure_networks(&networks);
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
	if (argc == 2 && !strcmp(argv[1], "--network"))
		return network_child_main();
	if (argc == 4 && !strcmp(argv[1], "--cni-plugin"))
		return cni_plugin_main(argv[2], argv[3]);
	argc = take_options(argc, argv);
	if (argc < 0)
		return EXIT_FAILURE;
	return service_main(argc, argv, &runtime_definition);
}
