/* Writes the manual to stdout: `make docs` makes docs/protocol.md with it. Not installed. */

#include <stdio.h>

#include "schemas/schema.h"

int main(void)
{
	__attribute__((cleanup(schema_buffer_clear))) struct schema_buffer buffer = {};

	if (schema_print_manual(&buffer))
		return 1;
	return fwrite(buffer.data, 1, buffer.size, stdout) != buffer.size || fflush(stdout) != 0;
}
