#pragma once
/* The last answers to requests that changed something, by id: a repeated one gets the same. */

#include <stdint.h>

#include "broker/lib/file.h"
#include "schemas/messages.h"

#define ANSWERS_MAX 64

struct answer {
	const struct schema_method *method; /* NULL: free */
	uint8_t id[ID_SIZE];
	uint32_t body_crc; /* 0: not known, from a journal */
	enum bus_status status;
	char *text;                 /* owned; NULL: "" */
	struct schema_buffer reply; /* owned; packed */
};

struct answers {
	struct answer items[ANSWERS_MAX];
	size_t next; /* to be overwritten */
};

/* Takes @reply (may be NULL). One of that id that is there already is replaced. Memory that is out
 * costs the text only. */
void answers_add(struct answers *answers, const struct schema_method *method,
		 const uint8_t id[ID_SIZE], uint32_t body_crc, enum bus_status status,
		 const char *text, struct schema_buffer *reply);
const struct answer *answers_find(const struct answers *answers, const uint8_t id[ID_SIZE]);
void answers_forget(struct answers *answers, const uint8_t id[ID_SIZE]);
void answers_deinit(struct answers *answers);
