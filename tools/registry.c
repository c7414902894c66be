/* davit images pull and push, davit content fetch, fetch-object, fetch-blob and push-object. */

#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "tools/lists.h"
#include "tools/progress.h"
#include "tools/registry.h"

#define LABEL_EXPIRE "containerd.io/gc.expire"
#define LEASE_S      (24 * 3600)
#define WORDS_MAX    15 /* of media types a request has 16 */

struct registry_words {
	bool skip_verify, plain_http, http_dump, http_trace;
	char *user, *refresh, *hosts_dir, *tls_ca, *tls_cert, *tls_key;
};

struct pull_options {
	struct registry_words registry;
	char *snapshotter;
	struct schema_strs labels, platforms;
	bool all_platforms, all_metadata, metadata_only, no_unpack, print_chain_id;
	uint64_t concurrent;
};

struct push_options {
	struct registry_words registry;
	char *manifest, *manifest_type, *platform;
	bool allow_non_distributable;
	uint64_t concurrent;
};

/* ---- how to reach the registry ---- */

static int absolute(struct context *context, const char *path, const char *what, char **ret_path)
{
	if (!path || !*path)
		return 0;
	*ret_path = realpath(path, NULL);
	return *ret_path ? 0 : fail(context, "%s %s: %s", what, path, strerror(errno));
}

/* One line from the terminal without an echo, or from standard input. */
static int read_password(struct context *context, char **ret_password)
{
	struct termios before, quiet;
	bool is_terminal = !tcgetattr(STDIN_FILENO, &before);
	size_t capacity = 0;
	ssize_t size;

	if (is_terminal) {
		fputs("Password: ", stderr);
		quiet = before;
		quiet.c_lflag &= ~(tcflag_t)ECHO;
		tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
	}
	size = getline(ret_password, &capacity, stdin);
	if (is_terminal) {
		tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
		fputc('\n', stderr);
	}
	if (size < 0)
		return fail(context, "--user names no password, and standard input has none");
	(*ret_password)[strcspn(*ret_password, "\r\n")] = '\0';
	return 0;
}

static int set_user(struct context *context, const char *user, struct registry_options *options)
{
	const char *colon = strchr(user, ':');

	options->username = colon ? strndup(user, (size_t)(colon - user)) : strdup(user);
	if (colon)
		options->password = strdup(colon + 1);
	if (!options->username || (colon && !options->password))
		return fail(context, "out of memory");
	return colon ? 0 : read_password(context, &options->password);
}

static int fill_options(struct context *context, const struct registry_words *words,
			struct registry_options *options)
{
	int code = 0;

	options->skip_verify = words->skip_verify;
	options->plain_http = words->plain_http;
	options->http_dump = words->http_dump;
	options->http_trace = words->http_trace;
	if (words->refresh && schema_set(&options->refresh, words->refresh))
		return fail(context, "out of memory");
	if (words->user)
		code = set_user(context, words->user, options);
	if (!code)
		code = absolute(context, words->hosts_dir, "--hosts-dir", &options->hosts_dir);
	if (!code)
		code = absolute(context, words->tls_ca, "--tlscacert", &options->tls_ca);
	if (!code)
		code = absolute(context, words->tls_cert, "--tlscert", &options->tls_cert);
	if (!code)
		code = absolute(context, words->tls_key, "--tlskey", &options->tls_key);
	return code;
}

/* ---- pull ---- */

static int pull_image(struct context *context, const struct pull_options *options, const char *name,
		      struct image_pull_reply *reply)
{
	_cleanup_(registry_options_clear) struct registry_options registry = {};
	_cleanup_(schema_map_clear) struct schema_map labels = {};
	struct image_pull_request request = {
		.name = (char *)name,
		.registry = &registry,
		.platforms = options->platforms,
		.all_platforms = options->all_platforms,
		.all_metadata = options->all_metadata,
		.metadata_only = options->metadata_only,
		.no_unpack = options->no_unpack,
		.snapshotter = options->snapshotter,
		.max_concurrent_downloads = options->concurrent,
	};
	int code;

	code = fill_options(context, &options->registry, &registry);
	if (!code)
		code = list_parse_labels(context, options->labels.items, (int)options->labels.count,
					 &labels);
	if (code)
		return code;
	request.labels = labels;
	return progress_ask_image(context, "pull", name, &request, reply);
}

static int pull(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(image_pull_reply_clear) struct image_pull_reply reply = {};
	const struct pull_options *options = data;
	char size[32];
	int code;

	(void)n_args;
	code = pull_image(context, options, args[0], &reply);
	if (code)
		return code;
	output_size(reply.downloaded, size);
	printf("pulled %s (%s), %s downloaded\n", reply.image->name, reply.image->target->digest,
	       size);
	if (options->print_chain_id)
		printf("image chain ID: %s\n", reply.chain_id ?: "");
	return EXIT_OK;
}

static int fetch(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(image_pull_reply_clear) struct image_pull_reply reply = {};
	struct pull_options options = *(const struct pull_options *)data;
	int code;

	(void)n_args;
	options.no_unpack = true;
	code = pull_image(context, &options, args[0], &reply);
	if (code)
		return code;
	puts(reply.image->target->digest);
	return EXIT_OK;
}

/* ---- push ---- */

static int push(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(registry_options_clear) struct registry_options registry = {};
	_cleanup_(image_push_reply_clear) struct image_push_reply reply = {};
	const struct push_options *options = data;
	struct image_push_request request = {
		.name = args[0],
		.source = n_args > 1 ? args[1] : NULL,
		.registry = &registry,
		.manifest = options->manifest,
		.manifest_type = options->manifest_type,
		.allow_non_distributable = options->allow_non_distributable,
		.max_concurrent_uploads = options->concurrent,
	};
	char *platform = options->platform;
	int code;

	if (platform)
		request.platforms = (struct schema_strs){&platform, 1};
	code = fill_options(context, &options->registry, &registry);
	if (!code)
		code = progress_ask_image(context, "push", args[0], &request, &reply);
	if (code)
		return code;
	printf("pushed %s (%s): %llu blobs sent, %llu mounted, %llu there already\n", args[0],
	       reply.target->digest, (unsigned long long)reply.uploaded,
	       (unsigned long long)reply.mounted, (unsigned long long)reply.existing);
	return EXIT_OK;
}

/* ---- one object ---- */

struct object_options {
	struct registry_words registry;
	char *media_type;
};

/* What is loaded must stay until it is printed. It ends by itself, should this process not live to end it. */
static int make_lease(struct context *context, char **ret_id)
{
	_cleanup_(lease_reply_clear) struct lease_reply reply = {};
	char end[40];
	struct schema_pair expire = {.key = (char *)LABEL_EXPIRE, .value = end};
	struct lease_create_request request = {.labels = {&expire, 1}};
	int r;

	output_time((uint64_t)(time(NULL) + LEASE_S) * 1000000000, end);
	r = lease_create_ask(&context->ask, &request, &reply);
	if (r)
		return fail_ask(context, r);
	*ret_id = TAKE(reply.lease->id);
	return EXIT_OK;
}

static void end_lease(struct context *context, const char *id)
{
	struct lease_delete_request request = {.id = (char *)id};

	(void)lease_delete_ask(&context->ask, &request, NULL);
}

static int print_object(struct context *context, struct image_fetch_object_request *request,
			char *digest)
{
	_cleanup_(image_fetch_object_reply_clear) struct image_fetch_object_reply reply = {};
	int code;

	request->digest = digest;
	code = progress_ask_image(context, "fetch_object", request->name, request, &reply);
	return code ? code : list_print_blob(context, reply.object->digest, stdout);
}

static int print_objects(struct context *context, struct image_fetch_object_request *request,
			 const struct schema_strs *digests)
{
	int code;

	code = make_lease(context, &request->lease);
	if (code)
		return code;
	if (!digests->count)
		code = print_object(context, request, NULL);
	for (size_t i = 0; i < digests->count && !code; i++)
		code = print_object(context, request, digests->items[i]);
	end_lease(context, request->lease);
	free(request->lease);
	return code;
}

/* Digests are borrowed, and so are media types. */
static int sort_words(struct context *context, char **words, int n_words,
		      struct schema_strs *digests, struct schema_strs *media_types)
{
	for (int i = 0; i < n_words; i++) {
		if (strchr(words[i], '/'))
			media_types->items[media_types->count++] = words[i];
		else if (strchr(words[i], ':'))
			digests->items[digests->count++] = words[i];
		else
			return fail_usage(context, "'%s' is neither a digest nor a media type",
					  words[i]);
	}
	return EXIT_OK;
}

static int fetch_object(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(registry_options_clear) struct registry_options registry = {};
	const struct object_options *options = data;
	char *digest_words[WORDS_MAX + 1], *type_words[WORDS_MAX + 1];
	struct schema_strs digests = {digest_words, 0};
	struct image_fetch_object_request request = {
		.name = args[0], .registry = &registry, .media_types = {type_words, 0}};
	int code;

	if (options->media_type)
		type_words[request.media_types.count++] = options->media_type;
	code = sort_words(context, args + 1, n_args - 1, &digests, &request.media_types);
	if (!code)
		code = fill_options(context, &options->registry, &registry);
	return code ? code : print_objects(context, &request, &digests);
}

static int fetch_blob(struct context *context, void *data, char **args, int n_args)
{
	for (int i = 1; i < n_args; i++) {
		if (strchr(args[i], '/'))
			return fail_usage(context, "'%s' is not a digest", args[i]);
	}
	return fetch_object(context, data, args, n_args);
}

static int push_object(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(registry_options_clear) struct registry_options registry = {};
	_cleanup_(image_push_reply_clear) struct image_push_reply reply = {};
	const struct object_options *options = data;
	struct image_push_object_request request = {.name = args[0],
						    .registry = &registry,
						    .digest = args[1],
						    .media_type = n_args > 2 ? args[2] : NULL};
	int code;

	code = fill_options(context, &options->registry, &registry);
	if (!code)
		code = progress_ask_image(context, "push_object", args[0], &request, &reply);
	if (code)
		return code;
	printf("Pushed %s %s%s\n", reply.target->digest, reply.target->media_type,
	       reply.existing ? " (there already)" : "");
	return EXIT_OK;
}

/* ---- the tables ---- */

#define REGISTRY_OPTIONS(type_)                                                                    \
	OPTION(type_, registry.skip_verify, FLAG, "skip-verify", 'k', NULL,                        \
	       "do not check the registry's certificate"),                                         \
		OPTION(type_, registry.plain_http, FLAG, "plain-http", 0, NULL,                    \
		       "HTTP without TLS"),                                                        \
		OPTION(type_, registry.user, TEXT, "user", 'u', "USER[:PASSWORD]",                 \
		       "user of the registry; the password is asked for if it is not given"),      \
		OPTION(type_, registry.refresh, TEXT, "refresh", 0, "TOKEN",                       \
		       "refresh token for the registry's token server"),                           \
		OPTION(type_, registry.hosts_dir, TEXT, "hosts-dir", 0, "DIR",                     \
		       "directory of <host>/hosts.toml files, as containerd's"),                   \
		OPTION(type_, registry.tls_ca, TEXT, "tlscacert", 0, "FILE",                       \
		       "certificates to trust in place of the system's"),                          \
		OPTION(type_, registry.tls_cert, TEXT, "tlscert", 0, "FILE",                       \
		       "client certificate"),                                                      \
		OPTION(type_, registry.tls_key, TEXT, "tlskey", 0, "FILE", "its key"),             \
		OPTION(type_, registry.http_dump, FLAG, "http-dump", 0, NULL,                      \
		       "requests and replies into davit-image's log, without credentials"),        \
		OPTION(type_, registry.http_trace, FLAG, "http-trace", 0, NULL,                    \
		       "what happens on connections into davit-image's log")

#define FETCH_OPTIONS                                                                              \
	REGISTRY_OPTIONS(struct pull_options),                                                     \
		OPTION(struct pull_options, labels, LIST, "label", 0, "KEY=VALUE",                 \
		       "label of the image"),                                                      \
		OPTION(struct pull_options, platforms, LIST, "platform", 0, "OS/ARCH",             \
		       "this platform (default: this host's)"),                                    \
		OPTION(struct pull_options, all_platforms, FLAG, "all-platforms", 0, NULL,         \
		       "all platforms"),                                                           \
		OPTION(struct pull_options, all_metadata, FLAG, "all-metadata", 0, NULL,           \
		       "manifests and configs of all platforms"),                                  \
		OPTION(struct pull_options, concurrent, NUMBER, "max-concurrent-downloads", 0,     \
		       "N", "so many blobs at a time, at most 16 (default: 3)")

static const struct option_spec pull_options[] = {
	FETCH_OPTIONS,
	OPTION(struct pull_options, snapshotter, TEXT, "snapshotter", 0, "NAME",
	       "unpack for this snapshotter"),
	OPTION(struct pull_options, no_unpack, FLAG, "no-unpack", 0, NULL, "do not unpack"),
	OPTION(struct pull_options, print_chain_id, FLAG, "print-chainid", 0, NULL,
	       "print the chain id of the image's layers"),
	{}};
static const struct option_spec fetch_options[] = {FETCH_OPTIONS,
						   OPTION(struct pull_options, metadata_only, FLAG,
							  "metadata-only", 0, NULL,
							  "only manifests and configs"),
						   {}};
static const struct option_spec push_options[] = {
	REGISTRY_OPTIONS(struct push_options),
	OPTION(struct push_options, manifest, TEXT, "manifest", 0, "DIGEST",
	       "push this manifest of the content store"),
	OPTION(struct push_options, manifest_type, TEXT, "manifest-type", 0, "TYPE",
	       "its media type (default: that under which it came)"),
	OPTION(struct push_options, platform, TEXT, "platform", 0, "OS/ARCH",
	       "push only this platform"),
	OPTION(struct push_options, concurrent, NUMBER, "max-concurrent-uploaded-layers", 0, "N",
	       "so many blobs at a time, at most 16 (default: 3)"),
	OPTION(struct push_options, allow_non_distributable, FLAG, "allow-non-distributable-blobs",
	       0, NULL, "push layers that are marked as non-distributable too"),
	{}};

static const struct option_spec object_options[] = {REGISTRY_OPTIONS(struct object_options), {}};
static const struct option_spec blob_options[] = {
	REGISTRY_OPTIONS(struct object_options),
	OPTION(struct object_options, media_type, TEXT, "media-type", 0, "TYPE",
	       "what it is: one of a manifest or index says that it is a document"),
	{}};

#define PULL_DETAILS                                                                               \
	"A pull that is interrupted keeps what has come for a day, and the next one goes on "      \
	"there. Credentials are sent to the registry of the reference and to the token server "    \
	"that it names; they are not stored."

const struct command images_pull_command = {
	.name = "pull",
	.arguments = "REF",
	.summary = "pull an image from a registry",
	.details = PULL_DETAILS,
	.options = pull_options,
	.options_size = sizeof(struct pull_options),
	.min_args = 1,
	.max_args = 1,
	.run = pull,
};
const struct command images_push_command = {
	.name = "push",
	.arguments = "REMOTE [LOCAL]",
	.summary = "push an image to a registry",
	.options = push_options,
	.options_size = sizeof(struct push_options),
	.min_args = 1,
	.max_args = 2,
	.run = push,
};
const struct command content_fetch_command = {
	.name = "fetch",
	.arguments = "REF",
	.summary = "load all content of an image, without unpacking it",
	.details = PULL_DETAILS,
	.options = fetch_options,
	.options_size = sizeof(struct pull_options),
	.min_args = 1,
	.max_args = 1,
	.run = fetch,
};
const struct command content_fetch_object_command = {
	.name = "fetch-object",
	.arguments = "REMOTE [DIGEST|MEDIA-TYPE...]",
	.summary = "print objects of a repository",
	.details =
		"Without a digest: the manifest or index that the reference names, as one of the "
		"media types. With digests: these blobs and documents of its repository, one after "
		"the other; a media type of a manifest or index says that they are documents. "
		"Each is compared with its digest before a byte of it is printed, and nothing of it "
		"stays in the content store that was not there.",
	.options = object_options,
	.options_size = sizeof(struct object_options),
	.min_args = 1,
	.max_args = 1 + WORDS_MAX,
	.run = fetch_object,
};
const struct command content_fetch_blob_command = {
	.name = "fetch-blob",
	.arguments = "REMOTE DIGEST [DIGEST...]",
	.summary = "print blobs of a repository, as fetch-object does",
	.options = blob_options,
	.options_size = sizeof(struct object_options),
	.min_args = 2,
	.max_args = 1 + WORDS_MAX,
	.run = fetch_blob,
};
const struct command content_push_object_command = {
	.name = "push-object",
	.arguments = "REMOTE DIGEST [MEDIA-TYPE]",
	.summary = "send one object of the content store to a repository",
	.details =
		"What it refers to is not sent. As a manifest or index it gets the tag of the "
		"reference; as anything else it is a blob of its repository. Without a media type "
		"it is what it came as.",
	.options = object_options,
	.options_size = sizeof(struct object_options),
	.min_args = 2,
	.max_args = 3,
	.run = push_object,
};
