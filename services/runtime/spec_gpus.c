/*
 * GPUs, as containerd gives them: a prestart hook runs nvidia-container-cli, which
 * puts devices and the driver's files into the container. The hook's program is
 * `davit oci-hook`, which fills in what only the OCI runtime knows.
 */

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "services/runtime/spec.h"

#define GPU_MAX 65535

void spec_gpus_clear(struct spec_gpus *gpus)
{
	free(gpus->davit);
	free(gpus->tool);
	schema_strs_clear(&gpus->env);
	*gpus = (struct spec_gpus){};
}

static int check_number(const char *text, struct why *why)
{
	char *end = NULL;
	unsigned long number = 0;

	errno = 0;
	if (isdigit((unsigned char)*text))
		number = strtoul(text, &end, 10);
	if (!end || *end || errno || number > GPU_MAX)
		return why_set(why, SPEC_E_INVALID, "gpus: '%.64s' is not a number from 0 to %d",
			       text, GPU_MAX);
	return 0;
}

int spec_check_gpus(const struct spec_options *options, struct why *why)
{
	int r = 0;

	for (size_t i = 0; !r && i < options->gpus.count; i++)
		r = check_number(options->gpus.items[i], why);
	return r;
}

/* "--device=0,1" */
static int add_device(json_t *args, const struct schema_strs *gpus)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer word = {};
	int r = schema_buffer_addf(&word, "--device=");

	for (size_t i = 0; !r && i < gpus->count; i++)
		r = schema_buffer_addf(&word, "%s%s", i ? "," : "", gpus->items[i]);
	if (r)
		return error_origin(-ENOMEM);
	return json_array_append_new(args, json_stringn((const char *)word.data, word.size))
		       ? error_origin(-ENOMEM)
		       : 0;
}

static int add_words(json_t *array, char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (json_array_append_new(array, json_string(words[i])))
			return error_origin(-ENOMEM);
	return 0;
}

/* ctr's words: all that the driver can do. */
static int add_args(json_t *args, const struct spec_gpus *gpus, const struct schema_strs *asked)
{
	const char *const first[] = {"davit",    "oci-hook",     "--",
				     gpus->tool, "--load-kmods", "configure"};
	static const char *const last[] = {"--compute",     "--compat32", "--graphics",
					   "--utility",     "--video",    "--display",
					   "--pid={{pid}}", "{{rootfs}}"};

	return add_words(args, (char *const *)first, ARRAY_SIZE(first))
		       ?: add_device(args, asked)
		       ?: add_words(args, (char *const *)last, ARRAY_SIZE(last));
}

int spec_add_gpus(const struct spec_input *input, json_t *spec, struct why *why)
{
	const struct schema_strs *asked = &input->options->gpus;
	const struct spec_gpus *gpus = input->gpus;
	_cleanup_(json_cleanup) json_t *hooks = NULL;
	json_t *hook;
	int r = spec_check_gpus(input->options, why);

	if (r || !asked->count)
		return r;
	hooks = json_pack("{s:[{s:s,s:[],s:[]}]}", "prestart", "path", gpus->davit, "args", "env");
	hook = json_array_get(json_object_get(hooks, "prestart"), 0);
	r = hook ? 0 : error_origin(-ENOMEM);
	r = r ?: add_args(json_object_get(hook, "args"), gpus, asked);
	r = r ?: add_words(json_object_get(hook, "env"), gpus->env.items, gpus->env.count);
	if (!r && json_object_set(spec, "hooks", hooks))
		r = error_origin(-ENOMEM);
	return r;
}
