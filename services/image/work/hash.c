/* SHA-256: see hash.h. */

#include <assert.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/error.h"
#include "services/image/work/hash.h"

struct hash {
	EVP_MD_CTX *context;
};

static void start(struct hash *hash)
{
	int ok = EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL);

	assert(ok);
	(void)ok;
}

int hash_new(struct hash **ret_hash)
{
	struct hash *hash = calloc(1, sizeof(*hash));

	if (!hash)
		return error_origin(-ENOMEM);
	hash->context = EVP_MD_CTX_new();
	if (!hash->context || !EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL)) {
		hash_free(hash);
		return error_origin(-ENOMEM);
	}
	*ret_hash = hash;
	return 0;
}

struct hash *hash_free(struct hash *hash)
{
	if (!hash)
		return NULL;
	EVP_MD_CTX_free(hash->context);
	free(hash);
	return NULL;
}

void hash_freep(struct hash **hash)
{
	*hash = hash_free(*hash);
}

void hash_add(struct hash *hash, const void *data, size_t size)
{
	int ok = EVP_DigestUpdate(hash->context, data, size);

	assert(ok);
	(void)ok;
}

void hash_finish(struct hash *hash, char ret_digest[DIGEST_SIZE])
{
	unsigned char value[EVP_MAX_MD_SIZE];
	unsigned size = 0;
	int ok = EVP_DigestFinal_ex(hash->context, value, &size);

	assert(ok && size == 32);
	(void)ok;
	memcpy(ret_digest, "sha256:", 7);
	for (unsigned i = 0; i < 32; i++)
		sprintf(ret_digest + 7 + 2 * i, "%02x", value[i]);
	start(hash);
}
