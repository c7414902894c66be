/* Names of images, chain ids: see reference.h. */

/* SHA256() of OpenSSL 3 fetches its algorithm, which keeps 3 MB of libcrypto in the service; these do not. */
#define OPENSSL_API_COMPAT 0x10100000L
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/error.h"
#include "broker/lib/file.h"
#include "services/image/reference.h"

#define CHUNK 262144 /* of a file, read at a time */

const char *reference_tag(const char *name)
{
	const char *last = strrchr(name, '/'), *colon;

	if (strchr(name, '@'))
		return NULL;
	colon = strrchr(last ?: name, ':');
	return colon ? colon + 1 : NULL;
}

/* Does the part before the first slash name a registry? */
static bool has_host(const char *name)
{
	size_t size = strcspn(name, "/");

	if (!name[size])
		return false;
	if (memchr(name, '.', size) || memchr(name, ':', size))
		return true;
	return size == 9 && !strncmp(name, "localhost", 9);
}

char *reference_normalize(const char *name)
{
	const char *prefix = has_host(name)      ? ""
			     : strchr(name, '/') ? "docker.io/"
						 : "docker.io/library/";
	const char *suffix = strchr(name, '@') || reference_tag(name) ? "" : ":latest";

	return text_format("%s%s%s", prefix, name, suffix);
}

char *reference_candidate(const char *name, unsigned index)
{
	errno = 0;
	if (index == 0)
		return text_format("%s", name);
	if (index == 1)
		return text_format("%s%s", name,
				   strchr(name, '@') || reference_tag(name) ? "" : ":latest");
	if (index == 2)
		return reference_normalize(name);
	return NULL;
}

static bool is_prefix(const char *name, const char *base)
{
	size_t size = strlen(base);

	return !strncmp(name, base, size) && (!name[size] || strchr("/:@", name[size]));
}

int reference_import_name(const char *name, const char *base, bool only_base, char **ret_name)
{
	char *result = NULL;

	*ret_name = NULL;
	if (!name || !name[0]) {
		if (!only_base)
			return 0;
		result = text_format("%s%s", base, reference_tag(base) ? "" : ":latest");
	} else if (strpbrk(name, "/:@")) {
		if (only_base && !is_prefix(name, base))
			return 0;
		result = text_format("%s", name);
	} else {
		result = text_format("%s:%s", base, name);
	}
	if (!result)
		return error_origin(-ENOMEM);
	*ret_name = result;
	return 0;
}

static void end_digest(SHA256_CTX *context, char ret_digest[DIGEST_SIZE])
{
	unsigned char hash[SHA256_DIGEST_LENGTH];

	SHA256_Final(hash, context);
	memcpy(ret_digest, "sha256:", 7);
	for (size_t i = 0; i < sizeof(hash); i++)
		sprintf(ret_digest + 7 + 2 * i, "%02x", hash[i]);
}

void digest_of(const void *data, size_t size, char ret_digest[DIGEST_SIZE])
{
	SHA256_CTX context;

	SHA256_Init(&context);
	SHA256_Update(&context, data, size);
	end_digest(&context, ret_digest);
}

int digest_of_file(int fd, char ret_digest[DIGEST_SIZE], uint64_t *ret_size)
{
	_cleanup_(cleanup_free) unsigned char *chunk = malloc(CHUNK);
	SHA256_CTX context;
	uint64_t size = 0;
	ssize_t n;

	if (!chunk)
		return error_origin(-ENOMEM);
	SHA256_Init(&context);
	while ((n = read(fd, chunk, CHUNK)) > 0) {
		SHA256_Update(&context, chunk, (size_t)n);
		size += (uint64_t)n;
	}
	if (n < 0)
		return error_origin(-errno);
	end_digest(&context, ret_digest);
	*ret_size = size;
	return 0;
}

void chain_id(const char *parent, const char *diff_id, char ret_chain[DIGEST_SIZE])
{
	char both[2 * DIGEST_SIZE];

	if (!parent || !parent[0])
		snprintf(ret_chain, DIGEST_SIZE, "%s", diff_id);
	else
		digest_of(both, (size_t)snprintf(both, sizeof(both), "%s %s", parent, diff_id),
			  ret_chain);
}
