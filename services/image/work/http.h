#pragma once
/*
 * One HTTP request after the other on a connection that is kept, blocking; one
 * struct http for each thread. The only file that knows libcurl. Redirects are
 * not followed here, and every header that goes out is the caller's.
 */

#include <stdatomic.h>

#include "services/image/work/challenge.h"
#include "services/image/work/hosts.h"

#define HTTP_HEADERS_MAX 24
#define HTTP_BODY_MAX    65536 /* of a reply that is no success */

struct http;
struct http_reply;

enum {
	_HTTP_E_SUCCESS,
	HTTP_E_NETWORK = 200, /* connection or protocol: try again */
	HTTP_E_TLS,           /* certificates: final */
	HTTP_E_LIMIT,         /* the body is larger than it may be */
	HTTP_E_SINK,          /* the sink has refused it */
};

typedef int (*http_sink_fn)(void *userdata, const void *data, size_t size);

struct http_request {
	const char *method, *url;
	const struct host *host; /* whose certificates count */
	bool is_foreign;         /* another server than that host: gets no client certificate */
	const char *headers[HTTP_HEADERS_MAX]; /* "Name: value", NULL-terminated */
	/* A body: bytes, or a file from @body_first. */
	const void *body;
	int body_fd;
	uint64_t body_first;
	uint64_t body_size;
	bool has_body;
	_Atomic uint64_t *moved; /* where in the body it is, from the file's start; may be NULL */
	/* Of a success the body goes to @sink, which is first told of the reply's head by @begin; without it is kept, at most @limit bytes. */
	int (*begin)(void *userdata, const struct http_reply *reply);
	http_sink_fn sink;
	void *userdata;
	uint64_t limit;
};

struct http_reply {
	long status;
	char *content_type, *digest, *location, *range; /* NULL: absent */
	char *uploaded; /* Range: what has come of an upload */
	struct challenges challenges;
	uint64_t retry_after_s;
	uint64_t length;    /* what Content-Length says, 0 without */
	bool is_foreign;    /* it comes from behind a redirect to another server */
	struct schema_buffer body; /* NUL-terminated beyond its size */
};
void http_reply_clear(struct http_reply *reply);

/* Before threads, and while there still is a file system. */
int http_set_up(const struct registry_options *options, const struct schema_strs *environment,
		struct why *why);
int http_new(struct http **ret_http);
struct http *http_free(struct http *http);
void http_freep(struct http **http);
/* 0: there is a reply, of whatever status. HTTP_E_* with @why; -ECANCELED after http_stop(). */
int http_perform(struct http *http, const struct http_request *request,
		 struct http_reply *ret_reply, struct why *why);
/* All requests of all threads end soon. */
void http_stop(void);
bool http_is_stopped(void);
/* Where the debugging output goes; a line each, without credentials. */
void http_set_log(void (*log)(void *userdata, const char *line), void *userdata);

/* @location as seen from @base; malloc'd. NULL: it is no http or https URL. */
char *http_resolve(const char *base, const char *location);
/* For a query; malloc'd. */
char *http_escape(const char *text);
