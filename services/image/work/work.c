/* Small things that all modes need: see work.h. */

#include <stdio.h>
#include <string.h>

#include "broker/lib/file.h"
#include "services/image/work/work.h"

#define SHOWN_MAX 200

enum bus_status work_status(int r)
{
	switch (r) {
	case 0:
		return BUS_OK;
	case WORK_E_INVALID:
		return BUS_INVALID_ARGUMENT;
	case WORK_E_DAMAGED:
		return BUS_DATA_LOSS;
	case WORK_E_DENIED:
		return BUS_PERMISSION_DENIED;
	case WORK_E_MISSING:
		return BUS_NOT_FOUND;
	case WORK_E_AWAY:
		return BUS_UNAVAILABLE;
	case WORK_E_REFUSED:
		return BUS_FAILED_PRECONDITION;
	case WORK_E_BUSY:
	case -ENOSPC:
	case -EDQUOT:
	case -EFBIG:
	case -ENOMEM:
		return BUS_RESOURCE_EXHAUSTED;
	case -ENOENT:
		return BUS_NOT_FOUND;
	case -EACCES:
	case -EPERM:
		return BUS_PERMISSION_DENIED;
	case -EIO:
		return BUS_DATA_LOSS;
	default:
		return BUS_INTERNAL;
	}
}

const char *work_show(const char *text)
{
	static char buffers[4][SHOWN_MAX + 4];
	static unsigned turn;
	char *shown = buffers[turn++ % ARRAY_SIZE(buffers)];
	size_t size = strnlen(text, SHOWN_MAX + 1);
	size_t kept = size > SHOWN_MAX ? SHOWN_MAX : size;

	for (size_t i = 0; i < kept; i++) {
		unsigned char c = (unsigned char)text[i];

		shown[i] = c >= ' ' && c < 0x7f ? (char)c : '?';
	}
	strcpy(shown + kept, size > SHOWN_MAX ? "..." : "");
	return shown;
}

/* What cannot be removed is no reason to leave the rest; the first failure is told. */
int work_remove(const struct work_remove_request *request, int directory, struct why *why)
{
	int first = 0;

	for (size_t i = 0; i < request->names.count; i++) {
		const char *name = request->names.items[i];
		int r;

		if (!name[0] || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
			return why_set(why, WORK_E_INVALID, "'%s' is not a name", work_show(name));
		r = file_remove_tree(directory, name, first ? NULL : why);
		first = first ?: r;
	}
	return error_trace(first);
}
