/* The way that a processor without the instruction takes; the other is in test_file.c. */
#include "broker/lib/crc32c.c"
#include "tests/lib/main.h"

static void test_table_and_processor_agree(void **state)
{
	uint8_t data[300];

	(void)state;
	assert_int_equal(~crc_by_table(~0u, (const uint8_t *)"123456789", 9), 0xe3069283);
	for (size_t i = 0; i < sizeof(data); i++) {
		data[i] = (uint8_t)(i * 37 + (i >> 3));
		assert_int_equal(~crc_by_table(~7u, data, i), crc32c(7, data, i));
	}
}

TEST_MAIN(cmocka_unit_test(test_table_and_processor_agree))
