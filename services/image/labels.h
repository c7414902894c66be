#pragma once
/* containerd's labels that say what keeps what. Pure. */

#include "schemas/schema.h"

#define LABEL_ROOT         "containerd.io/gc.root"
#define LABEL_EXPIRE       "containerd.io/gc.expire"
#define LABEL_FLAT         "containerd.io/gc.flat"
#define LABEL_REF          "containerd.io/gc.ref."  /* it keeps what it names */
#define LABEL_BACK_REF     "containerd.io/gc.bref." /* what it names keeps it */
#define LABEL_CONDITION    "containerd.io/gc.cond.snapshot" /* the same, while a condition holds for that snapshot */
#define LABEL_USED_AT      "containerd.io/gc.cond.value-usedat" /* of a snapshot: what conditions compare with */

#define LABEL_SNAPSHOTTER_SIZE 77
#define LABEL_TIME_SIZE        40

enum label_reference {
	LABEL_NONE,
	LABEL_CONTENT,  /* the label's value is a digest */
	LABEL_SNAPSHOT, /* the label's value is a key of the snapshotter that its name names */
	LABEL_IMAGE,    /* an image's name */
	LABEL_CONTAINER,
};

/* What a label refers to, forth or back; @snapshotter is set for LABEL_SNAPSHOT. */
enum label_reference label_reference(const char *key, char snapshotter[LABEL_SNAPSHOTTER_SIZE]);
enum label_reference label_back_reference(const char *key,
					  char snapshotter[LABEL_SNAPSHOTTER_SIZE]);

/*
 * LABEL_CONDITION[.|/]<snapshotter>[/<x>] = <condition>[,<condition>...]|<key>, where a condition is usedat<DURATION
 * or usedat>DURATION: one that is true suffices, one that cannot be read is not true. The snapshot's key; NULL if the
 * label is none of these.
 */
const char *label_condition(const struct schema_pair *label,
			    char snapshotter[LABEL_SNAPSHOTTER_SIZE]);
/* Is it true at @now for a snapshot with @labels? *ret_end: until then (UINT64_MAX: for good). */
bool label_condition_holds(const struct schema_pair *label, const struct schema_map *labels,
			   uint64_t now, uint64_t *ret_end);
/* As Go has it: 1h30m, 1.5s, 300ms. -EINVAL; those that are negative or beyond 64 bits included. */
int label_parse_duration(const char *text, uint64_t *ret_ns);

/* RFC 3339; ns since 1970. -EINVAL. */
int label_parse_time(const char *text, uint64_t *ret_ns);
void label_format_time(uint64_t ns, char text[LABEL_TIME_SIZE]);
/* When the object ends by LABEL_EXPIRE; UINT64_MAX: never, or the label cannot be read. */
uint64_t label_expiry(const struct schema_map *labels);
/* Do they say by themselves how long a blob or a snapshot stays? */
bool label_says_how_long(const struct schema_map *labels);
/* Is a blob or a snapshot to stay for these? *ret_end: until then (UINT64_MAX: for good). */
bool label_is_root(const struct schema_map *labels, uint64_t now, uint64_t *ret_end);
