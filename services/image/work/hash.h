#pragma once
/* SHA-256 of what passes by. */

#include <stddef.h>

#include "services/image/reference.h"

struct hash;

int hash_new(struct hash **ret_hash);
struct hash *hash_free(struct hash *hash);
void hash_freep(struct hash **hash);
void hash_add(struct hash *hash, const void *data, size_t size);
/* "sha256:…" of all that was added; the hash starts again. */
void hash_finish(struct hash *hash, char ret_digest[DIGEST_SIZE]);
