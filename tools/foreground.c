/* See foreground.h. */

#include "tools/foreground.h"

#include <signal.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "tools/streams.h"
#include "tools/watch.h"

#define OUTPUT_LIMIT_MS                                                                            \
	2000 /* after the exit: output that a background process holds open is left */
#define REMOVE_LIMIT_MS 60000 /* after the exit: how long --rm is waited for */

struct foreground {
	struct context *context;
	struct loop *loop;
	struct streams *streams;
	struct watch *watch;
	struct loop_signals signals;
	struct loop_timer remove_limit;
	struct task_io io;
	char id[ENVELOPE_NAME_MAX + 1];
	const char *uid, *task_id;
	const char *topics[3];
	uint64_t from;
	int exit_code;
	bool has_exited, is_output_done, is_removed, until_removed;
};

static void check_end(struct foreground *foreground)
{
	if (foreground->has_exited && foreground->is_output_done &&
	    (foreground->is_removed || !foreground->until_removed))
		loop_stop(foreground->loop, 0);
}

static void on_output_done(void *userdata)
{
	struct foreground *foreground = userdata;

	foreground->is_output_done = true;
	check_end(foreground);
}

static void on_remove_limit(struct loop_timer *timer)
{
	struct foreground *foreground = container_of(timer, struct foreground, remove_limit);

	log_warning("container '%s' is not removed yet; the service goes on trying",
		    foreground->id);
	foreground->is_removed = true;
	check_end(foreground);
}

static void take_exit(struct foreground *foreground, const struct bus_event *event)
{
	_cleanup_(event_task_exit_clear) struct event_task_exit exit = {};

	if (schema_unpack(schema_event_task_exit(), event->event.data, event->event.size, &exit,
			  NULL) ||
	    strcmp(exit.id, foreground->id) || foreground->has_exited)
		return;
	/* Of an earlier task of that name, published late. */
	if (foreground->task_id && exit.task_id && strcmp(foreground->task_id, exit.task_id) != 0)
		return;
	foreground->has_exited = true;
	foreground->exit_code = (int)exit.exit_status;
	if (exit.source == EXIT_UNKNOWN)
		log_warning("the exit code of container '%s' is not known (%s)", foreground->id,
			    exit.cause ?: "?");
	(void)loop_timer_set(foreground->loop, &foreground->remove_limit,
			     time_boot_ms() + REMOVE_LIMIT_MS, on_remove_limit);
	if (foreground->streams)
		streams_finish(foreground->streams, OUTPUT_LIMIT_MS, on_output_done, foreground);
	else
		on_output_done(foreground);
}

static void take_delete(struct foreground *foreground, const struct bus_event *event)
{
	_cleanup_(event_container_delete_clear) struct event_container_delete deleted = {};

	if (schema_unpack(schema_event_container_delete(), event->event.data, event->event.size,
			  &deleted, NULL))
		return;
	if (foreground->uid && deleted.uid && strcmp(foreground->uid, deleted.uid))
		return;
	foreground->is_removed = true;
	check_end(foreground);
}

static void on_event(void *userdata, const struct bus_event *event)
{
	struct foreground *foreground = userdata;

	if (!strcmp(event->topic, "/tasks/exit"))
		take_exit(foreground, event);
	else if (!strcmp(event->topic, "/containers/delete"))
		take_delete(foreground, event);
}

/* Every signal that can be passed on is; one for a container that has just ended is nobody's. */
static void on_signal(struct loop_signals *signals, int signal)
{
	struct foreground *foreground = container_of(signals, struct foreground, signals);
	struct task_kill_request kill = {.container_id = foreground->id,
					 .signal = (uint64_t)signal};
	struct ask *ask = &foreground->context->ask;

	if (task_kill_ask(ask, &kill, NULL) && ask->status != BUS_NOT_FOUND)
		log_warning("signal %d was not passed on: %s", signal, ask->text);
}

static int watch_signals(struct foreground *foreground)
{
	static const int kept[] = {SIGCHLD, SIGPIPE, SIGURG,  SIGWINCH,
				   SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT};
	sigset_t mask;

	sigfillset(&mask);
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		sigdelset(&mask, kept[i]);
	/* Faults of our own stay ours. */
	sigdelset(&mask, SIGSEGV);
	sigdelset(&mask, SIGBUS);
	sigdelset(&mask, SIGFPE);
	sigdelset(&mask, SIGILL);
	sigdelset(&mask, SIGABRT);
	return loop_signals_add(foreground->loop, &foreground->signals, &mask, on_signal);
}

static int note_log_end(struct foreground *foreground)
{
	_cleanup_(event_read_reply_clear) struct event_read_reply reply = {};
	struct event_read_request read = {};
	int r = event_read_ask(&foreground->context->ask, &read, &reply);

	if (r)
		return fail_ask(foreground->context, r);
	foreground->from = reply.last_seq + 1;
	return 0;
}

static int make_streams(struct foreground *foreground, const char *fifo_dir, bool terminal)
{
	struct context *context = foreground->context;
	_cleanup_(cleanup_free) char *directory =
		fifo_dir ? realpath(fifo_dir, NULL) : text_format("%s/fifo", context->paths.state);
	struct why why = {};

	if (!directory)
		return fail(context, "FIFO directory %s: %s", fifo_dir, strerror(errno));
	if (streams_new(foreground->loop, directory, foreground->id, terminal, &foreground->io,
			&foreground->streams, &why))
		return fail(context, "%s", why.text);
	return 0;
}

int foreground_new(struct context *context, const char *id, const char *fifo_dir, bool null_io,
		   bool terminal, struct foreground **ret_foreground)
{
	_cleanup_(foreground_freep) struct foreground *foreground = calloc(1, sizeof(*foreground));
	int code;

	if (!foreground)
		return fail(context, "out of memory");
	foreground->context = context;
	foreground->signals.fd = -1;
	strncpy(foreground->id, id, sizeof(foreground->id) - 1);
	if (loop_new(&foreground->loop))
		return fail(context, "out of memory");
	code = note_log_end(foreground);
	if (!code && !null_io)
		code = make_streams(foreground, fifo_dir, terminal);
	if (code)
		return code;
	*ret_foreground = TAKE(foreground);
	return 0;
}

struct foreground *foreground_free(struct foreground *foreground)
{
	if (!foreground)
		return NULL;
	watch_free(foreground->watch);
	streams_free(foreground->streams);
	loop_signals_remove(&foreground->signals);
	loop_timer_cancel(&foreground->remove_limit);
	loop_free(foreground->loop);
	task_io_clear(&foreground->io);
	free(foreground);
	return NULL;
}

void foreground_freep(struct foreground **foreground)
{
	*foreground = foreground_free(*foreground);
}

int foreground_io(struct foreground *foreground, struct task_io **ret_io)
{
	struct task_io *io;

	if (!foreground->streams)
		return 0;
	io = calloc(1, sizeof(*io));
	if (!io || task_io_copy(&foreground->io, io)) {
		free(io);
		return fail(foreground->context, "out of memory");
	}
	*ret_io = io;
	return 0;
}

/* As ctr does: the container stays, its ended task does not. With --rm the service removes both. */
static void delete_task(struct foreground *foreground)
{
	struct task_delete_request delete = {.container_id = foreground->id};
	struct ask *ask = &foreground->context->ask;

	if (task_delete_ask(ask, &delete, NULL) && ask->status != BUS_NOT_FOUND)
		log_warning("the task of container '%s' is not deleted: %s", foreground->id,
			    ask->text);
}

int foreground_run(struct foreground *foreground, const char *uid, const char *task_id,
		   bool until_removed)
{
	struct context *context = foreground->context;
	int r;

	foreground->uid = uid;
	foreground->task_id = task_id;
	foreground->until_removed = until_removed;
	foreground->topics[0] = "/tasks/exit";
	foreground->topics[1] = until_removed ? "/containers/delete" : NULL;
	r = watch_new(foreground->loop, context->paths.bus,
		      context->namespace ?: ENVELOPE_DEFAULT_NS, foreground->topics, foreground->id,
		      foreground->from, on_event, foreground, &foreground->watch);
	if (!r)
		r = watch_signals(foreground);
	if (!r && foreground->streams)
		r = streams_start(foreground->streams);
	if (!r)
		r = loop_run(foreground->loop);
	if (r)
		return fail(context, "%s", strerror(r < 0 ? -r : EINVAL));
	if (!until_removed)
		delete_task(foreground);
	return foreground->exit_code;
}
