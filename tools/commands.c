/* The list of commands, in the order of --help. */

#include "tools/command.h"

/* clang-format off */
const struct command *const commands[] = {
	&run_command,
	&start_command,
	&stop_command,
	&restart_command,
	&exec_command,
	&attach_command,
	&logs_command,
	&ps_command,
	&top_command,
	&stats_command,
	&inspect_command,
	&wait_command,
	&kill_command,
	&pause_command,
	&resume_command,
	&update_command,
	&cp_command,
	&rm_command,
	&containers_command,
	&tasks_command,
	&images_command,
	&snapshots_command,
	&content_command,
	&leases_command,
	&prune_command,
	&namespaces_command,
	&events_command,
	&operations_command,
	&bus_command,
	&up_command,
	&down_command,
	&doctor_command,
	&about_command,
	&oci_command,
	&version_command,
	NULL,
};
/* clang-format on */
