/* The URI of a logging program: what is taken has an absolute path and pairs of arguments, each name once. */

#include <string.h>

#include "shim/logger.h"
#include "tests/fuzz/fuzz.h"

static void check(const struct logger_command *command, size_t size)
{
	size_t n = 1, total = 0;

	FUZZ_ASSERT(command->path[0] == '/' && !strcmp(command->path, command->arguments[0]));
	for (; command->arguments[n]; n += 2) {
		FUZZ_ASSERT(n < 2 * LOGGER_ARGUMENTS && command->arguments[n + 1]);
		total += strlen(command->arguments[n]) + strlen(command->arguments[n + 1]);
		for (size_t i = 1; i < n; i += 2)
			FUZZ_ASSERT(strcmp(command->arguments[i], command->arguments[n]));
	}
	FUZZ_ASSERT(total <= size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *uri = fuzz_text(data, size);
	struct logger_command command;
	struct why why = {};

	if (logger_is_uri(uri)) {
		int r = logger_parse(uri, &command, &why);

		FUZZ_ASSERT(!r || (r == LOGGER_E_INVALID && why.text[0]));
		if (!r) {
			check(&command, size);
			logger_command_clear(&command);
		}
	}
	free(uri);
	return 0;
}
