/*
 * davit logs: pages of task.logs up to the end, and with --follow the frames of
 * task.attach from there on. When that ends, for the process has or for its shim
 * was replaced, the log says what is left: nothing is printed twice, nothing is
 * left out.
 */

#include <signal.h>
#include <string.h>
#include <time.h>

#include "broker/lib/file.h"
#include "tools/foreground.h"
#include "tools/frames.h"
#include "tools/streams.h"
#include "tools/times.h"

#define RETRY_NS 100000000 /* after two connections that gave nothing */

struct logs_options {
	bool follow, timestamps;
	char *since, *until, *tail, *exec_id;
};

struct logs {
	struct context *context;
	const struct logs_options *options;
	const char *id;
	struct frames frames;
	struct log_position position; /* of the next page */
	bool has_position, is_ended;
	struct loop *loop;
	struct loop_signals signals;
	struct loop_timer until;
	int signal, result;
	bool has_got;
};

/* ---- pages --------------------------------------------------------------- */

static int read_page(struct logs *logs, uint64_t tail, struct task_logs_reply *ret_reply)
{
	struct task_logs_request request = {.container_id = (char *)logs->id,
					    .exec_id = logs->options->exec_id,
					    .position = logs->has_position ? &logs->position : NULL,
					    .tail = tail};
	struct context *context = logs->context;
	int r = task_logs_ask(&context->ask, &request, ret_reply);

	if (r)
		return fail_ask(context, r);
	if (!ret_reply->position)
		return fail(context, "the log of '%s' ends nowhere", logs->id);
	logs->position = *ret_reply->position;
	logs->has_position = true;
	logs->is_ended = ret_reply->at_end && ret_reply->ended;
	return 0;
}

static int print(struct logs *logs, const void *data, size_t size)
{
	int r = frames_print(&logs->frames, data, size);

	if (r == -EBADMSG)
		return fail(logs->context, "the log of '%s' is damaged", logs->id);
	return r ? fail(logs->context, "stdout: %s", strerror(-r)) : 0;
}

static int print_pages(struct logs *logs)
{
	bool at_end = false;
	int code = 0;

	frames_break(&logs->frames);
	while (!code && !at_end && !logs->frames.is_past_until) {
		_cleanup_(task_logs_reply_clear) struct task_logs_reply reply = {};

		code = read_page(logs, 0, &reply);
		if (!code)
			code = print(logs, reply.frames.data, reply.frames.size);
		at_end = reply.at_end;
	}
	return code;
}

/* The service gives whole frames: of the first one lines may be too many, and how many shows at the end. */
static int print_tail(struct logs *logs, uint64_t tail)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer all = {};
	bool at_end = false;
	uint64_t lines;
	int code = 0;

	while (!code && !at_end) {
		_cleanup_(task_logs_reply_clear) struct task_logs_reply reply = {};

		code = read_page(logs, logs->has_position ? 0 : (tail ?: 1), &reply);
		if (!code && schema_buffer_add(&all, reply.frames.data, reply.frames.size))
			code = fail(logs->context, "out of memory");
		at_end = reply.at_end;
	}
	if (code)
		return code;
	lines = frames_count_lines(all.data, all.size);
	logs->frames.skip_lines = tail < lines ? lines - tail : 0;
	code = print(logs, all.data, all.size);
	logs->frames.skip_lines = 0;
	return code;
}

/* ---- following ----------------------------------------------------------- */

static void on_output(void *userdata, const void *data, size_t size)
{
	struct logs *logs = userdata;

	logs->has_got = true;
	logs->result = logs->result ?: print(logs, data, size);
	if (logs->result || logs->frames.is_past_until)
		loop_stop(logs->loop, 0);
}

static void on_end(void *userdata)
{
	struct logs *logs = userdata;

	loop_stop(logs->loop, 0);
}

static void on_signal(struct loop_signals *signals, int signal)
{
	struct logs *logs = container_of(signals, struct logs, signals);

	logs->signal = signal;
	loop_stop(logs->loop, 0);
}

static void on_until(struct loop_timer *timer)
{
	struct logs *logs = container_of(timer, struct logs, until);

	logs->frames.is_past_until = true;
	loop_stop(logs->loop, 0);
}

static int attach(struct logs *logs, const struct task_io *io, bool *ret_ended)
{
	_cleanup_(task_attach_reply_clear) struct task_attach_reply reply = {};
	struct task_attach_request request = {.container_id = (char *)logs->id,
					      .exec_id = logs->options->exec_id,
					      .stdout = io->stdout,
					      .frames = true,
					      .start = LOG_FROM_POSITION,
					      .position = &logs->position};
	int r = task_attach_ask(&logs->context->ask, &request, &reply);

	*ret_ended = !r && reply.ended;
	return r;
}

/* Until the process, its shim or the user ends it. */
static int follow_once(struct logs *logs)
{
	struct context *context = logs->context;
	_cleanup_(cleanup_free) char *directory = text_format("%s/fifo", context->paths.state);
	struct streams_options options = {.directory = directory,
					  .id = logs->id,
					  .terminal = true,
					  .output_only = true,
					  .on_output = on_output,
					  .userdata = logs};
	_cleanup_(streams_freep) struct streams *streams = NULL;
	_cleanup_(task_io_clear) struct task_io io = {};
	struct why why = {};
	bool has_ended;
	int r;

	if (!directory)
		return fail(context, "out of memory");
	if (streams_new(logs->loop, &options, &io, &streams, &why))
		return fail(context, "%s", why.text);
	r = attach(logs, &io, &has_ended);
	if (r) {
		/* It may have ended since the last page: then there is a last one. */
		int code = print_pages(logs);

		return code || logs->is_ended ? code : fail_ask(context, r);
	}
	streams_unlink(streams);
	if (has_ended) {
		r = print_pages(logs);
		logs->is_ended = true;
		return r;
	}
	r = streams_start(streams);
	if (r)
		return fail(context, "%s", strerror(-r));
	streams_finish(streams, UINT64_MAX, on_end, logs);
	(void)loop_run(logs->loop);
	return logs->result;
}

static int follow(struct logs *logs)
{
	const struct timespec retry = {.tv_nsec = RETRY_NS};
	bool is_idle = false;
	int code = 0;

	while (!code && !logs->is_ended && !logs->signal && !logs->frames.is_past_until) {
		logs->has_got = false;
		code = follow_once(logs);
		if (!code && !logs->is_ended && !logs->signal && !logs->frames.is_past_until)
			code = print_pages(logs);
		if (is_idle && !code && !logs->has_got && !logs->is_ended && !logs->signal)
			(void)nanosleep(&retry, NULL);
		is_idle = !logs->has_got;
	}
	return code;
}

static int run_follow(struct logs *logs)
{
	uint64_t now_ns = time_real_ns(), until_ns = logs->frames.until_ns;
	sigset_t mask;
	int code, r;

	if (loop_new(&logs->loop))
		return fail(logs->context, "out of memory");
	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	r = loop_signals_add(logs->loop, &logs->signals, &mask, on_signal);
	if (!r && until_ns)
		r = loop_timer_set(logs->loop, &logs->until,
				   time_boot_ms() +
					   (until_ns > now_ns ? (until_ns - now_ns) / 1000000 : 0),
				   on_until);
	code = r ? fail(logs->context, "%s", strerror(-r)) : follow(logs);
	loop_timer_cancel(&logs->until);
	loop_signals_remove(&logs->signals);
	logs->loop = loop_free(logs->loop);
	return logs->signal ? 128 + logs->signal : code;
}

/* ---- the command --------------------------------------------------------- */

static int parse_moment(struct context *context, const char *option, const char *text,
			uint64_t *ret_ns)
{
	if (text && times_parse_moment(text, time_real_ns(), ret_ns))
		return fail_usage(
			context,
			"--%s '%s' is no time: use 2026-01-02T15:04:05Z, seconds since 1970, "
			"or 10m for ten minutes ago",
			option, text);
	return 0;
}

/* *@ret_tail UINT64_MAX: all. */
static int parse_tail(struct context *context, const char *text, uint64_t *ret_tail)
{
	char *end = NULL;

	*ret_tail = UINT64_MAX;
	if (!text || !strcmp(text, "all"))
		return 0;
	*ret_tail = strtoull(text, &end, 10);
	if (!strchr("0123456789", *text) || !*text || *end || *ret_tail > 1000000000)
		return fail_usage(context, "--tail '%s' is neither a number of lines nor all",
				  text);
	return 0;
}

static int logs(struct context *context, void *data, char **args, int n_args)
{
	const struct logs_options *options = data;
	struct logs logs = {
		.context = context,
		.options = options,
		.id = args[0],
		.frames = {.out = stdout, .err = stderr, .timestamps = options->timestamps},
		.signals = {.fd = -1}};
	uint64_t tail = 0;
	int code = parse_moment(context, "since", options->since, &logs.frames.since_ns)
			   ?: parse_moment(context, "until", options->until, &logs.frames.until_ns)
			   ?: parse_tail(context, options->tail, &tail);

	(void)n_args;
	if (code)
		return code;
	code = tail == UINT64_MAX ? print_pages(&logs) : print_tail(&logs, tail);
	if (!code && options->follow)
		code = run_follow(&logs);
	frames_deinit(&logs.frames);
	return code;
}

static const struct option_spec logs_options[] = {
	OPTION(struct logs_options, follow, FLAG, "follow", 'f', NULL,
	       "go on with what comes, until the process has ended"),
	OPTION(struct logs_options, since, TEXT, "since", 0, "TIME",
	       "nothing older: RFC 3339, seconds since 1970, or 10m for ten minutes ago"),
	OPTION(struct logs_options, until, TEXT, "until", 0, "TIME", "nothing newer"),
	OPTION(struct logs_options, tail, TEXT, "tail", 'n', "N", "only the last N lines, or all"),
	OPTION(struct logs_options, timestamps, FLAG, "timestamps", 't', NULL,
	       "the time before each line"),
	OPTION(struct logs_options, exec_id, TEXT, "exec-id", 0, "ID",
	       "an added process instead of init"),
	{}};

const struct command logs_command = {
	.name = "logs",
	.arguments = "CONTAINER",
	.summary = "print what a container has written",
	.details =
		"   For containers whose output is logged: detached ones, those with a terminal, and those run with --log.\n"
		"   Works while it runs and after it has ended, as long as the container is there.",
	.options = logs_options,
	.options_size = sizeof(struct logs_options),
	.min_args = 1,
	.max_args = 1,
	.run = logs,
};
