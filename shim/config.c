#include "shim/config.h"

#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "schemas/check.h"

static int check_path(const char *name, const char *path, struct why *why)
{
	size_t size = strlen(path);

	if (path[0] != '/' || size < 2)
		return why_set(why, -EINVAL, "%s '%s' is not an absolute path", name, path);
	if (strstr(path, "/../") || (size >= 3 && !strcmp(path + size - 3, "/..")))
		return why_set(why, -EINVAL, "%s '%s' holds '..'", name, path);
	return 0;
}

int config_check(const struct shim_config *config, struct why *why)
{
	uint8_t id[ID_SIZE];
	int r;

	if (id_parse(config->task_id, id))
		return why_set(why, -EINVAL, "task_id '%s' is not 32 hex digits", config->task_id);
	if (config->publisher.size != ID_SIZE)
		return why_set(why, -EINVAL, "publisher has %zu bytes, not 16",
			       config->publisher.size);
	if (!check_identifier(config->container_id) || !check_identifier(config->namespace))
		return why_set(why, -EINVAL, "container '%s' of namespace '%s' is no identifier",
			       config->container_id, config->namespace);
	r = check_path("bundle", config->bundle, why);
	if (!r)
		r = check_path("socket", config->socket, why);
	if (!r)
		r = check_path("bus", config->bus, why);
	if (!r)
		r = check_path("runtime_path", config->runtime_path, why);
	if (!r)
		r = check_path("oci_root", config->oci_root, why);
	return r;
}

int config_read(const char *path, struct shim_config *ret_config, struct why *why)
{
	_cleanup_(shim_config_clear) struct shim_config config = {};
	_cleanup_(cleanup_free) char *data = NULL;
	struct schema_fault fault = {};
	size_t size;
	int r;

	r = file_read(AT_FDCWD, path, SCHEMA_MESSAGE_MAX, &data, &size);
	if (r)
		return why_errno(why, r, "cannot read %s", path);
	r = schema_unpack(schema_shim_config(), data, size, &config, &fault);
	if (r > 0)
		return why_set(why, -EINVAL, "%s: %s", path, fault.text);
	if (r)
		return why_errno(why, r, "cannot read %s", path);
	r = config_check(&config, why);
	if (r)
		return why_prefix(why, r, "%s", path);
	*ret_config = config;
	config = (struct shim_config){};
	return 0;
}
