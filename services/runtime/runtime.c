/* Handlers of the runtime service. */

#include <fcntl.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "services/lib/operation.h"
#include "services/lib/work.h"
#include "services/runtime/apparmor.h"
#include "services/runtime/attachment.h"
#include "services/runtime/bundle.h"
#include "services/runtime/cgroups.h"
#include "services/runtime/fsck.h"
#include "services/runtime/host.h"
#include "services/runtime/netns.h"
#include "services/runtime/network.h"
#include "services/runtime/process.h"
#include "services/runtime/runtime.h"
#include "services/runtime/user.h"

struct runtime_service {
	struct service *service;
	struct probe *probe;
	struct cgroups *cgroups;
	struct networks *networks;
};

#define SERVICE_TYPE struct runtime_service
#define SERVICE_DEF  "schemas/runtime.def"
#include "services/lib/methods.h"

#define PROFILE_MAX   1048576
#define LOAD_LIMIT_MS 30000

static struct probe_configured configured[RUNTIME_CONFIGURED_MAX];
static size_t n_configured;
static struct network_options network_options = {.conf_dir = NETWORK_CONF_DIR,
						 .bin_dirs = NETWORK_BIN_DIRS,
						 .timeout_ms = NETWORK_TIMEOUT_MS};

void runtime_configure_networks(const struct network_options *options)
{
	network_options = *options;
}

bool runtime_configure(char *text)
{
	char *equals = strchr(text, '=');

	if (!equals || equals[1] != '/' || n_configured == RUNTIME_CONFIGURED_MAX)
		return false;
	*equals = '\0';
	configured[n_configured++] = (struct probe_configured){.name = text, .path = equals + 1};
	return check_identifier(text);
}

/* Fails the call for what is the caller's fault; passes on what is not. */
static int refuse(struct call *call, int r, const struct why *why)
{
	return r > 0 ? call_fail(call, BUS_INVALID_ARGUMENT, "%s", why->text) : error_trace(r);
}

static int choose(struct runtime_service *service, const char *name,
		  struct runtime_record *ret_record, struct call *call)
{
	struct why why = {};
	int r = probe_choose(service->probe, name, ret_record, &why);

	if (r <= 0)
		return error_trace(r);
	probe_again(service->probe);
	call_fail(call, BUS_FAILED_PRECONDITION, "%s", why.text);
	return 1;
}

/* ---- runtime.list ---- */

static int runtime_list(struct runtime_service *service, const struct empty *request,
			struct runtime_list_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	for (size_t i = 0; i < probe_count(service->probe); i++) {
		struct runtime_record *record = schema_list_add(&reply->runtimes);
		int r = record ? runtime_record_copy(probe_record(service->probe, i), record)
			       : -ENOMEM;

		if (r)
			return error_origin(r);
	}
	return 0;
}

/* ---- runtime.spec ---- */

/* All that spec_make() gets. */
struct making {
	struct spec_host host;
	struct spec_options no_options;
	struct spec_image image;
	struct spec_user user;
	struct spec_devices devices;
	struct spec_blkio_limits blkio;
	struct spec_gpus gpus;
	json_t *profile;
};

static void making_clear(struct making *making)
{
	spec_image_clear(&making->image);
	spec_user_clear(&making->user);
	spec_devices_clear(&making->devices);
	spec_blkio_clear(&making->blkio);
	spec_gpus_clear(&making->gpus);
	json_decref(making->profile);
}

static int look_up_user(const struct runtime_spec_request *request, const char *rootfs,
			const char *text, struct spec_user *ret_user, struct why *why)
{
	_cleanup_(user_files_clear) struct user_files files = {};
	struct user_name name;
	int r;

	r = user_parse(text, &name, why);
	r = r ?: user_files_read(request->mounts.items, request->mounts.count, rootfs, &files, why);
	return r ?: user_resolve(&name, files.passwd, files.group, ret_user, why);
}

static int find_user(const struct runtime_spec_request *request, const struct spec_options *options,
		     struct making *making, struct why *why)
{
	bool is_asked = options->user && *options->user;
	const char *text = is_asked ? options->user : making->image.user;
	int r = look_up_user(request, options->rootfs, text ? text : "", &making->user, why);

	return r > 0 && is_asked ? why_prefix(why, r, "user") : r;
}

static int find_devices(const struct spec_options *options, struct making *making, struct why *why)
{
	return spec_has_all_devices(options)
		       ? host_all_devices(&making->devices, why)
		       : host_find_devices(&options->devices, &making->devices, why);
}

static int read_profile(const struct spec_options *options, struct making *making, struct why *why)
{
	_cleanup_(cleanup_free) char *text = NULL;
	const char *path = options->seccomp_profile;
	int r;

	if (!path || !*path)
		return 0;
	if (!options->seccomp)
		return why_set(why, SPEC_E_INVALID, "seccomp-profile needs seccomp");
	r = *path == '/' ? file_read(AT_FDCWD, path, PROFILE_MAX, &text, NULL) : -EINVAL;
	if (r)
		return why_set(why, SPEC_E_INVALID, "seccomp-profile '%.256s': %s", path,
			       *path == '/' ? strerror(-r) : "not an absolute path");
	return spec_seccomp_parse(text, &making->profile, why);
}

static int gather(struct runtime_service *service, const struct runtime_spec_request *request,
		  const struct spec_options *options, struct making *making, struct why *why)
{
	int r = host_read(service_paths(service->service)->state, &making->host);

	if (!r)
		host_read_features(&making->host);
	if (!r && request->image_config && *request->image_config)
		r = spec_image_parse(request->image_config, &making->image, why);
	if (!r && !request->check_only)
		r = find_user(request, options, making, why);
	r = r ?: find_devices(options, making, why);
	r = r ?: host_find_blkio(options, &making->blkio, why);
	r = r ?: host_find_gpus(options, &making->gpus, why);
	return r ?: read_profile(options, making, why);
}

static int make_spec(struct making *making, const struct runtime_spec_request *request,
		     const struct spec_options *options, const char *namespace, char **ret_spec,
		     struct why *why)
{
	_cleanup_(json_cleanup) json_t *spec = NULL;
	struct spec_input input = {
		.namespace = namespace,
		.container_id = request->container_id,
		.options = options,
		.labels = &request->labels,
		.image = request->image_config && *request->image_config ? &making->image : NULL,
		.user = &making->user,
		.devices = &making->devices,
		.blkio = &making->blkio,
		.gpus = &making->gpus,
		.seccomp = making->profile,
		.check_only = request->check_only,
	};
	int r = spec_make(&making->host, &input, &spec, why);

	if (r)
		return r;
	*ret_spec = json_dumps(spec, JSON_COMPACT);
	if (!*ret_spec)
		return error_origin(-ENOMEM);
	if (strlen(*ret_spec) > SPEC_SIZE_MAX)
		return why_set(why, SPEC_E_INVALID,
			       "container '%s': its OCI spec is larger than %d bytes",
			       request->container_id, SPEC_SIZE_MAX);
	return 0;
}

/*
 * What crun alone can do. Without a cgroup: it has a manager that does nothing, runc would make one all
 * the same. In a user namespace: runc goes to the root file system by its path as the container's root.
 */
static int check_runtime(const char *state, const struct runtime_record *runtime,
			 const struct spec_options *options, struct why *why)
{
	const char *name = strrchr(runtime->path, '/') + 1;

	if (options->uidmap.count && options->rootfs && *options->rootfs == '/' &&
	    !host_is_passable(options->rootfs))
		return why_set(why, SPEC_E_INVALID,
			       "uidmap: the container's root cannot reach its root file system: "
			       "'%.256s' is not there, or it or a directory above it is closed "
			       "(mode 0711 opens it)",
			       options->rootfs);
	if (!strncmp(name, "crun", 4))
		return 0;
	if (options->no_cgroup)
		return why_set(
			why, SPEC_E_INVALID,
			"cgroup: a container without one needs crun; %s makes one in any case",
			runtime->name);
	if (options->uidmap.count && !host_is_passable(state))
		return why_set(why, SPEC_E_INVALID,
			       "uidmap: %s needs a way to the root file system for the container's "
			       "root, and '%s' or a directory above it is closed (mode 0711 opens "
			       "it): use crun",
			       runtime->name, state);
	return 0;
}

/* What runc alone can do. */
static int check_weights(const struct spec_host *host, const struct runtime_record *runtime,
			 const struct spec_options *options, struct why *why)
{
	const char *name = strrchr(runtime->path, '/') + 1,
		   *asked = spec_blkio_weight_asked(options);

	if (!asked || !host->has_bfq_weights_only || strncmp(name, "crun", 4) != 0)
		return 0;
	return why_set(why, SPEC_E_INVALID,
		       "%s: this host has BFQ's weights only (blkio.bfq.weight), which %s does not "
		       "set: use runc",
		       asked, runtime->name);
}

static int runtime_spec(struct runtime_service *service, const struct runtime_spec_request *request,
			struct runtime_spec_reply *reply, struct call *call)
{
	_cleanup_(runtime_record_clear) struct runtime_record runtime = {};
	_cleanup_(making_clear) struct making making = {};
	const struct spec_options *options = request->options ? request->options
							      : &making.no_options;
	const char *namespace = call_checked_namespace(call);
	struct schema_fault fault = {};
	struct why why = {};
	int r;

	if (!namespace)
		return 0;
	if (check_identifier_why("container id", request->container_id, &fault))
		return call_fail(call, BUS_INVALID_ARGUMENT, "%s", fault.text);
	r = choose(service, request->runtime, &runtime, call);
	if (r)
		return r < 0 ? r : 0;
	r = check_runtime(service_paths(service->service)->state, &runtime, options, &why);
	r = r ?: gather(service, request, options, &making, &why);
	r = r ?: make_spec(&making, request, options, namespace, &reply->spec, &why);
	r = r ?: check_weights(&making.host, &runtime, options, &why);
	if (r)
		return refuse(call, r, &why);
	return schema_set(&reply->runtime, runtime.name)
		       ?: schema_set(&reply->stop_signal, making.image.stop_signal);
}

/* ---- runtime.process ---- */

static int runtime_process(struct runtime_service *service,
			   const struct runtime_process_request *request,
			   struct runtime_process_reply *reply, struct call *call)
{
	return process_make(service->service, request, reply, call);
}

/* ---- runtime.prepare ---- */

/* Between the handler, which may run twice, and the commit, after which the bundle is written. */
struct preparation {
	struct runtime_service *service;
	struct call *call;
	char *task_id;
	json_t *spec;
	char *apparmor; /* to be loaded */
	struct work *work;
	struct runtime_prepare_reply reply;
};

static void preparation_free(void *userdata)
{
	struct preparation *preparation = userdata;

	if (!preparation)
		return;
	free(preparation->task_id);
	free(preparation->apparmor);
	json_decref(preparation->spec);
	runtime_prepare_reply_clear(&preparation->reply);
	free(preparation);
}

static void preparation_freep(struct preparation **preparation)
{
	preparation_free(*preparation);
}

static void on_loaded(void *userdata, void *reply, const struct why *why)
{
	_cleanup_(preparation_freep) struct preparation *preparation = userdata;
	const struct runtime_loaded *answer = reply;

	if (!answer || (answer->error && *answer->error))
		call_finish_fail(preparation->call, BUS_FAILED_PRECONDITION,
				 "AppArmor profile '%s' of task %s: %s", preparation->apparmor,
				 preparation->task_id, answer ? answer->error : why->text);
	else
		call_finish(preparation->call, &preparation->reply);
}

/* Takes @preparation. */
static void load_profile(struct preparation *preparation)
{
	const char *const argv[] = {"--apparmor", preparation->apparmor, NULL};
	static const struct empty nothing;
	struct work_options options = {
		.program = "davit-runtime",
		.argv = argv,
		.request = schema_empty(),
		.request_message = &nothing,
		.reply = schema_runtime_loaded(),
		.deadline_ms = time_boot_ms() + LOAD_LIMIT_MS,
	};
	struct why why = {};

	if (work_start(preparation->service->service, &options, on_loaded, preparation,
		       &preparation->work, &why))
		on_loaded(preparation, NULL, &why);
}

static void write_bundle(void *userdata)
{
	_cleanup_(preparation_freep) struct preparation *preparation = userdata;
	const char *state = service_paths(preparation->service->service)->state;
	struct why why = {};
	bool is_open = preparation->reply.uid_map;
	int r = bundle_make(state, preparation->task_id, preparation->spec, is_open, &why);

	if (r && r != BUNDLE_E_BUSY)
		cgroups_drop(preparation->service->cgroups, preparation->task_id);
	if (r == BUNDLE_E_BUSY)
		call_finish_fail(preparation->call, BUS_FAILED_PRECONDITION, "%s", why.text);
	else if (r)
		call_finish_fail(preparation->call, BUS_INTERNAL, "bundle of task %s: %s",
				 preparation->task_id,
				 why.text[0] ? why.text : strerror(r < 0 ? -r : EIO));
	else if (preparation->apparmor)
		load_profile(TAKE(preparation));
	else
		call_finish(preparation->call, &preparation->reply);
}

static int fill_reply(const char *state, const char *bundle, const struct runtime_record *runtime,
		      struct spec_facts *facts, struct runtime_prepare_reply *reply)
{
	reply->detach_unified = runtime->detach_unified;
	reply->systemd_cgroup = facts->systemd_cgroup;
	reply->own_pid_ns = facts->own_pid_ns;
	reply->no_pivot = facts->no_pivot;
	reply->no_cgroup = facts->no_cgroup;
	reply->clones_itself = runtime->version && !strncmp(runtime->version, "crun ", 5);
	reply->network = facts->cni;
	reply->uid_map = TAKE(facts->uid_map);
	reply->gid_map = TAKE(facts->gid_map);
	reply->cgroup = TAKE(facts->cgroup);
	reply->rootfs = TAKE(facts->rootfs);
	reply->oci_root = facts->oci_root ? TAKE(facts->oci_root) : text_format("%s/oci", state);
	if (!reply->oci_root)
		return error_origin(-ENOMEM);
	return schema_set(&reply->bundle, bundle) ?: schema_set(&reply->runtime, runtime->name)
		       ?: schema_set(&reply->runtime_path, runtime->path);
}

/* Of the caller's own; the OCI runtime would name a file of /proc. */
static int check_profile(const json_t *spec, struct why *why)
{
	const char *name = json_string_value(
		json_object_get(json_object_get(spec, "process"), "apparmorProfile"));

	return name && *name ? apparmor_check(APPARMOR_LOADED, name, why) : 0;
}

/* SPEC_E_INVALID with the reason. */
static int check_spec(struct preparation *preparation,
		      const struct runtime_prepare_request *request,
		      const struct runtime_record *runtime, struct why *why)
{
	const char *state = service_paths(preparation->service->service)->state;
	_cleanup_(spec_facts_clear) struct spec_facts facts = {};
	_cleanup_(cleanup_free) char *bundle = bundle_path(state, request->task_id);
	_cleanup_(cleanup_free) char *rootfs = text_format("%s/rootfs", bundle);
	_cleanup_(cleanup_free) char *netns = netns_path(state, request->task_id);
	_cleanup_(cleanup_free) char *hooks = text_format("%s/" BUNDLE_HOOKS, bundle);
	struct spec_host host;
	int r;

	if (!bundle || !rootfs || !netns || !hooks)
		return error_origin(-ENOMEM);
	r = host_read(state, &host);
	r = r ?: spec_check(&host, request->spec, rootfs, netns, &preparation->spec, &facts, why);
	if (!r && !facts.apparmor)
		r = check_profile(preparation->spec, why);
	if (r)
		return r > 0 ? why_prefix(why, r, "container '%s'", request->container_id)
			     : error_trace(r);
	preparation->apparmor = TAKE(facts.apparmor);
	r = spec_catch_hooks(preparation->spec, hooks);
	return r ?: fill_reply(state, bundle, runtime, &facts, &preparation->reply);
}

static int runtime_prepare(struct runtime_service *service,
			   const struct runtime_prepare_request *request,
			   struct runtime_prepare_reply *reply, struct call *call)
{
	_cleanup_(runtime_record_clear) struct runtime_record runtime = {};
	_cleanup_(preparation_freep) struct preparation *preparation = NULL;
	uint8_t id[ID_SIZE];
	struct why why = {};
	int r;

	(void)reply;
	if (id_parse(request->task_id, id))
		return call_fail(call, BUS_INVALID_ARGUMENT, "task id '%s' is not 32 hex digits",
				 request->task_id);
	r = choose(service, request->runtime, &runtime, call);
	if (r)
		return r < 0 ? r : 0;
	preparation = calloc(1, sizeof(*preparation));
	if (!preparation)
		return error_origin(-ENOMEM);
	*preparation = (struct preparation){.service = service, .call = call};
	r = schema_set(&preparation->task_id, request->task_id)
		    ?: check_spec(preparation, request, &runtime, &why);
	r = r ?: cgroups_add(service->cgroups, request->task_id, preparation->reply.cgroup);
	if (r)
		return refuse(call, r, &why);
	r = call_after_commit(call, write_bundle, preparation_free, preparation);
	if (r)
		return error_fold(r);
	preparation = NULL;
	return CALL_LATER;
}

/* ---- runtime.release ---- */

struct release {
	struct runtime_service *service;
	struct call *call;
	char task_id[ID_TEXT_SIZE];
};

static void remove_bundle(void *userdata)
{
	_cleanup_(cleanup_free) struct release *release = userdata;
	struct why why = {};
	int r = bundle_remove(service_paths(release->service->service)->state, release->task_id,
			      &why);

	if (r)
		call_finish_fail(release->call, BUS_INTERNAL, "bundle of task %s: %s",
				 release->task_id,
				 why.text[0] ? why.text : strerror(r < 0 ? -r : EIO));
	else
		call_finish(release->call, NULL);
}

static int runtime_release(struct runtime_service *service,
			   const struct runtime_release_request *request, struct empty *reply,
			   struct call *call)
{
	_cleanup_(cleanup_free) struct release *release = NULL;
	uint8_t id[ID_SIZE];
	int r;

	(void)reply;
	if (id_parse(request->task_id, id))
		return call_fail(call, BUS_INVALID_ARGUMENT, "task id '%s' is not 32 hex digits",
				 request->task_id);
	release = malloc(sizeof(*release));
	if (!release)
		return error_origin(-ENOMEM);
	*release = (struct release){.service = service, .call = call};
	id_format(id, release->task_id);
	r = call_after_commit(call, remove_bundle, free, release);
	if (r)
		return error_fold(r);
	release = NULL;
	return CALL_LATER;
}

/* ---- runtime.attach, runtime.detach ---- */

static int runtime_attach(struct runtime_service *service,
			  const struct runtime_network_request *request,
			  struct runtime_attach_reply *reply, struct call *call)
{
	(void)reply;
	return networks_attach(service->networks, request, call);
}

static int runtime_detach(struct runtime_service *service,
			  const struct runtime_network_request *request,
			  struct runtime_detach_reply *reply, struct call *call)
{
	(void)reply;
	return networks_detach(service->networks, request, call);
}

/* ---- what every service answers ---- */

static int runtime_fsck(struct runtime_service *service, const struct fsck_request *request,
			struct fsck_reply *reply, struct call *call)
{
	(void)call;
	return check_page(service->service, service->cgroups, service->networks, request, reply);
}

static int runtime_mend(struct runtime_service *service, const struct fsck_mend_request *request,
			struct fsck_mend_reply *reply, struct call *call)
{
	return check_mend(service->service, service->cgroups, service->networks, request, reply,
			  call);
}

static int runtime_operations(struct runtime_service *service, const struct empty *request,
			      struct operation_list_reply *reply, struct call *call)
{
	(void)request;
	return operation_list(service->service, call, reply);
}

static int runtime_operation_cancel(struct runtime_service *service,
				    const struct operation_cancel_request *request,
				    struct empty *reply, struct call *call)
{
	(void)reply;
	return operation_cancel(service->service, call, request);
}

static int runtime_stats(struct runtime_service *service, const struct empty *request,
			 struct service_stats_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_stats(service->service, reply);
}

static int runtime_quarantine(struct runtime_service *service, const struct empty *request,
			      struct store_quarantine_reply *reply, struct call *call)
{
	(void)request;
	(void)call;
	return service_quarantine(service->service, reply);
}

static int runtime_quarantine_drop(struct runtime_service *service,
				   const struct store_drop_request *request,
				   struct store_drop_reply *reply, struct call *call)
{
	return service_quarantine_drop(service->service, call, request, reply);
}

/* ---- the service's life ---- */

static void close_runtime(void *object)
{
	struct runtime_service *service = object;

	networks_free(service->networks);
	cgroups_free(service->cgroups);
	probe_free(service->probe);
	free(service);
}

static int open_runtime(struct service *service, void **ret_object)
{
	struct runtime_service *runtime = calloc(1, sizeof(*runtime));
	struct why why = {};
	int r;

	if (!runtime)
		return error_origin(-ENOMEM);
	runtime->service = service;
	r = bundle_open(service_paths(service)->state, &why)
		    ?: cgroups_new(service, &runtime->cgroups);
	r = r ?: networks_new(service, &network_options, &runtime->networks);
	r = r ?: probe_new(service, configured, n_configured, &runtime->probe);
	if (r) {
		log_error("cannot open the runtime service: %s",
			  why.text[0] ? why.text : strerror(-r));
		networks_free(runtime->networks);
		cgroups_free(runtime->cgroups);
		free(runtime);
		return error_trace(r);
	}
	*ret_object = runtime;
	return 0;
}

static const char *const names[] = {"runtime", NULL};
static const char *const tables[] = {NULL};

const struct service_definition runtime_definition = {
	.program = "davit-runtime",
	.names = names,
	.methods = service_methods,
	.tables = tables,
	.directory = "runtime",
	.is_volatile = true,
	.files = ATTACHMENT_DIRECTORY,
	.open = open_runtime,
	.close = close_runtime,
};
