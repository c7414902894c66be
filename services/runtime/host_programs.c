/* Programs of the host, and those that GPUs need. */

#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/spawn.h"
#include "services/runtime/host.h"

#define FALLBACK_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define GPU_TOOL      "nvidia-container-cli"

bool host_is_program(const char *path)
{
	struct stat status;

	return !stat(path, &status) && S_ISREG(status.st_mode) && !access(path, X_OK);
}

char *host_find_program(const char *name)
{
	const char *path = getenv("PATH");
	_cleanup_(cleanup_free) char *list = text_format("%s:" FALLBACK_PATH, path ?: "");
	char *rest = list, *directory;

	while (rest && (directory = strsep(&rest, ":"))) {
		_cleanup_(cleanup_free) char *program = NULL;

		if (*directory != '/')
			continue;
		program = text_format("%s/%s", directory, name);
		if (program && host_is_program(program))
			return TAKE(program);
	}
	return NULL;
}

int host_find_gpus(const struct spec_options *options, struct spec_gpus *ret_gpus, struct why *why)
{
	_cleanup_(spec_gpus_clear) struct spec_gpus gpus = {};
	const char *asked = options->gpu_tool;
	int r = spec_check_gpus(options, why);

	if (r || !options->gpus.count)
		return r;
	gpus.tool = asked && *asked ? strdup(asked) : host_find_program(GPU_TOOL);
	if (asked && *asked && (*asked != '/' || !host_is_program(asked)))
		return why_set(why, SPEC_E_INVALID, "gpus: '%.256s' is not the path of a program",
			       asked);
	if (!gpus.tool)
		return why_set(why, SPEC_E_INVALID,
			       "gpus: " GPU_TOOL
			       ", which puts GPUs into a container, is not there: "
			       "install NVIDIA's container toolkit");
	r = spawn_find_program("davit", &gpus.davit);
	r = r
		    ?: options->gpu_env.count ? schema_strs_copy(&options->gpu_env, &gpus.env)
					      : schema_strs_add(&gpus.env, "PATH=" FALLBACK_PATH);
	if (r)
		return error_trace(r);
	*ret_gpus = gpus;
	gpus = (struct spec_gpus){};
	return 0;
}
