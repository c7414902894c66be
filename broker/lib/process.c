#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/lib/file.h"

int boot_id_read(uint8_t id[ID_SIZE])
{
	_cleanup_(cleanup_free) char *text = NULL;
	char *to;
	int r;

	r = file_read_proc("/proc/sys/kernel/random/boot_id", 64, &text, NULL);
	if (r)
		return error_trace(r);
	/* A UUID: 36 characters with dashes, and a newline. */
	to = text;
	for (const char *from = text; *from && *from != '\n'; from++)
		if (*from != '-')
			*to++ = *from;
	*to = '\0';
	r = id_parse(text, id);
	return r ? error_origin(-EIO) : 0;
}

/* The second field is the program's name and may hold anything, also spaces and brackets. */
static int parse_start_time(const char *stat, uint64_t *ret_ticks)
{
	const char *at = strrchr(stat, ')');
	char *end;

	if (!at)
		return error_origin(-EIO);
	at++;
	for (int field = 2; field < 22; field++) {
		at = strchr(at, ' ');
		if (!at)
			return error_origin(-EIO);
		at++;
	}
	errno = 0;
	*ret_ticks = strtoull(at, &end, 10);
	return errno || end == at ? error_origin(-EIO) : 0;
}

int process_start_time(pid_t pid, uint64_t *ret_ticks)
{
	_cleanup_(cleanup_free) char *text = NULL;
	char path[32];
	int r;

	if (pid <= 0)
		return -ESRCH;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	r = file_read_proc(path, 4096, &text, NULL);
	if (r == -ENOENT)
		return -ESRCH;
	if (r)
		return error_trace(r);
	return error_trace(parse_start_time(text, ret_ticks));
}
