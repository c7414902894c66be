#pragma once
/* The container service as main.c and tests start it. */

#include "services/lib/service.h"

extern const struct service_definition container_definition;
