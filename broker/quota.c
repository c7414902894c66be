#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/error.h"
#include "broker/quota.h"

#define N_CHAINS 1024

struct account {
	struct account *next;
	uint64_t caller;
	struct quota_limit used;
};

struct quota {
	struct quota_limits limits;
	struct quota_limit callers, all;
	struct account *chains[N_CHAINS];
};

int quota_new(const struct quota_limits *limits, struct quota **ret_quota)
{
	struct quota *quota = calloc(1, sizeof(*quota));

	if (!quota)
		return error_origin(-ENOMEM);
	quota->limits = *limits;
	*ret_quota = quota;
	return 0;
}

struct quota *quota_free(struct quota *quota)
{
	for (size_t i = 0; quota && i < N_CHAINS; i++)
		while (quota->chains[i]) {
			struct account *account = quota->chains[i];

			quota->chains[i] = account->next;
			free(account);
		}
	free(quota);
	return NULL;
}

/* Where the account of @caller hangs, or would. */
static struct account **find(struct quota *quota, uint64_t caller)
{
	struct account **at = &quota->chains[(caller * 0x9e3779b97f4a7c15u) >> 54];

	while (*at && (*at)->caller != caller)
		at = &(*at)->next;
	return at;
}

static void add(struct quota_limit *used, size_t bytes)
{
	used->requests++;
	used->bytes += bytes;
}

static void subtract(struct quota_limit *used, size_t bytes)
{
	assert(used->requests > 0 && used->bytes >= bytes);
	used->requests--;
	used->bytes -= bytes;
}

static bool is_over(const struct quota_limit *used, const struct quota_limit *limit)
{
	return used->requests > limit->requests || used->bytes > limit->bytes;
}

static int judge(const struct quota *quota, const struct account *account, bool is_service)
{
	const struct quota_limit *own = is_service ? &quota->limits.service : &quota->limits.caller;

	if (account->used.requests > 2 * own->requests)
		return QUOTA_E_DEAF;
	if (is_over(&account->used, own))
		return QUOTA_E_CALLER;
	if (is_over(&quota->all, &quota->limits.all))
		return QUOTA_E_TOTAL;
	if (!is_service && is_over(&quota->callers, &quota->limits.callers))
		return QUOTA_E_TOTAL;
	return 0;
}

int quota_take(struct quota *quota, uint64_t caller, bool is_service, size_t bytes)
{
	struct account **at = find(quota, caller);

	if (!*at) {
		*at = calloc(1, sizeof(**at));
		if (!*at)
			return error_origin(-ENOMEM);
		(*at)->caller = caller;
	}
	add(&(*at)->used, bytes);
	add(&quota->all, bytes);
	if (!is_service)
		add(&quota->callers, bytes);
	return judge(quota, *at, is_service);
}

void quota_give(struct quota *quota, uint64_t caller, bool is_service, size_t bytes)
{
	struct account **at = find(quota, caller), *account = *at;

	assert(account);
	subtract(&account->used, bytes);
	subtract(&quota->all, bytes);
	if (!is_service)
		subtract(&quota->callers, bytes);
	if (account->used.requests == 0) {
		*at = account->next;
		free(account);
	}
}

struct quota_limit quota_used(const struct quota *quota)
{
	return quota->all;
}
