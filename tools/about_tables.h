#pragma once
/* The tables of commands as a manual page and as bash completion: see `make docs`. */

#include <stdio.h>

#include "tools/command.h"

/* `davit help-all --format man|bash`, which --help does not list. */
extern const struct command help_all_command;

void print_manual_page(FILE *out);
void print_completion(FILE *out);
