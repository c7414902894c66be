/* See network_child.h. */

#include "services/runtime/network_child.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/lib/loop.h"
#include "services/runtime/attachment.h"
#include "services/runtime/bundle.h"
#include "services/runtime/cni.h"
#include "services/runtime/cni_exec.h"
#include "services/runtime/netns.h"
#include "services/runtime/spec.h"

#define REQUEST_FD 3
#define ANSWER_FD  4

struct network_child {
	const struct runtime_network_work *work;
	int lock_fd;
};

/* ---- plugins ---- */

/* An empty answer is DEL's. */
static int run_plugin(const struct network_child *child, const struct cni_conf *conf, size_t index,
		      const char *command, const char *netns, json_t *previous,
		      uint64_t deadline_ms, char **ret_output, struct why *why)
{
	_cleanup_(cleanup_free) char *input = cni_conf_input(conf, index, previous);
	struct cni_run run = {
		.type = cni_conf_type(conf, index),
		.bin_dirs = child->work->bin_dirs,
		.command = command,
		.attach_id = child->work->attach_id,
		.netns = netns,
		.interface = CNI_INTERFACE,
		.input = input,
		.deadline_ms = deadline_ms,
		.lock_fd = child->lock_fd,
	};

	return input ? cni_exec(&run, ret_output, why) : error_origin(-ENOMEM);
}

static int add_one(const struct network_child *child, const struct cni_conf *conf, size_t index,
		   const char *netns, uint64_t deadline_ms, json_t **result, struct why *why)
{
	_cleanup_(cleanup_free) char *output = NULL;
	json_t *next = NULL;
	int r;

	r = run_plugin(child, conf, index, "ADD", netns, *result, deadline_ms, &output, why);
	r = r ?: cni_result_parse(output, &next, why);
	if (r)
		return why_prefix(why, r, "network '%s': plugin '%s'", conf->name,
				  cni_conf_type(conf, index));
	json_decref(*result);
	*result = next;
	return 0;
}

/* @result is what the last one said whose ADD went well. */
static int add_all(const struct network_child *child, const struct cni_conf *conf,
		   const char *netns, json_t **result, struct why *why)
{
	uint64_t deadline_ms = time_boot_ms() + child->work->timeout_ms;
	int r = 0;

	for (size_t i = 0; !r && i < cni_conf_count(conf); i++)
		r = add_one(child, conf, i, netns, deadline_ms, result, why);
	return r;
}

/* The last first. Each is asked, whatever the others say; the first failure is told. */
static int delete_all(const struct network_child *child, const struct cni_conf *conf,
		      const char *netns, json_t *result, struct why *why)
{
	uint64_t deadline_ms = time_boot_ms() + child->work->timeout_ms;
	int result_code = 0;

	for (size_t i = cni_conf_count(conf); i--;) {
		_cleanup_(cleanup_free) char *output = NULL;
		struct why reason = {};
		int r = run_plugin(child, conf, i, "DEL", netns, result, deadline_ms, &output,
				   &reason);

		if (r && !result_code)
			result_code = why_set(why, r, "network '%s': plugin '%s': %s", conf->name,
					      cni_conf_type(conf, i),
					      reason.text[0] ? reason.text
							     : strerror(r < 0 ? -r : EIO));
	}
	return result_code;
}

/* ---- the configuration ---- */

static int is_conf(const struct dirent *entry)
{
	bool is_list;

	return cni_conf_is_file(entry->d_name, &is_list);
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* As ctr: the first one by name, and no other, even if it is faulty. */
static int find_conf(const char *directory, char **ret_path, struct why *why)
{
	_cleanup_(cleanup_free) struct dirent **entries = NULL;
	int n = scandir(directory, &entries, is_conf, by_bytes);

	if (n < 0 && errno != ENOENT)
		return why_errno(why, error_origin(-errno), "%s", directory);
	if (n <= 0)
		return why_set(why, CNI_E_INVALID,
			       "there is no CNI configuration (.conflist, .conf or .json) in %s",
			       directory);
	*ret_path = text_format("%s/%s", directory, entries[0]->d_name);
	while (n--)
		free(entries[n]);
	return *ret_path ? 0 : error_origin(-ENOMEM);
}

static int load_conf(const char *directory, struct cni_conf *ret_conf, struct why *why)
{
	_cleanup_(cleanup_free) char *path = NULL, *text = NULL;
	bool is_list = false;
	size_t size;
	int r = find_conf(directory, &path, why);

	if (r)
		return r;
	/* Links are usual there. */
	r = file_read_proc(path, CNI_CONF_MAX, &text, &size);
	if (r)
		return why_set(why, CNI_E_INVALID, "CNI configuration %s: %s", path,
			       r == -EFBIG ? "larger than 256 KiB" : strerror(-r));
	(void)cni_conf_is_file(path, &is_list);
	r = strlen(text) == size ? cni_conf_parse(text, is_list, ret_conf, why)
				 : why_set(why, CNI_E_INVALID, "it is not text");
	return r > 0 ? why_prefix(why, r, "CNI configuration %s", path) : r;
}

/* Before anything is done that they would have to take back. */
static int find_plugins(const struct network_child *child, const struct cni_conf *conf,
			struct why *why)
{
	int r = 0;

	for (size_t i = 0; !r && i < cni_conf_count(conf); i++) {
		_cleanup_(cleanup_free) char *path = NULL;

		r = cni_find(child->work->bin_dirs, cni_conf_type(conf, i), &path, why);
		if (r)
			why_prefix(why, r, "network '%s': plugin '%s'", conf->name,
				   cni_conf_type(conf, i));
	}
	return r;
}

/* ---- taking back ---- */

/* Of what was kept; if that cannot be read, by the configuration that there is now. */
static int read_kept(const struct network_child *child, const char *path, struct cni_conf *conf,
		     json_t **result, struct why *why)
{
	_cleanup_(runtime_attachment_clear) struct runtime_attachment kept = {};
	int r = attachment_read(path, &kept);

	if (r == ATTACHMENT_E_DAMAGED)
		return load_conf(child->work->conf_dir, conf, why);
	if (r)
		return r;
	r = cni_conf_parse(kept.conf, true, conf, why);
	if (!r && kept.result && *kept.result)
		r = cni_result_parse(kept.result, result, why);
	return r;
}

/* The namespace goes in any case; the file stays until it is gone and all plugins have said yes: nobody else would look for it. */
static int take_back(const struct network_child *child, const char *task_id, struct why *why)
{
	_cleanup_(cleanup_free) char *netns = netns_path(child->work->state, task_id);
	_cleanup_(cleanup_free) char *path = attachment_path(child->work->directory,
							     child->work->attach_id, task_id);
	_cleanup_(cni_conf_clear) struct cni_conf conf = {};
	_cleanup_(json_cleanup) json_t *result = NULL;
	int r, removed;

	if (!netns || !path)
		return error_origin(-ENOMEM);
	r = read_kept(child, path, &conf, &result, why);
	if (!r)
		r = delete_all(child, &conf, netns_exists(netns) ? netns : "", result, why);
	removed = netns_remove(child->work->state, task_id, why);
	if (r == -ENOENT)
		r = 0;
	if (!r && !removed && unlink(path) && errno != ENOENT)
		r = why_errno(why, error_origin(-errno), "%s", path);
	return r ?: removed;
}

/* ---- attaching ---- */

static bool has_bundle(const struct network_child *child, const char *task_id)
{
	_cleanup_(cleanup_free) char *path = bundle_path(child->work->state, task_id);

	return path && !access(path, F_OK);
}

/* What an earlier task of the container left is taken back first: plugins would take one for the other. */
static int take_back_earlier(const struct network_child *child, struct why *why)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(child->work->directory);
	char attach_id[ATTACHMENT_ID_SIZE], task_id[ID_TEXT_SIZE];
	struct dirent *entry;
	int r = 0;

	while (!r && dir && (entry = readdir(dir))) {
		if (!attachment_split(entry->d_name, attach_id, task_id) ||
		    strcmp(attach_id, child->work->attach_id) ||
		    !strcmp(task_id, child->work->task_id))
			continue;
		if (has_bundle(child, task_id))
			return why_set(why, CNI_E_INVALID, "'%s' is attached already, by task %s",
				       attach_id, task_id);
		r = take_back(child, task_id, why);
		if (r)
			why_prefix(why, r,
				   "what task %s left is not taken back (`davit fsck --repair` "
				   "forgets it)",
				   task_id);
	}
	return r;
}

static int keep_intent(const struct network_child *child, const struct cni_conf *conf,
		       const char *path, struct why *why)
{
	_cleanup_(runtime_attachment_clear) struct runtime_attachment kept = {};
	uint8_t boot[ID_SIZE];
	int r = boot_id_read(boot);

	r = r ?: schema_set(&kept.task_id, child->work->task_id);
	r = r ?: schema_bytes_set(&kept.boot_id, boot, sizeof(boot));
	if (r)
		return error_fold(r);
	kept.conf = json_dumps(conf->json, JSON_COMPACT);
	return kept.conf ? attachment_write(path, &kept, true, why) : error_origin(-ENOMEM);
}

static int keep_result(const char *path, const json_t *result, const struct task_network *network,
		       struct why *why)
{
	_cleanup_(runtime_attachment_clear) struct runtime_attachment kept = {};
	int r = attachment_read(path, &kept);

	if (r)
		return error_fold(r);
	kept.result = json_dumps(result, JSON_COMPACT);
	kept.network = calloc(1, sizeof(*kept.network));
	if (!kept.result || !kept.network)
		return error_origin(-ENOMEM);
	return task_network_copy(network, kept.network)
		       ?: attachment_write(path, &kept, false, why);
}

static int describe(const struct network_child *child, const struct cni_conf *conf,
		    const char *netns, const json_t *result, struct task_network *network,
		    struct why *why)
{
	int r = schema_set(&network->name, conf->name)
			?: schema_set(&network->attach_id, child->work->attach_id)
			?: schema_set(&network->netns, netns)
			?: schema_set(&network->interface, CNI_INTERFACE);

	r = r ?: cni_result_read(result, network, why);
	return r > 0 ? why_prefix(why, r, "network '%s': plugin '%s'", conf->name,
				  cni_conf_type(conf, cni_conf_count(conf) - 1))
		     : r;
}

/* Of a network that was not made whole. What plugins do not take back now, they are asked for again later. */
static void undo(const struct network_child *child, const struct cni_conf *conf, const char *netns,
		 json_t *result, const char *path)
{
	bool is_back = !delete_all(child, conf, netns, result, NULL);

	if (!netns_remove(child->work->state, child->work->task_id, NULL) && is_back)
		(void)unlink(path);
}

static int make(const struct network_child *child, const struct cni_conf *conf, const char *path,
		struct task_network *network, struct why *why)
{
	_cleanup_(cleanup_free) char *netns = netns_path(child->work->state, child->work->task_id);
	_cleanup_(json_cleanup) json_t *result = NULL;
	int r = netns ? netns_make(child->work->state, child->work->task_id, why)
		      : error_origin(-ENOMEM);

	if (r) {
		(void)unlink(path);
		return r;
	}
	r = add_all(child, conf, netns, &result, why);
	r = r ?: describe(child, conf, netns, result, network, why);
	r = r ?: keep_result(path, result, network, why);
	if (r)
		undo(child, conf, netns, result, path);
	return r;
}

/* Made by a child whose service died before it heard of it. */
static bool is_made(const char *path, struct task_network *network)
{
	_cleanup_(runtime_attachment_clear) struct runtime_attachment kept = {};

	return !attachment_read(path, &kept) && kept.network && netns_exists(kept.network->netns) &&
	       !task_network_copy(kept.network, network);
}

static int attach(const struct network_child *child, struct task_network *network, struct why *why)
{
	const struct runtime_network_work *work = child->work;
	_cleanup_(cleanup_free) char *path = attachment_path(work->directory, work->attach_id,
							     work->task_id);
	_cleanup_(cni_conf_clear) struct cni_conf conf = {};
	int r;

	if (!path)
		return error_origin(-ENOMEM);
	if (is_made(path, network))
		return 0;
	r = take_back_earlier(child, why) ?: take_back(child, work->task_id, why);
	if (!r && !has_bundle(child, work->task_id))
		r = why_set(why, CNI_E_INVALID, "task %s has no bundle", work->task_id);
	r = r ?: load_conf(work->conf_dir, &conf, why);
	r = r ?: find_plugins(child, &conf, why);
	r = r ?: keep_intent(child, &conf, path, why);
	return r ?: make(child, &conf, path, network, why);
}

/* ---- request and answer ---- */

static int read_work(struct runtime_network_work *ret_work)
{
	_cleanup_(cleanup_free) char *data = malloc(SCHEMA_MESSAGE_MAX);
	struct schema_fault fault = {};
	size_t size = 0;
	ssize_t n;

	if (!data)
		return error_origin(-ENOMEM);
	while ((n = read(REQUEST_FD, data + size, SCHEMA_MESSAGE_MAX - size)) > 0)
		size += (size_t)n;
	if (n < 0)
		return error_origin(-errno);
	return error_fold(
		schema_unpack(schema_runtime_network_work(), data, size, ret_work, &fault));
}

static int answer(const struct runtime_network_done *done)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	int r = schema_pack(schema_runtime_network_done(), done, &buffer, &fault);

	return error_fold(r ?: file_write_all(ANSWER_FD, buffer.data, buffer.size));
}

static int work_on(const struct runtime_network_work *work, struct runtime_network_done *done,
		   struct why *why)
{
	/* Whoever has it may still need its own time for plugins, and that for taking back again. */
	unsigned seconds = (unsigned)(2 * work->timeout_ms / 1000 + 2);
	struct network_child child = {.work = work, .lock_fd = -1};
	int r = attachment_lock(work->directory, work->attach_id, seconds, &child.lock_fd, why);

	if (r)
		return r;
	if (work->detach) {
		r = take_back(&child, work->task_id, why);
	} else {
		done->network = calloc(1, sizeof(*done->network));
		r = done->network ? attach(&child, done->network, why) : error_origin(-ENOMEM);
	}
	attachment_unlock(work->directory, work->attach_id, child.lock_fd);
	return r;
}

int network_child_main(void)
{
	_cleanup_(runtime_network_done_clear) struct runtime_network_done done = {};
	_cleanup_(runtime_network_work_clear) struct runtime_network_work work = {};
	struct why why = {};
	int r = read_work(&work);

	signal(SIGPIPE, SIG_IGN);
	if (!r)
		r = work_on(&work, &done, &why);
	if (r) {
		task_network_clear(done.network);
		free(TAKE(done.network));
		r = schema_set(&done.error, why.text[0] ? why.text : strerror(r < 0 ? -r : EIO));
	}
	return r || answer(&done) ? EXIT_FAILURE : EXIT_SUCCESS;
}
