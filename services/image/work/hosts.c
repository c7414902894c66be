/* Hosts and their certificates: see hosts.h. */

#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "services/image/work/hosts.h"

#define PEM_MAX     (1u << 20)
#define DEFAULT_DIR "/etc/davit/certs.d"
#define HEADERS_MAX 32

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

static void host_clear(struct host *host)
{
	free(host->url);
	free(host->name);
	free(host->ca);
	free(host->cert);
	if (host->key)
		explicit_bzero(host->key, strlen(host->key));
	free(host->key);
	schema_map_clear(&host->headers);
	*host = (struct host){};
}

void hosts_clear(struct hosts *hosts)
{
	for (size_t i = 0; i < hosts->count; i++)
		host_clear(&hosts->items[i]);
	hosts->count = 0;
}

/* ---- files ---- */

/* Appends a PEM file to *@pem. */
static int read_pem(const char *path, char **pem, const char *what, struct why *why)
{
	_cleanup_(cleanup_free) char *text = NULL, *real = NULL;
	char *both;
	int r;

	real = realpath(path, NULL);
	r = real ? file_read(AT_FDCWD, real, PEM_MAX, &text, NULL) : -errno;
	if (r)
		return why_set(why, WORK_E_INVALID, "cannot read %s '%s': %s", what,
			       work_show(path), strerror(-r));
	if (!strstr(text, "-----BEGIN "))
		return why_set(why, WORK_E_INVALID, "%s '%s' is not PEM", what, work_show(path));
	both = text_format("%s%s%s", *pem ? *pem : "", *pem ? "\n" : "", text);
	explicit_bzero(text, strlen(text));
	if (!both)
		return error_origin(-ENOMEM);
	free(*pem);
	*pem = both;
	return 0;
}

static int read_beneath(const char *directory, const char *path, char **pem, const char *what,
			struct why *why)
{
	_cleanup_(cleanup_free) char *full = NULL;

	full = path[0] == '/' || !directory ? strdup(path) : text_format("%s/%s", directory, path);
	return full ? read_pem(full, pem, what, why) : error_origin(-ENOMEM);
}

/* What no host says for itself. */
static int add_defaults(struct host *host, const struct registry_options *options, struct why *why)
{
	int r = 0;

	host->skip_verify = host->skip_verify || (options && options->skip_verify);
	if (!options)
		return 0;
	if (!host->ca && options->tls_ca && options->tls_ca[0])
		r = read_pem(options->tls_ca, &host->ca, "the CA certificates", why);
	if (r || host->cert || !options->tls_cert || !options->tls_cert[0])
		return r;
	r = read_pem(options->tls_cert, &host->cert, "the client certificate", why);
	if (!r)
		r = read_pem(options->tls_key && options->tls_key[0] ? options->tls_key
								     : options->tls_cert,
			     &host->key, "the client key", why);
	return r;
}

/* ---- hosts ---- */

static int add_host(struct hosts *hosts, struct host **ret_host, struct why *why)
{
	if (hosts->count == HOSTS_MAX)
		return why_set(why, WORK_E_INVALID, "more than %d hosts", HOSTS_MAX);
	*ret_host = &hosts->items[hosts->count++];
	**ret_host = (struct host){.can_pull = true, .can_resolve = true, .can_push = true};
	return 0;
}

/* https://host[:port][/path]; @is_override: the path is all of it, else /v2 follows. */
static int set_url(struct host *host, const char *url, bool is_override, struct why *why)
{
	const char *rest = strstr(url, "://"), *scheme = "https", *path;
	_cleanup_(cleanup_free) char *trimmed = NULL;
	size_t size;

	if (rest && strncmp(url, "http://", 7) && strncmp(url, "https://", 8))
		return why_set(why, WORK_E_INVALID, "'%s' is neither http:// nor https://",
			       work_show(url));
	if (rest)
		scheme = url[4] == 's' ? "https" : "http";
	rest = rest ? rest + 3 : url;
	size = strcspn(rest, "/");
	if (!size || strpbrk(rest, " ?#@\\\"") || strspn(rest, "/") || strstr(rest, ".."))
		return why_set(why, WORK_E_INVALID, "'%s' is not the URL of a registry",
			       work_show(url));
	trimmed = strdup(rest + size);
	host->name = strndup(rest, size);
	if (!trimmed || !host->name)
		return error_origin(-ENOMEM);
	for (size_t n = strlen(trimmed); n && trimmed[n - 1] == '/';)
		trimmed[--n] = '\0';
	size = strlen(trimmed);
	path = is_override || (size >= 3 && !strcmp(trimmed + size - 3, "/v2")) ? "" : "/v2";
	host->url = text_format("%s://%s%s%s", scheme, host->name, trimmed, path);
	return host->url ? 0 : error_origin(-ENOMEM);
}

/* The registry itself, when nothing says otherwise. */
static int add_origin(const struct remote *remote, const struct registry_options *options,
		      bool has_certificates, struct hosts *hosts, struct why *why)
{
	_cleanup_(cleanup_free) char *url = NULL;
	bool is_plain = options && options->plain_http;
	struct host *host = NULL;
	int r;

	if (!is_plain && !has_certificates && remote_is_local(remote->host))
		is_plain = !options ||
			   (!options->skip_verify && !options->tls_ca && !options->tls_cert);
	r = add_host(hosts, &host, why);
	if (r)
		return r;
	url = text_format("%s://%s", is_plain ? "http" : "https", remote_endpoint(remote->host));
	if (!url)
		return error_origin(-ENOMEM);
	host->is_origin = true;
	r = set_url(host, url, false, why);
	return r ? r : add_defaults(host, options, why);
}

/* ---- hosts.toml ---- */

struct reading {
	const struct remote *remote;
	const struct registry_options *options;
	const char *directory;
	struct hosts *hosts;
	struct why *why;
};

static int refuse_key(struct reading *reading, const char *key)
{
	return why_set(reading->why, WORK_E_INVALID, "'%s' is not known there, or not of its kind",
		       work_show(key));
}

/* A text, or a list of them. */
static int read_files(struct reading *reading, const json_t *value, char **pem, const char *what)
{
	int r = 0;

	if (json_is_string(value))
		return read_beneath(reading->directory, json_string_value(value), pem, what,
				    reading->why);
	if (!json_is_array(value))
		return refuse_key(reading, what);
	for (size_t i = 0; i < json_array_size(value) && !r; i++) {
		const json_t *item = json_array_get(value, i);

		r = json_is_string(item) ? read_beneath(reading->directory, json_string_value(item),
							pem, what, reading->why)
					 : refuse_key(reading, what);
	}
	return r;
}

static int read_client_pair(struct reading *reading, struct host *host, const json_t *cert,
			    const json_t *key)
{
	int r;

	if (!json_is_string(cert) || (key && !json_is_string(key)))
		return refuse_key(reading, "client");
	r = read_files(reading, cert, &host->cert, "client certificate");
	return r ? r : read_files(reading, key ?: cert, &host->key, "client key");
}

/* "file" of both, ["cert", "key"], or [["cert", "key"]]. */
static int read_client(struct reading *reading, struct host *host, const json_t *value)
{
	const json_t *pair = value;

	if (json_is_string(value))
		return read_client_pair(reading, host, value, NULL);
	if (json_array_size(value) == 1 && json_is_array(json_array_get(value, 0)))
		pair = json_array_get(value, 0);
	if (json_array_size(pair) < 1 || json_array_size(pair) > 2)
		return refuse_key(reading, "client");
	return read_client_pair(reading, host, json_array_get(pair, 0), json_array_get(pair, 1));
}

static int read_capabilities(struct reading *reading, struct host *host, const json_t *value)
{
	if (!json_is_array(value))
		return refuse_key(reading, "capabilities");
	host->can_pull = host->can_resolve = host->can_push = false;
	for (size_t i = 0; i < json_array_size(value); i++) {
		const char *text = json_string_value(json_array_get(value, i));

		if (text && !strcmp(text, "pull"))
			host->can_pull = true;
		else if (text && !strcmp(text, "resolve"))
			host->can_resolve = true;
		else if (text && !strcmp(text, "push"))
			host->can_push = true;
		else
			return why_set(reading->why, WORK_E_INVALID,
				       "capability '%s' is none of pull, resolve, push",
				       text ? work_show(text) : "(no text)");
	}
	return 0;
}

static bool is_header(const char *name, const char *value)
{
	size_t size = strlen(name);

	return size && size <= 128 && strlen(value) <= 4096 &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") ==
		       size &&
	       !strpbrk(value, "\r\n") && strcasecmp(name, "host");
}

static int read_headers(struct reading *reading, struct host *host, const json_t *table)
{
	const json_t *value;
	const char *name;

	if (!json_is_object(table) || json_object_size(table) > HEADERS_MAX)
		return refuse_key(reading, "header");
	json_object_foreach((json_t *)table, name, value)
	{
		const json_t *first = json_is_array(value) ? json_array_get(value, 0) : value;

		if (json_array_size(value) > 1 || !json_is_string(first) ||
		    !is_header(name, json_string_value(first)))
			return refuse_key(reading, name);
		if (schema_map_set(&host->headers, name, json_string_value(first)))
			return error_origin(-ENOMEM);
	}
	return 0;
}

static int read_key(struct reading *reading, struct host *host, const char *key,
		    const json_t *value)
{
	if (!strcmp(key, "capabilities"))
		return read_capabilities(reading, host, value);
	if (!strcmp(key, "ca"))
		return read_files(reading, value, &host->ca, "ca");
	if (!strcmp(key, "client"))
		return read_client(reading, host, value);
	if (!strcmp(key, "header"))
		return read_headers(reading, host, value);
	if (!strcmp(key, "skip_verify") && json_is_boolean(value)) {
		host->skip_verify = json_is_true(value);
		return 0;
	}
	/* Read with the URL. */
	if (!strcmp(key, "override_path") && json_is_boolean(value))
		return 0;
	return refuse_key(reading, key);
}

static int read_host(struct reading *reading, const char *url, const json_t *table)
{
	const json_t *value;
	struct host *host = NULL;
	const char *key;
	int r;

	if (!json_is_object(table))
		return refuse_key(reading, url);
	r = add_host(reading->hosts, &host, reading->why);
	if (!r)
		r = set_url(host, url, json_is_true(json_object_get(table, "override_path")),
			    reading->why);
	if (r)
		return r;
	host->is_origin = !strcmp(host->name, reading->remote->host) ||
			  !strcmp(host->name, remote_endpoint(reading->remote->host));
	json_object_foreach((json_t *)table, key, value)
	{
		if (!strcmp(key, "server") || !strcmp(key, "host"))
			continue;
		r = read_key(reading, host, key, value);
		if (r)
			return r;
	}
	return add_defaults(host, reading->options, reading->why);
}

static int read_mirrors(struct reading *reading, const json_t *mirrors)
{
	const json_t *value;
	const char *url;
	int r;

	json_object_foreach((json_t *)mirrors, url, value)
	{
		if (json_object_get(value, "server") || json_object_get(value, "host"))
			return refuse_key(reading, "server");
		r = read_host(reading, url, value);
		if (r)
			return r;
	}
	return 0;
}

/* The last one tried: what `server` says, with the keys at the top; the registry itself without. */
static int read_server(struct reading *reading, const json_t *root)
{
	const json_t *server = json_object_get(root, "server"), *value;
	const char *key;

	if (server && !json_is_string(server))
		return refuse_key(reading, "server");
	if (server)
		return read_host(reading, json_string_value(server), root);
	json_object_foreach((json_t *)root, key, value)
	{
		if (strcmp(key, "host"))
			return why_set(reading->why, WORK_E_INVALID,
				       "'%s' at the top needs a 'server'", work_show(key));
	}
	return add_origin(reading->remote, reading->options, false, reading->hosts, reading->why);
}

int hosts_parse(const struct remote *remote, const struct registry_options *options,
		const char *text, size_t size, const char *directory, struct hosts *ret_hosts,
		struct why *why)
{
	_cleanup_(cleanup_json) json_t *root = NULL;
	_cleanup_(hosts_clear) struct hosts hosts = {};
	struct reading reading = {.remote = remote,
				  .options = options,
				  .directory = directory,
				  .hosts = &hosts,
				  .why = why};
	const json_t *mirrors;
	int r;

	r = toml_parse(text, size, &root, why);
	if (r)
		return r > 0 ? WORK_E_INVALID : error_trace(r);
	mirrors = json_object_get(root, "host");
	if (mirrors && !json_is_object(mirrors))
		return refuse_key(&reading, "host");
	r = mirrors ? read_mirrors(&reading, mirrors) : 0;
	if (!r)
		r = read_server(&reading, root);
	if (r)
		return r;
	*ret_hosts = hosts;
	hosts = (struct hosts){};
	return 0;
}

/* ---- the directory ---- */

static bool has_suffix(const char *name, const char *suffix)
{
	size_t size = strlen(name), n = strlen(suffix);

	return size > n && !strcmp(name + size - n, suffix);
}

/* Docker's layout: <name>.crt to trust; <name>.cert and <name>.key as client. */
static int read_certificates(const struct remote *remote, const struct registry_options *options,
			     const char *directory, struct hosts *hosts, struct why *why)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(directory);
	struct host own = {};
	struct dirent *entry;
	int r = 0;

	while (dir && !r && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *key = NULL;

		if (has_suffix(entry->d_name, ".crt"))
			r = read_beneath(directory, entry->d_name, &own.ca, "certificate", why);
		if (!has_suffix(entry->d_name, ".cert") || own.cert)
			continue;
		key = text_format("%.*s.key", (int)strlen(entry->d_name) - 5, entry->d_name);
		r = key ? read_beneath(directory, entry->d_name, &own.cert, "client certificate",
				       why)
			: error_origin(-ENOMEM);
		if (!r)
			r = read_beneath(directory, key, &own.key, "client key", why);
	}
	if (!r)
		r = add_origin(remote, options, own.ca || own.cert, hosts, why);
	if (!r && own.ca) {
		free(hosts->items[0].ca);
		hosts->items[0].ca = TAKE(own.ca);
	}
	if (!r && own.cert) {
		free(hosts->items[0].cert);
		free(hosts->items[0].key);
		hosts->items[0].cert = TAKE(own.cert);
		hosts->items[0].key = TAKE(own.key);
	}
	host_clear(&own);
	return r;
}

/* The directory of this registry: host, host_port_ (containerd's for file systems without colons), _default. */
static int find_directory(const char *top, const char *host, char **ret_directory)
{
	_cleanup_(cleanup_free) char *other = text_format("%s/%s_", top, host);
	char *colon = other ? strrchr(other, ':') : NULL;
	struct stat status;

	if (!other)
		return error_origin(-ENOMEM);
	if (colon)
		*colon = '_';
	for (unsigned i = 0; i < 3; i++) {
		_cleanup_(cleanup_free) char *path = NULL;

		path = i == 0 && colon ? strdup(other)
				       : text_format("%s/%s", top, i == 2 ? "_default" : host);
		if (!path)
			return error_origin(-ENOMEM);
		if (!stat(path, &status) && S_ISDIR(status.st_mode)) {
			*ret_directory = TAKE(path);
			return 0;
		}
	}
	*ret_directory = NULL;
	return 0;
}

static int read_directory(const struct remote *remote, const struct registry_options *options,
			  const char *directory, struct hosts *hosts, struct why *why)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/hosts.toml", directory);
	_cleanup_(cleanup_free) char *real = path ? realpath(path, NULL) : NULL, *text = NULL;
	size_t size;
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	if (!real)
		return read_certificates(remote, options, directory, hosts, why);
	r = file_read(AT_FDCWD, real, TOML_SIZE_MAX, &text, &size);
	if (r)
		return why_set(why, WORK_E_INVALID, "cannot read '%s': %s", work_show(path),
			       strerror(-r));
	r = hosts_parse(remote, options, text, size, directory, hosts, why);
	return r == WORK_E_INVALID ? why_prefix(why, r, "%s", work_show(path)) : r;
}

int hosts_load(const struct remote *remote, const struct registry_options *options,
	       struct hosts *ret_hosts, struct why *why)
{
	const char *top = options && options->hosts_dir && options->hosts_dir[0]
				  ? options->hosts_dir
				  : DEFAULT_DIR;
	_cleanup_(cleanup_free) char *directory = NULL;
	_cleanup_(hosts_clear) struct hosts hosts = {};
	struct stat status;
	int r;

	if (strcmp(top, DEFAULT_DIR) && stat(top, &status) < 0)
		return why_set(why, WORK_E_INVALID, "hosts directory '%s': %s", work_show(top),
			       strerror(errno));
	r = find_directory(top, remote->host, &directory);
	if (!r)
		r = directory ? read_directory(remote, options, directory, &hosts, why)
			      : add_origin(remote, options, false, &hosts, why);
	if (r)
		return r;
	*ret_hosts = hosts;
	hosts = (struct hosts){};
	return 0;
}
