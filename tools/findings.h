#pragma once
/*
 * What a check finds: facts of all services, compared. Pure.
 *
 * Facts of one kind and id belong together:
 *	seen, and nobody owns it			an orphan
 *	a record says it must be there, and it is not	missing
 *	needed, and nobody has it on record		dangling
 *	a fault						wrong by itself
 * A look is not one instant: what is being made or removed looks the same. So a
 * finding counts when two looks have it and no operation explains it.
 */

#include <stdbool.h>

#include "schemas/messages.h"

#define FINDING_FIFO_NS UINT64_C(60000000000) /* a client makes its FIFOs before it asks for anything */

enum finding_problem { FINDING_ORPHAN, FINDING_MISSING, FINDING_DANGLING, FINDING_FAULT };

/* A fact, and who said it. */
struct said {
	const char *service; /* borrowed */
	struct fsck_fact fact;
};
struct facts {
	struct said *items;
	size_t count;
};
/* Takes what is in @fact, which is cleared; also on failure. */
int facts_add(struct facts *facts, const char *service, struct fsck_fact *fact);
void facts_clear(struct facts *facts);

struct finding {
	enum finding_problem problem;
	const struct said *said; /* in the facts that it was found in */
	bool is_undecided;
	char *mended; /* what was done about it */
};
struct findings {
	struct finding *items;
	size_t count;
};
/* Sorts @facts, which must outlive the findings. */
int findings_find(struct facts *facts, struct findings *ret_findings);
/* Drops those that @before does not have. */
void findings_keep_standing(struct findings *findings, const struct findings *before);
/*
 * Those that a running operation may be at are undecided: it is named by the fact, or was running when the thing
 * appeared. @now_ns: of the first of the two looks.
 */
void findings_excuse(struct findings *findings, const struct operation_record *operations,
		     size_t n_operations, uint64_t now_ns);
/* Is a record in quarantine? What it owned would be taken for orphans. */
bool findings_have_damage(const struct findings *findings);
const char *finding_problem_text(enum finding_problem problem);
void findings_clear(struct findings *findings);
