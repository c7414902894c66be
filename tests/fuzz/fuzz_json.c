/* Hostile JSON text, to msgpack and back. */

#include "schemas/json.h"
#include "tests/fuzz/fuzz.h"

#define SIZE_MAX_ 65536

static void check_value(const json_t *json)
{
	struct schema_buffer buffer = {};
	int r = json_to_msgpack(json, &buffer);
	json_t *again;

	FUZZ_ASSERT(r >= 0);
	FUZZ_ASSERT(!r || !buffer.size);
	if (!r && !schema_scan(buffer.data, buffer.size, SCHEMA_NODES_MAX)) {
		again = json_from_msgpack(buffer.data, buffer.size);
		FUZZ_ASSERT(again);
		json_decref(again);
	}
	schema_buffer_clear(&buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct schema_fault fault = {};
	json_t *json;

	json = json_parse((const char *)data, size, SIZE_MAX_, &fault);
	FUZZ_ASSERT(json || fault.text[0]);
	if (json)
		check_value(json);
	json_decref(json);
	json = json_from_msgpack(data, size);
	if (json)
		check_value(json);
	json_decref(json);
	return 0;
}
