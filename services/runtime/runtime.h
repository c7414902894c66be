#pragma once
/* The runtime service: what main.c needs of runtime.c. */

#include "services/runtime/network.h"
#include "services/runtime/probe.h"

#define RUNTIME_CONFIGURED_MAX 8

extern const struct service_definition runtime_definition;
/* NAME=PATH of --runtime; before service_main(). The text must outlive the service. False: malformed, or too many. */
bool runtime_configure(char *text);
/* Before service_main(); texts must outlive the service. */
void runtime_configure_networks(const struct network_options *options);
