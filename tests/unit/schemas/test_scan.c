/* Hostile msgpack is measured before anything is allocated for it. */

#include "tests/lib/main.h"

#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/messages.h"
#include "tests/lib/random_message.h"

#define ACCEPTED(data) assert_int_equal(schema_scan(data, sizeof(data) - 1, 64), 0)
#define REFUSED(data)  assert_int_equal(schema_scan(data, sizeof(data) - 1, 64), SCHEMA_E_MALFORMED)

static void test_every_kind_of_value_is_known(void **state)
{
	(void)state;
	ACCEPTED("\x00");
	ACCEPTED("\x7f");
	ACCEPTED("\xff");
	ACCEPTED("\xc0");
	ACCEPTED("\xc2");
	ACCEPTED("\xc3");
	ACCEPTED("\xa0");
	ACCEPTED("\xa3"
		 "abc");
	ACCEPTED("\xd9\x03"
		 "abc");
	ACCEPTED("\xda\0\x03"
		 "abc");
	ACCEPTED("\xdb\0\0\0\x03"
		 "abc");
	ACCEPTED("\xc4\x01x");
	ACCEPTED("\xc5\0\x01x");
	ACCEPTED("\xc6\0\0\0\x01x");
	ACCEPTED("\xca\0\0\0\0");
	ACCEPTED("\xcb\0\0\0\0\0\0\0\0");
	ACCEPTED("\xcc\xff");
	ACCEPTED("\xcd\xff\xff");
	ACCEPTED("\xce\xff\xff\xff\xff");
	ACCEPTED("\xcf\xff\xff\xff\xff\xff\xff\xff\xff");
	ACCEPTED("\xd0\xff");
	ACCEPTED("\xd1\xff\xff");
	ACCEPTED("\xd2\xff\xff\xff\xff");
	ACCEPTED("\xd3\xff\xff\xff\xff\xff\xff\xff\xff");
	ACCEPTED("\x90");
	ACCEPTED("\x92\x01\x02");
	ACCEPTED("\xdc\0\x01\x01");
	ACCEPTED("\xdd\0\0\0\x01\x01");
	ACCEPTED("\x80");
	ACCEPTED("\x81\x01\x02");
	ACCEPTED("\xde\0\x01\x01\x02");
	ACCEPTED("\xdf\0\0\0\x01\x01\x02");
	ACCEPTED("\x92\x92\x01\x81\x01\x90\xc0");
}

static void test_what_is_not_one_whole_value_is_refused(void **state)
{
	(void)state;
	REFUSED("");
	REFUSED("\xc1");
	REFUSED("\x01\x02");
	REFUSED("\x91");
	REFUSED("\x81\x01");
	REFUSED("\xa2x");
	REFUSED("\xd9");
	REFUSED("\xd9\x02x");
	REFUSED("\xdb\xff\xff\xff\xff");
	REFUSED("\xc6\xff\xff\xff\xffx");
	REFUSED("\xcf\0");
	REFUSED("\x90\x90");
	REFUSED("\xc7\x01\x01x"); /* extension types are not used */
	REFUSED("\xc8\0\x01\x01x");
	REFUSED("\xc9\0\0\0\x01\x01x");
	REFUSED("\xd4\x01x");
	REFUSED("\xd5\x01xx");
	REFUSED("\xd6\x01xxxx");
	REFUSED("\xd7\x01xxxxxxxx");
	REFUSED("\xd8\x01xxxxxxxxxxxxxxxx");
}

static void test_depth_and_number_of_values_are_bounded(void **state)
{
	uint8_t deep[SCHEMA_DEPTH_MAX + 2], wide[103] = {0xdc, 0, 100};

	(void)state;
	memset(deep, 0x91, sizeof(deep));
	deep[SCHEMA_DEPTH_MAX] = 0xc0;
	assert_int_equal(schema_scan(deep, SCHEMA_DEPTH_MAX + 1, 64), 0);
	deep[SCHEMA_DEPTH_MAX] = 0x91;
	deep[SCHEMA_DEPTH_MAX + 1] = 0xc0;
	assert_int_equal(schema_scan(deep, SCHEMA_DEPTH_MAX + 2, 64), SCHEMA_E_MALFORMED);
	assert_int_equal(schema_scan(wide, sizeof(wide), 101), 0);
	assert_int_equal(schema_scan(wide, sizeof(wide), 100), SCHEMA_E_MALFORMED);
}

static unsigned long peak_kilobytes(void)
{
	unsigned long peak = 0;
	FILE *file = fopen("/proc/self/status", "re");
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "VmPeak: %lu kB", &peak);
	if (file)
		fclose(file);
	return peak;
}

/* Each of these makes msgpack-c reserve from hundreds of megabytes to many gigabytes. */
static void test_counts_that_the_bytes_cannot_hold_allocate_nothing(void **state)
{
	static const struct {
		const char *data;
		size_t size;
	} bombs[] = {
		{"\xdd\x08\0\0\0", 5},
		{"\xdf\x08\0\0\0", 5},
		{"\xdd\xff\xff\xff\xff", 5},
		{"\xdf\xff\xff\xff\xff", 5},
		{"\x91\xdd\x08\0\0\0", 6},
		{"\x81\xa2id\xdd\x08\0\0\0", 9},
		{"\x82\xa2id\xa1x\xa1y\xdf\x7f\xff\xff\xff", 13},
		{"\xdd\x01\0\0\0\xdd\x01\0\0\0\xdd\x01\0\0\0\xdd\x01\0\0\0\xdd\x01\0\0\0", 25},
		{"\xdf\x80\0\0\0\xa2id\xa1x", 10},
	};
	struct container_get_request request = {};
	unsigned long before = peak_kilobytes();

	(void)state;
	assert_true(before > 0);
	for (size_t i = 0; i < sizeof(bombs) / sizeof(bombs[0]); i++)
		assert_int_equal(schema_unpack(schema_container_get_request(), bombs[i].data,
					       bombs[i].size, &request, NULL),
				 SCHEMA_E_MALFORMED);
	assert_true(peak_kilobytes() - before < 32 * 1024);
}

/* The largest message of the smallest values costs a known multiple of its size, and is refused in the end. */
static void test_a_megabyte_of_small_values_is_refused(void **state)
{
	size_t size = SCHEMA_MESSAGE_MAX;
	uint8_t *data = malloc(size);
	struct container_get_request request = {};

	(void)state;
	memset(data, 0x90, size);
	memcpy(data, "\xdd\x00\x0f\xff\xfb", 5);
	assert_int_equal(schema_unpack(schema_container_get_request(), data, size, &request, NULL),
			 SCHEMA_E_MALFORMED);
	free(data);
}

static void test_elements_of_an_array_are_found(void **state)
{
	static const char data[] = "\x94\x01\x92\x02\x91\x03\xa1x\x81\x01\x90";
	struct schema_span elements[3];
	size_t count = 0;

	(void)state;
	assert_int_equal(schema_scan_array(data, sizeof(data) - 1, 64, elements, 3, &count), 0);
	assert_int_equal(count, 4);
	assert_int_equal(elements[0].size, 1);
	assert_int_equal(elements[1].size, 4);
	assert_memory_equal(elements[1].data, "\x92\x02\x91\x03", 4);
	assert_int_equal(elements[2].size, 2);
	assert_int_equal(schema_scan_array("\x90", 1, 64, elements, 3, &count), 0);
	assert_int_equal(count, 0);
	assert_int_equal(schema_scan_array("\x80", 1, 64, elements, 3, &count), SCHEMA_E_MALFORMED);
	assert_int_equal(schema_scan_array("\x01", 1, 64, elements, 3, &count), SCHEMA_E_MALFORMED);
	assert_int_equal(schema_scan_array("", 0, 64, elements, 3, &count), SCHEMA_E_MALFORMED);
}

static void test_pairs_of_a_map_are_found(void **state)
{
	struct schema_span elements[4];
	size_t count = 0;

	(void)state;
	assert_int_equal(schema_scan_map("\x82\x01\x91\x02\x03\x80", 6, 64, elements, 4, &count),
			 0);
	assert_int_equal(count, 2);
	assert_int_equal(elements[1].size, 2);
	assert_int_equal(elements[3].data[0], 0x80);
	assert_int_equal(schema_scan_map("\x91\x01", 2, 64, elements, 4, &count),
			 SCHEMA_E_MALFORMED);
	assert_int_equal(schema_scan_map("", 0, 64, elements, 4, &count), SCHEMA_E_MALFORMED);
}

/* What the scan accepts, msgpack-c unpacks to the last byte. */
static void test_random_bytes_that_are_accepted_are_msgpack(void **state)
{
	uint64_t seed = 42;
	unsigned accepted = 0;

	(void)state;
	for (unsigned i = 0; i < 300000; i++) {
		uint64_t words[3] = {random_next(&seed), random_next(&seed), random_next(&seed)};
		size_t size = 1 + random_next(&seed) % sizeof(words), offset = 0;
		uint8_t *exact = malloc(size);
		msgpack_unpacked unpacked;

		memcpy(exact, words, size);
		if (!schema_scan(exact, size, 64)) {
			accepted++;
			msgpack_unpacked_init(&unpacked);
			assert_int_equal(
				msgpack_unpack_next(&unpacked, (char *)exact, size, &offset),
				MSGPACK_UNPACK_SUCCESS);
			assert_int_equal(offset, size);
			msgpack_unpacked_destroy(&unpacked);
		}
		free(exact);
	}
	assert_true(accepted > 1000);
}

TEST_MAIN(cmocka_unit_test(test_every_kind_of_value_is_known),
	  cmocka_unit_test(test_what_is_not_one_whole_value_is_refused),
	  cmocka_unit_test(test_depth_and_number_of_values_are_bounded),
	  cmocka_unit_test(test_counts_that_the_bytes_cannot_hold_allocate_nothing),
	  cmocka_unit_test(test_a_megabyte_of_small_values_is_refused),
	  cmocka_unit_test(test_elements_of_an_array_are_found),
	  cmocka_unit_test(test_pairs_of_a_map_are_found),
	  cmocka_unit_test(test_random_bytes_that_are_accepted_are_msgpack))
