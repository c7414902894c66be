/* Rules for names: see check.h. */

#include <stdio.h>
#include <string.h>

#include "schemas/check.h"

#define IDENTIFIER_MAX  76
#define TOPIC_MAX       256
#define REFERENCE_MAX   512
#define LABEL_KEY_MAX   128
#define LABELS_SIZE_MAX 65536
#define SHOWN_MAX       80 /* of a name in a sentence */

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* Letters and digits with single separators between them. */
static bool is_identifier(const char *text, size_t size)
{
	if (!size || size > IDENTIFIER_MAX)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (is_alnum(text[i]))
			continue;
		if (!strchr("._-", text[i]) || !i || i + 1 == size || !is_alnum(text[i - 1]))
			return false;
	}
	return true;
}

bool check_identifier(const char *text)
{
	return text && is_identifier(text, strnlen(text, IDENTIFIER_MAX + 1));
}

/* @text as it can be shown: printable ASCII as it is, all else as '?', cut when long. */
static void show(const char *text, char shown[SHOWN_MAX + 4])
{
	size_t size = strnlen(text, SHOWN_MAX + 1);
	size_t kept = size > SHOWN_MAX ? SHOWN_MAX : size;

	for (size_t i = 0; i < kept; i++)
		shown[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	strcpy(shown + kept, size > SHOWN_MAX ? "..." : "");
}

int check_identifier_why(const char *what, const char *text, struct schema_fault *fault)
{
	char shown[SHOWN_MAX + 4];

	if (check_identifier(text))
		return 0;
	if (!fault)
		return SCHEMA_E_VALUE;
	if (!text || !*text) {
		snprintf(fault->text, sizeof(fault->text), "%s is empty", what);
		return SCHEMA_E_VALUE;
	}
	show(text, shown);
	if (strlen(text) > IDENTIFIER_MAX)
		snprintf(fault->text, sizeof(fault->text), "%s '%s' is longer than %d bytes", what,
			 shown, IDENTIFIER_MAX);
	else
		snprintf(
			fault->text, sizeof(fault->text),
			"%s '%s' is not made of letters and digits with single '.', '_' or '-' between them",
			what, shown);
	return SCHEMA_E_VALUE;
}

bool check_topic(const char *text)
{
	const char *part, *end;

	if (!text || *text != '/' || strnlen(text, TOPIC_MAX + 1) > TOPIC_MAX)
		return false;
	for (part = text; *part == '/'; part = end) {
		end = part + 1 + strcspn(part + 1, "/");
		if (!is_identifier(part + 1, (size_t)(end - part - 1)))
			return false;
	}
	return true;
}

bool check_digest(const char *text)
{
	return text && !strncmp(text, "sha256:", 7) && strnlen(text, 72) == 71 &&
	       strspn(text + 7, "0123456789abcdef") == 64;
}

static bool is_label_key(const char *key)
{
	size_t size = strnlen(key, LABEL_KEY_MAX + 1);

	if (!size || size > LABEL_KEY_MAX)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (key[i] <= ' ' || key[i] > '~')
			return false;
	}
	return true;
}

static int refuse_label(struct schema_fault *fault, const char *key, const char *problem, int limit)
{
	char shown[SHOWN_MAX + 4];

	show(key, shown);
	if (fault)
		snprintf(fault->text, sizeof(fault->text), "label '%s' %s %d bytes", shown, problem,
			 limit);
	return SCHEMA_E_VALUE;
}

int check_labels(const struct schema_map *labels, struct schema_fault *fault)
{
	size_t total = 0;

	for (size_t i = 0; i < labels->count; i++) {
		const char *key = labels->items[i].key;
		size_t size = strlen(key) + strlen(labels->items[i].value);

		if (!is_label_key(key))
			return refuse_label(fault, key,
					    "has a key that is not printable ASCII, "
					    "without spaces, of at most",
					    LABEL_KEY_MAX);
		if (size > SCHEMA_MAP_PAIR_MAX)
			return refuse_label(fault, key, "is together with its value longer than",
					    SCHEMA_MAP_PAIR_MAX);
		total += size;
		if (total > LABELS_SIZE_MAX)
			return refuse_label(fault, key, "makes the labels longer than",
					    LABELS_SIZE_MAX);
	}
	return 0;
}

bool check_reference(const char *text)
{
	size_t size = text ? strnlen(text, REFERENCE_MAX + 1) : 0;

	if (!size || size > REFERENCE_MAX || strstr(text, "..") || !schema_is_text(text, size))
		return false;
	for (size_t i = 0; i < size; i++) {
		if ((uint8_t)text[i] <= ' ' || text[i] == 0x7f)
			return false;
	}
	return true;
}
