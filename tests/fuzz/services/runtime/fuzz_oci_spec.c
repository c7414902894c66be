/* A hand-made OCI spec, an image config and a user's files: from hostile text to a spec that passes its own check. */

#include <string.h>

#include "services/runtime/user.h"
#include "tests/fuzz/fuzz.h"

static const struct spec_host *this_host(void)
{
	static struct spec_host host = {.capabilities = (UINT64_C(1) << 41) - 1,
					.cgroup_parent = "davit-0badcafe"};

	for (size_t i = 0; i < RLIM_NLIMITS; i++)
		host.limits[i] = 20000;
	return &host;
}

/* 0, or the sentence says why not. */
static int check(const char *text)
{
	struct spec_facts facts = {};
	struct why why = {};
	json_t *spec = NULL;
	int r = spec_check(this_host(), text, "/state/bundles/x/rootfs", "/state/netns/x", &spec,
			   &facts, &why);

	FUZZ_ASSERT(r == 0 || (r == SPEC_E_INVALID && why.text[0]));
	FUZZ_ASSERT((r == 0) == (spec != NULL));
	spec_facts_clear(&facts);
	json_decref(spec);
	return r;
}

/* Whatever the image says, what comes out is a spec that prepare takes. */
static void make(const char *text)
{
	struct spec_options options = {};
	struct spec_devices devices = {};
	struct spec_image image = {};
	struct spec_user user = {};
	struct user_name name;
	struct why why = {};
	struct spec_input input = {.namespace = "default",
				   .container_id = "web",
				   .options = &options,
				   .image = &image,
				   .user = &user,
				   .devices = &devices};
	json_t *spec = NULL;

	if (!spec_image_parse(text, &image, &why) &&
	    !user_parse(image.user ? image.user : "", &name, &why) &&
	    !user_resolve(&name, text, text, &user, &why) &&
	    !spec_make(this_host(), &input, &spec, &why)) {
		char *made = json_dumps(spec, JSON_COMPACT);

		FUZZ_ASSERT(made && !check(made));
		free(made);
	} else {
		FUZZ_ASSERT(why.text[0]);
	}
	json_decref(spec);
	spec_user_clear(&user);
	spec_image_clear(&image);
}

/* As the spec of a running container, and as a process of the caller's: what comes out passes the check again. */
static void make_process(char *text, bool is_whole)
{
	char *words[] = {(char *)"A=1", (char *)"CAP_KILL"};
	struct runtime_process_request request = {.args = {&words[0], 1},
						  .env = {&words[0], 1},
						  .cap_add = {&words[1], 1},
						  .terminal = true,
						  .process = is_whole ? text : NULL};
	struct why why = {};
	json_t *process = NULL;
	int r = spec_make_process(this_host(), text, &request, NULL, &process, &why);

	FUZZ_ASSERT(r == 0 || (r == SPEC_E_INVALID && why.text[0]));
	FUZZ_ASSERT(r || !spec_check_process(this_host(), process, &why));
	json_decref(process);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size);

	check(text);
	make(text);
	make_process(text, false);
	make_process(text, true);
	free(text);
	return 0;
}
