#pragma once
/*
 * Messages as tables. A message is a C struct plus a constant table of its
 * fields, both made from one line for each field in a .def file. Everything
 * else (pack, unpack, clear, copy, JSON, manual) walks the table.
 *
 * On the wire a message is a msgpack map, field name to value; unknown fields
 * are skipped, so old and new processes talk. Strings are UTF-8 without NUL.
 * Hostile bytes are measured by schema_scan() before msgpack-c sees them: no
 * count, depth or length in them can make anything allocate more than they
 * weigh. Pure: no I/O, no logging.
 *
 *	kind	C member				on the wire
 *	STR	char * (NULL: absent)			str, at most max bytes
 *	STRS	struct schema_strs			array of str, at most max items
 *	BYTES	struct schema_bytes			bin, at most max bytes
 *	U64	uint64_t				positive integer, at most max
 *	I64	int64_t					integer, magnitude at most max
 *	BOOL	bool					bool
 *	MAP	struct schema_map			map of str to str, at most max pairs
 *	RAW	struct schema_bytes			any one value, at most max bytes packed
 *	ENUM	enum of					str, one of the enum's texts
 *	ITEM	struct of * (NULL: absent)		map
 *	LIST	struct { struct of *items; size_t count; }	array of maps, at most max items
 *
 * An absent optional field arrives as NULL, zero, false or empty; those values
 * are not sent for optional fields.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SCHEMA_DEPTH_MAX	16		/* containers in containers */
#define SCHEMA_NODES_MAX	65536		/* values in one message */
#define SCHEMA_MESSAGE_MAX	(1u << 20)	/* bytes of a packed message */
#define SCHEMA_STRS_ITEM_MAX	131072		/* bytes of one item of a STRS (the kernel's MAX_ARG_STRLEN) */
#define SCHEMA_MAP_PAIR_MAX	4096		/* bytes of key and value of a MAP pair together */

struct schema_strs {
	char **items;
	size_t count;
};

struct schema_bytes {
	uint8_t *data;
	size_t size;
};

struct schema_pair {
	char *key;
	char *value;
};

struct schema_map {
	struct schema_pair *items;
	size_t count;
};

enum schema_kind {
	SCHEMA_STR,
	SCHEMA_STRS,
	SCHEMA_BYTES,
	SCHEMA_U64,
	SCHEMA_I64,
	SCHEMA_BOOL,
	SCHEMA_MAP,
	SCHEMA_RAW,
	SCHEMA_ENUM,
	SCHEMA_ITEM,
	SCHEMA_LIST,
};

struct schema_enum_value {
	const char *text;
	const char *doc;
};

struct schema_enum {
	const char *name;
	const char *doc;
	const struct schema_enum_value *values; /* indexed by the C value */
	size_t n_values;
};

struct schema_message;

struct schema_field {
	const char *name;
	enum schema_kind kind;
	bool required;
	bool is_secret; /* STR: a credential; optional, and kept out of stores, logs and hashes */
	uint64_t max;
	size_t offset;
	const struct schema_message *(*of)(void); /* ITEM, LIST */
	const struct schema_enum *values;	  /* ENUM */
	const char *doc;
};

struct schema_message {
	const char *name;
	const char *doc;
	const struct schema_field *fields;
	size_t n_fields; /* at most 64 */
	size_t size;	 /* of the C struct */
};

struct schema_method {
	const char *service;
	const char *name;
	const struct schema_message *(*request)(void);
	const struct schema_message *(*reply)(void);
	bool mutates; /* its reply is stored under the request id in the transaction of its effect */
	const char *doc;
};

struct schema_event {
	const char *service;
	const char *name;
	const char *topic;
	const struct schema_message *(*message)(void);
	const char *doc;
};

enum {
	_SCHEMA_E_SUCCESS,
	SCHEMA_E_MALFORMED, /* not one well-formed msgpack value, or over a global limit */
	SCHEMA_E_TYPE,	    /* a field has another type */
	SCHEMA_E_LIMIT,	    /* a field is over its limit */
	SCHEMA_E_MISSING,   /* a required field is absent */
	SCHEMA_E_DUPLICATE, /* a field stands twice */
	SCHEMA_E_VALUE,	    /* an enum's text is unknown, a string is not UTF-8 or holds NUL */
};

/* Says what is wrong with which field, e.g. "task_start_request.container_id is longer than 76 bytes". */
#define SCHEMA_FAULT_SIZE 256
struct schema_fault {
	char text[SCHEMA_FAULT_SIZE];
};

/* A growing byte buffer; zero-initialised is empty. */
struct schema_buffer {
	uint8_t *data;
	size_t size;
	size_t capacity;
};
void schema_buffer_clear(struct schema_buffer *buffer);
/* Appends; -ENOMEM. */
int schema_buffer_add(struct schema_buffer *buffer, const void *data, size_t size);
/* Appends text without its NUL. */
int schema_buffer_addf(struct schema_buffer *buffer, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Walks @data once, without allocating: exactly one value, depth, number of
 * values and every length within what is there. 0 or SCHEMA_E_MALFORMED.
 */
int schema_scan(const void *data, size_t size, size_t max_nodes);

struct schema_span {
	const uint8_t *data;
	size_t size;
};
/* As schema_scan() for an array; gives the bytes of its first @max elements and how many it has. */
int schema_scan_array(const void *data, size_t size, size_t max_nodes, struct schema_span *elements,
		      size_t max, size_t *ret_count);
/* As schema_scan_array() for a map: @elements are keys and values in turn, @ret_count is in pairs. */
int schema_scan_map(const void *data, size_t size, size_t max_nodes, struct schema_span *elements,
		    size_t max, size_t *ret_count);
/* UTF-8 as RFC 3629 has it, without NUL. */
bool schema_is_text(const char *text, size_t size);

/* Frees all that @message owns and zeroes it; NULL-safe, copes with half-built ones. */
void schema_clear(const struct schema_message *schema, void *message);
/* Appends to @buffer. -ENOMEM, or SCHEMA_E_{LIMIT,MISSING,VALUE} with @fault (may be NULL). */
int schema_pack(const struct schema_message *schema, const void *message, struct schema_buffer *buffer,
		struct schema_fault *fault);
/* @ret_message is set only on success and owns copies of everything. -ENOMEM or SCHEMA_E_*. */
int schema_unpack(const struct schema_message *schema, const void *data, size_t size, void *ret_message,
		  struct schema_fault *fault);
/* Does it, or what it contains, have a SECRET field? */
bool schema_has_secrets(const struct schema_message *schema);
/* Wipes and drops what its SECRET fields hold, within ITEM and LIST fields too. */
void schema_clear_secrets(const struct schema_message *schema, void *message);
/* A deep copy. @ret_message is set only on success. */
int schema_copy(const struct schema_message *schema, const void *message, void *ret_message);

const struct schema_field *schema_find_field(const struct schema_message *schema, const char *name);
const char *schema_enum_text(const struct schema_enum *values, unsigned value); /* "?" if unknown */
int schema_enum_value(const struct schema_enum *values, const char *text);	/* or -1 */

/* All methods and events, in the order of the .def files. */
extern const struct schema_method schema_methods[];
extern const size_t schema_n_methods;
extern const struct schema_event schema_events[];
extern const size_t schema_n_events;
const struct schema_method *schema_find_method(const char *service, const char *name);
const struct schema_event *schema_find_event(const char *topic);

/* The manual (docs/protocol.md), and the part of one service: its schema as text in bus.describe. */
int schema_print_manual(struct schema_buffer *buffer);
int schema_print_service(struct schema_buffer *buffer, const char *service);

/* ---- helpers for building and reading messages ---- */
/* Replaces *@member by a copy of @text (NULL: absent). */
int schema_set(char **member, const char *text);
int schema_strs_add(struct schema_strs *strs, const char *text);
void schema_strs_clear(struct schema_strs *strs);
int schema_strs_copy(const struct schema_strs *from, struct schema_strs *ret_strs);
/* Sets or replaces. */
int schema_map_set(struct schema_map *map, const char *key, const char *value);
const char *schema_map_get(const struct schema_map *map, const char *key);
void schema_map_remove(struct schema_map *map, const char *key);
void schema_map_clear(struct schema_map *map);
int schema_map_copy(const struct schema_map *from, struct schema_map *ret_map);
int schema_bytes_set(struct schema_bytes *bytes, const void *data, size_t size);
void schema_bytes_clear(struct schema_bytes *bytes);
/* One more zeroed item at the end of a LIST member; NULL when memory is out. */
#define schema_list_add(list)                                                                      \
	((__typeof__((list)->items))schema_list_grow((void **)&(list)->items, &(list)->count,      \
						     sizeof(*(list)->items)))
void *schema_list_grow(void **items, size_t *count, size_t size);
