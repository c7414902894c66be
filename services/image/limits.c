/* Limits: see limits.h. */

#include "schemas/json.h"
#include "services/image/limits.h"

struct work_limits work_limits_fill(const struct work_limits *limits)
{
	struct work_limits all = limits ? *limits : (struct work_limits){};

	all.entries = all.entries ?: 1000000;
	all.bytes = all.bytes ?: 64ull << 30;
	all.ratio = all.ratio ?: 1000;
	all.path_depth = all.path_depth ?: 255;
	all.path_size = all.path_size ?: 4096;
	all.xattr_bytes = all.xattr_bytes ?: 262144;
	all.memory = all.memory ?: 768ull << 20;
	all.seconds = all.seconds ?: 3600;
	all.children = all.children ?: 8;
	all.turn = all.turn ?: 30;
	all.still = all.still ?: 300;
	return all;
}

int work_limits_parse(char *const *words, size_t n_words, struct work_limits *ret_limits,
		      struct schema_fault *fault)
{
	struct work_limits limits = {};
	int r = json_parse_words(schema_work_limits(), words, n_words, &limits, fault);

	if (!r)
		*ret_limits = limits;
	return r;
}
