#pragma once
/* Commands on images that have files of their own. */

#include "tools/command.h"

extern const struct command images_import_command, images_export_command, images_check_command,
	images_inspect_command, images_history_command, images_usage_command,
	images_convert_command, images_mount_command, images_unmount_command;
