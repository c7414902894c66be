#pragma once
/*
 * A service's part of `davit fsck`: facts, page by page. What is an orphan is not
 * decided here: facts of all services are compared by who asked for them.
 *
 * A service has a table of stages, each of which walks a table of its store or a
 * directory that it owns. A page is bounded in facts and in things looked at, so
 * that a check delays nobody; the next one goes on behind the last thing.
 */

#include "services/lib/service.h"

struct fsck;

struct fsck_stage {
	int (*run)(struct fsck *fsck);
};

/*
 * Handler of <service>.fsck. @stages is terminated by a NULL run; before them come the library's
 * own, of @store and of what was set aside of it. @object is what fsck_object() gives.
 */
int fsck_page(struct store *store, const struct fsck_stage *stages, void *object,
	      const struct fsck_request *request, struct fsck_reply *reply);

/* ---- in a stage, which returns what these return ---- */
void *fsck_object(const struct fsck *fsck);
/* @fact is copied. */
int fsck_add(struct fsck *fsck, const struct fsck_fact *fact);
typedef int (*fsck_record_fn)(struct fsck *fsck, const struct store_key *key, void *record);
int fsck_walk(struct fsck *fsck, struct store *store, const char *table,
	      const struct schema_message *schema, fsck_record_fn fn);
/* Names in a directory but those with a dot in front, in order; one that is not there is empty. @dir: opened. */
typedef int (*fsck_name_fn)(struct fsck *fsck, int dir, const char *name);
int fsck_names(struct fsck *fsck, const char *path, fsck_name_fn fn);
/* Facts of @kind for all of them: FACT_SEEN. */
int fsck_add_seen(struct fsck *fsck, int dir, const char *name, const char *kind, const char *id,
		  const char *text, bool mendable);
/* When the directory's entry was changed last; 0 if it is gone. */
uint64_t fsck_since(int dir, const char *name);
