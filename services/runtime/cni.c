/* See cni.h. */

#include "services/runtime/cni.h"

#include <arpa/inet.h>
#include <string.h>

#include "schemas/json.h"
#include "services/runtime/spec.h"

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* Letters, digits, '.', '_' and '-', the first a letter or digit: a name that is safe as a file's. */
static bool is_name(const char *text, size_t max)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t length = text ? strlen(text) : 0;

	return length && length <= max && !strchr("._-", *text) && strspn(text, allowed) == length;
}

/* ---- configurations ---- */

void cni_conf_clear(struct cni_conf *conf)
{
	json_decref(conf->json);
	*conf = (struct cni_conf){};
}

bool cni_conf_is_file(const char *name, bool *ret_is_list)
{
	const char *dot = strrchr(name, '.');

	if (!dot || dot == name)
		return false;
	*ret_is_list = !strcmp(dot, ".conflist");
	return *ret_is_list || !strcmp(dot, ".conf") || !strcmp(dot, ".json");
}

static int check_version(const char *version, struct why *why)
{
	static const char *const known[] = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};

	for (size_t i = 0; version && i < ARRAY_SIZE(known); i++)
		if (!strcmp(version, known[i]))
			return 0;
	return why_set(why, CNI_E_INVALID, "cniVersion '%.32s' is not one of 0.3.0 to 1.1.0",
		       version ? version : "");
}

static int check_plugin(const json_t *plugin, size_t index, struct why *why)
{
	const char *type = text_of(plugin, "type");

	if (!json_is_object(plugin))
		return why_set(why, CNI_E_INVALID, "plugins[%zu] is not an object", index);
	if (!type)
		return why_set(why, CNI_E_INVALID, "plugins[%zu] has no type", index);
	if (!is_name(type, CNI_TYPE_MAX))
		return why_set(
			why, CNI_E_INVALID,
			"plugins[%zu]: type '%.80s' is not a program's name: at most %d letters, digits, "
			"'.', '_' and '-'",
			index, type, CNI_TYPE_MAX);
	return 0;
}

static int check_plugins(const json_t *plugins, struct why *why)
{
	json_t *plugin;
	size_t i;
	int r = 0;

	if (!json_is_array(plugins) || !json_array_size(plugins))
		return why_set(why, CNI_E_INVALID, "there is no list 'plugins', or it is empty");
	if (json_array_size(plugins) > CNI_PLUGINS_MAX)
		return why_set(why, CNI_E_INVALID, "it has %zu plugins, more than %d",
			       json_array_size(plugins), CNI_PLUGINS_MAX);
	json_array_foreach(plugins, i, plugin)
	{
		r = r ?: check_plugin(plugin, i, why);
	}
	return r;
}

static int check_list(const json_t *list, struct why *why)
{
	const char *name = text_of(list, "name");

	if (!is_name(name, CNI_NAME_MAX))
		return why_set(
			why, CNI_E_INVALID,
			"name '%.80s' is not that of a network: at most %d letters, digits, '.', '_' and "
			"'-'",
			name ? name : "", CNI_NAME_MAX);
	return check_version(text_of(list, "cniVersion"), why)
		       ?: check_plugins(json_object_get(list, "plugins"), why);
}

/* One plugin has name and version of its list in itself. */
static json_t *list_of(json_t *plugin)
{
	json_t *name = json_object_get(plugin, "name");
	json_t *version = json_object_get(plugin, "cniVersion");

	return json_pack("{s:O*, s:O*, s:[O]}", "name", name, "cniVersion", version, "plugins",
			 plugin);
}

int cni_conf_parse(const char *text, bool is_list, struct cni_conf *ret_conf, struct why *why)
{
	_cleanup_(json_cleanup) json_t *json = NULL, *list = NULL;
	struct schema_fault fault = {};
	int r;

	json = json_parse(text, strlen(text), CNI_CONF_MAX, &fault);
	if (!json)
		return why_set(why, CNI_E_INVALID, "%s", fault.text);
	if (!json_is_object(json))
		return why_set(why, CNI_E_INVALID, "it is not an object");
	if (!is_list && json_object_get(json, "plugins"))
		return why_set(why, CNI_E_INVALID,
			       "it has a list 'plugins': such a file is named .conflist");
	list = is_list ? json_incref(json) : list_of(json);
	if (!list)
		return error_origin(-ENOMEM);
	r = check_list(list, why);
	if (r)
		return r;
	*ret_conf = (struct cni_conf){.name = text_of(list, "name"),
				      .version = text_of(list, "cniVersion"),
				      .plugins = json_object_get(list, "plugins"),
				      .json = list};
	list = NULL;
	return 0;
}

const char *cni_conf_type(const struct cni_conf *conf, size_t index)
{
	return text_of(json_array_get(conf->plugins, index), "type");
}

/* Keys that are the runtime's own to set, and capabilities, of which nothing is asked, are not passed on. */
char *cni_conf_input(const struct cni_conf *conf, size_t index, json_t *previous)
{
	static const char *const reserved[] = {"prevResult", "runtimeConfig", "capabilities"};
	_cleanup_(json_cleanup) json_t *input = json_copy(json_array_get(conf->plugins, index));
	int r = input ? 0 : -1;

	for (size_t i = 0; !r && i < ARRAY_SIZE(reserved); i++)
		(void)json_object_del(input, reserved[i]);
	r = r ?: json_object_set_new(input, "name", json_string(conf->name));
	r = r ?: json_object_set_new(input, "cniVersion", json_string(conf->version));
	if (!r && previous)
		r = json_object_set(input, "prevResult", previous);
	return r ? NULL : json_dumps(input, JSON_COMPACT);
}

/* ---- results ---- */

int cni_result_parse(const char *text, json_t **ret_result, struct why *why)
{
	_cleanup_(json_cleanup) json_t *result = NULL;
	struct schema_fault fault = {};

	if (!text[strspn(text, " \t\r\n")])
		return why_set(why, CNI_E_INVALID, "it answered nothing, not a result");
	result = json_parse(text, strlen(text), CNI_CONF_MAX, &fault);
	if (!result)
		return why_set(why, CNI_E_INVALID, "its answer is not JSON: %.200s", fault.text);
	if (!json_is_object(result))
		return why_set(why, CNI_E_INVALID, "its answer is not an object");
	*ret_result = TAKE(result);
	return 0;
}

static bool is_ip(const char *text, size_t length, unsigned *ret_bits)
{
	uint8_t address[sizeof(struct in6_addr)];
	char copy[INET6_ADDRSTRLEN];

	if (length >= sizeof(copy))
		return false;
	memcpy(copy, text, length);
	copy[length] = '\0';
	*ret_bits = strchr(copy, ':') ? 128 : 32;
	return inet_pton(*ret_bits == 128 ? AF_INET6 : AF_INET, copy, address) == 1;
}

/* 10.88.0.7/16 */
static bool is_prefixed(const char *text)
{
	size_t length = strcspn(text, "/");
	const char *digits = text + length + 1;
	unsigned bits;

	return text[length] && is_ip(text, length, &bits) && *digits && strlen(digits) <= 3 &&
	       !digits[strspn(digits, "0123456789")] && strtoul(digits, NULL, 10) <= bits;
}

/* Name of the @index-th interface, or NULL. */
static const char *interface_name(const json_t *result, const json_t *index)
{
	const json_t *interfaces = json_object_get(result, "interfaces");
	const char *name = NULL;

	if (json_is_integer(index) && json_integer_value(index) >= 0)
		name = text_of(json_array_get(interfaces, (size_t)json_integer_value(index)),
			       "name");
	return name && *name && strlen(name) <= 15 ? name : NULL;
}

static int read_address(const json_t *result, const json_t *ip, struct task_network *network,
			struct why *why)
{
	const char *address = text_of(ip, "address"), *gateway = text_of(ip, "gateway");
	struct network_address *entry;
	unsigned bits;

	if (!address || !is_prefixed(address))
		return why_set(why, CNI_E_INVALID,
			       "its answer has '%.64s' as an address: not ADDRESS/PREFIX",
			       address ? address : "");
	if (gateway && !is_ip(gateway, strlen(gateway), &bits))
		return why_set(why, CNI_E_INVALID,
			       "its answer has '%.64s' as a gateway: not an address", gateway);
	entry = schema_list_add(&network->addresses);
	if (!entry)
		return error_origin(-ENOMEM);
	return schema_set(&entry->address, address) ?: schema_set(&entry->gateway, gateway)
		       ?: schema_set(&entry->interface, interface_name(result, json_object_get(ip, "interface")));
}

/* In the container: the host's end of a pair may have any name. */
static int read_mac(const json_t *result, struct task_network *network)
{
	const json_t *interfaces = json_object_get(result, "interfaces"), *interface;
	size_t i;

	json_array_foreach(interfaces, i, interface)
	{
		const char *name = text_of(interface, "name"), *mac = text_of(interface, "mac");
		const char *sandbox = text_of(interface, "sandbox");

		if (name && mac && sandbox && *sandbox && strlen(mac) <= 64 &&
		    !strcmp(name, network->interface))
			return schema_set(&network->mac, mac);
	}
	return 0;
}

int cni_result_read(const json_t *result, struct task_network *network, struct why *why)
{
	const json_t *ips = json_object_get(result, "ips"), *ip;
	size_t i;
	int r;

	if (ips && !json_is_null(ips) && !json_is_array(ips))
		return why_set(why, CNI_E_INVALID, "its answer has no list as 'ips'");
	if (json_array_size(ips) > CNI_ADDRESSES_MAX)
		return why_set(why, CNI_E_INVALID, "its answer has %zu addresses, more than %d",
			       json_array_size(ips), CNI_ADDRESSES_MAX);
	r = read_mac(result, network);
	json_array_foreach(ips, i, ip)
	{
		r = r ?: read_address(result, ip, network, why);
	}
	return r;
}

/* ---- failures ---- */

static const char *last_line(const char *text, int *ret_length)
{
	size_t end = strlen(text), start;

	while (end && strchr(" \t\r\n", text[end - 1]))
		end--;
	for (start = end; start && text[start - 1] != '\n';)
		start--;
	*ret_length = (int)(end - start);
	return text + start;
}

void cni_explain_failure(const char *output, const char *errors, int exit_code, struct why *why)
{
	_cleanup_(json_cleanup) json_t *document = NULL;
	struct schema_fault fault = {};
	const char *message, *details, *line;
	int length;

	document = json_parse(output, strlen(output), CNI_CONF_MAX, &fault);
	message = text_of(document, "msg");
	details = text_of(document, "details");
	if (message && *message) {
		why_set(why, CNI_E_INVALID, "%.300s%s%.100s (code %d)", message,
			details && *details ? "; " : "", details ?: "",
			(int)json_integer_value(json_object_get(document, "code")));
		return;
	}
	line = last_line(errors, &length);
	if (length)
		why_set(why, CNI_E_INVALID, "exit code %d: %.*s", exit_code,
			length < 300 ? length : 300, line);
	else
		why_set(why, CNI_E_INVALID, "exit code %d, without a word", exit_code);
}
