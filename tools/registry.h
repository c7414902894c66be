#pragma once
/* Commands that talk to registries, for the tables of their groups. */

#include "tools/command.h"

extern const struct command images_pull_command, images_push_command, content_fetch_command,
	content_fetch_object_command, content_fetch_blob_command, content_push_object_command;
