/* See hook_words.h. */

#include "tools/hook_words.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "broker/lib/file.h"
#include "schemas/json.h"

#define SPACE "\t\n\r "

void hook_facts_clear(struct hook_facts *facts)
{
	json_decref(facts->state);
	free(facts->rootfs);
	*facts = (struct hook_facts){};
}

/* ---- what the runtime tells ---------------------------------------------- */

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

const char *hook_facts_bundle(const struct hook_facts *facts)
{
	return text_of(facts->state, "bundle");
}

int hook_facts_read(const char *text, size_t size, struct hook_facts *ret_facts, struct why *why)
{
	struct schema_fault fault = {};
	struct hook_facts facts = {.state = json_parse(text, size, HOOK_STATE_MAX, &fault)};
	const char *bundle = hook_facts_bundle(&facts);
	int r = 0;

	if (!facts.state)
		r = why_set(why, HOOK_E_INVALID, "the container's state on stdin: %s", fault.text);
	else if (!bundle || *bundle != '/')
		r = why_set(why, HOOK_E_INVALID,
			    "the container's state on stdin names no bundle by an absolute path");
	if (r) {
		hook_facts_clear(&facts);
		return r;
	}
	*ret_facts = facts;
	return 0;
}

int hook_facts_read_config(const char *text, size_t size, struct hook_facts *facts, struct why *why)
{
	struct schema_fault fault = {};
	json_t *config = json_parse(text, size, HOOK_STATE_MAX, &fault);
	const char *bundle = hook_facts_bundle(facts),
		   *path = text_of(json_object_get(config, "root"), "path");
	int r = 0;

	if (path)
		facts->rootfs = *path == '/' ? strdup(path) : text_format("%s/%s", bundle, path);
	if (!path)
		r = why_set(why, HOOK_E_INVALID, "%s/config.json: %s", bundle,
			    config ? "root.path is not there" : fault.text);
	else if (!facts->rootfs)
		r = error_origin(-ENOMEM);
	json_decref(config);
	return r;
}

/* ---- templates ----------------------------------------------------------- */

/* "…" with Go's \" and \\, or `…`. What follows it; NULL if it is neither. */
static const char *read_quoted(const char *at, struct schema_buffer *name)
{
	char quote = *at++;

	if (quote != '"' && quote != '`')
		return NULL;
	for (; *at != quote; at++) {
		if (*at == '\\' && quote == '"') {
			at++;
			if (*at != '"' && *at != '\\')
				return NULL;
		}
		if (!*at || schema_buffer_add(name, at, 1))
			return NULL;
	}
	return at + 1;
}

/* "" for one that is not there. NULL: @rest is no name. */
static const char *annotation(const struct hook_facts *facts, const char *rest)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer name = {};
	const char *end = read_quoted(rest, &name), *value;

	if (!end || end[strspn(end, SPACE)] || schema_buffer_add(&name, "", 1))
		return NULL;
	value = text_of(json_object_get(facts->state, "annotations"), (const char *)name.data);
	return value ?: "";
}

/* Of an action's words, which are one name and for annotations another; NULL if that means nothing. */
static const char *value_of(const struct hook_facts *facts, const char *action, char number[32])
{
	static const char *const texts[] = {"id", "bundle", "status"};
	size_t length = strcspn(action, SPACE "\"`");
	const char *rest = action + length + strspn(action + length, SPACE);

	if (length == 10 && !strncmp(action, "annotation", length))
		return annotation(facts, rest);
	if (*rest)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (length == strlen(texts[i]) && !strncmp(action, texts[i], length))
			return text_of(facts->state, texts[i]) ?: "";
	if (length == 6 && !strncmp(action, "rootfs", length))
		return facts->rootfs;
	if (length != 3 || strncmp(action, "pid", length) != 0)
		return NULL;
	snprintf(number, 32, "%" JSON_INTEGER_FORMAT,
		 json_integer_value(json_object_get(facts->state, "pid")));
	return number;
}

/* The end of an action, which quotes may hide; NULL: there is none. */
static const char *find_end(const char *at)
{
	char quote = '\0';

	for (; *at; at++) {
		if (!quote && at[0] == '}' && at[1] == '}')
			return at;
		if (quote == '"' && *at == '\\' && at[1])
			at++;
		else if (quote && *at == quote)
			quote = '\0';
		else if (!quote && (*at == '"' || *at == '`'))
			quote = *at;
	}
	return NULL;
}

static int add_action(const struct hook_facts *facts, const char *from, const char *end,
		      struct schema_buffer *word, struct why *why)
{
	_cleanup_(cleanup_free) char *action = strndup(from, (size_t)(end - from));
	const char *value;
	char number[32];

	if (!action)
		return error_origin(-ENOMEM);
	value = value_of(facts, action + strspn(action, SPACE), number);
	if (!value)
		return why_set(why, HOOK_E_INVALID,
			       "'{{%.128s}}' is none of {{id}}, {{bundle}}, {{rootfs}}, {{pid}}, "
			       "{{status}} and {{annotation \"NAME\"}}",
			       action);
	return schema_buffer_add(word, value, strlen(value));
}

int hook_expand(const struct hook_facts *facts, const char *word, char **ret_word, struct why *why)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	const char *at = word, *open, *end;
	int r = 0;

	while (!r && (open = strstr(at, "{{"))) {
		end = find_end(open + 2);
		if (!end)
			return why_set(why, HOOK_E_INVALID, "'%.128s': its '{{' has no '}}'", word);
		r = schema_buffer_add(&buffer, at, (size_t)(open - at))
			    ?: add_action(facts, open + 2, end, &buffer, why);
		at = end + 2;
	}
	r = r ?: schema_buffer_add(&buffer, at, strlen(at) + 1);
	if (r)
		return r;
	*ret_word = (char *)TAKE(buffer.data);
	return 0;
}
