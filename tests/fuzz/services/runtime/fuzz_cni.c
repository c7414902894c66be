/* Configurations of CNI networks, and what their plugins answer. */

#include <string.h>

#include "services/runtime/cni.h"
#include "tests/fuzz/fuzz.h"

/* What is taken is written as a list, and that is taken again. */
static void parse_conf(const char *text, bool is_list)
{
	struct cni_conf conf = {}, again = {};
	struct why why = {};
	char *list;
	int r = cni_conf_parse(text, is_list, &conf, &why);

	FUZZ_ASSERT(r == 0 || (r == CNI_E_INVALID && why.text[0] && !conf.json));
	if (r)
		return;
	FUZZ_ASSERT(cni_conf_count(&conf) && cni_conf_count(&conf) <= CNI_PLUGINS_MAX);
	for (size_t i = 0; i < cni_conf_count(&conf); i++) {
		char *input = cni_conf_input(&conf, i, conf.json);

		FUZZ_ASSERT(input && !strchr(cni_conf_type(&conf, i), '/'));
		free(input);
	}
	list = json_dumps(conf.json, JSON_COMPACT);
	FUZZ_ASSERT(list && !cni_conf_parse(list, true, &again, NULL));
	free(list);
	cni_conf_clear(&conf);
	cni_conf_clear(&again);
}

static void parse_result(const char *text)
{
	struct task_network network = {.interface = strdup(CNI_INTERFACE)};
	struct why why = {};
	json_t *result = NULL;
	int r = cni_result_parse(text, &result, &why);

	if (!r)
		r = cni_result_read(result, &network, &why);
	FUZZ_ASSERT(r == 0 || (r == CNI_E_INVALID && why.text[0]));
	FUZZ_ASSERT(network.addresses.count <= CNI_ADDRESSES_MAX);
	json_decref(result);
	task_network_clear(&network);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);
	struct why why = {};

	parse_conf(text, true);
	parse_conf(text, false);
	parse_result(text);
	cni_explain_failure(text, text, 1, &why);
	FUZZ_ASSERT(why.text[0]);
	free(text);
	return 0;
}
