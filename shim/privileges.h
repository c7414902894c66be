#pragma once
/* What a child would inherit from us beyond what it is given. */

#include "broker/lib/error.h"

/* Empties the inheritable and the ambient set: what we run gets none of ours by accident. */
int privileges_clear_inheritable(struct why *why);
