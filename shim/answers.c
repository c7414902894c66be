#include "shim/answers.h"

#include <string.h>

void answers_add(struct answers *answers, const struct schema_method *method,
		 const uint8_t id[ID_SIZE], uint32_t body_crc, enum bus_status status,
		 const char *text)
{
	struct answer *answer = &answers->items[answers->next];

	if (answers_find(answers, id))
		return;
	answers->next = (answers->next + 1) % ANSWERS_MAX;
	free(answer->text);
	*answer = (struct answer){.method = method, .body_crc = body_crc, .status = status};
	memcpy(answer->id, id, ID_SIZE);
	if (text && *text)
		answer->text = strdup(text);
}

const struct answer *answers_find(const struct answers *answers, const uint8_t id[ID_SIZE])
{
	for (size_t i = 0; i < ANSWERS_MAX; i++)
		if (answers->items[i].method && !memcmp(answers->items[i].id, id, ID_SIZE))
			return &answers->items[i];
	return NULL;
}

void answers_deinit(struct answers *answers)
{
	for (size_t i = 0; i < ANSWERS_MAX; i++)
		free(answers->items[i].text);
	*answers = (struct answers){};
}
