#pragma once
/*
 * The keys that detach a client from a terminal, recognised in what is typed. Pure:
 * bytes go in, bytes for the container come out. Keys that may yet become the
 * sequence are held back until the next byte decides.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DETACH_KEYS_MAX     16
#define DETACH_KEYS_DEFAULT "ctrl-p,ctrl-q"

struct detach_keys {
	uint8_t keys[DETACH_KEYS_MAX];
	size_t n_keys;  /* 0: nothing detaches */
	size_t matched; /* of keys, held back */
};

/* "ctrl-p,ctrl-q": single characters, or ctrl- with a letter or one of @[\]^_, separated by commas; "" for none.
 * -EINVAL, -E2BIG. */
int detach_keys_parse(const char *text, struct detach_keys *ret_keys);
/* @ret_out has room for @size + DETACH_KEYS_MAX; returns how many bytes it got. With *@ret_detached the sequence is
 * complete, and nothing of it or behind it is in @ret_out. */
size_t detach_keys_feed(struct detach_keys *keys, const uint8_t *data, size_t size, uint8_t *ret_out,
			bool *ret_detached);
