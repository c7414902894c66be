#pragma once
/* Loading all that a reference names from its registry, and sending an image there. */

#include "services/image/work/work.h"

/* @channel, @ingest: see work_fetch_request. The process may have threads afterwards: it must end. */
int work_fetch(const struct work_fetch_request *request, int channel, int ingest,
	       struct work_fetch_result *ret_result, struct why *why);
int work_push(const struct work_push_request *request, int channel,
	      struct work_push_result *ret_result, struct why *why);
