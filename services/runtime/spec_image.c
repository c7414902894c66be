/* What a container takes over from its OCI image config. The config is whatever the image's author wrote. */

#include <string.h>

#include "schemas/json.h"
#include "services/runtime/spec.h"

#define STRINGS_MAX 4096

void spec_image_clear(struct spec_image *image)
{
	schema_strs_clear(&image->entrypoint);
	schema_strs_clear(&image->cmd);
	schema_strs_clear(&image->env);
	free(image->cwd);
	free(image->user);
	free(image->stop_signal);
	*image = (struct spec_image){};
}

static int read_strings(const json_t *config, const char *key, struct schema_strs *ret_strings,
			struct why *why)
{
	json_t *array = json_object_get(config, key), *item;
	size_t i;
	int r;

	if (!array || json_is_null(array))
		return 0;
	if (!json_is_array(array) || json_array_size(array) > STRINGS_MAX)
		return why_set(why, SPEC_E_INVALID,
			       "image config: %s is not a list of at most %d strings", key,
			       STRINGS_MAX);
	json_array_foreach(array, i, item)
	{
		if (!json_is_string(item) ||
		    strlen(json_string_value(item)) != json_string_length(item))
			return why_set(why, SPEC_E_INVALID, "image config: %s[%zu] is not a string",
				       key, i);
		r = schema_strs_add(ret_strings, json_string_value(item));
		if (r)
			return error_trace(r);
	}
	return 0;
}

static int read_string(const json_t *config, const char *key, size_t max, char **ret_text,
		       struct why *why)
{
	json_t *value = json_object_get(config, key);

	if (!value || json_is_null(value))
		return 0;
	if (!json_is_string(value) ||
	    strlen(json_string_value(value)) != json_string_length(value) ||
	    json_string_length(value) > max)
		return why_set(why, SPEC_E_INVALID,
			       "image config: %s is not a string of at most %zu bytes", key, max);
	return schema_set(ret_text, json_string_value(value));
}

static int read_config(const json_t *config, struct spec_image *image, struct why *why)
{
	return read_strings(config, "Entrypoint", &image->entrypoint, why)
		       ?: read_strings(config, "Cmd", &image->cmd, why)
		       ?: read_strings(config, "Env", &image->env, why)
		       ?: read_string(config, "WorkingDir", 4095, &image->cwd, why)
		       ?: read_string(config, "User", 256, &image->user, why)
		       ?: read_string(config, "StopSignal", 32, &image->stop_signal, why);
}

int spec_image_parse(const char *text, struct spec_image *ret_image, struct why *why)
{
	_cleanup_(spec_image_clear) struct spec_image image = {};
	_cleanup_(json_cleanup) json_t *json = NULL;
	struct schema_fault fault = {};
	json_t *config;
	int r;

	json = json_parse(text, strlen(text), SPEC_CONFIG_MAX, &fault);
	if (!json)
		return why_set(why, SPEC_E_INVALID, "image config: %s", fault.text);
	config = json_object_get(json, "config");
	if (!json_is_object(json) || (config && !json_is_object(config) && !json_is_null(config)))
		return why_set(why, SPEC_E_INVALID, "image config: not an object");
	r = json_is_object(config) ? read_config(config, &image, why) : 0;
	if (r)
		return error_trace(r);
	*ret_image = image;
	image = (struct spec_image){};
	return 0;
}
