/*
 * Stored replies: a request that changes something leaves its answer under its id
 * in the transaction of its effect, so that the same request again does nothing
 * twice. Kept until 10 minutes after its deadline; an index by time lets a few
 * expired ones go with each new one.
 */

#include <string.h>

#include "broker/lib/log.h"
#include "services/lib/service_private.h"

typedef unsigned __int128 hash_t;

static hash_t hash_bytes(hash_t hash, const void *data, size_t size)
{
	const hash_t prime = (hash_t)1 << 88 | 0x13b;
	const uint8_t *bytes = data;

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ bytes[i]) * prime;
	return hash;
}

/* A body with secrets is packed again without them; one that cannot be read has none of either. */
static int pack_without_secrets(const struct call *call, const struct schema_message *schema,
				struct schema_buffer *ret_packed)
{
	_cleanup_(cleanup_free) void *request = calloc(1, schema->size);
	int r;

	if (!request)
		return error_origin(-ENOMEM);
	r = schema_unpack(schema, call->body.data, call->body.size, request, NULL);
	if (r)
		return r < 0 ? error_trace(r) : 0;
	schema_clear_secrets(schema, request);
	r = schema_pack(schema, request, ret_packed, NULL);
	schema_clear(schema, request);
	return r < 0 ? error_trace(r) : 0;
}

/* The body as it may be remembered. */
static int hash_body(const struct call *call, hash_t *hash)
{
	const struct schema_message *schema = call->method ? call->method->request() : NULL;
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	int r;

	if (!schema || !schema_has_secrets(schema)) {
		*hash = hash_bytes(*hash, call->body.data, call->body.size);
		return 0;
	}
	r = pack_without_secrets(call, schema, &packed);
	if (r)
		return r;
	*hash = hash_bytes(*hash, packed.data, packed.size);
	return 0;
}

/* FNV-1a of namespace, method and body: guards against mistakes, not against an attacker, who has
 * only its own requests to confuse. */
int reply_hash(const struct call *call, uint8_t hash[16])
{
	hash_t value = (hash_t)0x6c62272e07bb0142u << 64 | 0x62b821756295c58du;
	int r;

	value = hash_bytes(value, call->namespace, strlen(call->namespace) + 1);
	value = hash_bytes(value, call->method_name, strlen(call->method_name) + 1);
	r = hash_body(call, &value);
	if (r)
		return r;
	for (int i = 0; i < 16; i++)
		hash[i] = (uint8_t)(value >> (8 * i));
	return 0;
}

static void expiry_key(struct store_key *key, uint64_t expires_ms, const uint8_t id[16])
{
	uint8_t data[24];

	for (int i = 0; i < 8; i++)
		data[i] = (uint8_t)(expires_ms >> (56 - 8 * i));
	memcpy(data + 8, id, 16);
	store_key_bytes(key, data, sizeof(data));
}

static bool is_expired(const struct service *service, const struct reply_record *record)
{
	if (record->running)
		return false;
	return record->boot_id.size != 16 ||
	       memcmp(record->boot_id.data, service->store->boot_id, 16) != 0 ||
	       record->expires_ms <= time_boot_ms();
}

int reply_find(struct service *service, const struct call *call, struct reply_record *ret_record)
{
	_cleanup_(reply_record_clear) struct reply_record record = {};
	struct store_key key;
	int r;

	store_key_bytes(&key, call->id, sizeof(call->id));
	r = store_get(service->store, STORE_REPLIES, &key, schema_reply_record(), &record);
	if (r == STORE_E_NOT_FOUND || (!r && is_expired(service, &record)))
		return REPLY_E_NOT_FOUND;
	if (r == STORE_E_DAMAGED)
		return REPLY_E_DAMAGED;
	if (r)
		return error_trace(r);
	if (strcmp(record.method, call->method_name) != 0 || record.body_hash.size != 16 ||
	    memcmp(record.body_hash.data, call->hash, 16) != 0)
		return REPLY_E_OTHER;
	*ret_record = record;
	record = (struct reply_record){};
	return 0;
}

static uint64_t expiry_of(const struct call *call)
{
	uint64_t now = time_boot_ms();

	return (call->deadline_ms > now ? call->deadline_ms : now) + REPLY_KEPT_MS;
}

int reply_put(struct service *service, const struct call *call, bool is_running)
{
	struct reply_record record = {
		.method = call->method_name,
		.body_hash = {.data = (uint8_t *)call->hash, .size = sizeof(call->hash)},
		.running = is_running,
		.expires_ms = expiry_of(call),
		.boot_id = {.data = service->store->boot_id, .size = 16},
	};
	struct empty nothing = {};
	struct store_key key;
	int r;

	if (!is_running) {
		record.status = call->status;
		record.text = *call->text ? (char *)call->text : NULL;
		record.body = (struct schema_bytes){call->reply.data, call->reply.size};
	}
	store_key_bytes(&key, call->id, sizeof(call->id));
	r = store_put(service->store, STORE_REPLIES, &key, schema_reply_record(), &record);
	if (r || is_running)
		return error_trace(r);
	expiry_key(&key, record.expires_ms, call->id);
	return store_put(service->store, STORE_REPLY_EXPIRY, &key, schema_empty(), &nothing);
}

int reply_delete(struct service *service, const uint8_t id[16])
{
	struct store_key key;
	int r;

	store_key_bytes(&key, id, 16);
	r = store_delete(service->store, STORE_REPLIES, &key);
	return r == STORE_E_NOT_FOUND ? 0 : error_trace(r);
}

/* ---- expiry ---- */

struct trim {
	struct service *service;
	uint64_t now;
	unsigned left;
};
#define TRIM_END 1000

static uint64_t time_of(const struct store_key *key)
{
	uint64_t time = 0;

	for (int i = 0; i < 8; i++)
		time = time << 8 | key->data[i];
	return time;
}

/* An id that was used again after its time has a row of its own, which stays. */
static int trim_one(void *userdata, const struct store_key *key, void *empty)
{
	_cleanup_(reply_record_clear) struct reply_record record = {};
	struct trim *trim = userdata;
	struct store *store = trim->service->store;
	struct store_key id;
	int r;

	(void)empty;
	if (!trim->left-- || key->size != 24 || time_of(key) > trim->now)
		return TRIM_END;
	store_key_bytes(&id, key->data + 8, 16);
	r = store_get(store, STORE_REPLIES, &id, schema_reply_record(), &record);
	if (!r && !record.running && record.expires_ms == time_of(key))
		r = store_delete(store, STORE_REPLIES, &id);
	if (r && r != STORE_E_NOT_FOUND && r != STORE_E_DAMAGED)
		return r;
	r = store_delete(store, STORE_REPLY_EXPIRY, key);
	return r == STORE_E_NOT_FOUND ? 0 : r;
}

int reply_trim(struct service *service, unsigned max)
{
	struct trim trim = {.service = service, .now = time_boot_ms(), .left = max};
	int r;

	r = store_walk(service->store, STORE_REPLY_EXPIRY, NULL, NULL, schema_empty(), trim_one,
		       &trim);
	return r == TRIM_END ? 0 : error_trace(r);
}

static int forget_index(void *userdata, const struct store_key *key, void *empty)
{
	struct service *service = userdata;

	(void)empty;
	return store_delete(service->store, STORE_REPLY_EXPIRY, key);
}

static int forget_reply(void *userdata, const struct store_key *key, void *record_)
{
	struct service *service = userdata;
	struct reply_record *record = record_;

	return record->running ? 0 : store_delete(service->store, STORE_REPLIES, key);
}

int reply_forget_other_boots(struct service *service)
{
	int r;

	r = store_walk(service->store, STORE_REPLY_EXPIRY, NULL, NULL, schema_empty(), forget_index,
		       service);
	if (!r)
		r = store_walk(service->store, STORE_REPLIES, NULL, NULL, schema_reply_record(),
			       forget_reply, service);
	return error_trace(r);
}
