/*
 * The codec on a pipe, so that other implementations can judge it. A line in, a line out:
 *
 *	scan HEX		ok | refused
 *	json HEX		what it holds, as JSON | refused
 *	msgpack JSON		HEX
 *	sample NUMBER SEED	name and HEX of a random message; an empty line behind the last number
 *	unpack NAME HEX		the message as JSON | refused: why
 *	request NAME HEX	HEX of a request envelope with this body
 *	read HEX		method and HEX of the body of a request envelope | refused: why
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/lib/cleanup.h"
#include "schemas/envelope.h"
#include "schemas/json.h"
#include "tests/lib/random_message.h"

static void print_hex(const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		printf("%02x", ((const uint8_t *)data)[i]);
	printf("\n");
}

/* In place; the number of bytes. */
static size_t parse_hex(char *text)
{
	size_t size = strlen(text) / 2;

	for (size_t i = 0; i < size; i++) {
		char digits[3] = {text[2 * i], text[2 * i + 1], '\0'};

		text[i] = (char)strtoul(digits, NULL, 16);
	}
	return size;
}

static void print_json(json_t *json)
{
	_cleanup_(cleanup_free) char *text = json ? json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT)
						  : NULL;

	printf("%s\n", text ?: "refused");
	json_decref(json);
}

static void do_msgpack(const char *text)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	json_t *json = json_parse(text, strlen(text), SCHEMA_MESSAGE_MAX, &fault);

	if (json && !json_to_msgpack(json, &buffer))
		print_hex(buffer.data, buffer.size);
	else
		printf("refused: %s\n", fault.text);
	json_decref(json);
}

static const struct schema_message *find_message(const char *name)
{
	for (size_t i = 0; all_messages[i]; i++) {
		if (!strcmp(all_messages[i]()->name, name))
			return all_messages[i]();
	}
	return NULL;
}

static void do_sample(char *arguments)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	size_t number = strtoul(arguments, &arguments, 10), n = 0;
	uint64_t seed = strtoull(arguments, NULL, 10);
	const struct schema_message *schema;
	void *message;

	while (all_messages[n])
		n++;
	if (number >= n) {
		printf("\n");
		return;
	}
	schema = all_messages[number]();
	message = new_message(schema);
	random_message(schema, message, &seed);
	if (schema_pack(schema, message, &buffer, NULL))
		abort();
	printf("%s ", schema->name);
	print_hex(buffer.data, buffer.size);
	free_message(schema, message);
}

static void do_unpack(char *arguments)
{
	char *name = strsep(&arguments, " ");
	const struct schema_message *schema = find_message(name);
	struct schema_fault fault = {};
	void *message;
	size_t size;

	if (!schema || !arguments) {
		printf("refused: no message %s\n", name);
		return;
	}
	message = new_message(schema);
	size = parse_hex(arguments);
	if (schema_unpack(schema, arguments, size, message, &fault))
		printf("refused: %s\n", fault.text);
	else
		print_json(json_from_message(schema, message));
	free_message(schema, message);
}

static void do_request(char *arguments)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	char *method = strsep(&arguments, " ");
	struct envelope_request request = {.namespace = "default",
					   .deadline_ms = 1u << 31,
					   .has_trace = true,
					   .has_peer = true,
					   .uid = 1000,
					   .pid = 70000};

	snprintf(request.method, sizeof(request.method), "%s", method);
	memcpy(request.id, "0123456789abcdef", sizeof(request.id));
	request.body.size = parse_hex(arguments);
	request.body.data = (const uint8_t *)arguments;
	if (envelope_write_request(&request, &buffer))
		abort();
	print_hex(buffer.data, buffer.size);
}

static void do_read(char *arguments)
{
	struct envelope_request request;
	struct schema_fault fault = {};
	size_t size = parse_hex(arguments);

	if (envelope_read_request(arguments, size, &request, &fault)) {
		printf("refused: %s\n", fault.text);
		return;
	}
	printf("%s ", request.method);
	print_hex(request.body.data, request.body.size);
}

static void do_line(char *line)
{
	char *verb = strsep(&line, " "), none[] = "", *rest = line ?: none;
	size_t size;

	if (!strcmp(verb, "scan")) {
		size = parse_hex(rest);
		printf("%s\n", schema_scan(rest, size, SCHEMA_NODES_MAX) ? "refused" : "ok");
	} else if (!strcmp(verb, "json")) {
		size = parse_hex(rest);
		print_json(json_from_msgpack(rest, size));
	} else if (!strcmp(verb, "msgpack")) {
		do_msgpack(rest);
	} else if (!strcmp(verb, "sample")) {
		do_sample(rest);
	} else if (!strcmp(verb, "unpack")) {
		do_unpack(rest);
	} else if (!strcmp(verb, "request")) {
		do_request(rest);
	} else if (!strcmp(verb, "read")) {
		do_read(rest);
	} else {
		printf("no verb %s\n", verb);
	}
}

int main(void)
{
	_cleanup_(cleanup_free) char *line = NULL;
	size_t capacity = 0;
	ssize_t n;

	while ((n = getline(&line, &capacity, stdin)) > 0) {
		line[n - 1] = '\0';
		do_line(line);
		fflush(stdout);
	}
	return 0;
}
