#pragma once
/*
 * A registry as one repository of it is used: its hosts in their order, tokens,
 * redirects, repetitions with back-off. Shared by threads; each brings its own
 * struct http.
 *
 * Credentials go to the registry of the reference and to the token server that it
 * names, tokens to the host that asked for them, and nothing of either behind a
 * redirect to another server.
 */

#include <pthread.h>

#include "services/image/work/http.h"

#define REGISTRY_ATTEMPTS 5
#define REGISTRY_TOKENS   128

struct registry_token {
	size_t host;
	char *scope;  /* what was asked for: the key */
	char *header; /* Authorization: … */
};

struct registry {
	struct remote remote;
	struct hosts hosts;
	const struct registry_options *options; /* borrowed; may be NULL */
	bool is_push;
	pthread_mutex_t lock;
	struct registry_token tokens[REGISTRY_TOKENS];
	size_t n_tokens;
};

struct registry_request {
	const char *method;
	const char *path;     /* behind <repository>/ */
	const char *url;      /* in place of it: where an upload goes on */
	const char *from;     /* another repository that must be readable too */
	const char *accept;   /* NULL: none */
	const char *type;     /* of the body */
	uint64_t first;       /* of a range: the first byte that is wanted; 0: all */
	/* As in struct http_request. */
	const void *body;
	int body_fd;
	uint64_t body_first; /* not 0: an upload goes on there */
	uint64_t body_size;
	bool has_body;
	_Atomic uint64_t *moved;
	int (*begin)(void *userdata, const struct http_reply *reply);
	http_sink_fn sink;
	void *userdata;
	uint64_t limit;
};

/* Reads all files that it needs. @options is borrowed. */
int registry_init(struct registry *registry, const char *name,
		  const struct registry_options *options, bool is_push, struct why *why);
void registry_deinit(struct registry *registry);

/* Once: with authentication and redirects. A reply of any status is 0. HTTP_E_*, WORK_E_*, negative. */
int registry_send(struct registry *registry, struct http *http, size_t host,
		  const struct registry_request *request, struct http_reply *ret_reply,
		  struct why *why);
/* Again and again while the host is away or overloaded. Without a sink. */
int registry_call(struct registry *registry, struct http *http, size_t host,
		  const struct registry_request *request, struct http_reply *ret_reply,
		  struct why *why);
/* Is it worth another try? @r: of registry_send(). */
bool registry_may_retry(int r, const struct http_reply *reply);
/* Waits before attempt @n (1 …); -ECANCELED when stopped. */
int registry_back_off(unsigned n, const struct http_reply *reply);
/* A status that is no success as WORK_E_* with a sentence: "<host>: <what>: …". */
int registry_explain(const struct registry *registry, size_t host, const char *what,
		     const struct http_reply *reply, struct why *why);
/* A failure of registry_send() as WORK_E_* or negative. */
int registry_fold(const struct registry *registry, size_t host, const char *what, int r,
		  struct why *why);

/* ---- pure: for tests ---- */
/* Is it fit for a header? */
bool registry_is_token(const char *token);
/* The first message of a registry's JSON error, for people; "" if there is none. */
void registry_error_text(const char *body, size_t size, char *text, size_t text_size);
