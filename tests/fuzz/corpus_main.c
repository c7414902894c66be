/*
 * Runs a fuzz target over its corpus, as an ordinary test: corpus_<name> reads
 * every file of tests/fuzz/corpus/<name>, from the top of the tree, or the files
 * that are named. A crash names the file: it is printed before it is tried.
 */

#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "tests/fuzz/fuzz.h"

#define FILE_MAX (16u << 20)

static int try_file(const char *path)
{
	_cleanup_(cleanup_free) char *data = NULL;
	uint8_t *exact;
	size_t size;
	int r;

	r = file_read(AT_FDCWD, path, FILE_MAX, &data, &size);
	if (r) {
		fprintf(stderr, "%s: %s\n", path, strerror(-r));
		return 1;
	}
	printf("%s\n", path);
	fflush(stdout);
	exact = malloc(size ?: 1); /* without the NUL: a sanitizer sees a byte too far */
	FUZZ_ASSERT(exact);
	memcpy(exact, data, size);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	return 0;
}

static int try_folder(const char *path)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(path);
	struct dirent *entry;
	unsigned n = 0;
	int failed = 0;

	while (dir && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *file = NULL;

		if (entry->d_name[0] == '.')
			continue;
		file = text_format("%s/%s", path, entry->d_name);
		FUZZ_ASSERT(file);
		failed |= try_file(file);
		n++;
	}
	printf("%u files of %s\n", n, path);
	return failed || !n;
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/');
	_cleanup_(cleanup_free) char *folder = NULL;
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= try_file(argv[i]);
	if (argc > 1)
		return failed;
	name = name ? name + 1 : argv[0];
	folder = text_format("tests/fuzz/corpus/%s", name + (strncmp(name, "corpus_", 7) ? 0 : 7));
	FUZZ_ASSERT(folder);
	return try_folder(folder);
}
