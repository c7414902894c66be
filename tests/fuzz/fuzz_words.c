/* `key=value` words as a person types them: the first byte picks the message, lines are the words. */

#include <string.h>

#include "schemas/json.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/random_message.h"

#define WORDS_MAX 64

static size_t split(char *text, char **words)
{
	size_t n = 0;

	for (char *rest = text, *word; n < WORDS_MAX && (word = strsep(&rest, "\n"));)
		words[n++] = word;
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct schema_message *schema;
	struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	char *words[WORDS_MAX], *text;
	size_t n = 0;
	void *message;
	int r;

	if (!size)
		return 0;
	while (all_messages[n])
		n++;
	schema = all_messages[data[0] % n]();
	text = fuzz_text(data + 1, size - 1);
	message = new_message(schema);
	r = json_parse_words(schema, words, split(text, words), message, &fault);
	FUZZ_ASSERT(r >= 0);
	FUZZ_ASSERT(!r || fault.text[0]);
	if (!r)
		FUZZ_ASSERT(!schema_pack(schema, message, &buffer, NULL));
	schema_buffer_clear(&buffer);
	free_message(schema, message);
	free(text);
	return 0;
}
