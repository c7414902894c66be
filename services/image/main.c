/* davit-image: content, images and snapshots. */

#include <stdio.h>
#include <string.h>

#include "services/image/image.h"

#define LIMITS_MAX 32

/* The value of --limit if argv[*i] is that, and *i then at its last word. */
static char *limit_of(int argc, char *argv[], int *i)
{
	if (!strncmp(argv[*i], "--limit=", 8))
		return argv[*i] + 8;
	return !strcmp(argv[*i], "--limit") && *i + 1 < argc ? argv[++*i] : NULL;
}

/* Takes --limit NAME=NUMBER out of @argv. */
static int take_limits(int argc, char *argv[])
{
	char *words[LIMITS_MAX];
	struct work_limits limits = {};
	struct schema_fault fault = {};
	size_t n_words = 0;
	int n = 1, r;

	for (int i = 1; i < argc; i++) {
		char *word = limit_of(argc, argv, &i);

		if (!word)
			argv[n++] = argv[i];
		else if (n_words < LIMITS_MAX)
			words[n_words++] = word;
	}
	argv[n] = NULL;
	r = work_limits_parse(words, n_words, &limits, &fault);
	if (r) {
		fprintf(stderr, "davit-image: --limit: %s\n", r < 0 ? strerror(-r) : fault.text);
		return -1;
	}
	image_configure(&limits);
	return n;
}

int main(int argc, char *argv[])
{
	argc = take_limits(argc, argv);
	if (argc < 0)
		return EXIT_FAILURE;
	return service_main(argc, argv, &image_definition);
}
