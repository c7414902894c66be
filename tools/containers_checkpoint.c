/*
 * davit containers checkpoint: a container's record, its writable layer and its
 * memory as an image (checkpoint_image.h).
 */

#include <string.h>

#include "tools/checkpoint_image.h"
#include "tools/lists.h"

#define CHUNK         262144
#define TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define TYPE_CONFIG   "application/vnd.oci.image.config.v1+json"
#define OPTIONS_VALUE "\x28\x01" /* file_locks = true */
#define TYPE_TAR      "application/vnd.oci.image.layer.v1.tar"

struct checkpoint_options {
	bool rw, image, task;
};

struct checkpoint {
	struct context *context;
	const struct checkpoint_options *options;
	struct container_record *container; /* borrowed */
	struct checkpoint_files files;      /* its lease holds all blobs */
	struct image_inspect_reply image;
	struct snapshot_diff_reply diff, criu;
	bool has_diff, has_criu;
	unsigned int n_blobs;
	json_t *parts; /* of the index */
};

/* ---- blobs --------------------------------------------------------------- */

static int write_parts(struct checkpoint *checkpoint, const char *ref, const void *data,
		       size_t size)
{
	int r = 0;

	for (size_t done = 0; !r && done < size; done += CHUNK) {
		struct content_write_request part = {
			.ref = (char *)ref,
			.writer = checkpoint->files.lease,
			.offset = done,
			.total = size,
			.lease = checkpoint->files.lease,
			.data = {(uint8_t *)data + done,
				 size - done < CHUNK ? size - done : CHUNK}};

		r = content_write_ask(&checkpoint->context->ask, &part, NULL);
	}
	return r;
}

static json_t *descriptor_json(const char *type, const char *digest, uint64_t size)
{
	return json_pack("{s:s, s:s, s:I}", "mediaType", type, "digest", digest, "size",
			 (json_int_t)size);
}

/* @data becomes a blob of @type; @ret_descriptor is its descriptor as JSON. */
static int write_blob(struct checkpoint *checkpoint, const char *type, const void *data,
		      size_t size, json_t **ret_descriptor)
{
	_cleanup_(content_commit_reply_clear) struct content_commit_reply reply = {};
	struct content_commit_request commit = {.media_type = (char *)type,
						.writer = checkpoint->files.lease,
						.lease = checkpoint->files.lease};
	char ref[240];
	int r;

	snprintf(ref, sizeof(ref), "%.200s-%u", checkpoint->files.key, checkpoint->n_blobs++);
	commit.ref = ref;
	r = write_parts(checkpoint, ref, data, size)
		    ?: content_commit_ask(&checkpoint->context->ask, &commit, &reply);
	if (r)
		return fail_ask(checkpoint->context, r);
	*ret_descriptor = descriptor_json(type, reply.content->digest, reply.content->size);
	return *ret_descriptor ? 0 : fail(checkpoint->context, "out of memory");
}

static int write_json(struct checkpoint *checkpoint, const json_t *json, const char *type,
		      json_t **ret_descriptor)
{
	_cleanup_(cleanup_free) char *text = json_dumps(json, JSON_COMPACT);

	return text ? write_blob(checkpoint, type, text, strlen(text), ret_descriptor)
		    : fail(checkpoint->context, "out of memory");
}

/* ---- the parts of the index ---------------------------------------------- */

/* Steals @descriptor. Of what is for one platform only, containerd says which. */
static int add_part(struct checkpoint *checkpoint, json_t *descriptor)
{
	json_t *config = json_loads(checkpoint->image.config ?: "{}", 0, NULL);

	json_object_set_new(
		descriptor, "platform",
		json_pack("{s:s, s:s}", "os",
			  json_string_value(json_object_get(config, "os")) ?: "linux",
			  "architecture",
			  json_string_value(json_object_get(config, "architecture")) ?: "unknown"));
	json_decref(config);
	return json_array_append_new(checkpoint->parts, descriptor)
		       ? fail(checkpoint->context, "out of memory")
		       : 0;
}

static int add_any(struct checkpoint *checkpoint, const char *type, const char *url,
		   const void *value, size_t size)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer any = {};
	json_t *descriptor = NULL;
	int code = any_pack(url, value, size, &any)
			   ? fail(checkpoint->context, "out of memory")
			   : write_blob(checkpoint, type, any.data, any.size, &descriptor);

	return code ?: add_part(checkpoint, descriptor);
}

static int add_layer(struct checkpoint *checkpoint, const char *type, const struct descriptor *blob)
{
	json_t *descriptor = descriptor_json(type, blob->digest, blob->size);

	return descriptor ? add_part(checkpoint, descriptor)
			  : fail(checkpoint->context, "out of memory");
}

static int add_parts(struct checkpoint *checkpoint)
{
	const char *spec = checkpoint->container->spec ?: "{}";
	int code = 0;

	if (checkpoint->has_diff)
		code = add_layer(checkpoint, checkpoint->diff.diff->media_type,
				 checkpoint->diff.diff);
	if (!code && checkpoint->has_criu)
		code = add_layer(checkpoint, CHECKPOINT_TYPE_CRIU, checkpoint->criu.diff)
			       ?: add_any(checkpoint, CHECKPOINT_TYPE_OPTIONS,
					  CHECKPOINT_OPTIONS_URL, OPTIONS_VALUE, 2);
	return code
		       ?: add_any(checkpoint, CHECKPOINT_TYPE_SPEC, CHECKPOINT_SPEC_URL, spec,
				  strlen(spec));
}

/* ---- memory and writable layer ------------------------------------------- */

static int inspect_image(struct context *context, const char *name,
			 struct image_inspect_reply *ret_reply)
{
	struct image_unpack_request request = {.name = (char *)name};
	int r = image_inspect_ask(&context->ask, &request, ret_reply);

	return r ? fail_ask(context, r) : 0;
}

static int make_memory(struct checkpoint *checkpoint)
{
	struct task_checkpoint_request dump = {.container_id = checkpoint->container->id,
					       .image_path = checkpoint->files.path,
					       .file_locks = true};
	struct snapshot_diff_request pack = {.key = checkpoint->files.key,
					     .snapshotter = checkpoint->files.snapshotter,
					     .media_type = (char *)TYPE_TAR,
					     .lease = checkpoint->files.lease};
	struct ask *ask = &checkpoint->context->ask;
	int r = task_checkpoint_ask(ask, &dump, NULL)
			?: snapshot_diff_ask(ask, &pack, &checkpoint->criu);

	checkpoint->has_criu = !r;
	return r ? fail_ask(checkpoint->context, r) : 0;
}

static int make_layer(struct checkpoint *checkpoint)
{
	struct snapshot_diff_request request = {.key = checkpoint->container->snapshot_key,
						.snapshotter = checkpoint->container->snapshotter,
						.lease = checkpoint->files.lease};
	int r = snapshot_diff_ask(&checkpoint->context->ask, &request, &checkpoint->diff);

	checkpoint->has_diff = !r;
	return r ? fail_ask(checkpoint->context, r) : 0;
}

/* Frozen meanwhile, if it runs: all is of one moment. */
static int make_state(struct checkpoint *checkpoint)
{
	struct task_container_request task = {.container_id = checkpoint->container->id};
	struct ask *ask = &checkpoint->context->ask;
	bool is_paused;
	int code = 0;

	if (!checkpoint->options->task && !checkpoint->options->rw)
		return 0;
	is_paused = !task_pause_ask(ask, &task, NULL);
	if (checkpoint->options->task)
		code = make_memory(checkpoint);
	if (!code && checkpoint->options->rw)
		code = make_layer(checkpoint);
	if (is_paused && task_resume_ask(ask, &task, NULL))
		code = fail_ask(checkpoint->context, 1);
	return code;
}

/* ---- the image that runs by itself --------------------------------------- */

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
	json_t *layers = json_array();

	for (size_t i = 0; i < checkpoint->image.layers.count; i++) {
		const struct descriptor *blob = checkpoint->image.layers.items[i].blob;

		json_array_append_new(
			layers, descriptor_json(blob->media_type ?: "", blob->digest, blob->size));
	}
	if (checkpoint->has_diff)
		json_array_append_new(layers, descriptor_json(checkpoint->diff.diff->media_type,
							      checkpoint->diff.diff->digest,
							      checkpoint->diff.diff->size));
	return json_pack("{s:i, s:s, s:o, s:o}", "schemaVersion", 2, "mediaType", TYPE_MANIFEST,
			 "config", config, "layers", layers);
}

static int add_image(struct checkpoint *checkpoint)
{
	json_t *config = NULL, *manifest = NULL, *target = NULL;
	int code = write_config(checkpoint, &config);

	if (code)
		return code;
	manifest = manifest_json(checkpoint, config);
	code = manifest ? write_json(checkpoint, manifest, TYPE_MANIFEST, &target)
			: fail(checkpoint->context, "out of memory");
	json_decref(manifest);
	return code ?: add_part(checkpoint, target);
}

static json_t *index_json(const struct checkpoint *checkpoint)
{
	const struct container_record *container = checkpoint->container;

	return json_pack("{s:i, s:s, s:O, s:{s:s, s:s, s:s, s:s}}", "schemaVersion", 2, "mediaType",
			 CHECKPOINT_TYPE_INDEX, "manifests", checkpoint->parts, "annotations",
			 CHECKPOINT_NOTE_ID, container->id, CHECKPOINT_NOTE_IMAGE, container->image,
			 CHECKPOINT_NOTE_RUNTIME, container->runtime ?: "",
			 CHECKPOINT_NOTE_SNAPSHOTTER, container->snapshotter ?: "");
}

static int name_image(struct checkpoint *checkpoint, const char *name, const json_t *target)
{
	struct descriptor descriptor = {
		.media_type = (char *)CHECKPOINT_TYPE_INDEX,
		.digest = (char *)json_string_value(json_object_get(target, "digest")),
		.size = (uint64_t)json_integer_value(json_object_get(target, "size"))};
	struct image_record image = {.name = (char *)name, .target = &descriptor};
	struct image_request request = {.image = &image};
	int r = image_create_ask(&checkpoint->context->ask, &request, NULL);

	return r ? fail_ask(checkpoint->context, r) : 0;
}

static int make_image(struct checkpoint *checkpoint, const char *name)
{
	json_t *index = NULL, *target = NULL;
	int code;

	checkpoint->parts = json_array();
	code = add_image(checkpoint) ?: add_parts(checkpoint);
	if (!code) {
		index = index_json(checkpoint);
		code = index ? write_json(checkpoint, index, CHECKPOINT_TYPE_INDEX, &target)
			     : fail(checkpoint->context, "out of memory");
	}
	code = code ?: name_image(checkpoint, name, target);
	json_decref(index);
	json_decref(target);
	return code;
}

/* ---- the command --------------------------------------------------------- */

static void release(struct checkpoint *checkpoint)
{
	checkpoint_files_clear(&checkpoint->files);
	image_inspect_reply_clear(&checkpoint->image);
	snapshot_diff_reply_clear(&checkpoint->diff);
	snapshot_diff_reply_clear(&checkpoint->criu);
	json_decref(checkpoint->parts);
}

static int checkpoint_container(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(container_reply_clear) struct container_reply reply = {};
	struct container_get_request get = {.id = args[0]};
	struct checkpoint checkpoint = {.context = context, .options = data};
	int r, code;

	(void)n_args;
	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	r = container_get_ask(&context->ask, &get, &reply);
	if (r)
		return fail_ask(context, r);
	checkpoint.container = reply.container;
	if (!reply.container->image || !reply.container->snapshot_key)
		return fail(context, "container '%s' was made from no image", args[0]);
	code = checkpoint_files_make(context, &checkpoint.files)
		       ?: inspect_image(context, reply.container->image, &checkpoint.image)
		       ?: make_state(&checkpoint)
		       ?: make_image(&checkpoint, args[1]);
	release(&checkpoint);
	return code;
}

static const struct option_spec checkpoint_options[] = {
	OPTION(struct checkpoint_options, rw, FLAG, "rw", 0, NULL,
	       "include the writable layer; a container that runs is frozen meanwhile"),
	OPTION(struct checkpoint_options, image, FLAG, "image", 0, NULL,
	       "include the image: it always is, for its layers are shared"),
	OPTION(struct checkpoint_options, task, FLAG, "task", 0, NULL,
	       "include the memory of its processes, dumped with criu"),
	{}};

const struct command containers_checkpoint_command = {
	.name = "checkpoint",
	.arguments = "CONTAINER REF",
	.summary = "make a checkpoint image of a container",
	.details =
		"   The image can be run, pushed and exported as any other; `davit containers restore` makes the container again.\n"
		"   Where criu is missing or cannot dump it the container runs on.",
	.options = checkpoint_options,
	.options_size = sizeof(struct checkpoint_options),
	.min_args = 2,
	.max_args = 2,
	.run = checkpoint_container,
};
