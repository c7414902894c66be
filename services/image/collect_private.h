#pragma once
/* What the files of the collection share. */

#include "services/image/collect.h"
#include "services/image/references.h"

#define COLLECT_REMOVALS 64 /* in one transaction */

struct collect_waiter {
	struct collect_waiter *next;
	collect_fn fn;
	void *userdata;
	bool is_dry, is_served; /* by the run that is under way */
};

/* A snapshot that was not marked. */
struct stray {
	char *scope;
	struct snapshot_record record;
	unsigned depth; /* strays below it */
};

struct collect_run {
	struct image_service *image;
	bool is_dry;
	bool knows_containers;
	bool is_blind; /* a record is damaged: what it kept is not known */
	bool is_done;
	const char *refusal; /* nothing may be removed */
	int failure; /* of marking what was put */

	unsigned phase;
	struct store_key place; /* of the walk */
	bool has_place;
	unsigned n_removed; /* in this step */

	struct references references;
	struct set ended; /* leases that have ended, "<namespace>/<id>" */
	struct set flat;  /* leases */
	struct set used;  /* snapshots that containers have, "<namespace>/<key>" */
	struct stray *strays;
	size_t n_strays;
	bool is_sorted;

	bool has_undecided; /* snapshots of namespaces that only a container could need */
	struct image_collect_reply report;
	size_t report_size;
};

/* Goes on until @end_ns (CLOCK_BOOTTIME), or until as much was removed as one transaction may. In a transaction. */
int collect_run_step(struct collect_run *run, uint64_t end_ns);
void collect_run_clear(struct collect_run *run);
/* What a container keeps. */
int collect_add_container(struct collect_run *run, const struct container_root *root);
/* For store_on_put(). */
void collect_note_put(void *userdata, const char *table, const struct store_key *key,
		      const void *record);

/* ---- collect_sweep.c: each for one record of its table ---- */
int sweep_lease(struct collect_run *run, const struct store_key *key, void *data);
int sweep_find_snapshot(struct collect_run *run, const struct store_key *key, void *data);
/* Removes the next of what the walk found. */
int sweep_snapshot(struct collect_run *run, bool *ret_is_last);
int sweep_blob(struct collect_run *run, const struct store_key *key, void *data);
int sweep_image(struct collect_run *run, const struct store_key *key, void *data);
int sweep_ingest(struct collect_run *run, const struct store_key *key, void *data);
