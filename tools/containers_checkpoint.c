/*
 * davit containers checkpoint and restore: a container's record and its writable
 * layer as an image. The image is an ordinary one, which runs by itself; what the
 * record adds stands in annotations of its manifest.
 */

#include <string.h>
#include <time.h>

#include "broker/lib/loop.h"
#include "tools/lists.h"

#define LEASE_S            3600 /* an end of its own, should this command die */
#define CHUNK              262144
#define MANIFEST_MAX       (4u << 20)
#define TYPE_MANIFEST      "application/vnd.oci.image.manifest.v1+json"
#define TYPE_CONFIG        "application/vnd.oci.image.config.v1+json"
#define ANNOTATION_SPEC    "io.davit.checkpoint.spec"
#define ANNOTATION_IMAGE   "io.davit.checkpoint.image"
#define ANNOTATION_RUNTIME "io.davit.checkpoint.runtime"
#define ANNOTATION_ID      "io.davit.checkpoint.container"

struct checkpoint_options {
	bool rw, image;
};

struct checkpoint {
	struct context *context;
	struct container_record *container; /* borrowed */
	struct lease_reply lease;
	struct image_inspect_reply image;
	struct snapshot_diff_reply diff;
	bool has_diff;
};

/* ---- blobs --------------------------------------------------------------- */

static int hold(struct checkpoint *checkpoint)
{
	struct lease_create_request request = {};
	time_t end = (time_t)(time_real_ns() / 1000000000) + LEASE_S;
	char text[32];
	struct tm tm;
	int r;

	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&end, &tm));
	r = schema_map_set(&request.labels, "containerd.io/gc.expire", text)
		    ?: lease_create_ask(&checkpoint->context->ask, &request, &checkpoint->lease);
	schema_map_clear(&request.labels);
	return r ? fail_ask(checkpoint->context, r) : 0;
}

static int write_parts(struct checkpoint *checkpoint, const char *ref, const char *text,
		       size_t size)
{
	int r = 0;

	for (size_t done = 0; !r && done < size; done += CHUNK) {
		struct content_write_request part = {
			.ref = (char *)ref,
			.writer = (char *)ref,
			.offset = done,
			.total = size,
			.lease = checkpoint->lease.lease->id,
			.data = {(uint8_t *)text + done,
				 size - done < CHUNK ? size - done : CHUNK}};

		r = content_write_ask(&checkpoint->context->ask, &part, NULL);
	}
	return r;
}

/* @json becomes a blob of @type; @ret_descriptor is its descriptor as JSON. */
static int write_json(struct checkpoint *checkpoint, const json_t *json, const char *type,
		      json_t **ret_descriptor)
{
	_cleanup_(content_commit_reply_clear) struct content_commit_reply reply = {};
	_cleanup_(cleanup_free) char *text = json_dumps(json, JSON_COMPACT);
	struct content_commit_request commit = {.media_type = (char *)type,
						.lease = checkpoint->lease.lease->id};
	char ref[300];
	int r;

	if (!text)
		return fail(checkpoint->context, "out of memory");
	snprintf(ref, sizeof(ref), "checkpoint-%.200s-%s", checkpoint->lease.lease->id,
		 strcmp(type, TYPE_CONFIG) ? "manifest" : "config");
	commit.ref = commit.writer = ref;
	r = write_parts(checkpoint, ref, text, strlen(text))
		    ?: content_commit_ask(&checkpoint->context->ask, &commit, &reply);
	if (r)
		return fail_ask(checkpoint->context, r);
	*ret_descriptor = json_pack("{s:s, s:s, s:I}", "mediaType", type, "digest",
				    reply.content->digest, "size", (json_int_t)reply.content->size);
	return *ret_descriptor ? 0 : fail(checkpoint->context, "out of memory");
}

/* ---- checkpoint ---------------------------------------------------------- */

static int inspect_image(struct context *context, const char *name,
			 struct image_inspect_reply *ret_reply)
{
	struct image_unpack_request request = {.name = (char *)name};
	int r = image_inspect_ask(&context->ask, &request, ret_reply);

	return r ? fail_ask(context, r) : 0;
}

/* Frozen meanwhile, if it runs: the layer is of one moment. */
static int make_layer(struct checkpoint *checkpoint)
{
	struct container_record *container = checkpoint->container;
	struct task_container_request task = {.container_id = container->id};
	struct snapshot_diff_request request = {.key = container->snapshot_key,
						.snapshotter = container->snapshotter,
						.lease = checkpoint->lease.lease->id};
	struct ask *ask = &checkpoint->context->ask;
	bool is_paused = !task_pause_ask(ask, &task, NULL);
	int r = snapshot_diff_ask(ask, &request, &checkpoint->diff);
	int code = r ? fail_ask(checkpoint->context, r) : 0;

	if (is_paused && task_resume_ask(ask, &task, NULL))
		code = fail_ask(checkpoint->context, 1);
	checkpoint->has_diff = !code;
	return code;
}

static json_t *layer_json(const struct descriptor *blob)
{
	return json_pack("{s:s, s:s, s:I}", "mediaType", blob->media_type ?: "", "digest",
			 blob->digest, "size", (json_int_t)blob->size);
}

/* The image's own config, and the new layer's diff id. */
static int write_config(struct checkpoint *checkpoint, json_t **ret_descriptor)
{
	json_t *config = checkpoint->image.config ? json_loads(checkpoint->image.config, 0, NULL)
						  : NULL;
	json_t *ids = json_object_get(json_object_get(config, "rootfs"), "diff_ids");
	int code;

	if (!json_is_array(ids)) {
		json_decref(config);
		return fail(checkpoint->context, "image '%s' has no config that can be extended",
			    checkpoint->container->image);
	}
	if (checkpoint->has_diff) {
		json_array_append_new(ids, json_string(checkpoint->diff.diff_id));
		json_array_append_new(
			json_object_get(config, "history"),
			json_pack("{s:s}", "created_by", "davit containers checkpoint"));
	}
	code = write_json(checkpoint, config, TYPE_CONFIG, ret_descriptor);
	json_decref(config);
	return code;
}

/* Steals @config. */
static json_t *manifest_json(const struct checkpoint *checkpoint, json_t *config)
{
	const struct container_record *container = checkpoint->container;
	json_t *layers = json_array();

	for (size_t i = 0; i < checkpoint->image.layers.count; i++)
		json_array_append_new(layers, layer_json(checkpoint->image.layers.items[i].blob));
	if (checkpoint->has_diff)
		json_array_append_new(layers, layer_json(checkpoint->diff.diff));
	return json_pack("{s:i, s:s, s:o, s:o, s:{s:s, s:s, s:s, s:s}}", "schemaVersion", 2,
			 "mediaType", TYPE_MANIFEST, "config", config, "layers", layers,
			 "annotations", ANNOTATION_ID, container->id, ANNOTATION_IMAGE,
			 container->image, ANNOTATION_RUNTIME, container->runtime ?: "",
			 ANNOTATION_SPEC, container->spec ?: "");
}

static int name_image(struct checkpoint *checkpoint, const char *name, const json_t *target)
{
	struct descriptor descriptor = {
		.media_type = (char *)TYPE_MANIFEST,
		.digest = (char *)json_string_value(json_object_get(target, "digest")),
		.size = (uint64_t)json_integer_value(json_object_get(target, "size"))};
	struct image_record image = {.name = (char *)name, .target = &descriptor};
	struct image_request request = {.image = &image};
	int r = image_create_ask(&checkpoint->context->ask, &request, NULL);

	return r ? fail_ask(checkpoint->context, r) : 0;
}

static int make_image(struct checkpoint *checkpoint, const char *name)
{
	json_t *config = NULL, *manifest = NULL, *target = NULL;
	int code = write_config(checkpoint, &config);

	if (!code) {
		manifest = manifest_json(checkpoint, config);
		code = manifest ? write_json(checkpoint, manifest, TYPE_MANIFEST, &target)
				: fail(checkpoint->context, "out of memory");
	}
	code = code ?: name_image(checkpoint, name, target);
	json_decref(manifest);
	json_decref(target);
	return code;
}

static void release(struct checkpoint *checkpoint)
{
	struct lease_delete_request request = {};

	if (checkpoint->lease.lease) {
		request.id = checkpoint->lease.lease->id;
		(void)lease_delete_ask(&checkpoint->context->ask, &request, NULL);
	}
	lease_reply_clear(&checkpoint->lease);
	image_inspect_reply_clear(&checkpoint->image);
	snapshot_diff_reply_clear(&checkpoint->diff);
}

static int checkpoint_container(struct context *context, void *data, char **args, int n_args)
{
	const struct checkpoint_options *options = data;
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct container_get_request get = {.id = args[0]};
	struct checkpoint checkpoint = {.context = context};
	int r = container_get_ask(&context->ask, &get, &reply), code;

	(void)n_args;
	if (r)
		return fail_ask(context, r);
	checkpoint.container = reply.container;
	if (!reply.container->image || !reply.container->snapshot_key)
		return fail(context, "container '%s' was made from no image", args[0]);
	code = hold(&checkpoint)
		       ?: inspect_image(context, reply.container->image, &checkpoint.image);
	if (!code && options->rw)
		code = make_layer(&checkpoint);
	code = code ?: make_image(&checkpoint, args[1]);
	release(&checkpoint);
	return code;
}

/* ---- restore ------------------------------------------------------------- */

static int read_manifest(struct context *context, const char *digest, json_t **ret_manifest)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer all = {};
	uint64_t size = 1;

	while (all.size < size) {
		_cleanup_(content_read_reply_clear) struct content_read_reply reply = {};
		struct content_read_request request = {.digest = (char *)digest,
						       .offset = all.size};
		int r = content_read_ask(&context->ask, &request, &reply);

		if (r)
			return fail_ask(context, r);
		size = reply.size;
		if (!reply.data.size || size > MANIFEST_MAX)
			return fail(context, "%s is cut short, or too large for a manifest",
				    digest);
		if (schema_buffer_add(&all, reply.data.data, reply.data.size))
			return fail(context, "out of memory");
	}
	*ret_manifest = json_parse((const char *)all.data, all.size, MANIFEST_MAX, NULL);
	return *ret_manifest ? 0 : fail(context, "%s is not JSON", digest);
}

static const char *annotation(const json_t *manifest, const char *key)
{
	return json_string_value(json_object_get(json_object_get(manifest, "annotations"), key));
}

/* What names the old container in its spec names the new one. */
static void rename_in_spec(json_t *spec, const char *old, const char *new)
{
	json_t *linux_ = json_object_get(spec, "linux");
	const char *path = json_string_value(json_object_get(linux_, "cgroupsPath"));
	const char *name = path ? strrchr(path, '/') : NULL;
	const char *hostname = json_string_value(json_object_get(spec, "hostname"));

	if (name && !strcmp(name + 1, old))
		json_object_set_new(linux_, "cgroupsPath",
				    json_sprintf("%.*s/%s", (int)(name - path), path, new));
	if (hostname && !strcmp(hostname, old))
		json_object_set_new(spec, "hostname", json_string(new));
}

static int send_restore(struct context *context, const struct checkpoint_options *options,
			const json_t *manifest, char **args)
{
	const char *text = annotation(manifest, ANNOTATION_SPEC);
	json_t *spec = text ? json_parse(text, strlen(text), 1 << 20, NULL) : NULL;
	_cleanup_(cleanup_free) char *changed = NULL;
	struct container_run_request request = {
		.id = args[0],
		.create_only = true,
		.image = options->rw ? args[1] : (char *)annotation(manifest, ANNOTATION_IMAGE),
		.runtime = (char *)annotation(manifest, ANNOTATION_RUNTIME)};
	int r;

	if (!spec)
		return fail(context, "image '%s' is no checkpoint of a container", args[1]);
	rename_in_spec(spec, annotation(manifest, ANNOTATION_ID) ?: "", args[0]);
	request.spec = changed = json_dumps(spec, JSON_COMPACT);
	json_decref(spec);
	if (!changed)
		return fail(context, "out of memory");
	r = container_run_ask(&context->ask, &request, NULL);
	return r ? fail_ask(context, r) : EXIT_OK;
}

static int restore_container(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(image_inspect_reply_clear) struct image_inspect_reply image = {};
	json_t *manifest = NULL;
	int code = inspect_image(context, args[1], &image)
			   ?: read_manifest(context, image.manifest, &manifest);

	(void)n_args;
	code = code ?: send_restore(context, data, manifest, args);
	json_decref(manifest);
	return code;
}

/* ---- the tables ---------------------------------------------------------- */

static const struct option_spec checkpoint_options[] = {
	OPTION(struct checkpoint_options, rw, FLAG, "rw", 0, NULL,
	       "include the writable layer; a container that runs is frozen meanwhile"),
	OPTION(struct checkpoint_options, image, FLAG, "image", 0, NULL,
	       "include the image: it always is, for its layers are shared"),
	{}};
static const struct option_spec restore_options[] = {
	OPTION(struct checkpoint_options, rw, FLAG, "rw", 0, NULL,
	       "with the writable layer of the checkpoint; otherwise from the image that it was made from"),
	{}};

const struct command containers_checkpoint_command = {
	.name = "checkpoint",
	.arguments = "CONTAINER IMAGE",
	.summary = "make an image of a container",
	.details =
		"   The image can be run, pushed and exported as any other. Memory is not in it: see `davit tasks checkpoint`.",
	.options = checkpoint_options,
	.options_size = sizeof(struct checkpoint_options),
	.min_args = 2,
	.max_args = 2,
	.run = checkpoint_container,
};
const struct command containers_restore_command = {
	.name = "restore",
	.arguments = "CONTAINER IMAGE",
	.summary = "create a container as one was when its image was made",
	.options = restore_options,
	.options_size = sizeof(struct checkpoint_options),
	.min_args = 2,
	.max_args = 2,
	.run = restore_container,
};
