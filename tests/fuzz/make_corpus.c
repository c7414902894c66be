/*
 * Writes seeds for the targets that read davit's own formats, from the schemas:
 * `make fuzz-corpus`. What it writes is named seed-*; hand-made files stay.
 */

#include <stdio.h>
#include <string.h>

#include "schemas/envelope.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/random_message.h"

#define SIZE_MAX_ 2048 /* of a seed: small ones are worth more */

static void write_seed(const char *target, const char *name, const void *head, size_t head_size,
		       const struct schema_buffer *buffer)
{
	char path[256];
	FILE *file;

	if (head_size + buffer->size > SIZE_MAX_)
		return;
	snprintf(path, sizeof(path), "tests/fuzz/corpus/%s/seed-%s", target, name);
	file = fopen(path, "we");
	FUZZ_ASSERT(file);
	FUZZ_ASSERT(fwrite(head, 1, head_size, file) == head_size);
	FUZZ_ASSERT(fwrite(buffer->data, 1, buffer->size, file) == buffer->size);
	FUZZ_ASSERT(!fclose(file));
}

static void write_envelopes(const char *name, const struct schema_buffer *body)
{
	struct envelope_request request = {.namespace = "default",
					   .method = "container.get",
					   .body = {body->data, body->size},
					   .has_peer = true,
					   .uid = 1000};
	struct envelope_reply reply = {.status = BUS_OK, .body = {body->data, body->size}};
	struct envelope_event event = {
		.seq = 1, .topic = "/tasks/exit", .event = {body->data, body->size}};
	struct schema_buffer buffer = {};
	char seed[96];

	snprintf(seed, sizeof(seed), "request-%s", name);
	FUZZ_ASSERT(!envelope_write_request(&request, &buffer));
	write_seed("envelope", seed, "", 0, &buffer);
	buffer.size = 0;
	snprintf(seed, sizeof(seed), "reply-%s", name);
	FUZZ_ASSERT(!envelope_write_reply(&reply, &buffer));
	write_seed("envelope", seed, "", 0, &buffer);
	buffer.size = 0;
	snprintf(seed, sizeof(seed), "event-%s", name);
	FUZZ_ASSERT(!envelope_write_event(&event, &buffer));
	write_seed("envelope", seed, "", 0, &buffer);
	schema_buffer_clear(&buffer);
}

int main(void)
{
	for (size_t i = 0; all_messages[i]; i++) {
		const struct schema_message *schema = all_messages[i]();
		void *message = new_message(schema);
		struct schema_buffer buffer = {};
		uint8_t number = (uint8_t)i;
		uint64_t seed = i;

		FUZZ_ASSERT(message);
		random_message(schema, message, &seed);
		FUZZ_ASSERT(!schema_pack(schema, message, &buffer, NULL));
		if (i % 4 == 0)
			write_seed("message", schema->name, &number, 1, &buffer);
		if (i % 20 == 0 && buffer.size < 200)
			write_envelopes(schema->name, &buffer);
		schema_buffer_clear(&buffer);
		free_message(schema, message);
	}
	return 0;
}
