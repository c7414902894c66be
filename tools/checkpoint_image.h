#pragma once
/*
 * Checkpoint images, laid out as containerd lays them out: an index that names the
 * container's image, its writable layer, criu's files as a tar, its spec and the
 * options of the checkpoint. The index' first manifest is an image that runs by itself.
 */

#include "tools/command.h"

#define CHECKPOINT_TYPE_CRIU   "application/vnd.containerd.container.criu.checkpoint.criu.tar"
#define CHECKPOINT_TYPE_SPEC   "application/vnd.containerd.container.checkpoint.config.v1+proto"
#define CHECKPOINT_TYPE_OPTIONS "application/vnd.containerd.container.checkpoint.options.v1+proto"
#define CHECKPOINT_TYPE_INDEX  "application/vnd.oci.image.index.v1+json"
#define CHECKPOINT_NOTE_IMAGE  "org.opencontainers.image.ref.name"
#define CHECKPOINT_NOTE_RUNTIME "io.containerd.checkpoint.runtime"
#define CHECKPOINT_NOTE_SNAPSHOTTER "io.containerd.checkpoint.snapshotter"
#define CHECKPOINT_NOTE_ID     "io.davit.checkpoint.container"
#define CHECKPOINT_SPEC_URL    "types.containerd.io/opencontainers/runtime-spec/1/Spec"
#define CHECKPOINT_OPTIONS_URL "containerd.runc.v1.CheckpointOptions"

/* ---- reading: exit codes on failure, after saying why ---- */

/* The index of image @name; to be freed by json_decref(). */
int checkpoint_image_read(struct context *context, const char *name, json_t **ret_index);
/* NULL: there is none. */
const char *checkpoint_image_note(const json_t *index, const char *key);
/* The digest of the part of @media_type; NULL: there is none. */
const char *checkpoint_image_part(const json_t *index, const char *media_type);
/* The container's spec. */
int checkpoint_image_spec(struct context *context, const json_t *index, json_t **ret_spec);

/* ---- google.protobuf.Any, in which containerd keeps spec and options ---- */

int any_pack(const char *type_url, const void *value, size_t size, struct schema_buffer *buffer);
/* @ret_value lies in @data. false: it is none, or has no value. */
bool any_unpack(const void *data, size_t size, const char **ret_value, size_t *ret_size);

/* ---- criu's files, in a snapshot of their own that goes with the command ---- */

struct checkpoint_files {
	struct context *context;
	char *lease, *key, *snapshotter, *path;
};

/* An empty directory; a lease holds it, and what is to be held beside it, for an hour at most. */
int checkpoint_files_make(struct context *context, struct checkpoint_files *ret_files);
/* The files of the checkpoint image @name. */
int checkpoint_files_load(struct context *context, const char *name,
			  struct checkpoint_files *ret_files);
/* Removes them. */
void checkpoint_files_clear(struct checkpoint_files *files);
