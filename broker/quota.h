#pragma once
/*
 * How much one caller, and all callers together, may have under way: requests
 * and their bytes, from arrival until the answer has left. Registered services
 * have a reserve of their own, so callers can never use up what calls between
 * services need. Pure: no I/O, no clock.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct quota;

struct quota_limit {
	size_t requests;
	size_t bytes;
};

struct quota_limits {
	struct quota_limit caller;  /* each process that is not a registered service */
	struct quota_limit service; /* each registered service's process */
	struct quota_limit callers; /* all callers together */
	struct quota_limit all;     /* callers and services together: the rest is the reserve */
};

enum {
	_QUOTA_E_SUCCESS,
	QUOTA_E_CALLER, /* this caller has too much under way */
	QUOTA_E_TOTAL,  /* all together have */
	QUOTA_E_DEAF,   /* twice the bound: it takes no answers and must be cut off */
};

int quota_new(const struct quota_limits *limits, struct quota **ret_quota);
struct quota *quota_free(struct quota *quota);

/* Every request is counted, refused ones too, since their answers can pile up as well; after any
 * result but a negative one quota_give() with the same arguments is due. 0, QUOTA_E_*, -ENOMEM. */
int quota_take(struct quota *quota, uint64_t caller, bool is_service, size_t bytes);
void quota_give(struct quota *quota, uint64_t caller, bool is_service, size_t bytes);

/* What all have under way. */
struct quota_limit quota_used(const struct quota *quota);
