/* References and URLs: see remote.h. */

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "broker/lib/file.h"
#include "schemas/check.h"
#include "services/image/work/remote.h"

#define HOST_MAX       255
#define REPOSITORY_MAX 255
#define TAG_MAX        128

/* ---- the grammar ---- */

static bool is_lower(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool is_host(const char *host, size_t size)
{
	const char *colon = memchr(host, ':', size);
	size_t name = colon ? (size_t)(colon - host) : size;

	if (size > HOST_MAX || !name)
		return false;
	if (host[0] == '[') {
		const char *end = memchr(host, ']', size);

		if (!end ||
		    strspn(host + 1, "0123456789abcdefABCDEF:.") != (size_t)(end - host - 1))
			return false;
		name = (size_t)(end - host) + 1;
		colon = name < size ? end + 1 : NULL;
		if (colon && *colon != ':')
			return false;
	} else {
		for (size_t i = 0; i < name; i++) {
			if (!isalnum((unsigned char)host[i]) && host[i] != '-' && host[i] != '.')
				return false;
		}
	}
	if (!colon)
		return true;
	size -= (size_t)(colon + 1 - host);
	return size >= 1 && size <= 5 && strspn(colon + 1, "0123456789") >= size;
}

/* [a-z0-9]+ parts, between them one of . _ __ or any number of - */
static bool is_component(const char *text, size_t size)
{
	size_t i = 0;

	while (i < size) {
		size_t start = i;

		while (i < size && is_lower(text[i]))
			i++;
		if (i == start || i == size)
			return i > start;
		if (text[i] == '-') {
			while (i < size && text[i] == '-')
				i++;
		} else if (text[i] == '_') {
			i += i + 1 < size && text[i + 1] == '_' ? 2 : 1;
		} else if (text[i] == '.') {
			i++;
		} else {
			return false;
		}
	}
	return false;
}

static bool is_repository(const char *text)
{
	if (strlen(text) > REPOSITORY_MAX)
		return false;
	for (;;) {
		size_t size = strcspn(text, "/");

		if (!is_component(text, size))
			return false;
		if (!text[size])
			return true;
		text += size + 1;
	}
}

static bool is_tag(const char *text)
{
	size_t size = strlen(text);

	if (!size || size > TAG_MAX || text[0] == '.' || text[0] == '-')
		return false;
	for (size_t i = 0; i < size; i++) {
		if (!isalnum((unsigned char)text[i]) && !strchr("_.-", text[i]))
			return false;
	}
	return true;
}

/* ---- taking apart ---- */

void remote_clear(struct remote *remote)
{
	free(remote->name);
	free(remote->host);
	free(remote->repository);
	free(remote->tag);
	free(remote->digest);
	*remote = (struct remote){};
}

static int check(const struct remote *remote, struct why *why)
{
	const char *shown = work_show(remote->name);

	if (!is_host(remote->host, strlen(remote->host)))
		return why_set(why, WORK_E_INVALID, "reference '%s': '%s' is not a registry", shown,
			       work_show(remote->host));
	if (!is_repository(remote->repository))
		return why_set(why, WORK_E_INVALID,
			       "reference '%s': '%s' is not a repository (lower case, parts of "
			       "letters and digits, at most %d bytes)",
			       shown, work_show(remote->repository), REPOSITORY_MAX);
	if (remote->tag && !is_tag(remote->tag))
		return why_set(why, WORK_E_INVALID, "reference '%s': '%s' is not a tag", shown,
			       work_show(remote->tag));
	if (remote->digest && !check_digest(remote->digest))
		return why_set(why, WORK_E_INVALID,
			       "reference '%s': '%s' is not sha256: and 64 lower-case hex digits",
			       shown, work_show(remote->digest));
	if (!remote->tag && !remote->digest)
		return why_set(why, WORK_E_INVALID, "reference '%s' has neither a tag nor a digest",
			       shown);
	return 0;
}

int remote_parse(const char *name, struct remote *ret_remote, struct why *why)
{
	_cleanup_(remote_clear) struct remote remote = {};
	const char *slash = strchr(name, '/');
	char *at, *colon;
	int r;

	if (!slash)
		return why_set(why, WORK_E_INVALID, "reference '%s' names no registry",
			       work_show(name));
	remote.name = strdup(name);
	remote.host = strndup(name, (size_t)(slash - name));
	remote.repository = strdup(slash + 1);
	if (!remote.name || !remote.host || !remote.repository)
		return error_origin(-ENOMEM);
	at = strchr(remote.repository, '@');
	if (at) {
		*at = '\0';
		remote.digest = strdup(at + 1);
		if (!remote.digest)
			return error_origin(-ENOMEM);
	}
	colon = strrchr(remote.repository, ':');
	if (colon && !strchr(colon, '/')) {
		*colon = '\0';
		remote.tag = strdup(colon + 1);
		if (!remote.tag)
			return error_origin(-ENOMEM);
	}
	r = check(&remote, why);
	if (r)
		return r;
	*ret_remote = remote;
	remote = (struct remote){};
	return 0;
}

const char *remote_object(const struct remote *remote)
{
	return remote->digest ?: remote->tag;
}

const char *remote_endpoint(const char *host)
{
	return !strcmp(host, "docker.io") || !strcmp(host, "index.docker.io")
		       ? "registry-1.docker.io"
		       : host;
}

bool remote_is_local(const char *host)
{
	size_t name = host[0] == '[' ? strcspn(host, "]") : strcspn(host, ":");

	if (host[0] == '[')
		return !strncmp(host, "[::1]", 5);
	if (name == 9 && !strncmp(host, "localhost", 9))
		return true;
	return !strncmp(host, "127.", 4) && strspn(host, "0123456789.") == name;
}

char *remote_scope(const char *repository, bool is_push)
{
	return text_format("repository:%s:pull%s", repository, is_push ? ",push" : "");
}

/* ---- URLs and headers ---- */

struct origin {
	const char *scheme, *host;
	size_t scheme_size, host_size;
	unsigned port;
};

static bool split_origin(const char *url, struct origin *ret)
{
	const char *sep = strstr(url, "://"), *at, *colon = NULL;
	struct origin origin;

	if (!sep)
		return false;
	origin.scheme = url;
	origin.scheme_size = (size_t)(sep - url);
	origin.host = sep + 3;
	origin.host_size = strcspn(origin.host, "/?#");
	at = memrchr(origin.host, '@', origin.host_size);
	if (at) {
		origin.host_size -= (size_t)(at + 1 - origin.host);
		origin.host = at + 1;
	}
	origin.port = !strncasecmp(url, "https", 5) && origin.scheme_size == 5 ? 443 : 80;
	for (size_t i = origin.host_size; i-- && origin.host[i] != ']';) {
		if (origin.host[i] == ':') {
			colon = origin.host + i;
			break;
		}
	}
	if (colon) {
		origin.port = (unsigned)strtoul(colon + 1, NULL, 10);
		origin.host_size = (size_t)(colon - origin.host);
	}
	*ret = origin;
	return true;
}

bool remote_same_origin(const char *one, const char *other)
{
	struct origin a, b;

	return split_origin(one, &a) && split_origin(other, &b) && a.port == b.port &&
	       a.scheme_size == b.scheme_size && a.host_size == b.host_size &&
	       !strncasecmp(a.scheme, b.scheme, a.scheme_size) &&
	       !strncasecmp(a.host, b.host, a.host_size);
}

static bool take_number(const char **text, uint64_t *ret)
{
	uint64_t value = 0;
	size_t size = strspn(*text, "0123456789");

	if (!size || size > 18)
		return false;
	for (size_t i = 0; i < size; i++)
		value = value * 10 + (uint64_t)((*text)[i] - '0');
	*text += size;
	*ret = value;
	return true;
}

bool remote_parse_range(const char *text, uint64_t *ret_first, uint64_t *ret_last,
			uint64_t *ret_total)
{
	uint64_t first, last, total = UINT64_MAX;

	if (strncasecmp(text, "bytes ", 6))
		return false;
	text += 6;
	if (!take_number(&text, &first) || *text++ != '-' || !take_number(&text, &last) ||
	    *text++ != '/')
		return false;
	if (!strcmp(text, "*"))
		text++;
	else if (!take_number(&text, &total))
		return false;
	if (*text || last < first || (total != UINT64_MAX && last >= total))
		return false;
	*ret_first = first;
	*ret_last = last;
	*ret_total = total;
	return true;
}

bool remote_parse_uploaded(const char *text, uint64_t *ret_size)
{
	uint64_t last;

	if (!strncasecmp(text, "bytes=", 6))
		text += 6;
	if (strncmp(text, "0-", 2) != 0)
		return false;
	text += 2;
	if (!take_number(&text, &last) || *text)
		return false;
	*ret_size = last ? last + 1 : 0;
	return true;
}
