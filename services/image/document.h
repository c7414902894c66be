#pragma once
/*
 * The JSON documents of an image, as hostile input: index, manifest, config, and
 * docker-save's manifest.json. Each parser takes bytes, checks sizes, counts,
 * digests and that the document is of one kind only, and gives a struct. What a
 * fault names is put into @why. Pure: no I/O.
 */

#include <stdbool.h>
#include <stddef.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"

#define DOCUMENT_SIZE_MAX    (8u << 20) /* bytes of a document */
#define DOCUMENT_CONFIG_MAX  262144     /* bytes of a config, which travels in messages */
#define DOCUMENT_ENTRIES_MAX 1024       /* manifests of an index */
#define DOCUMENT_LAYERS_MAX  128        /* layers of a manifest */

#define MEDIA_OCI_INDEX         "application/vnd.oci.image.index.v1+json"
#define MEDIA_OCI_MANIFEST      "application/vnd.oci.image.manifest.v1+json"
#define MEDIA_OCI_CONFIG        "application/vnd.oci.image.config.v1+json"
#define MEDIA_OCI_LAYER         "application/vnd.oci.image.layer.v1.tar"
#define MEDIA_OCI_LAYER_GZIP    "application/vnd.oci.image.layer.v1.tar+gzip"
#define MEDIA_OCI_LAYER_ZSTD    "application/vnd.oci.image.layer.v1.tar+zstd"
#define MEDIA_DOCKER_LIST       "application/vnd.docker.distribution.manifest.list.v2+json"
#define MEDIA_DOCKER_MANIFEST   "application/vnd.docker.distribution.manifest.v2+json"
#define MEDIA_DOCKER_CONFIG     "application/vnd.docker.container.image.v1+json"
#define MEDIA_DOCKER_LAYER      "application/vnd.docker.image.rootfs.diff.tar"
#define MEDIA_DOCKER_LAYER_GZIP "application/vnd.docker.image.rootfs.diff.tar.gzip"

enum {
	_DOCUMENT_E_SUCCESS,
	DOCUMENT_E_INVALID, /* not such a document; @why says what is wrong */
};

struct document_entry {
	struct descriptor descriptor;
	struct platform platform; /* all NULL: not named */
};

struct document_index {
	struct document_entry *items;
	size_t count;
};

struct document_manifest {
	char *media_type; /* as it says of itself, or NULL */
	struct descriptor config;
	struct {
		struct descriptor *items;
		size_t count;
	} layers;
};

struct document_config {
	struct platform platform; /* members may be NULL */
	struct schema_strs diff_ids;
};

/* One image of docker-save's manifest.json. */
struct document_saved {
	char *config; /* path in the archive */
	struct schema_strs names;
	struct schema_strs layers; /* paths in the archive */
};

struct document_saved_list {
	struct document_saved *items;
	size_t count;
};

enum compression { COMPRESSION_NONE, COMPRESSION_GZIP, COMPRESSION_ZSTD };

/* Of a layer's media type; false: it is no layer's, or not one that is known. */
bool document_layer_compression(const char *media_type, enum compression *ret_compression);
bool document_is_index(const char *media_type);
bool document_is_manifest(const char *media_type);
/* A blob that an index names beside images, as checkpoints do: a layer, or containerd's of a container. */
bool document_is_part(const char *media_type);

/* @media_type: what the descriptor that led here says, or NULL; the document's own must be the same. */
int document_parse_index(const char *text, size_t size, const char *media_type,
			 struct document_index *ret_index, struct why *why);
int document_parse_manifest(const char *text, size_t size, const char *media_type,
			    struct document_manifest *ret_manifest, struct why *why);
int document_parse_config(const char *text, size_t size, struct document_config *ret_config,
			  struct why *why);
int document_parse_saved(const char *text, size_t size, struct document_saved_list *ret_list,
			 struct why *why);
/* An OCI layout's marker file: is it a version that is understood? */
int document_check_layout(const char *text, size_t size, struct why *why);

void document_index_clear(struct document_index *index);
void document_manifest_clear(struct document_manifest *manifest);
void document_config_clear(struct document_config *config);
void document_saved_list_clear(struct document_saved_list *list);

/* A schema 2 manifest of @config and @layers as docker and containerd write it. NULL: out of memory. */
char *document_write_manifest(const struct descriptor *config, const struct descriptor *layers,
			      size_t n_layers);
/* An OCI index of @entries, annotations and platforms included. NULL: out of memory. */
char *document_write_index(const struct document_entry *entries, size_t n_entries);
/* docker-save's manifest.json. NULL: out of memory. */
char *document_write_saved(const struct document_saved_list *list);
