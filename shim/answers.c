#include "shim/answers.h"

#include <string.h>

static struct answer *find(struct answers *answers, const uint8_t id[ID_SIZE])
{
	for (size_t i = 0; i < ANSWERS_MAX; i++)
		if (answers->items[i].method && !memcmp(answers->items[i].id, id, ID_SIZE))
			return &answers->items[i];
	return NULL;
}

static struct answer *next_place(struct answers *answers)
{
	struct answer *answer = &answers->items[answers->next];

	answers->next = (answers->next + 1) % ANSWERS_MAX;
	return answer;
}

static void clear(struct answer *answer)
{
	free(answer->text);
	schema_buffer_clear(&answer->reply);
	*answer = (struct answer){};
}

void answers_add(struct answers *answers, const struct schema_method *method,
		 const uint8_t id[ID_SIZE], uint32_t body_crc, enum bus_status status,
		 const char *text, struct schema_buffer *reply)
{
	struct answer *answer = find(answers, id) ?: next_place(answers);

	clear(answer);
	*answer = (struct answer){.method = method, .body_crc = body_crc, .status = status};
	memcpy(answer->id, id, ID_SIZE);
	if (text && *text)
		answer->text = strdup(text);
	if (reply) {
		answer->reply = *reply;
		*reply = (struct schema_buffer){};
	}
}

const struct answer *answers_find(const struct answers *answers, const uint8_t id[ID_SIZE])
{
	return find((struct answers *)answers, id);
}

void answers_forget(struct answers *answers, const uint8_t id[ID_SIZE])
{
	struct answer *answer = find(answers, id);

	if (answer)
		clear(answer);
}

void answers_deinit(struct answers *answers)
{
	for (size_t i = 0; i < ANSWERS_MAX; i++)
		clear(&answers->items[i]);
	answers->next = 0;
}
