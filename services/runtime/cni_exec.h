#pragma once
/*
 * One run of a CNI plugin: a child with a deadline and bounded output, in a
 * session of its own, which dies with its parent. Blocks: for the child of the
 * runtime service that does nothing else (network_child.c).
 */

#include <stdint.h>

#include "broker/lib/error.h"

struct cni_run {
	const char *type;     /* of the plugin: its program is looked for in @bin_dirs */
	const char *bin_dirs; /* with colons between: CNI_PATH */
	const char *command;  /* ADD or DEL */
	const char *attach_id, *netns, *interface;
	const char *input;
	uint64_t deadline_ms; /* CLOCK_BOOTTIME */
	int lock_fd;          /* the plugin and what it starts hold it; -1: none */
};

/* What it wrote to stdout, malloc'd, when it ended with 0. CNI_E_INVALID with the reason, which does not name it. */
int cni_exec(const struct cni_run *run, char **ret_output, struct why *why);

/* Path of the program of plugin @type, malloc'd. CNI_E_INVALID: there is none. */
int cni_find(const char *bin_dirs, const char *type, char **ret_path, struct why *why);

/* The process between: davit-runtime --cni-plugin PROGRAM PARENT. Returns its exit code. */
int cni_plugin_main(const char *program, const char *parent);
