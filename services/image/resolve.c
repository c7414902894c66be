/* From a name's target to the layers for one platform. */

#include <string.h>

#include "services/image/image.h"

#define NESTING_MAX 4

/* ---- the result ---- */

void resolved_free(struct resolved *resolved)
{
	if (!resolved)
		return;
	for (size_t i = 0; i < resolved->n_layers; i++)
		work_layer_clear(&resolved->layers[i]);
	free(resolved->layers);
	free(resolved->chains);
	free(resolved->target);
	free(resolved->platform);
	free(resolved->manifest);
	free(resolved->config_digest);
	free(resolved->config);
	schema_strs_clear(&resolved->platforms);
	free(resolved);
}

static void resolved_freep(struct resolved **resolved)
{
	resolved_free(*resolved);
}

static struct resolved *resolved_new(const char *target, const char *platform)
{
	struct resolved *resolved = calloc(1, sizeof(*resolved));

	if (!resolved)
		return NULL;
	resolved->target = strdup(target);
	resolved->platform = strdup(platform);
	if (resolved->target && resolved->platform)
		return resolved;
	resolved_free(resolved);
	return NULL;
}

static int copy_layers(const struct resolved *from, struct resolved *to)
{
	to->layers = calloc(from->n_layers + 1, sizeof(*to->layers));
	to->chains = calloc(from->n_layers + 1, sizeof(*to->chains));
	if (!to->layers || !to->chains)
		return error_origin(-ENOMEM);
	for (size_t i = 0; i < from->n_layers; i++) {
		int r = work_layer_copy(&from->layers[i], &to->layers[i]);

		if (r)
			return error_trace(r);
		memcpy(to->chains[i], from->chains[i], DIGEST_SIZE);
		to->n_layers++;
	}
	return 0;
}

int resolved_copy(const struct resolved *from, struct resolved **ret_resolved)
{
	_cleanup_(resolved_freep) struct resolved *to = calloc(1, sizeof(*to));
	int r;

	if (!to)
		return error_origin(-ENOMEM);
	r = schema_set(&to->target, from->target) ?: schema_set(&to->platform, from->platform)
	    ?: schema_set(&to->manifest, from->manifest) ?: schema_set(&to->config, from->config)
	    ?: schema_set(&to->config_digest, from->config_digest) ?: copy_layers(from, to);
	if (r)
		return error_trace(r);
	to->size = from->size;
	to->is_match = from->is_match;
	to->is_image = from->is_image;
	*ret_resolved = TAKE(to);
	return 0;
}

/* ---- reading ---- */

static int damaged(struct why *why, const char *what, const char *digest)
{
	return why_prefix(why, refused(BUS_DATA_LOSS), "%s %s", what, digest);
}

static bool is_image_config(const char *media_type)
{
	return !media_type || !strcmp(media_type, MEDIA_OCI_CONFIG) ||
	       !strcmp(media_type, MEDIA_DOCKER_CONFIG);
}

static int add_layer(struct resolved *resolved, const struct descriptor *blob, const char *diff_id)
{
	size_t i = resolved->n_layers;
	struct work_layer *layer = &resolved->layers[i];
	int r;

	layer->blob = calloc(1, sizeof(*layer->blob));
	if (!layer->blob)
		return error_origin(-ENOMEM);
	resolved->n_layers++;
	r = descriptor_copy(blob, layer->blob);
	if (!r)
		r = schema_set(&layer->diff_id, diff_id);
	chain_id(i ? resolved->chains[i - 1] : NULL, diff_id, resolved->chains[i]);
	resolved->size += blob->size;
	return error_trace(r);
}

static int read_layers(struct resolved *resolved, const struct document_manifest *manifest,
		       const struct document_config *config, struct why *why)
{
	if (config->diff_ids.count != manifest->layers.count)
		return why_set(
			why, refused(BUS_DATA_LOSS), "config %s names %zu layers, its manifest %zu",
			resolved->config_digest, config->diff_ids.count, manifest->layers.count);
	resolved->layers = calloc(manifest->layers.count + 1, sizeof(*resolved->layers));
	resolved->chains = calloc(manifest->layers.count + 1, sizeof(*resolved->chains));
	if (!resolved->layers || !resolved->chains)
		return error_origin(-ENOMEM);
	for (size_t i = 0; i < manifest->layers.count; i++) {
		int r = add_layer(resolved, &manifest->layers.items[i], config->diff_ids.items[i]);

		if (r)
			return error_trace(r);
	}
	return 0;
}

static int read_config(struct image_service *image, struct resolved *resolved,
		       const struct document_manifest *manifest, const struct platform *platform,
		       struct why *why)
{
	_cleanup_(document_config_clear) struct document_config config = {};
	size_t size;
	int r;

	r = content_load(image, resolved->config_digest, &resolved->config, &size, why);
	if (r)
		return r;
	r = document_parse_config(resolved->config, size, &config, why);
	if (r)
		return r > 0 ? damaged(why, "config", resolved->config_digest) : error_trace(r);
	resolved->is_match = (!config.platform.os && !config.platform.architecture) ||
			     platform_match(platform, &config.platform);
	if (!resolved->platforms.count && config.platform.os) {
		_cleanup_(cleanup_free) char *text = platform_text(&config.platform);

		r = text ? schema_strs_add(&resolved->platforms, text) : error_origin(-ENOMEM);
	}
	return r ? error_trace(r) : read_layers(resolved, manifest, &config, why);
}

static int read_manifest(struct image_service *image, struct resolved *resolved,
			 const struct descriptor *descriptor, const char *text, size_t size,
			 const struct platform *platform, struct why *why)
{
	_cleanup_(document_manifest_clear) struct document_manifest manifest = {};
	int r;

	r = document_parse_manifest(text, size, descriptor->media_type, &manifest, why);
	if (r)
		return r > 0 ? damaged(why, "manifest", descriptor->digest) : error_trace(r);
	r = schema_set(&resolved->manifest, descriptor->digest);
	if (!r)
		r = schema_set(&resolved->config_digest, manifest.config.digest);
	if (r)
		return error_trace(r);
	resolved->size = size + manifest.config.size;
	resolved->is_image = is_image_config(manifest.config.media_type);
	if (resolved->is_image)
		return read_config(image, resolved, &manifest, platform, why);
	for (size_t i = 0; i < manifest.layers.count; i++)
		resolved->size += manifest.layers.items[i].size;
	return 0;
}

static int read_platforms(struct resolved *resolved, const struct document_index *index)
{
	for (size_t i = 0; i < index->count && resolved->platforms.count < 64; i++) {
		_cleanup_(cleanup_free) char *text = NULL;
		const struct platform *platform = &index->items[i].platform;
		int r;

		if (!platform->os || !strcmp(platform->os, "unknown") ||
		    document_is_part(index->items[i].descriptor.media_type))
			continue;
		text = platform_text(platform);
		r = text ? schema_strs_add(&resolved->platforms, text) : error_origin(-ENOMEM);
		if (r)
			return error_trace(r);
	}
	return 0;
}

static int read_target(struct image_service *image, struct resolved *resolved,
		       const struct descriptor *descriptor, const struct platform *platform,
		       unsigned depth, struct why *why);

static int read_index(struct image_service *image, struct resolved *resolved,
		      const struct descriptor *descriptor, const char *text, size_t size,
		      const struct platform *platform, unsigned depth, struct why *why)
{
	_cleanup_(document_index_clear) struct document_index index = {};
	int chosen;
	int r;

	r = document_parse_index(text, size, descriptor->media_type, &index, why);
	if (r)
		return r > 0 ? damaged(why, "index", descriptor->digest) : error_trace(r);
	r = read_platforms(resolved, &index);
	if (r)
		return error_trace(r);
	chosen = platform_choose(&index, platform);
	if (chosen < 0)
		return why_set(why, refused(BUS_NOT_FOUND), "index %s has no image for %s",
			       descriptor->digest, resolved->platform);
	return read_target(image, resolved, &index.items[chosen].descriptor, platform, depth + 1,
			   why);
}

/* A descriptor of the store may lack its media type: then the document itself tells what it is. */
static bool looks_like_index(const struct descriptor *descriptor, const char *text)
{
	if (descriptor->media_type && descriptor->media_type[0])
		return document_is_index(descriptor->media_type);
	return strstr(text, "\"manifests\"");
}

static int read_target(struct image_service *image, struct resolved *resolved,
		       const struct descriptor *descriptor, const struct platform *platform,
		       unsigned depth, struct why *why)
{
	_cleanup_(cleanup_free) char *text = NULL;
	size_t size;
	int r;

	if (depth > NESTING_MAX)
		return why_set(why, refused(BUS_DATA_LOSS), "index %s is nested too deep",
			       resolved->target);
	r = content_load(image, descriptor->digest, &text, &size, why);
	if (r)
		return r;
	if (looks_like_index(descriptor, text))
		return read_index(image, resolved, descriptor, text, size, platform, depth, why);
	return read_manifest(image, resolved, descriptor, text, size, platform, why);
}

/* ---- the cache ---- */

static struct resolved *find_cached(struct image_service *image, const char *digest,
				    const char *platform)
{
	for (size_t i = 0; i < RESOLVED_CACHE; i++) {
		struct resolved *resolved = image->cache[i];

		if (resolved && !strcmp(resolved->target, digest) &&
		    !strcmp(resolved->platform, platform)) {
			resolved->used = ++image->cache_clock;
			return resolved;
		}
	}
	return NULL;
}

static void keep_cached(struct image_service *image, struct resolved *resolved)
{
	size_t oldest = 0;

	for (size_t i = 0; i < RESOLVED_CACHE; i++) {
		if (!image->cache[i]) {
			oldest = i;
			break;
		}
		if (image->cache[i]->used < image->cache[oldest]->used)
			oldest = i;
	}
	resolved_free(image->cache[oldest]);
	resolved->used = ++image->cache_clock;
	image->cache[oldest] = resolved;
}

int resolve_target(struct image_service *image, const struct descriptor *target,
		   const struct platform *platform, const struct resolved **ret_resolved,
		   struct why *why)
{
	_cleanup_(resolved_freep) struct resolved *resolved = NULL;
	_cleanup_(cleanup_free) char *text = platform_text(platform);
	int r;

	if (!text)
		return error_origin(-ENOMEM);
	*ret_resolved = find_cached(image, target->digest, text);
	/* What is forgotten in the store is not there, even if it is remembered here. */
	if (*ret_resolved && content_has(image, target->digest) &&
	    content_has(image, (*ret_resolved)->manifest))
		return 0;
	resolved = resolved_new(target->digest, text);
	if (!resolved)
		return error_origin(-ENOMEM);
	r = read_target(image, resolved, target, platform, 0, why);
	if (r)
		return r;
	*ret_resolved = resolved;
	keep_cached(image, TAKE(resolved));
	return 0;
}

int resolve_platform(struct image_service *image, const char *text, struct platform *ret_platform,
		     struct why *why)
{
	int r;

	if (!text || !text[0])
		return error_trace(platform_copy(&image->host, ret_platform));
	r = platform_parse(text, &image->host, ret_platform, why);
	return r > 0 ? refused(BUS_INVALID_ARGUMENT) : error_trace(r);
}

int resolved_check_match(const struct resolved *resolved, const char *name, struct why *why)
{
	if (!resolved->is_image || resolved->is_match)
		return 0;
	return why_set(why, refused(BUS_NOT_FOUND), "image '%.200s' is for %s, not for %s", name,
		       resolved->platforms.count ? resolved->platforms.items[0]
						 : "another platform",
		       resolved->platform);
}
