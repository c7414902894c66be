#pragma once
/*
 * CNI, the pure part: configurations of networks, what a plugin gets on its
 * standard input, what it answers. By the CNI specification, versions 0.3.0 to
 * 1.1.0, whose forms of these are one. Files and plugins are hostile: bounded,
 * type-checked, the faulty part named.
 */

#include <jansson.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"

#define CNI_CONF_MAX      262144 /* bytes of a configuration, and of what a plugin answers */
#define CNI_PLUGINS_MAX   32     /* of a list */
#define CNI_TYPE_MAX      64     /* bytes of a plugin's type, which is the name of its program */
#define CNI_NAME_MAX      128    /* bytes of a network's name */
#define CNI_ADDRESSES_MAX 64
#define CNI_INTERFACE     "eth0"

enum {
	_CNI_E_SUCCESS,
	CNI_E_INVALID, /* the sentence is in @why */
};

struct cni_conf {
	const char *name, *version; /* in @json */
	json_t *plugins;            /* borrowed from @json: objects, each with a type */
	json_t *json;               /* the whole list, as a conflist has it */
};
void cni_conf_clear(struct cni_conf *conf);
/* @is_list: a conflist; otherwise one plugin, which becomes a list of one. */
int cni_conf_parse(const char *text, bool is_list, struct cni_conf *ret_conf, struct why *why);
static inline size_t cni_conf_count(const struct cni_conf *conf)
{
	return json_array_size(conf->plugins);
}
const char *cni_conf_type(const struct cni_conf *conf, size_t index);
/* What the @index-th plugin reads. @previous: the result before, may be NULL. Malloc'd; NULL when memory is out. */
char *cni_conf_input(const struct cni_conf *conf, size_t index, json_t *previous);
/* Whether a file of this name is one, and of which kind. */
bool cni_conf_is_file(const char *name, bool *ret_is_list);

/* What a plugin wrote whose ADD went well. */
int cni_result_parse(const char *text, json_t **ret_result, struct why *why);
/* The addresses of @result and the MAC of @network->interface, into @network. */
int cni_result_read(const json_t *result, struct task_network *network, struct why *why);
/*
 * Of a plugin that failed: the text of its error document, else the last line of what it wrote to stderr,
 * else its exit code.
 */
void cni_explain_failure(const char *output, const char *errors, int exit_code, struct why *why);
