#pragma once
/* containerd's labels that say what keeps what. Pure. */

#include "schemas/schema.h"

#define LABEL_ROOT         "containerd.io/gc.root"
#define LABEL_EXPIRE       "containerd.io/gc.expire"
#define LABEL_FLAT         "containerd.io/gc.flat"
#define LABEL_REF_CONTENT  "containerd.io/gc.ref.content"
#define LABEL_REF_SNAPSHOT "containerd.io/gc.ref.snapshot."

#define LABEL_SNAPSHOTTER_SIZE 77
#define LABEL_TIME_SIZE        40

enum label_reference {
	LABEL_NONE,
	LABEL_CONTENT,  /* the label's value is a digest */
	LABEL_SNAPSHOT, /* the label's value is a key of the snapshotter that its name names */
};

/* What a label refers to; @snapshotter is set for LABEL_SNAPSHOT. */
enum label_reference label_reference(const char *key, char snapshotter[LABEL_SNAPSHOTTER_SIZE]);

/* RFC 3339; ns since 1970. -EINVAL. */
int label_parse_time(const char *text, uint64_t *ret_ns);
void label_format_time(uint64_t ns, char text[LABEL_TIME_SIZE]);
/* When the object ends by LABEL_EXPIRE; UINT64_MAX: never, or the label cannot be read. */
uint64_t label_expiry(const struct schema_map *labels);
