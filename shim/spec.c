#include "shim/spec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "broker/lib/cleanup.h"

#define DEPTH_MAX 64
#define KEY_MAX   64

struct scanner {
	const char *at, *end;
	struct schema_fault *fault;
	struct spec *spec;
	unsigned depth;
	unsigned seen; /* one bit for each value that was taken */
};

/* What is wanted at a path: the value is given to @take with the scanner before it. */
struct wanted {
	const char *path; /* "/process/cwd" */
	int (*take)(struct scanner *scanner);
};

static int value(struct scanner *scanner, const char *path);

static int invalid(struct scanner *scanner, const char *what)
{
	if (scanner->fault && !scanner->fault->text[0])
		snprintf(scanner->fault->text, sizeof(scanner->fault->text), "%s", what);
	return SPEC_E_INVALID;
}

static void skip_space(struct scanner *scanner)
{
	while (scanner->at < scanner->end && strchr(" \t\r\n", *scanner->at) && *scanner->at)
		scanner->at++;
}

/* The next character that is not a space is @c: steps over it. */
static bool next_is(struct scanner *scanner, char c)
{
	skip_space(scanner);
	if (scanner->at == scanner->end || *scanner->at != c)
		return false;
	scanner->at++;
	return true;
}

/* ---- strings ------------------------------------------------------------- */

static int hex4(struct scanner *scanner, unsigned *ret_code)
{
	char digits[5] = {};
	char *end;

	if (scanner->end - scanner->at < 4)
		return invalid(scanner, "not JSON: a cut escape");
	memcpy(digits, scanner->at, 4);
	*ret_code = (unsigned)strtoul(digits, &end, 16);
	if (end != digits + 4 || digits[0] == '-' || digits[0] == '+' || digits[0] == ' ')
		return invalid(scanner, "not JSON: a bad escape");
	scanner->at += 4;
	return 0;
}

/* Behind a backslash. What is not ASCII becomes '?': none of the checks is about it. */
static int escape(struct scanner *scanner, char *ret_c)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	const char *found;
	unsigned code;
	int r;

	if (scanner->at == scanner->end)
		return invalid(scanner, "not JSON: a cut string");
	if (*scanner->at == 'u') {
		scanner->at++;
		r = hex4(scanner, &code);
		if (r)
			return r;
		if (!code)
			return invalid(scanner, "a string holds NUL");
		*ret_c = code < 0x80 ? (char)code : '?';
		return 0;
	}
	found = *scanner->at ? strchr(names, *scanner->at) : NULL;
	if (!found)
		return invalid(scanner, "not JSON: a bad escape");
	*ret_c = values[found - names];
	scanner->at++;
	return 0;
}

/* Behind the quote. @text may be NULL; a string that does not fit is cut. */
static int string(struct scanner *scanner, char *text, size_t size)
{
	size_t used = 0;
	char c;
	int r;

	while (scanner->at < scanner->end && *scanner->at != '"') {
		c = *scanner->at++;
		if ((unsigned char)c < ' ')
			return invalid(scanner, "not JSON: a control character in a string");
		if (c == '\\') {
			r = escape(scanner, &c);
			if (r)
				return r;
		}
		if (text && used + 1 < size)
			text[used++] = c;
	}
	if (scanner->at == scanner->end)
		return invalid(scanner, "not JSON: a cut string");
	scanner->at++;
	if (text)
		text[used] = '\0';
	return 0;
}

static int take_string(struct scanner *scanner, char **ret_text)
{
	size_t size = (size_t)(scanner->end - scanner->at) + 1;
	const char *close;

	if (!next_is(scanner, '"'))
		return invalid(scanner, "root.path and process.cwd must be strings");
	close = memchr(scanner->at, '"', (size_t)(scanner->end - scanner->at));
	if (close && close[-1] != '\\')
		size = (size_t)(close - scanner->at) + 1;
	*ret_text = malloc(size);
	return *ret_text ? string(scanner, *ret_text, size) : -ENOMEM;
}

/* ---- the values that are wanted ------------------------------------------ */

static int take_root(struct scanner *scanner)
{
	return take_string(scanner, &scanner->spec->root);
}

static int take_cwd(struct scanner *scanner)
{
	return take_string(scanner, &scanner->spec->cwd);
}

static int take_number(struct scanner *scanner, uint64_t *ret_number)
{
	uint64_t number = 0;
	const char *start;

	skip_space(scanner);
	start = scanner->at;
	for (; scanner->at < scanner->end && *scanner->at >= '0' && *scanner->at <= '9';
	     scanner->at++) {
		number = number * 10 + (uint64_t)(*scanner->at - '0');
		if (number > INT32_MAX)
			return invalid(scanner, "process.user: an id is above 2147483647");
	}
	if (scanner->at == start ||
	    (scanner->at < scanner->end && *scanner->at && strchr(".eE", *scanner->at)))
		return invalid(scanner, "process.user: uid and gid must be whole numbers");
	*ret_number = number;
	return 0;
}

static int take_uid(struct scanner *scanner)
{
	scanner->spec->has_uid = true;
	return take_number(scanner, &scanner->spec->uid);
}

static int take_gid(struct scanner *scanner)
{
	scanner->spec->has_gid = true;
	return take_number(scanner, &scanner->spec->gid);
}

static int take_inheritable(struct scanner *scanner)
{
	struct scanner look = *scanner;

	if (next_is(&look, 'n'))
		return value(scanner, NULL); /* null */
	if (!next_is(&look, '['))
		return invalid(scanner, "process.capabilities.inheritable must be a list");
	scanner->spec->has_inheritable = !next_is(&look, ']');
	return value(scanner, NULL);
}

static const struct wanted wanted[] = {
	{"/root/path", take_root},
	{"/process/cwd", take_cwd},
	{"/process/user/uid", take_uid},
	{"/process/user/gid", take_gid},
	{"/process/capabilities/inheritable", take_inheritable},
	/* Only so that each stands once. */
	{"/root", NULL},
	{"/process", NULL},
	{"/process/user", NULL},
	{"/process/capabilities", NULL},
};

/* ---- everything else is stepped over ------------------------------------- */

/* @path: where the value stands, NULL where nothing is wanted any more. */
static int member(struct scanner *scanner, const char *path)
{
	for (size_t i = 0; path && i < ARRAY_SIZE(wanted); i++) {
		if (strcasecmp(path, wanted[i].path))
			continue;
		if (scanner->seen & 1u << i) {
			char text[KEY_MAX * 2 + 16];

			snprintf(text, sizeof(text), "%s stands twice", path);
			return invalid(scanner, text);
		}
		scanner->seen |= 1u << i;
		if (wanted[i].take)
			return wanted[i].take(scanner);
		return value(scanner, path);
	}
	return value(scanner, NULL);
}

static int object(struct scanner *scanner, const char *path)
{
	char key[KEY_MAX], below[KEY_MAX * 2];
	int n, r;

	if (next_is(scanner, '}'))
		return 0;
	do {
		if (!next_is(scanner, '"'))
			return invalid(scanner, "not JSON: an object without a key");
		r = string(scanner, key, sizeof(key));
		if (r)
			return r;
		if (!next_is(scanner, ':'))
			return invalid(scanner, "not JSON: a key without a value");
		n = path ? snprintf(below, sizeof(below), "%s/%s", path, key) : -1;
		r = member(scanner, n > 0 && (size_t)n < sizeof(below) ? below : NULL);
		if (r)
			return r;
	} while (next_is(scanner, ','));
	return next_is(scanner, '}') ? 0 : invalid(scanner, "not JSON: an object without end");
}

static int array(struct scanner *scanner)
{
	int r;

	if (next_is(scanner, ']'))
		return 0;
	do {
		r = value(scanner, NULL);
		if (r)
			return r;
	} while (next_is(scanner, ','));
	return next_is(scanner, ']') ? 0 : invalid(scanner, "not JSON: a list without end");
}

/* Numbers and words are not checked further: the runtime does that. */
static int word(struct scanner *scanner)
{
	static const char characters[] = "0123456789+-.eEtrufalsn";
	const char *start = scanner->at;

	while (scanner->at < scanner->end && *scanner->at && strchr(characters, *scanner->at))
		scanner->at++;
	return scanner->at > start ? 0 : invalid(scanner, "not JSON: a value is missing");
}

static int value(struct scanner *scanner, const char *path)
{
	int r;

	if (scanner->depth == DEPTH_MAX)
		return invalid(scanner, "not JSON that a runtime would take: too deep");
	scanner->depth++;
	if (next_is(scanner, '{'))
		r = object(scanner, path);
	else if (next_is(scanner, '['))
		r = array(scanner);
	else if (next_is(scanner, '"'))
		r = string(scanner, NULL, 0);
	else
		r = word(scanner);
	scanner->depth--;
	return r;
}

void spec_clear(struct spec *spec)
{
	free(spec->root);
	free(spec->cwd);
	*spec = (struct spec){};
}

int spec_parse(const char *text, size_t size, struct spec *ret_spec, struct schema_fault *fault)
{
	_cleanup_(spec_clear) struct spec spec = {};
	struct scanner scanner = {.at = text, .end = text + size, .fault = fault, .spec = &spec};
	int r;

	skip_space(&scanner);
	if (scanner.at == scanner.end || *scanner.at != '{')
		return invalid(&scanner, "not a JSON object");
	r = value(&scanner, "");
	if (r)
		return r;
	skip_space(&scanner);
	if (scanner.at != scanner.end)
		return invalid(&scanner, "not JSON: something stands behind the object");
	*ret_spec = spec;
	spec = (struct spec){};
	return 0;
}
