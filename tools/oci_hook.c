/* davit oci-hook: a program as an OCI hook, with words that only the OCI runtime knows. As containerd's command of that name. */

#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "tools/command.h"
#include "tools/hook_words.h"

extern char **environ;

static int fail_hook(struct context *context, int r, const struct why *why)
{
	return fail(context, "oci-hook: %s",
		    why->text[0] ? why->text : strerror(r < 0 ? -r : EINVAL));
}

static int read_facts(struct hook_facts *facts, struct why *why)
{
	_cleanup_(cleanup_free) char *state = NULL, *config = NULL, *path = NULL;
	size_t size;
	int r = file_read_proc("/dev/stdin", HOOK_STATE_MAX, &state, &size);

	if (r)
		return why_errno(why, r, "the container's state on stdin");
	r = hook_facts_read(state, size, facts, why);
	if (r)
		return r;
	path = text_format("%s/config.json", hook_facts_bundle(facts));
	if (!path)
		return error_origin(-ENOMEM);
	r = file_read(AT_FDCWD, path, HOOK_STATE_MAX, &config, &size);
	return r ? why_errno(why, r, "%s", path) : hook_facts_read_config(config, size, facts, why);
}

static void words_free(char ***words)
{
	for (char **word = *words; word && *word; word++)
		free(*word);
	free(*words);
}

/* Of all words, NULL-terminated. */
static int expand_all(const struct hook_facts *facts, char **words, size_t n, char ***ret_words,
		      struct why *why)
{
	_cleanup_(words_free) char **expanded = calloc(n + 1, sizeof(*expanded));
	int r = expanded ? 0 : error_origin(-ENOMEM);

	for (size_t i = 0; !r && i < n; i++)
		r = hook_expand(facts, words[i], &expanded[i], why);
	if (!r)
		*ret_words = TAKE(expanded);
	return r;
}

static int run_hook(struct context *context, void *data, char **args, int n_args)
{
	_cleanup_(hook_facts_clear) struct hook_facts facts = {};
	_cleanup_(words_free) char **words = NULL;
	_cleanup_(words_free) char **variables = NULL;
	struct why why = {};
	size_t n = 0;
	int r;

	(void)data;
	while (environ[n])
		n++;
	r = read_facts(&facts, &why);
	r = r ?: expand_all(&facts, args, (size_t)n_args, &words, &why);
	r = r ?: expand_all(&facts, environ, n, &variables, &why);
	if (r)
		return fail_hook(context, r, &why);
	execve(words[0], words, variables);
	return fail(context, "oci-hook: cannot execute %s: %s", words[0], strerror(errno));
}

const struct command oci_hook_command = {
	.name = "oci-hook",
	.arguments = "[--] PROGRAM [ARG...]",
	.summary = "run a program as an OCI hook, with what the OCI runtime tells in its words",
	.details =
		"To be called by an OCI runtime, with the container's state on stdin. In the program's words and\n"
		"environment {{id}}, {{bundle}}, {{rootfs}}, {{pid}}, {{status}} and {{annotation \"NAME\"}} are\n"
		"replaced, as containerd's oci-hook does. The program takes this process' place; its path is\n"
		"absolute.",
	.min_args = 1,
	.max_args = -1,
	.stops_at_argument = true,
	.run = run_hook,
};
