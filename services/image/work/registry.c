/* Requests to a registry: see registry.h. */

#include <openssl/evp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "broker/lib/file.h"
#include "services/image/work/registry.h"

#define REDIRECTS_MAX     10
#define AUTHENTICATIONS   2 /* of one request: a token may have expired */
#define TOKEN_MAX         65536
#define TOKEN_REPLY_MAX   (1u << 20)
#define BACK_OFF_MS       250
#define BACK_OFF_MAX_MS   8000
#define RETRY_AFTER_MAX_S 30

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

/* ---- life ---- */

int registry_init(struct registry *registry, const char *name,
		  const struct registry_options *options, bool is_push, struct why *why)
{
	int r;

	*registry = (struct registry){.options = options, .is_push = is_push};
	pthread_mutex_init(&registry->lock, NULL);
	r = remote_parse(name, &registry->remote, why);
	if (!r)
		r = hosts_load(&registry->remote, options, &registry->hosts, why);
	return error_trace(r);
}

void registry_deinit(struct registry *registry)
{
	for (size_t i = 0; i < registry->n_tokens; i++) {
		free(registry->tokens[i].scope);
		free(registry->tokens[i].header);
	}
	remote_clear(&registry->remote);
	hosts_clear(&registry->hosts);
	pthread_mutex_destroy(&registry->lock);
}

/* ---- what errors say ---- */

/* NULL where @key is missing, no string or empty. */
static const char *get_text(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text && *text ? text : NULL;
}

/* What no registry wrote, but the server in front of it: one line of text, as "Client sent an HTTP request to an HTTPS server." */
static char *plain_line(const char *body, size_t size)
{
	const char *end = size ? memchr(body, '\n', size) : NULL;
	size_t line = end ? (size_t)(end - body) : size;

	if (line && body[line - 1] == '\r')
		line--;
	if (!line || strchr("<{[", *body) || (end && end + 1 != body + size))
		return NULL;
	return strndup(body, line);
}

void registry_error_text(const char *body, size_t size, char *text, size_t text_size)
{
	_cleanup_(cleanup_json) json_t *json = NULL;
	_cleanup_(cleanup_free) char *line = NULL;
	const char *found;
	json_t *first;

	text[0] = '\0';
	json = size ? json_parse(body, size, HTTP_BODY_MAX, NULL) : NULL;
	first = json_array_get(json_object_get(json, "errors"), 0);
	found = get_text(first, "message") ?: get_text(first, "code");
	if (!found)
		found = get_text(json, "details") ?: get_text(json, "error");
	if (!json)
		found = line = plain_line(body, size);
	if (found)
		snprintf(text, text_size, ": %s", work_show(found));
}

static const char *status_text(long status)
{
	switch (status) {
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 429:
		return "Too Many Requests";
	case 500:
		return "Internal Server Error";
	case 502:
		return "Bad Gateway";
	case 503:
		return "Service Unavailable";
	default:
		return "";
	}
}

static int class_of(long status)
{
	if (status == 401 || status == 403)
		return WORK_E_DENIED;
	if (status == 404)
		return WORK_E_MISSING;
	if (status == 429)
		return WORK_E_BUSY;
	return status >= 500 ? WORK_E_AWAY : WORK_E_REFUSED;
}

static bool has_credentials(const struct registry *registry)
{
	const struct registry_options *options = registry->options;

	return options && ((options->username && options->username[0]) ||
			   (options->refresh && options->refresh[0]));
}

int registry_explain(const struct registry *registry, size_t host, const char *what,
		     const struct http_reply *reply, struct why *why)
{
	const char *advice = "";
	char text[256];

	registry_error_text((const char *)reply->body.data, reply->body.size, text, sizeof(text));
	if (reply->status == 401)
		advice = has_credentials(registry) ? "; it does not take these credentials"
						   : "; it wants credentials: give --user";
	else if (reply->status == 400 && !strncmp(registry->hosts.items[host].url, "http:", 5))
		advice =
			"; it was asked without TLS: with --skip-verify or --tlscacert it is asked with";
	else if (reply->status == 429)
		advice = "; it wants fewer requests: try again later";
	return why_set(why, class_of(reply->status), "%s: %s: %ld %s%s%s",
		       registry->hosts.items[host].name, what, reply->status,
		       status_text(reply->status), text, advice);
}

int registry_fold(const struct registry *registry, size_t host, const char *what, int r,
		  struct why *why)
{
	const char *name = registry->hosts.items[host].name;

	switch (r) {
	case HTTP_E_NETWORK:
		return why_prefix(why, WORK_E_AWAY, "%s: %s", name, what);
	case HTTP_E_TLS:
		return why_prefix(why, WORK_E_REFUSED, "%s: %s", name, what);
	case HTTP_E_LIMIT:
	case HTTP_E_SINK:
		return why_prefix(why, WORK_E_INVALID, "%s: %s", name, what);
	default:
		return r;
	}
}

/* ---- tokens ---- */

bool registry_is_token(const char *token)
{
	size_t size = strlen(token);

	if (!size || size > TOKEN_MAX)
		return false;
	for (size_t i = 0; i < size; i++) {
		if (token[i] <= ' ' || (unsigned char)token[i] >= 0x7f)
			return false;
	}
	return true;
}

/* What is needed: two scopes where a mount reads another repository. */
static int scopes_of(const struct registry *registry, const struct registry_request *request,
		     struct schema_strs *scopes)
{
	_cleanup_(cleanup_free) char *own = NULL, *other = NULL;
	int r;

	own = remote_scope(registry->remote.repository, registry->is_push);
	r = own ? schema_strs_add(scopes, own) : error_origin(-ENOMEM);
	if (r || !request->from)
		return error_trace(r);
	other = remote_scope(request->from, false);
	return other ? error_trace(schema_strs_add(scopes, other)) : error_origin(-ENOMEM);
}

static int join_scopes(const struct schema_strs *scopes, char **ret_text)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer text = {};
	int r = 0;

	for (size_t i = 0; i < scopes->count && !r; i++)
		r = schema_buffer_addf(&text, "%s%s", i ? " " : "", scopes->items[i]);
	*ret_text = r ? NULL : strndup((const char *)text.data, text.size);
	return *ret_text ? 0 : error_origin(-ENOMEM);
}

/* A copy; NULL: none. */
static char *find_token(struct registry *registry, size_t host, const char *scope)
{
	char *header = NULL;

	pthread_mutex_lock(&registry->lock);
	for (size_t i = 0; i < registry->n_tokens && !header; i++) {
		if (registry->tokens[i].host == host && !strcmp(registry->tokens[i].scope, scope))
			header = strdup(registry->tokens[i].header);
	}
	pthread_mutex_unlock(&registry->lock);
	return header;
}

static int keep_token(struct registry *registry, size_t host, const char *scope, const char *header)
{
	struct registry_token *token = NULL;
	int r = 0;

	pthread_mutex_lock(&registry->lock);
	for (size_t i = 0; i < registry->n_tokens; i++) {
		if (registry->tokens[i].host == host && !strcmp(registry->tokens[i].scope, scope))
			token = &registry->tokens[i];
	}
	/* When there are too many the last one makes room. */
	if (!token)
		token = &registry->tokens[registry->n_tokens < REGISTRY_TOKENS
						  ? registry->n_tokens++
						  : REGISTRY_TOKENS - 1];
	token->host = host;
	r = schema_set(&token->scope, scope) ?: schema_set(&token->header, header);
	pthread_mutex_unlock(&registry->lock);
	return error_trace(r);
}

static int basic_header(const struct registry_options *options, char **ret_header)
{
	_cleanup_(cleanup_free) char *both = NULL, *encoded = NULL;
	size_t size;

	both = text_format("%s:%s", options->username, options->password ?: "");
	size = both ? strlen(both) : 0;
	encoded = malloc(4 * (size / 3 + 1) + 1);
	if (!both || !encoded)
		return error_origin(-ENOMEM);
	EVP_EncodeBlock((unsigned char *)encoded, (const unsigned char *)both, (int)size);
	explicit_bzero(both, size);
	*ret_header = text_format("Authorization: Basic %s", encoded);
	return *ret_header ? 0 : error_origin(-ENOMEM);
}

/* May the user's credentials go there on behalf of that host? */
static bool may_have_credentials(const struct registry *registry, const struct host *host,
				 const char *url)
{
	bool is_plain = !strncmp(url, "http://", 7);

	return has_credentials(registry) && host->is_origin &&
	       (!is_plain || !strncmp(host->url, "http://", 7));
}

static int add_query(struct schema_buffer *query, const char *name, const char *value)
{
	_cleanup_(cleanup_free) char *escaped = NULL;

	if (!value || !value[0])
		return 0;
	escaped = http_escape(value);
	if (!escaped)
		return error_origin(-ENOMEM);
	return error_trace(
		schema_buffer_addf(query, "%s%s=%s", query->size ? "&" : "", name, escaped));
}

static int make_query(const struct challenge *challenge, const struct schema_strs *scopes,
		      const char *refresh, struct schema_buffer *query)
{
	_cleanup_(cleanup_free) char *joined = NULL;
	int r;

	r = add_query(query, "service", challenge->service);
	if (!refresh) {
		for (size_t i = 0; i < scopes->count && !r; i++)
			r = add_query(query, "scope", scopes->items[i]);
	} else if (!r) {
		r = join_scopes(scopes, &joined);
		r = r ?: add_query(query, "scope", joined);
		r = r ?: add_query(query, "client_id", "davit");
		r = r ?: add_query(query, "grant_type", "refresh_token");
		r = r ?: add_query(query, "refresh_token", refresh);
	}
	return r ? error_trace(r) : error_trace(schema_buffer_add(query, "", 1));
}

static int read_token(const struct http_reply *reply, char **ret_header, struct why *why)
{
	_cleanup_(cleanup_json) json_t *json = NULL;
	const char *token;

	json = json_parse((const char *)reply->body.data, reply->body.size, TOKEN_REPLY_MAX, NULL);
	token = json_string_value(json_object_get(json, "token"));
	if (!token || !*token)
		token = json_string_value(json_object_get(json, "access_token"));
	if (!token || !registry_is_token(token))
		return why_set(why, WORK_E_INVALID, "the token server's answer has no token");
	*ret_header = text_format("Authorization: Bearer %s", token);
	return *ret_header ? 0 : error_origin(-ENOMEM);
}

static int explain_token(const struct registry *registry, const char *realm,
			 const struct http_reply *reply, struct why *why)
{
	char text[256];

	registry_error_text((const char *)reply->body.data, reply->body.size, text, sizeof(text));
	return why_set(why, class_of(reply->status), "token server %s: %ld %s%s%s",
		       work_show(realm), reply->status, status_text(reply->status), text,
		       reply->status != 401        ? ""
		       : has_credentials(registry) ? "; it does not take these credentials"
						   : "; it wants credentials: give --user");
}

/* The answer to a Bearer challenge. A realm on another server gets the credentials, as the protocol has it,
 * but never over plain HTTP on behalf of a host that speaks TLS. */
static int fetch_token(struct registry *registry, struct http *http, size_t index,
		       const struct challenge *challenge, const struct schema_strs *scopes,
		       char **ret_header, struct why *why)
{
	const struct host *host = &registry->hosts.items[index];
	bool is_trusted = may_have_credentials(registry, host, challenge->realm);
	const char *refresh = is_trusted && registry->options->refresh &&
					      registry->options->refresh[0]
				      ? registry->options->refresh
				      : NULL;
	_cleanup_(schema_buffer_clear) struct schema_buffer query = {};
	_cleanup_(http_reply_clear) struct http_reply reply = {};
	_cleanup_(cleanup_free) char *realm = NULL, *url = NULL, *basic = NULL;
	struct http_request request = {.method = "GET", .host = host, .limit = TOKEN_REPLY_MAX};
	int r;

	realm = http_resolve(host->url, challenge->realm);
	if (!realm)
		return why_set(why, WORK_E_INVALID, "%s: realm '%s' is not a URL", host->name,
			       work_show(challenge->realm));
	r = make_query(challenge, scopes, refresh, &query);
	if (!r && is_trusted && !refresh)
		r = basic_header(registry->options, &basic);
	if (r)
		return error_trace(r);
	url = refresh ? strdup(realm)
		      : text_format("%s%s%s", realm, strchr(realm, '?') ? "&" : "?",
				    (const char *)query.data);
	if (!url)
		return error_origin(-ENOMEM);
	request.url = url;
	request.is_foreign = !remote_same_origin(host->url, url);
	request.headers[0] = basic;
	if (refresh) {
		request.method = "POST";
		request.headers[0] = "Content-Type: application/x-www-form-urlencoded";
		request.body = query.data;
		request.body_size = query.size - 1;
		request.has_body = true;
	}
	r = http_perform(http, &request, &reply, why);
	if (r)
		return r == HTTP_E_LIMIT ? why_prefix(why, WORK_E_INVALID, "token server %s",
						      work_show(realm))
		       : r > 0           ? why_prefix(why, r, "token server %s", work_show(realm))
					 : r;
	if (reply.status != 200)
		return explain_token(registry, realm, &reply, why);
	return read_token(&reply, ret_header, why);
}

/* After a 401: a new token, or the password. WORK_E_DENIED without @why: nothing more can be done. */
static int authenticate(struct registry *registry, struct http *http, size_t index,
			const struct registry_request *request, const struct http_reply *reply,
			const char *key, struct why *why)
{
	const struct host *host = &registry->hosts.items[index];
	const struct challenge *challenge = challenge_choose(&reply->challenges);
	_cleanup_(schema_strs_clear) struct schema_strs scopes = {};
	_cleanup_(cleanup_free) char *header = NULL;
	int r;

	if (!challenge)
		return WORK_E_DENIED;
	if (challenge->scheme == CHALLENGE_BASIC) {
		if (!may_have_credentials(registry, host, host->url) ||
		    !registry->options->username || !registry->options->username[0])
			return WORK_E_DENIED;
		r = basic_header(registry->options, &header);
	} else {
		r = scopes_of(registry, request, &scopes);
		if (!r && challenge->scope && challenge->scope[0] &&
		    strlen(challenge->scope) < 1024 && !strstr(key, challenge->scope))
			r = schema_strs_add(&scopes, challenge->scope);
		if (!r)
			r = fetch_token(registry, http, index, challenge, &scopes, &header, why);
	}
	return r ? r : keep_token(registry, index, key, header);
}

/* ---- one request ---- */

static bool is_redirect(long status)
{
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

struct headers {
	char *owned[HTTP_HEADERS_MAX];
	size_t count;
};

static void headers_clear(struct headers *headers)
{
	for (size_t i = 0; i < headers->count; i++)
		free(headers->owned[i]);
}

static int add_header(struct headers *headers, char *text)
{
	if (!text)
		return error_origin(-ENOMEM);
	if (headers->count == HTTP_HEADERS_MAX - 1) {
		free(text);
		return error_origin(-E2BIG);
	}
	headers->owned[headers->count++] = text;
	return 0;
}

/* @authorization and the host's own headers are for the host itself. */
static int make_headers(const struct host *host, const struct registry_request *request,
			const char *authorization, bool is_foreign, struct headers *headers)
{
	int r = 0;

	if (request->accept)
		r = add_header(headers, text_format("Accept: %s", request->accept));
	if (!r && request->has_body)
		r = add_header(headers, text_format("Content-Type: %s",
						    request->type ?: "application/octet-stream"));
	if (!r && request->body_first)
		r = add_header(headers, text_format("Content-Range: %llu-%llu",
						    (unsigned long long)request->body_first,
						    (unsigned long long)(request->body_first +
									 request->body_size - 1)));
	if (!r && request->first)
		r = add_header(headers, text_format("Range: bytes=%llu-",
						    (unsigned long long)request->first));
	if (is_foreign)
		return error_trace(r);
	if (!r && authorization)
		r = add_header(headers, strdup(authorization));
	for (size_t i = 0; i < host->headers.count && !r && headers->count < HTTP_HEADERS_MAX - 1;
	     i++)
		r = add_header(headers, text_format("%s: %s", host->headers.items[i].key,
						    host->headers.items[i].value));
	return error_trace(r);
}

static int send_one(const struct host *host, struct http *http,
		    const struct registry_request *request, const char *url,
		    const char *authorization, struct http_reply *ret_reply, struct why *why)
{
	_cleanup_(headers_clear) struct headers headers = {};
	struct http_request out = {
		.method = request->method,
		.url = url,
		.host = host,
		.is_foreign = !remote_same_origin(host->url, url),
		.body = request->body,
		.body_fd = request->body_fd,
		.body_first = request->body_first,
		.body_size = request->body_size,
		.has_body = request->has_body,
		.moved = request->moved,
		.begin = request->begin,
		.sink = request->sink,
		.userdata = request->userdata,
		.limit = request->limit,
	};
	int r;

	r = make_headers(host, request, authorization, out.is_foreign, &headers);
	if (r)
		return error_trace(r);
	for (size_t i = 0; i < headers.count; i++)
		out.headers[i] = headers.owned[i];
	return http_perform(http, &out, ret_reply, why);
}

static char *make_url(const struct registry *registry, const struct host *host,
		      const struct registry_request *request)
{
	const struct remote *remote = &registry->remote;
	_cleanup_(cleanup_free) char *escaped = NULL;

	if (request->url)
		return strdup(request->url);
	/* A mirror of many registries is told which one is meant, as containerd does. */
	if (!host->is_origin)
		escaped = http_escape(remote->host);
	return text_format("%s/%s/%s%s%s%s", host->url, remote->repository, request->path,
			   escaped ? (strchr(request->path, '?') ? "&" : "?") : "",
			   escaped ? "ns=" : "", escaped ?: "");
}

/* Follows redirects; behind one to another server nothing of ours is sent. */
static int send_along(const struct registry *registry, struct http *http, size_t index,
		      const struct registry_request *request, const char *authorization,
		      struct http_reply *ret_reply, struct why *why)
{
	const struct host *host = &registry->hosts.items[index];
	_cleanup_(cleanup_free) char *url = make_url(registry, host, request);
	int r;

	for (unsigned n = 0; url && n <= REDIRECTS_MAX; n++) {
		_cleanup_(http_reply_clear) struct http_reply reply = {};
		char *next;

		r = send_one(host, http, request, url, authorization, &reply, why);
		if (r)
			return r;
		if (!is_redirect(reply.status) || !reply.location) {
			*ret_reply = reply;
			reply = (struct http_reply){};
			return 0;
		}
		next = http_resolve(url, reply.location);
		if (!next)
			return why_set(why, HTTP_E_SINK, "a redirect to '%s', which is not a URL",
				       work_show(reply.location));
		if (!remote_same_origin(url, next))
			authorization = NULL;
		free(url);
		url = next;
	}
	return url ? why_set(why, HTTP_E_SINK, "more than %d redirects", REDIRECTS_MAX)
		   : error_origin(-ENOMEM);
}

int registry_send(struct registry *registry, struct http *http, size_t host,
		  const struct registry_request *request, struct http_reply *ret_reply,
		  struct why *why)
{
	_cleanup_(schema_strs_clear) struct schema_strs scopes = {};
	_cleanup_(cleanup_free) char *key = NULL;
	int r;

	r = scopes_of(registry, request, &scopes);
	if (!r)
		r = join_scopes(&scopes, &key);
	if (r)
		return error_trace(r);
	for (unsigned n = 0;; n++) {
		_cleanup_(http_reply_clear) struct http_reply reply = {};
		_cleanup_(cleanup_free) char *authorization = find_token(registry, host, key);
		struct why own = {};

		r = send_along(registry, http, host, request, authorization, &reply, why);
		if (r)
			return r;
		/* Who stands behind a redirect has no say in where credentials go. */
		if (reply.status == 401 && !reply.is_foreign && n < AUTHENTICATIONS) {
			r = authenticate(registry, http, host, request, &reply, key, &own);
			if (!r)
				continue;
			if (r != WORK_E_DENIED || own.text[0])
				return why_set(why, r, "%s", own.text);
		}
		*ret_reply = reply;
		reply = (struct http_reply){};
		return 0;
	}
}

/* ---- again and again ---- */

bool registry_may_retry(int r, const struct http_reply *reply)
{
	if (r)
		return r == HTTP_E_NETWORK || r == WORK_E_AWAY || r == WORK_E_BUSY;
	return (reply->status == 408 || reply->status == 429 || reply->status >= 500) &&
	       reply->status != 501 && reply->retry_after_s <= RETRY_AFTER_MAX_S;
}

int registry_back_off(unsigned n, const struct http_reply *reply)
{
	uint64_t wait_ms = (uint64_t)BACK_OFF_MS << (n < 8 ? n - 1 : 7);
	uint16_t random = 0;

	if (wait_ms > BACK_OFF_MAX_MS)
		wait_ms = BACK_OFF_MAX_MS;
	/* So that those who were sent away together do not come back together. */
	(void)!getrandom(&random, sizeof(random), 0);
	wait_ms += wait_ms * random / (2 * UINT16_MAX);
	if (reply && reply->retry_after_s * 1000 > wait_ms)
		wait_ms = reply->retry_after_s * 1000;
	for (uint64_t waited = 0; waited < wait_ms; waited += 50) {
		if (http_is_stopped())
			return -ECANCELED;
		poll(NULL, 0, 50);
	}
	return 0;
}

int registry_call(struct registry *registry, struct http *http, size_t host,
		  const struct registry_request *request, struct http_reply *ret_reply,
		  struct why *why)
{
	/* There are others to be asked behind a mirror. */
	unsigned attempts = host + 1 < registry->hosts.count ? 2 : REGISTRY_ATTEMPTS;
	int r;

	for (unsigned n = 1;; n++) {
		_cleanup_(http_reply_clear) struct http_reply reply = {};
		struct why own = {};

		r = registry_send(registry, http, host, request, &reply, &own);
		if (!registry_may_retry(r, &reply) || n == attempts) {
			if (!r)
				*ret_reply = reply;
			else if (own.text[0])
				why_set(why, r, "%s", own.text);
			reply = r ? reply : (struct http_reply){};
			return r;
		}
		r = registry_back_off(n, &reply);
		if (r)
			return r;
	}
}
