/*
 * `key=value` words: see json.h. The words become a JSON object, field by field
 * after the schema, and json_to_message() does the rest.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/json.h"
#include "schemas/json_internal.h"

#define DEPTH_MAX 8
#define JSON_MAX  SCHEMA_MESSAGE_MAX

/* Where a word's key leads. */
struct place {
	const struct schema_message *schema;
	const struct schema_field *field;
	json_t *object;   /* borrowed: holds the field */
	const char *rest; /* of the key, behind the field's name and a dot; NULL: nothing */
};

static int no_memory(int r)
{
	return r ? -ENOMEM : 0;
}

/* The object's member @name, made as @make says when it is not there. Borrowed. */
static json_t *member(json_t *object, const char *name, json_t *(*make)(void))
{
	json_t *value = json_object_get(object, name);

	if (!value && !json_object_set_new(object, name, make()))
		value = json_object_get(object, name);
	return value;
}

static int find_field(struct place *place, const char *key, struct schema_fault *fault)
{
	char name[64];
	size_t size = strcspn(key, ".");

	if (size < sizeof(name)) {
		memcpy(name, key, size);
		name[size] = '\0';
		place->field = schema_find_field(place->schema, name);
	} else {
		place->field = NULL;
	}
	if (!place->field)
		return json_fail(fault, SCHEMA_E_VALUE, place->schema, key, "is not a field");
	place->rest = key[size] ? key + size + 1 : NULL;
	return 0;
}

/* `list.<n>.field`: the n-th item, or one more. */
static int enter_list(struct place *place, struct schema_fault *fault)
{
	json_t *array = member(place->object, place->field->name, json_array);
	char *end;
	size_t n = strtoul(place->rest, &end, 10);

	if (!array)
		return -ENOMEM;
	if (end == place->rest || *end != '.' || !json_is_array(array) ||
	    n > json_array_size(array))
		return json_fail(fault, SCHEMA_E_VALUE, place->schema, place->field->name,
				 "is a list: <field>.<n>.<field>=value with n from 0 in order, or "
				 "<field>:=JSON");
	if (n == json_array_size(array) && json_array_append_new(array, json_object()))
		return -ENOMEM;
	place->object = json_array_get(array, n);
	place->rest = end + 1;
	return 0;
}

static int enter_item(struct place *place)
{
	place->object = member(place->object, place->field->name, json_object);
	return place->object ? 0 : -ENOMEM;
}

/* Follows the dots of @key through nested messages. */
static int find_place(const struct schema_message *schema, json_t *object, const char *key,
		      struct place *place, struct schema_fault *fault)
{
	int r;

	*place = (struct place){.schema = schema, .object = object};
	for (unsigned depth = 0; depth < DEPTH_MAX; depth++) {
		r = find_field(place, key, fault);
		if (r || !place->rest)
			return r;
		if (place->field->kind == SCHEMA_ITEM)
			r = enter_item(place);
		else if (place->field->kind == SCHEMA_LIST)
			r = enter_list(place, fault);
		else
			return 0;
		if (r)
			return r;
		if (!json_is_object(place->object))
			return json_fail(fault, SCHEMA_E_VALUE, place->schema, key,
					 "was given as something else before");
		key = place->rest;
		place->schema = place->field->of();
	}
	return json_fail(fault, SCHEMA_E_LIMIT, schema, key, "is nested too deep");
}

static int add_number(const struct place *place, const char *text, struct schema_fault *fault)
{
	const char *digits = text + (*text == '-' && place->field->kind == SCHEMA_I64);
	json_t *json;
	long long value;

	if (!*digits || strspn(digits, "0123456789") != strlen(digits))
		return json_fail(fault, SCHEMA_E_TYPE, place->schema, place->field->name,
				 "is not a whole number");
	errno = 0;
	value = strtoll(text, NULL, 10);
	if (errno && place->field->kind == SCHEMA_I64)
		return json_fail(fault, SCHEMA_E_LIMIT, place->schema, place->field->name,
				 "is over its limit");
	json = errno ? json_string(text) : json_integer(value); /* large U64 as text, see json.c */
	return no_memory(json_object_set_new(place->object, place->field->name, json));
}

static int add_bool(const struct place *place, const char *text, struct schema_fault *fault)
{
	bool value = !strcmp(text, "true");

	if (!value && strcmp(text, "false") != 0)
		return json_fail(fault, SCHEMA_E_TYPE, place->schema, place->field->name,
				 "is not true or false");
	return no_memory(
		json_object_set_new(place->object, place->field->name, json_boolean(value)));
}

static int add_text(const struct place *place, const char *text, struct schema_fault *fault)
{
	json_t *json = json_string(text);

	if (!json)
		return json_fail(fault, SCHEMA_E_VALUE, place->schema, place->field->name,
				 "is not UTF-8 text");
	return no_memory(json_object_set_new(place->object, place->field->name, json));
}

static int refuse_mixture(const struct place *place, struct schema_fault *fault)
{
	return json_fail(fault, SCHEMA_E_TYPE, place->schema, place->field->name,
			 "was given as something else before");
}

static int add_to_strs(const struct place *place, const char *text, struct schema_fault *fault)
{
	json_t *array = member(place->object, place->field->name, json_array);
	json_t *json;

	if (array && !json_is_array(array))
		return refuse_mixture(place, fault);
	json = json_string(text);
	if (!json)
		return json_fail(fault, SCHEMA_E_VALUE, place->schema, place->field->name,
				 "is not UTF-8 text");
	return no_memory(json_array_append_new(array, json));
}

/* `labels.a.b=c`, or `labels=a.b=c`. */
static int add_to_map(const struct place *place, const char *text, struct schema_fault *fault)
{
	json_t *object = member(place->object, place->field->name, json_object);
	const char *value = place->rest ? text : strchr(text, '=');
	char *key;
	int r;

	if (object && !json_is_object(object))
		return refuse_mixture(place, fault);
	if (!value)
		return json_fail(fault, SCHEMA_E_VALUE, place->schema, place->field->name,
				 "is a map: <field>.<key>=value");
	key = place->rest ? strdup(place->rest) : strndup(text, (size_t)(value++ - text));
	if (!key)
		return -ENOMEM;
	if (!schema_is_text(key, strlen(key)) || !schema_is_text(value, strlen(value)))
		r = json_fail(fault, SCHEMA_E_VALUE, place->schema, place->field->name,
			      "is not UTF-8 text");
	else if (json_object_get(object, key))
		r = json_fail(fault, SCHEMA_E_DUPLICATE, place->schema, place->field->name,
			      "has the key %.40s twice", key);
	else
		r = no_memory(json_object_set_new(object, key, json_string(value)));
	free(key);
	return r;
}

static int add_value(const struct place *place, const char *text, struct schema_fault *fault)
{
	switch (place->field->kind) {
	case SCHEMA_STRS:
		return add_to_strs(place, text, fault);
	case SCHEMA_MAP:
		return add_to_map(place, text, fault);
	case SCHEMA_U64:
	case SCHEMA_I64:
		return add_number(place, text, fault);
	case SCHEMA_BOOL:
		return add_bool(place, text, fault);
	case SCHEMA_ITEM:
	case SCHEMA_LIST:
		return json_fail(fault, SCHEMA_E_TYPE, place->schema, place->field->name,
				 "is a message: <field>.<field>=value, or <field>:=JSON");
	case SCHEMA_STR:
	case SCHEMA_BYTES:
	case SCHEMA_RAW:
	case SCHEMA_ENUM:
		break;
	}
	return add_text(place, text, fault);
}

static int add_json(const struct place *place, const char *text, struct schema_fault *fault)
{
	struct schema_fault problem = {};
	json_t *json = json_parse(text, strlen(text), JSON_MAX, &problem);

	if (!json)
		return json_fail(fault, SCHEMA_E_VALUE, place->schema, place->field->name,
				 "is not JSON: %.90s", problem.text);
	return no_memory(json_object_set_new(place->object, place->field->name, json));
}

static int add_word(const struct schema_message *schema, json_t *object, const char *word,
		    struct schema_fault *fault)
{
	const char *equals = strchr(word, '=');
	bool is_json = equals && equals > word && equals[-1] == ':';
	struct place place;
	bool grows;
	char *key;
	int r;

	if (!equals)
		return json_fail(fault, SCHEMA_E_VALUE, schema, word,
				 "is not followed by =value or :=JSON");
	key = strndup(word, (size_t)(equals - word) - is_json);
	if (!key)
		return -ENOMEM;
	r = find_place(schema, object, key, &place, fault);
	grows = !r && !is_json &&
		(place.field->kind == SCHEMA_STRS || place.field->kind == SCHEMA_MAP);
	if (!r && place.rest && (is_json || place.field->kind != SCHEMA_MAP))
		r = json_fail(fault, SCHEMA_E_VALUE, place.schema, key,
			      "leads into a field without fields");
	else if (!r && !grows && json_object_get(place.object, place.field->name))
		r = json_fail(fault, SCHEMA_E_DUPLICATE, place.schema, place.field->name,
			      "is given twice");
	else if (!r)
		r = is_json ? add_json(&place, equals + 1, fault)
			    : add_value(&place, equals + 1, fault);
	free(key);
	return r;
}

int json_parse_words(const struct schema_message *schema, char *const *words, size_t n_words,
		     void *ret_message, struct schema_fault *fault)
{
	json_auto_t *object = json_object();
	int r = object ? 0 : -ENOMEM;

	if (fault)
		fault->text[0] = '\0';
	for (size_t i = 0; !r && i < n_words; i++)
		r = add_word(schema, object, words[i], fault);
	return r ?: json_to_message(schema, object, ret_message, fault);
}
