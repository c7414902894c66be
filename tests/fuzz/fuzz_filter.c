/* Filters, one a line, matched against a container; and each line as a regular expression. */

#include <string.h>

#include "schemas/filter.h"
#include "schemas/messages.h"
#include "schemas/regex.h"
#include "tests/fuzz/fuzz.h"

static void check_regex(const char *pattern)
{
	const char *problem = NULL;
	struct regex *regex = regex_new(pattern, &problem);

	FUZZ_ASSERT(regex || problem);
	if (regex)
		regex_search(regex, "aaaaaaaaaaaaaaaaaaaa web-1 \xc3\xa9 0123");
	regex_free(regex);
}

static void check_filter(const struct schema_strs *filters)
{
	struct schema_pair labels[] = {{(char *)"a.b", (char *)"c"},
				       {(char *)"tier", (char *)"web"}};
	struct container_record record = {.id = (char *)"web-1",
					  .runtime = (char *)"crun",
					  .created_at_ns = 7,
					  .labels = {labels, 2}};
	struct schema_fault fault = {};
	struct filter *filter = NULL;
	int r = filter_parse(filters, &filter, &fault);

	FUZZ_ASSERT(r >= 0);
	FUZZ_ASSERT(!r || fault.text[0]);
	if (!r)
		filter_match_message(filter, schema_container_record(), &record);
	filter_free(filter);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *rest = text, *line;
	struct schema_strs filters = {};

	while (filters.count < 70 && (line = strsep(&rest, "\n"))) {
		check_regex(line);
		FUZZ_ASSERT(!schema_strs_add(&filters, line));
	}
	check_filter(&filters);
	schema_strs_clear(&filters);
	free(text);
	return 0;
}
