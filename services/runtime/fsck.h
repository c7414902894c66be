#pragma once
/* runtime.fsck and runtime.mend, on the directories and cgroups that the runtime service owns. */

#include "services/runtime/cgroups.h"
#include "services/runtime/network.h"

int check_page(struct service *service, struct cgroups *cgroups, struct networks *networks,
	       const struct fsck_request *request, struct fsck_reply *reply);
int check_mend(struct service *service, struct cgroups *cgroups, struct networks *networks,
	       const struct fsck_mend_request *request, struct fsck_mend_reply *reply,
	       struct call *call);
