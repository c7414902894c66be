#pragma once
/* Commands on images that have files of their own. */

#include "tools/command.h"

extern const struct command images_import_command, images_export_command;
