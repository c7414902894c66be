/*
 * The manual, from the same .def files as the code: docs/protocol.md, and the
 * text that bus.describe gives. Markdown. Each message stands once, after the
 * first method or event that uses it; other uses are links to it.
 */

#include <string.h>

#include "schemas/envelope.h"
#include "schemas/manual_text.h"
#include "schemas/messages.h"

#define SEEN_MAX 512

struct service_text {
	const char *name;
	const char *doc;
};

static const struct service_text services[] = {
#define SERVICE_DOC(service_, doc_) {.name = #service_, .doc = doc_},
#include "schemas/all.def"
#include "schemas/end.h"
};

/* What was printed, and what is still to be. */
struct manual {
	struct schema_buffer *buffer;
	const void *seen[SEEN_MAX];
	size_t n_seen;
	int r; /* the first failure; printing goes on into nothing */
};

#define print(manual, ...)                                                                         \
	do {                                                                                       \
		if (!(manual)->r)                                                                  \
			(manual)->r = schema_buffer_addf((manual)->buffer, __VA_ARGS__);           \
	} while (0)

/* A text of the schemas: what Markdown would take as a tag or a column is escaped. */
static void print_text(struct manual *manual, const char *text)
{
	size_t size;

	for (; *text; text += size) {
		size = strcspn(text + 1, "<|") + 1;
		print(manual, "%s%.*s", *text == '<' || *text == '|' ? "\\" : "", (int)size, text);
	}
}

/* True the first time. */
static bool is_new(struct manual *manual, const void *thing)
{
	for (size_t i = 0; i < manual->n_seen; i++) {
		if (manual->seen[i] == thing)
			return false;
	}
	if (manual->n_seen < SEEN_MAX)
		manual->seen[manual->n_seen++] = thing;
	return true;
}

/* ---- fields ------------------------------------------------------------------ */

static void print_type(struct manual *manual, const struct schema_field *field)
{
	static const char *const names[] = {
		[SCHEMA_STR] = "str",   [SCHEMA_STRS] = "array of str",
		[SCHEMA_BYTES] = "bin", [SCHEMA_U64] = "uint",
		[SCHEMA_I64] = "int",   [SCHEMA_BOOL] = "bool",
		[SCHEMA_RAW] = "any",   [SCHEMA_MAP] = "map of str to str",
	};

	if (field->kind == SCHEMA_ENUM)
		print(manual, "str: [%s](#%s)", field->values->name, field->values->name);
	else if (field->kind == SCHEMA_ITEM)
		print(manual, "[%s](#%s)", field->of()->name, field->of()->name);
	else if (field->kind == SCHEMA_LIST)
		print(manual, "array of [%s](#%s)", field->of()->name, field->of()->name);
	else
		print(manual, "%s", names[field->kind]);
}

static void print_limit(struct manual *manual, const struct schema_field *field)
{
	unsigned long long max = field->max;

	switch (field->kind) {
	case SCHEMA_STR:
	case SCHEMA_BYTES:
	case SCHEMA_RAW:
		print(manual, "%llu bytes", max);
		break;
	case SCHEMA_STRS:
	case SCHEMA_MAP:
	case SCHEMA_LIST:
		print(manual, "%llu items", max);
		break;
	case SCHEMA_U64:
	case SCHEMA_I64:
		if (max == UINT64_MAX)
			print(manual, "64 bits");
		else if (max == INT64_MAX)
			print(manual, "63 bits");
		else
			print(manual, "%llu", max);
		break;
	case SCHEMA_BOOL:
	case SCHEMA_ENUM:
	case SCHEMA_ITEM:
		break;
	}
}

static void print_field(struct manual *manual, const struct schema_field *field)
{
	print(manual, "| `%s` | ", field->name);
	print_type(manual, field);
	print(manual, " | ");
	print_limit(manual, field);
	print(manual, " | %s | ", field->required ? "yes" : field->is_secret ? "secret" : "");
	print_text(manual, field->doc);
	print(manual, " |\n");
}

static void print_enum(struct manual *manual, const struct schema_enum *values)
{
	if (!is_new(manual, values))
		return;
	print(manual, "\n#### %s\n\n%s\n\n| value | meaning |\n|---|---|\n", values->name,
	      values->doc);
	for (size_t i = 0; i < values->n_values; i++) {
		print(manual, "| `%s` | ", values->values[i].text);
		print_text(manual, values->values[i].doc);
		print(manual, " |\n");
	}
}

/* A message, then the messages and enums in it. */
static void print_message(struct manual *manual, const struct schema_message *schema)
{
	if (!is_new(manual, schema))
		return;
	print(manual, "\n#### %s\n\n", schema->name);
	print_text(manual, schema->doc);
	print(manual, "\n");
	if (schema->n_fields)
		print(manual, "\n| field | type | at most | required | |\n|---|---|---|---|---|\n");
	for (size_t i = 0; i < schema->n_fields; i++)
		print_field(manual, &schema->fields[i]);
	for (size_t i = 0; i < schema->n_fields; i++) {
		const struct schema_field *field = &schema->fields[i];

		if (field->kind == SCHEMA_ENUM)
			print_enum(manual, field->values);
		else if (field->of)
			print_message(manual, field->of());
	}
}

/* ---- services ----------------------------------------------------------------- */

static void print_link(struct manual *manual, const char *what, const struct schema_message *schema)
{
	print(manual, "%s [%s](#%s)", what, schema->name, schema->name);
}

static void print_method(struct manual *manual, const struct schema_method *method)
{
	print(manual, "\n### %s.%s\n\n", method->service, method->name);
	print_text(manual, method->doc);
	print(manual, ".\n\n");
	print_link(manual, "Request", method->request());
	print_link(manual, ", reply", method->reply());
	print(manual, ".%s\n",
	      method->mutates ? " The same request id again gets the same reply and does "
				"nothing twice."
			      : "");
	print_message(manual, method->request());
	print_message(manual, method->reply());
}

static void print_event(struct manual *manual, const struct schema_event *event)
{
	print(manual, "\n### Event %s\n\n%s.\n\nMessage [%s](#%s).\n", event->topic, event->doc,
	      event->message()->name, event->message()->name);
	print_message(manual, event->message());
}

static void print_summary(struct manual *manual, const char *service)
{
	bool has_methods = false;

	for (size_t i = 0; i < schema_n_methods; i++) {
		const struct schema_method *method = &schema_methods[i];

		if (strcmp(method->service, service) != 0)
			continue;
		if (!has_methods)
			print(manual, "\n| method | |\n|---|---|\n");
		has_methods = true;
		print(manual, "| `%s.%s` | %s |\n", service, method->name, method->doc);
	}
}

static void print_service(struct manual *manual, const struct service_text *service)
{
	print(manual, "\n## Service %s\n\n%s\n", service->name, service->doc);
	print_summary(manual, service->name);
	for (size_t i = 0; i < schema_n_methods; i++) {
		if (!strcmp(schema_methods[i].service, service->name))
			print_method(manual, &schema_methods[i]);
	}
	for (size_t i = 0; i < schema_n_events; i++) {
		if (!strcmp(schema_events[i].service, service->name))
			print_event(manual, &schema_events[i]);
	}
}

int schema_print_service(struct schema_buffer *buffer, const char *service)
{
	struct manual manual = {.buffer = buffer};

	for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++) {
		if (!strcmp(services[i].name, service))
			print_service(&manual, &services[i]);
	}
	return manual.r;
}

static void print_contents(struct manual *manual)
{
	print(manual, "\n## Contents\n\n");
	for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++)
		print(manual, "- [Service %s](#service-%s): %s\n", services[i].name,
		      services[i].name, services[i].doc);
	print(manual, "\n| event | |\n|---|---|\n");
	for (size_t i = 0; i < schema_n_events; i++)
		print(manual, "| `%s` | %s |\n", schema_events[i].topic, schema_events[i].doc);
}

int schema_print_manual(struct schema_buffer *buffer)
{
	struct manual manual = {.buffer = buffer};

	print(&manual, "%s", manual_introduction);
	print(&manual, "%s", manual_limits);
	print_contents(&manual);
	print_enum(&manual, &schema_enum_bus_status);
	for (size_t i = 0; i < sizeof(services) / sizeof(services[0]); i++)
		print_service(&manual, &services[i]);
	return manual.r;
}
