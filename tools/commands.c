/* The list of commands, in the order of --help. */

#include "tools/command.h"

const struct command *const commands[] = {
	&run_command,
	&ps_command,
	&wait_command,
	&kill_command,
	&rm_command,
	&containers_command,
	&tasks_command,
	&images_command,
	&snapshots_command,
	&content_command,
	&leases_command,
	&namespaces_command,
	&events_command,
	&bus_command,
	&up_command,
	&down_command,
	&doctor_command,
	&version_command,
	NULL,
};
