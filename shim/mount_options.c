#include "shim/mount_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "broker/lib/cleanup.h"

#define PROPAGATION (MS_SHARED | MS_SLAVE | MS_PRIVATE | MS_UNBINDABLE)

static const struct flag {
	const char *name;
	unsigned long set, clear;
} flags[] = {
	{"ro", MS_RDONLY, 0},
	{"rw", 0, MS_RDONLY},
	{"nosuid", MS_NOSUID, 0},
	{"suid", 0, MS_NOSUID},
	{"nodev", MS_NODEV, 0},
	{"dev", 0, MS_NODEV},
	{"noexec", MS_NOEXEC, 0},
	{"exec", 0, MS_NOEXEC},
	{"noatime", MS_NOATIME, MS_RELATIME | MS_STRICTATIME},
	{"atime", 0, MS_NOATIME},
	{"nodiratime", MS_NODIRATIME, 0},
	{"relatime", MS_RELATIME, MS_NOATIME | MS_STRICTATIME},
	{"norelatime", 0, MS_RELATIME},
	{"strictatime", MS_STRICTATIME, MS_NOATIME | MS_RELATIME},
	{"defaults", 0, 0},
	{"private", MS_PRIVATE, PROPAGATION},
	{"rprivate", MS_PRIVATE | MS_REC, PROPAGATION},
	{"slave", MS_SLAVE, PROPAGATION},
	{"rslave", MS_SLAVE | MS_REC, PROPAGATION},
	{"unbindable", MS_UNBINDABLE, PROPAGATION},
	{"runbindable", MS_UNBINDABLE | MS_REC, PROPAGATION},
	{"shared", MS_SHARED, PROPAGATION},
	{"rshared", MS_SHARED | MS_REC, PROPAGATION},
};

static const struct flag *find_flag(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (!strcmp(flags[i].name, name))
			return &flags[i];
	return NULL;
}

/* "a:b\:c:d": an escaped colon belongs to its path, an escaped character stands for itself. */
static int add_layers(struct schema_strs *layers, const char *text, struct schema_fault *fault)
{
	_cleanup_(cleanup_free) char *path = malloc(strlen(text) + 1);
	size_t n = 0;
	int r = 0;

	if (!path)
		return -ENOMEM;
	for (;; text++) {
		if (*text == '\\' && text[1]) {
			path[n++] = *++text;
		} else if (*text && *text != ':') {
			path[n++] = *text;
		} else {
			path[n] = '\0';
			if (!n) {
				snprintf(fault->text, sizeof(fault->text),
					 "lowerdir names an empty path");
				return -EINVAL;
			}
			r = schema_strs_add(layers, path);
			n = 0;
			if (r || !*text)
				return r;
		}
	}
}

static int take_flag(struct mount_options *options, const struct flag *flag,
		     struct schema_fault *fault)
{
	if (flag->set & MS_SHARED) {
		snprintf(fault->text, sizeof(fault->text),
			 "option '%s': the shim's mount namespace is a slave of the host's, "
			 "nothing in it can be shared",
			 flag->name);
		return -EINVAL;
	}
	if (flag->clear & PROPAGATION)
		options->propagation = flag->set;
	else
		options->flags = (options->flags & ~flag->clear) | flag->set;
	return 0;
}

static int take(struct mount_options *options, const char *text, struct schema_fault *fault)
{
	const struct flag *flag = find_flag(text);

	if (flag)
		return take_flag(options, flag, fault);
	if (!strcmp(text, "bind") || !strcmp(text, "rbind")) {
		options->is_bind = true;
		options->is_recursive = text[0] == 'r';
		return 0;
	}
	if (!strncmp(text, "lowerdir=", 9))
		return add_layers(&options->layers, text + 9, fault);
	if (!strncmp(text, "lowerdir+=", 10) && text[10])
		return schema_strs_add(&options->layers, text + 10);
	return schema_strs_add(&options->data, text);
}

int mount_options_parse(const struct schema_strs *options, struct mount_options *ret_options,
			struct schema_fault *fault)
{
	_cleanup_(mount_options_clear) struct mount_options parsed = {};
	struct schema_fault ignored = {};
	int r;

	for (size_t i = 0; i < options->count; i++) {
		r = take(&parsed, options->items[i], fault ?: &ignored);
		if (r)
			return r;
	}
	*ret_options = parsed;
	parsed = (struct mount_options){};
	return 0;
}

void mount_options_clear(struct mount_options *options)
{
	schema_strs_clear(&options->layers);
	schema_strs_clear(&options->data);
}

static int add_escaped(struct schema_buffer *buffer, const char *path)
{
	int r = 0;

	for (; *path && !r; path++) {
		if (*path == ':' || *path == '\\' || *path == ',')
			r = schema_buffer_add(buffer, "\\", 1);
		if (!r)
			r = schema_buffer_add(buffer, path, 1);
	}
	return r;
}

int mount_options_join(const struct mount_options *options, char **ret_text)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	int r = 0;

	for (size_t i = 0; i < options->layers.count && !r; i++) {
		r = schema_buffer_addf(&buffer, "%s", i ? ":" : "lowerdir=");
		if (!r)
			r = add_escaped(&buffer, options->layers.items[i]);
	}
	for (size_t i = 0; i < options->data.count && !r; i++)
		r = schema_buffer_addf(&buffer, "%s%s", buffer.size ? "," : "",
				       options->data.items[i]);
	if (!r)
		r = schema_buffer_add(&buffer, "", 1);
	if (r)
		return r;
	*ret_text = (char *)TAKE(buffer.data);
	return 0;
}
