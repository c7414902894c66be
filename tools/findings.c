/* See findings.h. */

#include "tools/findings.h"

#include <string.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/error.h"

/* Clocks of files are coarser than ours. */
#define CLOCK_SLACK_NS UINT64_C(1000000000)

int facts_add(struct facts *facts, const char *service, struct fsck_fact *fact)
{
	struct said *said = schema_list_grow((void **)&facts->items, &facts->count, sizeof(*said));

	if (!said) {
		fsck_fact_clear(fact);
		return error_origin(-ENOMEM);
	}
	said->service = service;
	said->fact = *fact;
	*fact = (struct fsck_fact){};
	return 0;
}

void facts_clear(struct facts *facts)
{
	for (size_t i = 0; i < facts->count; i++)
		fsck_fact_clear(&facts->items[i].fact);
	free(facts->items);
	*facts = (struct facts){};
}

/* ---- comparing ---- */

static int compare_names(const struct fsck_fact *a, const struct fsck_fact *b)
{
	return strcmp(a->kind, b->kind) ?: strcmp(a->id, b->id);
}

static int compare_facts(const void *a, const void *b)
{
	const struct said *left = a, *right = b;

	return compare_names(&left->fact, &right->fact)
		       ?: (int)left->fact.role - (int)right->fact.role;
}

static int add(struct findings *findings, enum finding_problem problem, const struct said *said)
{
	struct finding *finding = schema_list_grow((void **)&findings->items, &findings->count,
						   sizeof(*finding));

	if (!finding)
		return error_origin(-ENOMEM);
	*finding = (struct finding){.problem = problem, .said = said};
	return 0;
}

/* The first of each role of one group; NULL: none. */
struct group {
	const struct said *of[FACT_FAULT + 1];
};

static int judge(const struct group *group, struct findings *findings)
{
	bool is_owned = group->of[FACT_OWNS] || group->of[FACT_MUST];
	int r = 0;

	if (group->of[FACT_SEEN] && !is_owned)
		r = add(findings, FINDING_ORPHAN, group->of[FACT_SEEN]);
	if (!r && group->of[FACT_MUST] && !group->of[FACT_SEEN])
		r = add(findings, FINDING_MISSING, group->of[FACT_MUST]);
	if (!r && group->of[FACT_NEEDS] && !is_owned)
		r = add(findings, FINDING_DANGLING, group->of[FACT_NEEDS]);
	if (!r && group->of[FACT_FAULT])
		r = add(findings, FINDING_FAULT, group->of[FACT_FAULT]);
	return r;
}

int findings_find(struct facts *facts, struct findings *ret_findings)
{
	size_t i = 0;
	int r = 0;

	if (facts->count)
		qsort(facts->items, facts->count, sizeof(*facts->items), compare_facts);
	while (!r && i < facts->count) {
		const struct fsck_fact *first = &facts->items[i].fact;
		struct group group = {};

		for (; i < facts->count && !compare_names(first, &facts->items[i].fact); i++) {
			const struct said *said = &facts->items[i];

			if (said->fact.role <= FACT_FAULT && !group.of[said->fact.role])
				group.of[said->fact.role] = said;
		}
		r = judge(&group, ret_findings);
	}
	return r;
}

/* ---- two looks ---- */

static bool has(const struct findings *findings, const struct finding *wanted)
{
	for (size_t i = 0; i < findings->count; i++) {
		const struct finding *finding = &findings->items[i];

		if (finding->problem == wanted->problem &&
		    !compare_names(&finding->said->fact, &wanted->said->fact))
			return true;
	}
	return false;
}

void findings_keep_standing(struct findings *findings, const struct findings *before)
{
	size_t kept = 0;

	for (size_t i = 0; i < findings->count; i++) {
		if (has(before, &findings->items[i]))
			findings->items[kept++] = findings->items[i];
	}
	findings->count = kept;
}

/* ---- operations ---- */

static bool is_named(const struct fsck_fact *fact, const struct operation_record *operation)
{
	const char *object = operation->object;

	return object && *object &&
	       ((fact->object && !strcmp(fact->object, object)) ||
		(fact->uid && !strcmp(fact->uid, object)));
}

static bool is_explained(const struct fsck_fact *fact, const struct operation_record *operation)
{
	return is_named(fact, operation) || !fact->since_ns ||
	       fact->since_ns + CLOCK_SLACK_NS >= operation->started_at_ns;
}

static bool is_young_fifo(const struct fsck_fact *fact, size_t n_operations, uint64_t now_ns)
{
	return !strcmp(fact->kind, "fifo") &&
	       (n_operations || fact->since_ns + FINDING_FIFO_NS > now_ns);
}

void findings_excuse(struct findings *findings, const struct operation_record *operations,
		     size_t n_operations, uint64_t now_ns)
{
	for (size_t i = 0; i < findings->count; i++) {
		struct finding *finding = &findings->items[i];
		const struct fsck_fact *fact = &finding->said->fact;

		if (finding->problem == FINDING_FAULT)
			continue;
		finding->is_undecided = finding->is_undecided ||
					is_young_fifo(fact, n_operations, now_ns);
		for (size_t n = 0; n < n_operations && !finding->is_undecided; n++)
			finding->is_undecided = is_explained(fact, &operations[n]);
	}
}

bool findings_have_damage(const struct findings *findings)
{
	for (size_t i = 0; i < findings->count; i++) {
		const struct finding *finding = &findings->items[i];

		if (finding->problem == FINDING_FAULT &&
		    (!strcmp(finding->said->fact.kind, "record") ||
		     !strcmp(finding->said->fact.kind, "store")))
			return true;
	}
	return false;
}

const char *finding_problem_text(enum finding_problem problem)
{
	static const char *const texts[] = {"orphan", "missing", "dangling", "fault"};

	return texts[problem];
}

void findings_clear(struct findings *findings)
{
	for (size_t i = 0; i < findings->count; i++)
		free(findings->items[i].mended);
	free(findings->items);
	*findings = (struct findings){};
}
