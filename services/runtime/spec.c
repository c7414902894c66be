/* A whole spec: containerd's defaults, the image config, what the client asked for, in this order. */

#include <string.h>

#include "services/runtime/spec.h"

void spec_user_clear(struct spec_user *user)
{
	free(user->groups);
	*user = (struct spec_user){};
}

/* Names that runtimes and davit act upon: no label may speak to them. */
bool spec_annotation_is_reserved(const char *key)
{
	static const char *const prefixes[] = {
		SPEC_RESERVED_PREFIX,     "run.oci.",
		"org.systemd.property.",  "org.criu.",
		"io.containerd.",         "containerd.io/",
		"com.github.containers.", "io.katacontainers.",
		"module.wasm.",           "org.opencontainers.runtime-spec.",
	};

	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (!strncmp(key, prefixes[i], strlen(prefixes[i])))
			return true;
	return false;
}

static int add_annotations(const struct spec_input *input, json_t *spec, struct why *why)
{
	json_t *annotations = json_object();
	int r = json_object_set_new(spec, "annotations", annotations) ? error_origin(-ENOMEM) : 0;

	for (size_t i = 0; !r && input->labels && i < input->labels->count; i++)
		if (!spec_annotation_is_reserved(input->labels->items[i].key))
			r = json_object_set_new(annotations, input->labels->items[i].key,
						json_string(input->labels->items[i].value));
	for (size_t i = 0; !r && i < input->options->annotations.count; i++) {
		const struct schema_pair *pair = &input->options->annotations.items[i];

		if (!strncmp(pair->key, SPEC_RESERVED_PREFIX, strlen(SPEC_RESERVED_PREFIX)))
			return why_set(why, SPEC_E_INVALID,
				       "annotation '%.128s': names of %s are davit's own",
				       pair->key, SPEC_RESERVED_PREFIX);
		r = json_object_set_new(annotations, pair->key, json_string(pair->value));
	}
	return r ? error_origin(-ENOMEM) : 0;
}

/* What runtime.prepare is to know of the options. */
static int add_notes(const struct spec_options *options, json_t *spec, struct why *why)
{
	json_t *annotations = json_object_get(spec, "annotations");
	const char *oci_root = options->oci_root;
	int r = 0;

	if (options->no_pivot)
		r = json_object_set_new(annotations, SPEC_NO_PIVOT, json_string("true"));
	if (!r && options->cni)
		r = json_object_set_new(annotations, SPEC_CNI, json_string("true"));
	if (!r && options->apparmor_default_profile && *options->apparmor_default_profile)
		r = json_object_set_new(annotations, SPEC_APPARMOR, json_string("true"));
	if (!r && oci_root && *oci_root) {
		r = spec_check_path("runc-root", oci_root, why);
		if (r > 0)
			return r;
		r = json_object_set_new(annotations, SPEC_OCI_ROOT, json_string(oci_root));
	}
	return r ? error_origin(-ENOMEM) : 0;
}

static int add_root(const struct spec_input *input, json_t *spec, struct why *why)
{
	json_t *root = json_object_get(spec, "root");
	const char *path = input->options->rootfs;
	int r = 0;

	if (path && *path) {
		r = spec_check_path("root file system", path, why);
		if (!r && json_object_set_new(root, "path", json_string(path)))
			r = error_origin(-ENOMEM);
	}
	if (!r && input->options->read_only && json_object_set_new(root, "readonly", json_true()))
		r = error_origin(-ENOMEM);
	return r;
}

static int check_options(const struct spec_options *options, struct why *why)
{
	if (options->privileged_without_host_devices && !options->privileged)
		return why_set(why, SPEC_E_INVALID,
			       "privileged-without-host-devices needs privileged");
	if (options->cni && options->net_host)
		return why_set(
			why, SPEC_E_INVALID,
			"cni and net-host exclude each other: the host's network is none to attach to");
	for (size_t i = 0; options->cni && i < options->with_ns.count; i++)
		if (!strncmp(options->with_ns.items[i], "network:", 8))
			return why_set(why, SPEC_E_INVALID,
				       "cni and with-ns '%.256s' exclude each other",
				       options->with_ns.items[i]);
	return 0;
}

int spec_make(const struct spec_host *host, const struct spec_input *input, json_t **ret_spec,
	      struct why *why)
{
	_cleanup_(json_cleanup) json_t *spec = spec_default();
	int r = spec ? 0 : error_origin(-ENOMEM);

	r = r ?: check_options(input->options, why);
	r = r ?: add_annotations(input, spec, why);
	r = r ?: add_notes(input->options, spec, why);
	r = r ?: add_root(input, spec, why);
	r = r ?: spec_add_process(host, input, spec, why);
	r = r ?: spec_add_mounts(host, input, spec, why);
	r = r ?: spec_add_linux(host, input, spec, why);
	r = r ?: spec_add_userns(input, spec, why);
	r = r ?: spec_add_gpus(input, spec, why);
	if (r)
		return r;
	if (!json_object_size(json_object_get(spec, "annotations")))
		json_object_del(spec, "annotations");
	*ret_spec = TAKE(spec);
	return 0;
}
