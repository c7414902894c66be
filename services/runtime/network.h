#pragma once
/*
 * Networks of tasks: runtime.attach and runtime.detach. The service itself keeps
 * nothing of them in memory; a child (network_child.c) does the work, and files
 * (attachment.h) say what there is. Every minute, and at start, those are taken
 * back that nobody will ask for: of another boot, or of a task without a bundle.
 */

#include "schemas/messages.h"
#include "services/lib/service.h"

#define NETWORK_CONF_DIR   "/etc/cni/net.d"
#define NETWORK_BIN_DIRS   "/opt/cni/bin:/usr/lib/cni"
#define NETWORK_TIMEOUT_MS 30000

struct network_options {
	const char *conf_dir;
	const char *bin_dirs;
	uint64_t timeout_ms; /* for all plugins of a network together */
};

struct networks;

int networks_new(struct service *service, const struct network_options *options,
		 struct networks **ret_networks);
struct networks *networks_free(struct networks *networks);
/* The handlers. */
int networks_attach(struct networks *networks, const struct runtime_network_request *request,
		    struct call *call);
int networks_detach(struct networks *networks, const struct runtime_network_request *request,
		    struct call *call);
/* Why plugins have not taken back what is kept in the file @name; NULL: they have not been asked, or have. Borrowed until
 * the next call. */
const char *networks_pending(struct networks *networks, const char *name);
void networks_forget_pending(struct networks *networks, const char *name);
