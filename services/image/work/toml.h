#pragma once
/*
 * The part of TOML that containerd's hosts.toml is written in, strictly: tables,
 * dotted and quoted keys, strings on one line, whole numbers, booleans, lists.
 * Dates, floats, inline tables, lists of tables and strings of several lines are
 * refused by name. Pure.
 */

#include <stddef.h>

#include "broker/lib/error.h"
#include "schemas/json.h"

#define TOML_SIZE_MAX  262144
#define TOML_DEPTH_MAX 8   /* keys in keys, lists in lists */
#define TOML_KEYS_MAX  4096

enum {
	_TOML_E_SUCCESS,
	TOML_E_INVALID, /* @why says in which line */
};

/* An object, its keys in the order of the text; the caller's. */
int toml_parse(const char *text, size_t size, json_t **ret_json, struct why *why);
