/* The options of run and containers create as the request that is made of them. */

#include "tools/container_options.h"

#include <string.h>

#include "broker/lib/file.h"
#include "tests/unit/tools/capture.h"

static struct capture capture;

static struct schema_strs words_of(char *word)
{
	struct schema_strs list = {};

	assert_int_equal(schema_strs_add(&list, word), 0);
	return list;
}

/* The exit code; what it says is in capture.text. */
static int make(const struct container_options *options, char **args, int n_args,
		struct container_run_request *ret_request)
{
	struct context context = {};
	int code;

	capture_begin(&capture);
	code = container_options_request(&context, options, args, n_args, ret_request);
	capture_end(&capture);
	return code;
}

static int make_busybox(const struct container_options *options,
			struct container_run_request *ret_request)
{
	char *args[] = {(char *)"busybox", (char *)"b1", (char *)"ls", (char *)"-l"};

	return make(options, args, 4, ret_request);
}

static void test_image_id_and_command_are_the_words(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	struct container_options options = {.rm = true, .read_only = true, .memory_limit = 4096};

	(void)state;
	assert_int_equal(make_busybox(&options, &request), 0);
	assert_string_equal(request.image, "busybox");
	assert_string_equal(request.id, "b1");
	assert_int_equal(request.options->args.count, 2);
	assert_string_equal(request.options->args.items[1], "-l");
	assert_true(request.auto_remove);
	assert_true(request.options->read_only);
	assert_int_equal(request.options->memory_limit, 4096);
}

static void test_an_image_without_an_id_is_refused(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	char *args[] = {(char *)"busybox"};

	(void)state;
	assert_int_equal(make(&(struct container_options){}, args, 1, &request), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "id"));
}

static void test_a_root_directory_is_given_by_its_whole_path(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {}, none = {};
	struct container_options options = {.rootfs = true};
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *dotted = scratch_path(scratch, ".");
	char *args[] = {dotted, (char *)"c"}, *absent[] = {(char *)"/no/such/dir", (char *)"c"};

	assert_int_equal(make(&options, args, 2, &request), 0);
	assert_string_equal(request.options->rootfs, scratch->dir);
	assert_null(request.image);
	assert_int_equal(make(&options, absent, 2, &none), EXIT_ERROR);
	assert_non_null(strstr(capture.text, "/no/such/dir"));
}

/* ---- mounts ---- */

static int make_mount(const char *text, struct container_run_request *ret_request)
{
	struct container_options options = {.mounts = words_of((char *)text)};
	int code = make_busybox(&options, ret_request);

	schema_strs_clear(&options.mounts);
	return code;
}

static void test_a_mount_has_ctrs_words(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	struct mount *mount;

	(void)state;
	assert_int_equal(make_mount("type=bind,src=/a b,dst=/c,options=rbind:ro", &request), 0);
	mount = &request.options->mounts.items[0];
	assert_string_equal(mount->type, "bind");
	assert_string_equal(mount->source, "/a b");
	assert_string_equal(mount->target, "/c");
	assert_int_equal(mount->options.count, 2);
	assert_string_equal(mount->options.items[1], "ro");
}

static void test_a_mount_without_place_or_with_other_words_is_refused(void **state)
{
	static const char *const mounts[] = {"type=bind,src=/a", "rbind", "kind=bind,dst=/c",
					     "type=bind,,dst=/c", ""};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		struct container_run_request request = {};

		assert_int_equal(make_mount(mounts[i], &request), EXIT_USAGE);
		assert_non_null(strstr(capture.text, "--mount"));
	}
}

/* ---- labels and environment ---- */

static void test_labels_are_pairs_and_a_value_may_hold_an_equals_sign(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	struct container_options options = {.labels = words_of((char *)"a=b=c")};
	struct container_run_request none = {};

	(void)state;
	assert_int_equal(make_busybox(&options, &request), 0);
	assert_string_equal(request.labels.items[0].key, "a");
	assert_string_equal(request.labels.items[0].value, "b=c");
	schema_strs_clear(&options.labels);
	options.labels = words_of((char *)"=b");
	assert_int_equal(make_busybox(&options, &none), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "KEY=VALUE"));
	schema_strs_clear(&options.labels);
}

static void test_an_environment_file_comes_before_the_options(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	static const char text[] = "A=1\n\n# comment\n  B=2 3\nC=";
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *path = scratch_path(scratch, "env");
	struct container_options options = {.env_file = path, .env = words_of((char *)"A=9")};

	assert_int_equal(file_write(path, text, sizeof(text) - 1, 0600, false, NULL), 0);
	assert_int_equal(make_busybox(&options, &request), 0);
	assert_int_equal(request.options->env.count, 4);
	assert_string_equal(request.options->env.items[0], "A=1");
	assert_string_equal(request.options->env.items[1], "B=2 3");
	assert_string_equal(request.options->env.items[2], "C=");
	assert_string_equal(request.options->env.items[3], "A=9");
	schema_strs_clear(&options.env);
}

static void test_an_environment_file_that_is_not_there_is_named(void **state)
{
	struct container_options options = {.env_file = (char *)"/no/such/file"};
	struct container_run_request request = {};

	(void)state;
	assert_int_equal(make_busybox(&options, &request), EXIT_ERROR);
	assert_non_null(strstr(capture.text, "/no/such/file"));
}

/* ---- cpus ---- */

static void test_cpus_become_a_quota(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	struct container_options options = {.cpus = (char *)"1.5"};

	(void)state;
	assert_int_equal(make_busybox(&options, &request), 0);
	assert_int_equal(request.options->cpu_period, 100000);
	assert_int_equal(request.options->cpu_quota, 150000);
}

static void test_cpus_that_are_no_number_or_not_alone_are_refused(void **state)
{
	static const char *const cpus[] = {"", "0", "-1", "x", "1x", "nan", "1e9"};
	struct container_options both = {.cpus = (char *)"1", .cpu_period = 5};
	struct container_run_request request = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cpus); i++) {
		struct container_options options = {.cpus = (char *)cpus[i]};

		assert_int_equal(make_busybox(&options, &request), EXIT_USAGE);
	}
	assert_int_equal(make_busybox(&both, &request), EXIT_USAGE);
	assert_non_null(strstr(capture.text, "--cpus"));
}

/* ---- what excludes what ---- */

static void assert_usage(const struct container_options *options, const char *part)
{
	struct container_run_request request = {};

	assert_int_equal(make_busybox(options, &request), EXIT_USAGE);
	if (!strstr(capture.text, part))
		fail_msg("'%s' does not have '%s'", capture.text, part);
}

static void test_flags_that_exclude_or_need_each_other_are_named(void **state)
{
	struct container_options mapped = {.remap_labels = true};

	(void)state;
	assert_usage(&(struct container_options){.config = (char *)"x", .memory_limit = 4096},
		     "--config excludes --memory-limit");
	assert_usage(&(struct container_options){.config = (char *)"x", .cwd = (char *)"/"},
		     "--config excludes --cwd");
	assert_usage(&(struct container_options){.config = (char *)"x", .net_host = true},
		     "--config excludes --net-host");
	assert_usage(
		&(struct container_options){.runtime = (char *)"crun", .runc_binary = (char *)"/x"},
		"--runc-binary");
	assert_usage(&(struct container_options){.seccomp_profile = (char *)"x"},
		     "--seccomp-profile needs --seccomp");
	assert_usage(&(struct container_options){.pids_limit = (char *)"9x"}, "--pids-limit '9x'");
	assert_usage(&(struct container_options){.cpu_quota = (char *)"99999999999999999999"},
		     "--cpu-quota");
	assert_usage(&mapped, "--remap-labels needs --uidmap");
}

static void test_a_mapping_of_ids_becomes_labels_of_the_snapshot(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {};
	struct container_options options = {.remap_labels = true,
					    .uidmap = words_of((char *)"0:1000:1"),
					    .gidmap = words_of((char *)"0:1000:9"),
					    .snapshotter_labels = words_of((char *)"a=b")};

	(void)state;
	assert_int_equal(schema_strs_add(&options.uidmap, "1:2000:5"), 0);
	assert_int_equal(make_busybox(&options, &request), 0);
	assert_string_equal(
		schema_map_get(&request.snapshot_labels, "containerd.io/snapshot/uidmapping"),
		"0:1000:1,1:2000:5");
	assert_string_equal(
		schema_map_get(&request.snapshot_labels, "containerd.io/snapshot/gidmapping"),
		"0:1000:9");
	assert_string_equal(schema_map_get(&request.snapshot_labels, "a"), "b");
	assert_int_equal(request.options->uidmap.count, 2);
	schema_strs_clear(&options.uidmap);
	schema_strs_clear(&options.gidmap);
	schema_strs_clear(&options.snapshotter_labels);
}

static void test_gpus_need_a_program_in_path(void **state)
{
	_cleanup_(container_run_request_clear) struct container_run_request request = {}, none = {};
	struct container_options options = {.gpus = words_of((char *)"0,3")};
	struct scratch *scratch = *state;
	_cleanup_(cleanup_free) char *tool = scratch_path(scratch, "nvidia-container-cli");
	_cleanup_(cleanup_free) char *path = strdup(getenv("PATH"));
	_cleanup_(cleanup_free) char *variable = text_format("PATH=%s", scratch->dir);

	assert_int_equal(schema_strs_add(&options.gpus, "1"), 0);
	setenv("PATH", scratch->dir, true);
	setenv("NVC_X", "1", true);
	assert_int_equal(make_busybox(&options, &none), EXIT_ERROR);
	assert_non_null(strstr(capture.text, "--gpus: nvidia-container-cli"));
	assert_int_equal(file_write(tool, "", 0, 0755, false, NULL), 0);
	assert_int_equal(make_busybox(&options, &request), 0);
	setenv("PATH", path, true);
	unsetenv("NVC_X");
	assert_string_equal(request.options->gpu_tool, tool);
	assert_int_equal(request.options->gpus.count, 3);
	assert_string_equal(request.options->gpus.items[1], "3");
	assert_string_equal(request.options->gpus.items[2], "1");
	assert_int_equal(request.options->gpu_env.count, 2);
	for (size_t i = 0; i < 2; i++)
		assert_true(!strcmp(request.options->gpu_env.items[i], variable) ||
			    !strcmp(request.options->gpu_env.items[i], "NVC_X=1"));
	schema_strs_clear(&options.gpus);
}

/* ---- exit codes ---- */

static void test_a_failed_run_tells_not_found_from_not_executable(void **state)
{
	(void)state;
	assert_int_equal(
		container_run_exit_code(
			"crun run: executable file `/x` not found in $PATH: No such file or directory"),
		EXIT_NO_PROGRAM);
	assert_int_equal(container_run_exit_code(
				 "runc: exec: \"x\": executable file not found in $PATH: unknown"),
			 EXIT_NO_PROGRAM);
	assert_int_equal(container_run_exit_code("crun run: open executable: Permission denied"),
			 EXIT_CANNOT_EXECUTE);
	assert_int_equal(
		container_run_exit_code("crun exec: open executable: Operation not permitted"),
		EXIT_CANNOT_EXECUTE);
	assert_int_equal(
		container_run_exit_code("runc exec failed: exec: \"/etc\": is a directory"),
		EXIT_CANNOT_EXECUTE);
	assert_int_equal(container_run_exit_code("crun exec: setns: Operation not permitted"),
			 EXIT_RUN_FAILED);
	assert_int_equal(container_run_exit_code("image 'x' not found"), EXIT_RUN_FAILED);
	assert_int_equal(
		container_run_exit_code("crun create: error executing hook `/bin/x` (exit code: 1)"
					"; its hook says: x: Permission denied"),
		EXIT_RUN_FAILED);
	assert_int_equal(
		container_run_exit_code("runc create: error running hook #0: error running hook: "
					"fork/exec /x: no such file or directory: unknown"),
		EXIT_RUN_FAILED);
}

TEST_MAIN(cmocka_unit_test(test_image_id_and_command_are_the_words),
	  cmocka_unit_test(test_an_image_without_an_id_is_refused),
	  TEST_IN_SCRATCH(test_a_root_directory_is_given_by_its_whole_path),
	  cmocka_unit_test(test_a_mount_has_ctrs_words),
	  cmocka_unit_test(test_a_mount_without_place_or_with_other_words_is_refused),
	  cmocka_unit_test(test_labels_are_pairs_and_a_value_may_hold_an_equals_sign),
	  TEST_IN_SCRATCH(test_an_environment_file_comes_before_the_options),
	  cmocka_unit_test(test_an_environment_file_that_is_not_there_is_named),
	  cmocka_unit_test(test_cpus_become_a_quota),
	  cmocka_unit_test(test_cpus_that_are_no_number_or_not_alone_are_refused),
	  cmocka_unit_test(test_flags_that_exclude_or_need_each_other_are_named),
	  cmocka_unit_test(test_a_mapping_of_ids_becomes_labels_of_the_snapshot),
	  TEST_IN_SCRATCH(test_gpus_need_a_program_in_path),
	  cmocka_unit_test(test_a_failed_run_tells_not_found_from_not_executable))
