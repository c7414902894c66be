/* HTTP by libcurl: see http.h. */

#include <curl/curl.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "broker/lib/file.h"
#include "services/image/work/http.h"

#define CONNECT_TIMEOUT_S 30
#define IDLE_TIMEOUT_S    60
#define DIGEST_TIMEOUT_S  600 /* of a registry that reads again what was sent, before it answers */
#define HEADERS_SIZE_MAX  262144 /* of a reply */
#define SYSTEM_CA         "/etc/ssl/certs/ca-certificates.crt"
#define SYSTEM_CA_MAX     (4u << 20)
#define LINE_MAX_SIZE     1024 /* of the debugging output */

struct http {
	CURL *curl;
	const struct http_request *request; /* under way */
	struct http_reply *reply;
	size_t headers_size;
	uint64_t body_at;
	bool is_begun;
	int r; /* of the sink */
	char error[CURL_ERROR_SIZE];
};

static struct {
	char *ca; /* the system's */
	bool dump, trace;
	_Atomic bool is_stopped;
	void (*log)(void *userdata, const char *line);
	void *log_userdata;
} shared;

void http_stop(void)
{
	shared.is_stopped = true;
}

bool http_is_stopped(void)
{
	return shared.is_stopped;
}

void http_set_log(void (*log)(void *userdata, const char *line), void *userdata)
{
	shared.log = log;
	shared.log_userdata = userdata;
}

static int set_environment(const struct schema_strs *environment)
{
	for (size_t i = 0; environment && i < environment->count; i++) {
		const char *equals = strchr(environment->items[i], '=');
		_cleanup_(cleanup_free) char *name = NULL;

		if (!equals)
			continue;
		name = strndup(environment->items[i], (size_t)(equals - environment->items[i]));
		if (!name || setenv(name, equals + 1, 1) < 0)
			return error_origin(-ENOMEM);
	}
	return 0;
}

int http_set_up(const struct registry_options *options, const struct schema_strs *environment,
		struct why *why)
{
	_cleanup_(cleanup_free) char *path = realpath(SYSTEM_CA, NULL);
	int r;

	if (curl_global_init(CURL_GLOBAL_DEFAULT))
		return why_set(why, error_origin(-ENOMEM), "libcurl cannot start");
	/* Absent: who needs it is told by the failed check of a certificate. */
	if (path)
		(void)file_read(AT_FDCWD, path, SYSTEM_CA_MAX, &shared.ca, NULL);
	shared.dump = options && options->http_dump;
	shared.trace = options && options->http_trace;
	r = set_environment(environment);
	return error_trace(r);
}

int http_new(struct http **ret_http)
{
	struct http *http = calloc(1, sizeof(*http));

	if (!http)
		return error_origin(-ENOMEM);
	http->curl = curl_easy_init();
	if (!http->curl) {
		free(http);
		return error_origin(-ENOMEM);
	}
	*ret_http = http;
	return 0;
}

struct http *http_free(struct http *http)
{
	if (!http)
		return NULL;
	curl_easy_cleanup(http->curl);
	free(http);
	return NULL;
}

void http_freep(struct http **http)
{
	*http = http_free(*http);
}

void http_reply_clear(struct http_reply *reply)
{
	free(reply->content_type);
	free(reply->digest);
	free(reply->location);
	free(reply->range);
	free(reply->uploaded);
	challenges_clear(&reply->challenges);
	schema_buffer_clear(&reply->body);
	*reply = (struct http_reply){};
}

/* ---- debugging output ---- */

static bool starts_with(const char *line, const char *name)
{
	return !strncasecmp(line, name, strlen(name));
}

/* What stands before the host of a URL, as of a proxy in the environment. */
static void mask_users(char *line)
{
	for (char *at = strstr(line, "://"); at; at = strstr(at, "://")) {
		char *host;

		at += strlen("://");
		host = memrchr(at, '@', strcspn(at, " '\""));
		if (!host || host == at)
			continue;
		*at = '*';
		memmove(at + 1, host, strlen(host) + 1);
	}
}

/* A header or request line as it may be shown: no credentials, no signed query. */
static void show_line(char mark, const char *line, size_t size)
{
	static const char *const secrets[] = {
		"authorization:", "proxy-authorization:", "cookie:", "set-cookie:"};
	char shown[LINE_MAX_SIZE];
	char *query;
	size_t n = (size_t)snprintf(shown, sizeof(shown), "%c %.*s", mark,
				    (int)(size < 900 ? size : 900), line);

	for (size_t i = 0; i < n && i < sizeof(shown) - 1; i++) {
		if ((unsigned char)shown[i] < ' ' || (unsigned char)shown[i] >= 0x7f)
			shown[i] = '?';
	}
	for (size_t i = 0; i < ARRAY_SIZE(secrets); i++) {
		if (starts_with(shown + 2, secrets[i]))
			strcpy(shown + 2 + strlen(secrets[i]), " (masked)");
	}
	mask_users(shown);
	query = starts_with(shown + 2, "www-authenticate:") ? NULL : strchr(shown, '?');
	if (query)
		strcpy(query, mark == '>' ? "?(masked) HTTP/1.1" : "?(masked)");
	shared.log(shared.log_userdata, shown);
}

static void show_lines(char mark, const char *data, size_t size)
{
	while (size) {
		const char *end = memchr(data, '\n', size);
		size_t line = end ? (size_t)(end - data) : size;
		size_t shown = line && data[line - 1] == '\r' ? line - 1 : line;

		if (shown)
			show_line(mark, data, shown);
		size -= end ? line + 1 : line;
		data += end ? line + 1 : line;
	}
}

static int on_debug(CURL *curl, curl_infotype type, char *data, size_t size, void *userdata)
{
	(void)curl;
	(void)userdata;
	if (!shared.log)
		return 0;
	if (type == CURLINFO_HEADER_OUT && shared.dump)
		show_lines('>', data, size);
	else if (type == CURLINFO_HEADER_IN && shared.dump)
		show_lines('<', data, size);
	else if (type == CURLINFO_TEXT && shared.trace)
		show_lines('*', data, size);
	return 0;
}

/* ---- what comes ---- */

static char *header_value(const char *data, size_t size, const char *name)
{
	size_t n = strlen(name);

	if (size <= n || strncasecmp(data, name, n) || data[n] != ':')
		return NULL;
	data += n + 1;
	size -= n + 1;
	while (size && (*data == ' ' || *data == '\t')) {
		data++;
		size--;
	}
	while (size && strchr(" \t\r\n", data[size - 1]))
		size--;
	return memchr(data, '\0', size) ? NULL : strndup(data, size);
}

static void take_text(char **member, const char *data, size_t size, const char *name)
{
	char *value = header_value(data, size, name);

	if (!value)
		return;
	free(*member);
	*member = value;
}

static size_t on_header(char *data, size_t one, size_t size, void *userdata)
{
	struct http *http = userdata;
	struct http_reply *reply = http->reply;
	_cleanup_(cleanup_free) char *challenge = NULL;

	(void)one;
	http->headers_size += size;
	if (http->headers_size > HEADERS_SIZE_MAX)
		return 0;
	/* After an interim reply the head begins anew. */
	if (size > 5 && !strncmp(data, "HTTP/", 5)) {
		http_reply_clear(reply);
		return size;
	}
	take_text(&reply->content_type, data, size, "Content-Type");
	take_text(&reply->digest, data, size, "Docker-Content-Digest");
	take_text(&reply->location, data, size, "Location");
	take_text(&reply->range, data, size, "Content-Range");
	take_text(&reply->uploaded, data, size, "Range");
	challenge = header_value(data, size, "WWW-Authenticate");
	if (challenge)
		challenge_parse(challenge, &reply->challenges);
	return size;
}

static int keep_body(struct http *http, const void *data, size_t size, uint64_t limit)
{
	struct schema_buffer *body = &http->reply->body;

	if (body->size + size > limit)
		return HTTP_E_LIMIT;
	if (schema_buffer_add(body, data, size) || schema_buffer_add(body, "", 1))
		return -ENOMEM;
	body->size--;
	return 0;
}

static size_t on_body(char *data, size_t one, size_t size, void *userdata)
{
	struct http *http = userdata;
	const struct http_request *request = http->request;

	(void)one;
	curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &http->reply->status);
	if (http->reply->status / 100 != 2) {
		/* Only for the error's text: what is too much of it is passed over. */
		if (keep_body(http, data, size, HTTP_BODY_MAX) == -ENOMEM)
			http->r = -ENOMEM;
	} else if (!request->sink) {
		http->r = keep_body(http, data, size, request->limit);
	} else {
		if (!http->is_begun && request->begin)
			http->r = request->begin(request->userdata, http->reply);
		http->is_begun = true;
		if (!http->r)
			http->r = request->sink(request->userdata, data, size);
	}
	return http->r ? 0 : size;
}

/* ---- what goes ---- */

static size_t on_read(char *buffer, size_t one, size_t size, void *userdata)
{
	struct http *http = userdata;
	const struct http_request *request = http->request;
	uint64_t left = request->body_size - http->body_at;
	size_t n = one * size < left ? one * size : (size_t)left;

	if (request->body) {
		memcpy(buffer, (const char *)request->body + http->body_at, n);
	} else if (n) {
		ssize_t got = pread(request->body_fd, buffer, n,
				    (off_t)(request->body_first + http->body_at));

		if (got <= 0)
			return CURL_READFUNC_ABORT;
		n = (size_t)got;
	}
	http->body_at += n;
	if (request->moved)
		*request->moved = request->body_first + http->body_at;
	return n;
}

static int on_seek(void *userdata, curl_off_t offset, int origin)
{
	struct http *http = userdata;

	if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > http->request->body_size)
		return CURL_SEEKFUNC_FAIL;
	http->body_at = (uint64_t)offset;
	return CURL_SEEKFUNC_OK;
}

static int on_progress(void *userdata, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
	(void)userdata;
	(void)a;
	(void)b;
	(void)c;
	(void)d;
	return shared.is_stopped;
}

/* ---- a request ---- */

static void set_blob(CURL *curl, CURLoption option, const char *pem)
{
	struct curl_blob blob = {
		.data = (void *)pem, .len = strlen(pem), .flags = CURL_BLOB_NOCOPY};

	curl_easy_setopt(curl, option, &blob);
}

static void set_certificates(CURL *curl, const struct http_request *request)
{
	const struct host *host = request->host;

	curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, host->skip_verify ? 0L : 1L);
	curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, host->skip_verify ? 0L : 2L);
	curl_easy_setopt(curl, CURLOPT_CAINFO, NULL);
	curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
	if (host->ca || shared.ca)
		set_blob(curl, CURLOPT_CAINFO_BLOB, host->ca ?: shared.ca);
	if (!host->cert || !host->key || request->is_foreign)
		return;
	set_blob(curl, CURLOPT_SSLCERT_BLOB, host->cert);
	set_blob(curl, CURLOPT_SSLKEY_BLOB, host->key);
}

static void set_body(CURL *curl, struct http *http, const struct http_request *request)
{
	if (!strcmp(request->method, "HEAD")) {
		curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
	} else if (request->has_body) {
		curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body_size);
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_read);
		curl_easy_setopt(curl, CURLOPT_READDATA, http);
		curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, on_seek);
		curl_easy_setopt(curl, CURLOPT_SEEKDATA, http);
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
		/* On a connection that was used before libcurl would send it again by itself. */
		if (!strcmp(request->method, "PATCH"))
			curl_easy_setopt(curl, CURLOPT_FRESH_CONNECT, 1L);
	} else if (!strcmp(request->method, "POST")) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, 0L);
	}
}

static void set_limits(CURL *curl, struct http *http, const struct http_request *request)
{
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
			 request->has_body ? (long)DIGEST_TIMEOUT_S : (long)IDLE_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 262144L);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, http);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, http->error);
}

static void set_options(struct http *http, const struct http_request *request,
			struct curl_slist *headers)
{
	CURL *curl = http->curl;

	curl_easy_reset(curl);
	set_limits(curl, http, request);
	curl_easy_setopt(curl, CURLOPT_URL, request->url);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "davit/" DAVIT_VERSION);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, http);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, http);
	set_certificates(curl, request);
	set_body(curl, http, request);
	if (shared.dump || shared.trace) {
		curl_easy_setopt(curl, CURLOPT_VERBOSE, 1L);
		curl_easy_setopt(curl, CURLOPT_DEBUGFUNCTION, on_debug);
	}
}

static int explain(struct http *http, CURLcode code, struct why *why)
{
	const char *text = http->error[0] ? http->error : curl_easy_strerror(code);

	if (shared.is_stopped)
		return -ECANCELED;
	if (http->r == HTTP_E_LIMIT)
		return why_set(why, HTTP_E_LIMIT, "the reply is larger than %llu bytes",
			       (unsigned long long)http->request->limit);
	if (http->r)
		return http->r < 0 ? http->r : HTTP_E_SINK;
	switch (code) {
	case CURLE_OUT_OF_MEMORY:
		return error_origin(-ENOMEM);
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CIPHER:
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_URL_MALFORMAT:
		return why_set(why, HTTP_E_TLS, "%s", work_show(text));
	default:
		return why_set(why, HTTP_E_NETWORK, "%s", work_show(text));
	}
}

static struct curl_slist *make_headers(const struct http_request *request)
{
	struct curl_slist *list = curl_slist_append(NULL, "Expect:"), *next;

	for (size_t i = 0; list && i < HTTP_HEADERS_MAX && request->headers[i]; i++) {
		next = curl_slist_append(list, request->headers[i]);
		if (!next) {
			curl_slist_free_all(list);
			return NULL;
		}
		list = next;
	}
	return list;
}

int http_perform(struct http *http, const struct http_request *request,
		 struct http_reply *ret_reply, struct why *why)
{
	struct http_reply reply = {};
	struct curl_slist *headers;
	curl_off_t retry_after = 0, length = 0;
	CURLcode code;
	int r = 0;

	if (shared.is_stopped)
		return -ECANCELED;
	headers = make_headers(request);
	if (!headers)
		return error_origin(-ENOMEM);
	http->request = request;
	http->reply = &reply;
	http->headers_size = http->body_at = 0;
	http->is_begun = false;
	http->r = 0;
	http->error[0] = '\0';
	set_options(http, request, headers);
	code = curl_easy_perform(http->curl);
	curl_slist_free_all(headers);
	if (code) {
		r = explain(http, code, why);
		http_reply_clear(&reply);
		return r;
	}
	curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &reply.status);
	curl_easy_getinfo(http->curl, CURLINFO_RETRY_AFTER, &retry_after);
	curl_easy_getinfo(http->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	reply.retry_after_s = (uint64_t)retry_after;
	reply.length = length > 0 ? (uint64_t)length : 0;
	reply.is_foreign = request->is_foreign;
	*ret_reply = reply;
	return 0;
}

/* ---- URLs ---- */

char *http_resolve(const char *base, const char *location)
{
	CURLU *url = curl_url();
	char *text = NULL, *scheme = NULL, *copy = NULL;

	if (url && !curl_url_set(url, CURLUPART_URL, base, 0) &&
	    !curl_url_set(url, CURLUPART_URL, location, 0) &&
	    !curl_url_set(url, CURLUPART_USER, NULL, 0) &&
	    !curl_url_set(url, CURLUPART_PASSWORD, NULL, 0) &&
	    !curl_url_set(url, CURLUPART_FRAGMENT, NULL, 0) &&
	    !curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) &&
	    (!strcmp(scheme, "http") || !strcmp(scheme, "https")) &&
	    !curl_url_get(url, CURLUPART_URL, &text, 0))
		copy = strdup(text);
	curl_free(text);
	curl_free(scheme);
	curl_url_cleanup(url);
	return copy;
}

char *http_escape(const char *text)
{
	char *escaped = curl_easy_escape(NULL, text, 0);
	char *copy = escaped ? strdup(escaped) : NULL;

	curl_free(escaped);
	return copy;
}
