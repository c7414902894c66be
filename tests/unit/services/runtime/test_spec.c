/*
 * Specs against the golden files beside this test. DAVIT_WRITE_GOLDEN=1 writes
 * them anew: then read the difference.
 */

#include <linux/capability.h>
#include <string.h>

#include "broker/lib/file.h"
#include "schemas/json.h"
#include "services/runtime/spec.h"
#include "tests/lib/main.h"

#define GOLDEN "tests/unit/services/runtime/golden/"

static struct spec_host host = {
	.capabilities = (UINT64_C(1) << 41) - 1,
	.cgroup_parent = "davit-0badcafe",
	.has_hosts = true,
	.has_resolv_conf = true,
};

static int setup(void **state)
{
	(void)state;
	for (size_t i = 0; i < RLIM_NLIMITS; i++)
		host.limits[i] = 20000;
	return 0;
}

static json_t *try_make(const char *options_json, const char *image_json, struct why *why)
{
	_cleanup_(spec_options_clear) struct spec_options options = {};
	_cleanup_(spec_image_clear) struct spec_image image = {};
	_cleanup_(json_cleanup) json_t *json = json_loads(options_json, 0, NULL);
	uint32_t groups[] = {0, 10};
	struct spec_user user = {.groups = groups, .n_groups = 2};
	struct spec_device device = {"/dev/fuse", 'c', 10, 229, 0666, 0, 0, "rwm"};
	struct spec_devices devices = {&device, 1};
	struct schema_pair pairs[] = {{(char *)"team", (char *)"blue"},
				      {(char *)"run.oci.handler", (char *)"krun"},
				      {(char *)"io.davit.no-pivot", (char *)"true"}};
	struct schema_map labels = {pairs, 3};
	struct spec_input input = {.namespace = "default",
				   .container_id = "web",
				   .options = &options,
				   .labels = &labels,
				   .image = image_json ? &image : NULL,
				   .user = &user,
				   .devices = &devices};
	struct schema_fault fault = {};
	json_t *spec = NULL;

	assert_non_null(json);
	if (json_to_message(schema_spec_options(), json, &options, &fault))
		fail_msg("%s", fault.text);
	devices.count = options.devices.count ? 1 : 0;
	if (image_json && spec_image_parse(image_json, &image, why))
		return NULL;
	return spec_make(&host, &input, &spec, why) ? NULL : spec;
}

static json_t *make(const char *options, const char *image)
{
	struct why why = {};
	json_t *spec = try_make(options, image, &why);

	if (!spec)
		fail_msg("%s", why.text);
	return spec;
}

static void assert_refused(const char *options, const char *image, const char *part)
{
	struct why why = {};

	assert_null(try_make(options, image, &why));
	if (!strstr(why.text, part))
		fail_msg("'%s' does not have '%s'", why.text, part);
}

static void assert_golden(json_t *spec, const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format(GOLDEN "%s.json", name);
	_cleanup_(cleanup_free) char *text = json_dumps(spec, JSON_INDENT(1));
	_cleanup_(json_cleanup) json_t *expected = NULL;

	if (getenv("DAVIT_WRITE_GOLDEN"))
		assert_int_equal(file_write(path, text, strlen(text), 0644, false, NULL), 0);
	expected = json_load_file(path, 0, NULL);
	if (!json_equal(spec, expected))
		fail_msg("not as in %s:\n%s", path, text);
	json_decref(spec);
}

static const char image[] =
	"{\"config\":{\"Env\":[\"PATH=/bin\",\"A=1\"],\"Entrypoint\":[\"/entry\"],\"Cmd\":[\"serve\"],"
	"\"WorkingDir\":\"/srv\",\"User\":\"www\",\"StopSignal\":\"SIGQUIT\","
	"\"Labels\":{\"run.oci.handler\":\"wasm\"}}}";

static void test_the_default_spec_is_containerds(void **state)
{
	(void)state;
	assert_golden(make("{}", image), "default");
}

static void test_a_privileged_container_gets_all_capabilities_and_devices_and_nothing_is_masked(
	void **state)
{
	json_t *spec = make("{\"privileged\":true,\"args\":[\"sh\"],\"seccomp\":true}", NULL);
	json_t *linux_ = json_object_get(spec, "linux");

	(void)state;
	assert_null(json_object_get(linux_, "maskedPaths"));
	assert_null(json_object_get(linux_, "seccomp"));
	assert_int_equal(json_array_size(json_object_get(
				 json_object_get(json_object_get(spec, "process"), "capabilities"),
				 "bounding")),
			 41);
	assert_golden(spec, "privileged");
}

static void test_every_option_has_its_place(void **state)
{
	(void)state;
	assert_golden(
		make("{\"args\":[\"sh\",\"-c\",\"x\"],\"env\":[\"B=2\",\"A\"],\"cwd\":\"/tmp\",\"terminal\":true,"
		     "\"hostname\":\"box\",\"read_only\":true,\"net_host\":true,\"allow_new_privs\":true,"
		     "\"mounts\":[{\"type\":\"bind\",\"source\":\"/tmp\",\"target\":\"/host\",\"options\":[\"ro\"]},"
		     "{\"type\":\"tmpfs\",\"target\":\"/t\"}],"
		     "\"cap_add\":[\"CAP_SYS_PTRACE\"],\"cap_drop\":[\"CAP_NET_RAW\"],"
		     "\"with_ns\":[\"ipc:/proc/1/ns/ipc\"],\"devices\":[\"/dev/fuse\"],"
		     "\"annotations\":{\"x\":\"y\"},\"memory_limit\":1048576,\"cpu_quota\":50000,"
		     "\"cpu_period\":100000,\"cpu_shares\":512,\"cpuset_cpus\":\"0-1\",\"pids_limit\":64,"
		     "\"rlimit_nofile\":\"100:200\",\"no_pivot\":true,\"cgroup\":\"/other/place\","
		     "\"rootfs_propagation\":\"rslave\"}",
		     image),
		"options");
}

static void test_the_seccomp_profile_allows_what_the_capabilities_need(void **state)
{
	_cleanup_(json_cleanup) json_t *plain = spec_default_seccomp(0);
	_cleanup_(json_cleanup) json_t *boot = spec_default_seccomp(UINT64_C(1) << CAP_SYS_BOOT);
	_cleanup_(cleanup_free) char *text = json_dumps(plain, 0), *more = json_dumps(boot, 0);

	(void)state;
	assert_null(strstr(text, "\"reboot\""));
	assert_non_null(strstr(more, "\"reboot\""));
	assert_null(strstr(text, "io_uring"));
	assert_null(strstr(text, "\"mount\""));
	assert_non_null(strstr(text, "clone3"));
	assert_golden(make("{\"args\":[\"sh\"],\"seccomp\":true}", NULL), "seccomp");
}

static void test_systemd_gets_slice_prefix_and_name(void **state)
{
	json_t *spec = make("{\"args\":[\"sh\"],\"systemd_cgroup\":true}", NULL);

	(void)state;
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(spec, "linux"), "cgroupsPath")),
		"system.slice:davit-0badcafe:default-web");
	json_decref(spec);
	assert_refused("{\"args\":[\"sh\"],\"systemd_cgroup\":true,\"cgroup\":\"/x\"}", NULL,
		       "slice:prefix:name");
}

static void test_limits_never_exceed_the_hosts(void **state)
{
	json_t *spec, *limit;

	(void)state;
	host.limits[RLIMIT_NOFILE] = 512;
	spec = make("{\"args\":[\"sh\"]}", NULL);
	limit = json_array_get(json_object_get(json_object_get(spec, "process"), "rlimits"), 0);
	host.limits[RLIMIT_NOFILE] = 20000;
	assert_int_equal(json_integer_value(json_object_get(limit, "hard")), 512);
	assert_int_equal(json_integer_value(json_object_get(limit, "soft")), 512);
	json_decref(spec);
}

static void test_faulty_options_are_refused_by_name(void **state)
{
	static const char *const cases[][2] = {
		{"{}", "no command"},
		{"{\"args\":[\"\"]}", "empty string"},
		{"{\"args\":[\"a\"],\"cwd\":\"x\"}", "not an absolute path"},
		{"{\"args\":[\"a\"],\"cwd\":\"/a/../proc\"}", "'..'"},
		{"{\"args\":[\"a\"],\"cwd\":\"/proc/self/fd/7\"}", "/proc"},
		{"{\"args\":[\"a\"],\"cwd\":\"//sys\"}", "/sys"},
		{"{\"args\":[\"a\"],\"cwd\":\"/dev/fd/3\"}", "/dev"},
		{"{\"args\":[\"a\"],\"env\":[\"=x\"]}", "no name"},
		{"{\"args\":[\"a\"],\"env\":[\"a\\nb=x\"]}", "control"},
		{"{\"args\":[\"a\"],\"mounts\":[{\"source\":\"/x\"}]}", "no target"},
		{"{\"args\":[\"a\"],\"mounts\":[{\"source\":\"x\",\"type\":\"bind\",\"target\":\"/x\"}]}",
		 "absolute"},
		{"{\"args\":[\"a\"],\"mounts\":[{\"source\":\"/x\",\"target\":\"/proc/sys\"}]}",
		 "refused"},
		{"{\"args\":[\"a\"],\"mounts\":[{\"source\":\"/x\",\"target\":\"/\"}]}", "refused"},
		{"{\"args\":[\"a\"],\"mounts\":[{\"source\":\"/x\",\"target\":\"/x\",\"options\":[\"rshared\"]}]}",
		 "propagation 'rshared'"},
		{"{\"args\":[\"a\"],\"rootfs_propagation\":\"shared\"}", "propagation 'shared'"},
		{"{\"args\":[\"a\"],\"rootfs_propagation\":\"odd\"}", "not a propagation"},
		{"{\"args\":[\"a\"],\"cap_add\":[\"SYS_ADMIN\"]}", "not a capability"},
		{"{\"args\":[\"a\"],\"with_ns\":[\"mount:/proc/1/ns/mnt\"]}", "namespace"},
		{"{\"args\":[\"a\"],\"with_ns\":[\"network:x\"]}", "namespace"},
		{"{\"args\":[\"a\"],\"rlimit_nofile\":\"2:1\"}", "soft <= hard"},
		{"{\"args\":[\"a\"],\"rlimit_nofile\":\"-1\"}", "soft <= hard"},
		{"{\"args\":[\"a\"],\"rlimit_nofile\":\"1:\"}", "soft <= hard"},
		{"{\"args\":[\"a\"],\"cgroup\":\"/\"}", "the host's own"},
		{"{\"args\":[\"a\"],\"cgroup\":\"/../x\"}", "'..'"},
		{"{\"args\":[\"a\"],\"hostname\":\"a/b\"}", "host name"},
		{"{\"args\":[\"a\"],\"rootfs\":\"x\"}", "absolute"},
		{"{\"args\":[\"a\"],\"annotations\":{\"io.davit.x\":\"1\"}}", "davit's own"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_refused(cases[i][0], NULL, cases[i][1]);
}

static void test_a_capability_that_davit_lacks_is_not_promised(void **state)
{
	(void)state;
	host.capabilities &= ~(UINT64_C(1) << CAP_SYS_RESOURCE);
	assert_refused("{\"args\":[\"a\"],\"cap_add\":[\"CAP_SYS_RESOURCE\"]}", NULL,
		       "cannot give it");
	host.capabilities |= UINT64_C(1) << CAP_SYS_RESOURCE;
}

static void test_faulty_image_configs_are_refused_by_name(void **state)
{
	static const char *const cases[][2] = {
		{"", "image config"},
		{"[]", "not an object"},
		{"{\"config\":7}", "not an object"},
		{"{\"config\":{\"Env\":7}}", "Env"},
		{"{\"config\":{\"Env\":[7]}}", "Env[0]"},
		{"{\"config\":{\"User\":[]}}", "User"},
		{"{\"config\":{\"Cmd\":[\"a\"],\"WorkingDir\":\"/proc/self/fd/8\"}}", "/proc"},
		{"{\"config\":{\"Cmd\":[\"a\"],\"Env\":[\"=\"]}}", "no name"},
		{"{\"config\":{}}", "neither Entrypoint nor Cmd"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_refused("{}", cases[i][0], cases[i][1]);
}

static void test_a_long_container_name_still_makes_a_host_name(void **state)
{
	json_t *spec = make("{\"args\":[\"a\"],\"hostname\":\"\"}", NULL);

	(void)state;
	assert_string_equal(json_string_value(json_object_get(spec, "hostname")), "web");
	json_decref(spec);
}

TEST_MAIN(
	cmocka_unit_test_setup(test_the_default_spec_is_containerds, setup),
	cmocka_unit_test_setup(
		test_a_privileged_container_gets_all_capabilities_and_devices_and_nothing_is_masked,
		setup),
	cmocka_unit_test_setup(test_every_option_has_its_place, setup),
	cmocka_unit_test_setup(test_the_seccomp_profile_allows_what_the_capabilities_need, setup),
	cmocka_unit_test_setup(test_systemd_gets_slice_prefix_and_name, setup),
	cmocka_unit_test_setup(test_limits_never_exceed_the_hosts, setup),
	cmocka_unit_test_setup(test_faulty_options_are_refused_by_name, setup),
	cmocka_unit_test_setup(test_a_capability_that_davit_lacks_is_not_promised, setup),
	cmocka_unit_test_setup(test_faulty_image_configs_are_refused_by_name, setup),
	cmocka_unit_test_setup(test_a_long_container_name_still_makes_a_host_name, setup))
