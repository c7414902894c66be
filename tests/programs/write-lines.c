/* write-lines SIZE: writes so many bytes to stdout: lines of 64 bytes that count up from 0. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE 64
#define PART (1024 * LINE)

static void make_lines(char *part, unsigned long first)
{
	char line[LINE + 1];

	for (unsigned long i = 0; i < PART / LINE; i++) {
		snprintf(line, sizeof(line), "%063lu\n", first + i);
		memcpy(part + i * LINE, line, LINE);
	}
}

int main(int argc, char **argv)
{
	unsigned long size = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	static char part[PART];

	for (unsigned long at = 0; at < size; at += PART) {
		size_t left = size - at < PART ? size - at : PART;

		make_lines(part, at / LINE);
		for (size_t done = 0; done < left;) {
			ssize_t n = write(STDOUT_FILENO, part + done, left - done);

			if (n <= 0)
				return 1;
			done += (size_t)n;
		}
	}
	return 0;
}
