/* Templates in the words of a hook. */

#include <string.h>

#include "tools/hook_words.h"

#include "broker/lib/cleanup.h"
#include "tests/lib/main.h"

static const char state_text[] =
	"{\"ociVersion\":\"1.0.2\",\"id\":\"one\",\"pid\":4711,\"status\":\"created\",\"bundle\":\"/b\","
	"\"annotations\":{\"a\":\"{{id}}\",\"q\\\"\":\"quoted\",\"c}}d\":\"hidden\"}}";

static int read_facts(const char *state, const char *config, struct hook_facts *ret_facts,
		      struct why *why)
{
	int r = hook_facts_read(state, strlen(state), ret_facts, why);

	return r ?: hook_facts_read_config(config, strlen(config), ret_facts, why);
}

static void assert_expands(const char *word, const char *expected)
{
	_cleanup_(hook_facts_clear) struct hook_facts facts = {};
	_cleanup_(cleanup_free) char *expanded = NULL;
	struct why why = {};

	assert_int_equal(read_facts(state_text, "{\"root\":{\"path\":\"r\"}}", &facts, &why), 0);
	if (hook_expand(&facts, word, &expanded, &why))
		fail_msg("%s: %s", word, why.text);
	assert_string_equal(expanded, expected);
}

static void assert_refused(const char *word, const char *part)
{
	_cleanup_(hook_facts_clear) struct hook_facts facts = {};
	struct why why = {};
	char *expanded = NULL;

	assert_int_equal(read_facts(state_text, "{\"root\":{\"path\":\"/r\"}}", &facts, &why), 0);
	assert_int_equal(hook_expand(&facts, word, &expanded, &why), HOOK_E_INVALID);
	if (!strstr(why.text, part))
		fail_msg("'%s' does not have '%s'", why.text, part);
}

static void test_what_the_runtime_tells_takes_its_place(void **state)
{
	(void)state;
	assert_expands("", "");
	assert_expands("a}}{b", "a}}{b");
	assert_expands("{{id}}{{ status }}\t{{\nbundle\r}}", "onecreated\t/b");
	assert_expands("--pid={{pid}}", "--pid=4711");
	assert_expands("{{rootfs}}/x", "/b/r/x");
	/* What was put in is not looked at again. */
	assert_expands("{{annotation \"a\"}}", "{{id}}");
	assert_expands("{{annotation \"q\\\"\"}}|{{annotation`a`}}|{{annotation \"none\"}}|",
		       "quoted|{{id}}||");
	assert_expands("{{annotation \"c}}d\"}}", "hidden");
}

static void test_what_means_nothing_is_refused(void **state)
{
	static const char *const words[] = {"{{}}",
					    "{{ }}",
					    "{{uid}}",
					    "{{pid pid}}",
					    "{{i}}",
					    "{{annotation}}",
					    "{{annotation a}}",
					    "{{annotation \"a\" \"b\"}}",
					    "{{annotation \"\\x\"}}",
					    "{{id \"a\"}}"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		assert_refused(words[i], words[i]);
	assert_refused("a{{id", "'}}'");
	assert_refused("{{annotation \"a}}", "'}}'");
	assert_refused("{{annotation \"a\\", "'}}'");
}

static void test_a_state_or_config_that_is_none_is_refused(void **state)
{
	static const struct {
		const char *state, *config, *part;
	} faulty[] = {
		{"", "{}", "stdin"},
		{"[]", "{}", "bundle"},
		{"{\"bundle\":\"rel\"}", "{}", "bundle"},
		{"{\"bundle\":\"/b\"}", "{}", "/b/config.json: root.path"},
		{"{\"bundle\":\"/b\"}", "{\"root\":{\"path\":1}}", "root.path"},
		{"{\"bundle\":\"/b\"}", "{", "/b/config.json"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(faulty); i++) {
		_cleanup_(hook_facts_clear) struct hook_facts facts = {};
		struct why why = {};

		assert_int_equal(read_facts(faulty[i].state, faulty[i].config, &facts, &why),
				 HOOK_E_INVALID);
		if (!strstr(why.text, faulty[i].part))
			fail_msg("'%s' does not have '%s'", why.text, faulty[i].part);
	}
}

TEST_MAIN(cmocka_unit_test(test_what_the_runtime_tells_takes_its_place),
	  cmocka_unit_test(test_what_means_nothing_is_refused),
	  cmocka_unit_test(test_a_state_or_config_that_is_none_is_refused))
