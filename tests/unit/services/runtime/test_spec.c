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
	.has_systemd = true,
	.has_apparmor = true,
	.has_resctrl = true,
	.controllers = "blkio cpu cpuset memory pids",
	.cpus = "0-3",
	.memory_nodes = "0",
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
	struct spec_blkio_limit limits[] = {{SPEC_BLKIO_WEIGHT, 8, 0, 100},
					    {SPEC_BLKIO_READ_BPS, 8, 0, 1048576},
					    {SPEC_BLKIO_WRITE_IOPS, 8, 0, 50},
					    {SPEC_BLKIO_WRITE_IOPS, 8, 16, 60}};
	struct spec_blkio_limits blkio = {limits, ARRAY_SIZE(limits)};
	struct schema_pair pairs[] = {{(char *)"team", (char *)"blue"},
				      {(char *)"run.oci.handler", (char *)"krun"},
				      {(char *)"io.davit.no-pivot", (char *)"true"}};
	struct schema_map labels = {pairs, 3};
	char *env[] = {(char *)"PATH=/bin", (char *)"NVC_X=1"};
	struct spec_gpus gpus = {
		(char *)"/opt/davit", (char *)"/opt/nvidia-container-cli", {env, ARRAY_SIZE(env)}};
	struct spec_input input = {.namespace = "default",
				   .container_id = "web",
				   .options = &options,
				   .labels = &labels,
				   .image = image_json ? &image : NULL,
				   .user = &user,
				   .devices = &devices,
				   .blkio = &blkio,
				   .gpus = &gpus};
	struct schema_fault fault = {};
	json_t *spec = NULL;

	assert_non_null(json);
	if (json_to_message(schema_spec_options(), json, &options, &fault))
		fail_msg("%s", fault.text);
	devices.count = options.devices.count ? 1 : 0;
	blkio.count = options.blkio_read_bps.count ? ARRAY_SIZE(limits) : 0;
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
		     "\"annotations\":{\"x\":\"y\"},\"memory_limit\":4194304,\"cpu_quota\":50000,"
		     "\"cpu_period\":100000,\"cpu_shares\":512,\"cpuset_cpus\":\"0-1\",\"pids_limit\":64,"
		     "\"rlimit_nofile\":\"100:200\",\"no_pivot\":true,\"cgroup\":\"/other/place\","
		     "\"rootfs_propagation\":\"rslave\",\"blkio_weight\":500,\"blkio_read_bps\":[\"x\"],"
		     "\"rdt_class\":\"gold\",\"apparmor_profile\":\"mine\",\"oci_root\":\"/run/own\","
		     "\"uidmap\":[\"0:100000:1\",\"1:1000:1\"],\"gidmap\":[\"0:100000:65536\"]}",
		     image),
		"options");
}

static bool has_option(const json_t *spec, const char *target, const char *wanted)
{
	json_t *mount, *option;
	size_t i, j;

	json_array_foreach(json_object_get(spec, "mounts"), i, mount)
	{
		if (strcmp(json_string_value(json_object_get(mount, "destination")), target) != 0)
			continue;
		json_array_foreach(json_object_get(mount, "options"), j, option)
		{
			if (!strcmp(json_string_value(option), wanted))
				return true;
		}
	}
	return false;
}

static void test_a_group_that_is_not_mapped_owns_no_terminals(void **state)
{
	json_t *wide = make(
		"{\"args\":[\"a\"],\"uidmap\":[\"0:1000:10\"],\"gidmap\":[\"0:1000:10\"]}", NULL);
	json_t *narrow = make(
		"{\"args\":[\"a\"],\"uidmap\":[\"0:1000:1\"],\"gidmap\":[\"0:1000:1\"]}", NULL);

	(void)state;
	assert_true(has_option(wide, "/dev/pts", "gid=5"));
	assert_false(has_option(narrow, "/dev/pts", "gid=5"));
	json_decref(wide);
	json_decref(narrow);
}

static void test_a_user_namespace_with_the_hosts_network_gets_the_hosts_sys(void **state)
{
	json_t *spec = make("{\"args\":[\"a\"],\"net_host\":true,\"uidmap\":[\"0:1000:10\"],"
			    "\"gidmap\":[\"0:1000:10\"]}",
			    NULL);

	(void)state;
	assert_true(has_option(spec, "/sys", "rbind"));
	assert_true(has_option(spec, "/sys", "ro"));
	json_decref(spec);
	spec = make("{\"args\":[\"a\"],\"with_ns\":[\"network:/proc/1/ns/net\"],"
		    "\"uidmap\":[\"0:1000:10\"],\"gidmap\":[\"0:1000:10\"]}",
		    NULL);
	assert_true(has_option(spec, "/sys", "rbind"));
	json_decref(spec);
}

static void test_privileged_can_do_without_the_hosts_devices(void **state)
{
	json_t *spec = make(
		"{\"args\":[\"sh\"],\"privileged\":true,\"privileged_without_host_devices\":true}",
		NULL);
	json_t *rules = json_object_get(
		json_object_get(json_object_get(spec, "linux"), "resources"), "devices");

	(void)state;
	assert_false(json_is_true(json_object_get(json_array_get(rules, 0), "allow")));
	json_decref(spec);
}

static void test_controllers_of_cgroup_v2_have_their_own_names(void **state)
{
	(void)state;
	host.is_cgroup_v2 = true;
	assert_refused("{\"args\":[\"a\"],\"blkio_weight\":100}", NULL, "'io'");
	strcpy(host.controllers, "cpuset cpu io memory pids");
	json_decref(make("{\"args\":[\"a\"],\"blkio_weight\":100}", NULL));
	strcpy(host.controllers, "cpuset");
	assert_refused("{\"args\":[\"a\"],\"cpu_shares\":100}", NULL, "cpu-shares");
	assert_refused("{\"args\":[\"a\"],\"memory_limit\":10000000}", NULL, "memory-limit");
	assert_refused("{\"args\":[\"a\"],\"pids_limit\":10}", NULL, "pids-limit");
	host.is_cgroup_v2 = false;
	strcpy(host.controllers, "blkio cpu cpuset memory pids");
}

static void test_what_the_host_lacks_is_refused(void **state)
{
	(void)state;
	host.has_systemd = host.has_apparmor = host.has_resctrl = false;
	assert_refused("{\"args\":[\"a\"],\"systemd_cgroup\":true}", NULL, "systemd-cgroup");
	assert_refused("{\"args\":[\"a\"],\"apparmor_profile\":\"x\"}", NULL,
		       "apparmor-profile 'x'");
	assert_refused("{\"args\":[\"a\"],\"apparmor_default_profile\":\"x\"}", NULL,
		       "apparmor-default-profile 'x'");
	assert_refused("{\"args\":[\"a\"],\"rdt_class\":\"x\"}", NULL, "rdt-class");
	host.has_systemd = host.has_apparmor = host.has_resctrl = true;
}

static void test_a_limit_of_block_io_is_a_device_and_a_number(void **state)
{
	static const struct {
		enum spec_blkio kind;
		const char *text;
	} faulty[] = {{SPEC_BLKIO_READ_BPS, "/dev/a"},
		      {SPEC_BLKIO_READ_BPS, "/dev/a:"},
		      {SPEC_BLKIO_READ_BPS, "/dev/a:-1"},
		      {SPEC_BLKIO_READ_BPS, "/dev/a:0"},
		      {SPEC_BLKIO_READ_BPS, "/dev/a:9x"},
		      {SPEC_BLKIO_READ_BPS, "/dev/a:99999999999999999999"},
		      {SPEC_BLKIO_READ_BPS, "/dev/a:9000000000T"},
		      {SPEC_BLKIO_READ_IOPS, "/dev/a:1M"},
		      {SPEC_BLKIO_WEIGHT, "/dev/a:9"},
		      {SPEC_BLKIO_WEIGHT, "/dev/a:1001"},
		      {SPEC_BLKIO_WRITE_IOPS, "a:1"}};
	_cleanup_(cleanup_free) char *path = NULL;
	struct why why = {};
	uint64_t number;

	(void)state;
	assert_int_equal(spec_blkio_parse(SPEC_BLKIO_READ_BPS, "/dev/a:b:2m", &path, &number, &why),
			 0);
	assert_string_equal(path, "/dev/a:b");
	assert_int_equal(number, 2097152);
	for (size_t i = 0; i < ARRAY_SIZE(faulty); i++) {
		struct why fault = {};
		char *none = NULL;

		assert_int_equal(
			spec_blkio_parse(faulty[i].kind, faulty[i].text, &none, &number, &fault),
			SPEC_E_INVALID);
		assert_non_null(strstr(fault.text, spec_blkio_options[faulty[i].kind].option));
	}
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
		{"{\"args\":[\"a\"],\"with_ns\":[\"network\"]}", "namespace"},
		{"{\"args\":[\"a\"],\"rlimit_nofile\":\"2:1\"}", "soft <= hard"},
		{"{\"args\":[\"a\"],\"rlimit_nofile\":\"-1\"}", "soft <= hard"},
		{"{\"args\":[\"a\"],\"rlimit_nofile\":\"1:20001\"}", "more than 20000"},
		{"{\"args\":[\"a\"],\"rlimit_nofile\":\"1:\"}", "soft <= hard"},
		{"{\"args\":[\"a\"],\"cgroup\":\"/\"}", "the host's own"},
		{"{\"args\":[\"a\"],\"cgroup\":\"/../x\"}", "'..'"},
		{"{\"args\":[\"a\"],\"hostname\":\"a/b\"}", "hostname 'a/b'"},
		{"{\"args\":[\"a\"],\"memory_limit\":4096}",
		 "memory-limit: 4096 is not between 2097152"},
		{"{\"args\":[\"a\"],\"cpu_shares\":1}", "between 2 and 262144"},
		{"{\"args\":[\"a\"],\"cpu_quota\":-2}", "cpu-quota: -2"},
		{"{\"args\":[\"a\"],\"cpu_quota\":999}", "cpu-quota: 999"},
		{"{\"args\":[\"a\"],\"cpu_period\":5}", "between 1000 and 1000000 us"},
		{"{\"args\":[\"a\"],\"pids_limit\":-9}", "pids-limit: -9"},
		{"{\"args\":[\"a\"],\"blkio_weight\":9}",
		 "blkio-weight: 9 is not between 10 and 1000"},
		{"{\"args\":[\"a\"],\"cpuset_cpus\":\"4\"}", "cpuset-cpus: '4': this host has 0-3"},
		{"{\"args\":[\"a\"],\"cpuset_cpus\":\"0,\"}", "cpuset-cpus: '0,' is not a list"},
		{"{\"args\":[\"a\"],\"cpuset_cpus\":\"2-1\"}", "not a list"},
		{"{\"args\":[\"a\"],\"cpuset_cpus\":\"99999999999\"}", "not a list"},
		{"{\"args\":[\"a\"],\"cpuset_mems\":\"1\"}", "cpuset-mems: '1': this host has 0"},
		{"{\"args\":[\"a\"],\"privileged_without_host_devices\":true}", "needs privileged"},
		{"{\"args\":[\"a\"],\"apparmor_profile\":\"a\",\"apparmor_default_profile\":\"b\"}",
		 "exclude each other"},
		{"{\"args\":[\"a\"],\"apparmor_default_profile\":\"a b { }\"}",
		 "apparmor-default-profile 'a b { }'"},
		{"{\"args\":[\"a\"],\"rdt_class\":\"a/b\"}", "rdt-class: 'a/b'"},
		{"{\"args\":[\"a\"],\"oci_root\":\"x\"}", "runc-root"},
		{"{\"args\":[\"a\"],\"uidmap\":[\"0:1:1\"]}", "needed together"},
		{"{\"args\":[\"a\"],\"uidmap\":[\"0:1\"],\"gidmap\":[\"0:1:1\"]}", "uidmap: '0:1'"},
		{"{\"args\":[\"a\"],\"uidmap\":[\"0:1:1\"],\"gidmap\":[\"0:1:0\"]}",
		 "gidmap: '0:1:0'"},
		{"{\"args\":[\"a\"],\"uidmap\":[\"1:1:1\"],\"gidmap\":[\"0:1:1\"]}", "id 0"},
		{"{\"args\":[\"a\"],\"uidmap\":[\"0:1:4294967295\"],\"gidmap\":[\"0:1:1\"]}",
		 "largest id"},
		{"{\"args\":[\"a\"],\"uidmap\":[\"0:1:10\",\"9:90:1\"],\"gidmap\":[\"0:1:1\"]}",
		 "overlap"},
		{"{\"args\":[\"a\"],\"uidmap\":[\"0:1:1\"],\"gidmap\":[\"0:1:1\"],"
		 "\"with_ns\":[\"user:/proc/1/ns/user\"]}",
		 "a user namespace cannot be joined"},
		{"{\"args\":[\"a\"],\"cni\":true,\"net_host\":true}", "cni and net-host exclude"},
		{"{\"args\":[\"a\"],\"cni\":true,\"with_ns\":[\"network:/proc/1/ns/net\"]}",
		 "cni and with-ns 'network:/proc/1/ns/net' exclude"},
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

static void test_gpus_are_ctrs_hook(void **state)
{
	static const char expected[] =
		"{\"prestart\":[{\"path\":\"/opt/davit\",\"args\":[\"davit\",\"oci-hook\",\"--\","
		"\"/opt/nvidia-container-cli\",\"--load-kmods\",\"configure\",\"--device=0,12\","
		"\"--compute\",\"--compat32\",\"--graphics\",\"--utility\",\"--video\",\"--display\","
		"\"--pid={{pid}}\",\"{{rootfs}}\"],\"env\":[\"PATH=/bin\",\"NVC_X=1\"]}]}";
	json_t *spec = make("{\"args\":[\"a\"],\"gpus\":[\"0\",\"12\"]}", NULL);
	_cleanup_(cleanup_free) char *text = json_dumps(json_object_get(spec, "hooks"),
							JSON_COMPACT);

	(void)state;
	assert_string_equal(text, expected);
	json_decref(spec);
	spec = make("{\"args\":[\"a\"]}", NULL);
	assert_null(json_object_get(spec, "hooks"));
	json_decref(spec);
	assert_refused("{\"args\":[\"a\"],\"gpus\":[\"0\",\"1x\"]}", NULL, "gpus: '1x'");
	assert_refused("{\"args\":[\"a\"],\"gpus\":[\"-1\"]}", NULL, "gpus: '-1'");
	assert_refused("{\"args\":[\"a\"],\"gpus\":[\"99999999999999999999\"]}", NULL, "65535");
}

TEST_MAIN(
	cmocka_unit_test_setup(test_the_default_spec_is_containerds, setup),
	cmocka_unit_test_setup(
		test_a_privileged_container_gets_all_capabilities_and_devices_and_nothing_is_masked,
		setup),
	cmocka_unit_test_setup(test_every_option_has_its_place, setup),
	cmocka_unit_test_setup(test_a_group_that_is_not_mapped_owns_no_terminals, setup),
	cmocka_unit_test_setup(test_a_user_namespace_with_the_hosts_network_gets_the_hosts_sys,
			       setup),
	cmocka_unit_test_setup(test_privileged_can_do_without_the_hosts_devices, setup),
	cmocka_unit_test_setup(test_controllers_of_cgroup_v2_have_their_own_names, setup),
	cmocka_unit_test_setup(test_what_the_host_lacks_is_refused, setup),
	cmocka_unit_test_setup(test_a_limit_of_block_io_is_a_device_and_a_number, setup),
	cmocka_unit_test_setup(test_the_seccomp_profile_allows_what_the_capabilities_need, setup),
	cmocka_unit_test_setup(test_systemd_gets_slice_prefix_and_name, setup),
	cmocka_unit_test_setup(test_limits_never_exceed_the_hosts, setup),
	cmocka_unit_test_setup(test_faulty_options_are_refused_by_name, setup),
	cmocka_unit_test_setup(test_a_capability_that_davit_lacks_is_not_promised, setup),
	cmocka_unit_test_setup(test_faulty_image_configs_are_refused_by_name, setup),
	cmocka_unit_test_setup(test_gpus_are_ctrs_hook, setup),
	cmocka_unit_test_setup(test_a_long_container_name_still_makes_a_host_name, setup))
