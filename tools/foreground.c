/* See foreground.h. */

#include "tools/foreground.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "tools/frames.h"
#include "tools/streams.h"
#include "tools/terminal.h"
#include "tools/watch.h"

/* After the exit, since the last output: what a background process holds open is left. */
#define OUTPUT_LIMIT_MS 2000
#define PF_EXITING      0x4   /* of the kernel's, in /proc/<pid>/stat */
#define RESIZE_LIMIT_MS 2000  /* of a call: typing goes on while a service is away */
#define ATTACH_LIMIT_MS 30000 /* of one: another shim has taken over by then */
#define REMOVE_LIMIT_MS 60000 /* after the exit: how long --rm is waited for */

struct foreground {
	struct context *context;
	const struct foreground_options *options;
	struct loop *loop;
	struct streams *streams;
	struct watch *watch;
	struct loop_signals signals;
	struct loop_timer remove_limit;
	struct task_io io;
	struct detach_keys keys;
	const char *id, *uid, *task_id;
	const char *topics[3];
	uint64_t from;
	int exit_code;
	bool has_exited, is_output_done, is_removed, until_removed, is_detached;

	/* Streams that go through a shim end with it, and are attached to the next one. */
	int shim;       /* pidfd; -1: they do not, or it is not known */
	bool is_unsure; /* another shim than that one may serve them */
	pid_t shim_pid;
	struct log_position started; /* where in the log our output began */
	struct frames frames;        /* since then */
	bool has_frames, is_whole;
};

static const char *process_name(const struct foreground *foreground)
{
	return foreground->options->exec_id ?: foreground->id;
}

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
	    strcmp(exit.id, process_name(foreground)) != 0 || foreground->has_exited)
		return;
	/* Of an earlier task of that name, published late. */
	if (foreground->task_id && exit.task_id && strcmp(foreground->task_id, exit.task_id) != 0)
		return;
	foreground->has_exited = true;
	foreground->exit_code = (int)exit.exit_status;
	if (exit.source == EXIT_UNKNOWN)
		log_warning("the exit code of '%s' is not known (%s)", process_name(foreground),
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

/* ---- terminal ------------------------------------------------------------ */

static void resize(struct foreground *foreground, uint64_t width, uint64_t height)
{
	struct task_resize_request request = {.container_id = (char *)foreground->id,
					      .exec_id = (char *)foreground->options->exec_id,
					      .width = width,
					      .height = height};
	struct ask *ask = &foreground->context->ask;
	uint64_t timeout_ms = ask->timeout_ms;

	ask->timeout_ms = RESIZE_LIMIT_MS;
	if (task_resize_ask(ask, &request, NULL))
		log_debug("the terminal is not resized: %s", ask->text);
	ask->timeout_ms = timeout_ms;
}

/* @redraw: the kernel tells a program only of another size, so it is given one for a moment. */
static void follow_size(struct foreground *foreground, bool redraw)
{
	struct task_io *io = &foreground->io;
	uint64_t width, height;

	terminal_size(&width, &height);
	if (!width || !height || (!redraw && width == io->width && height == io->height))
		return;
	if (redraw)
		resize(foreground, width, height == 1 ? 2 : height - 1);
	resize(foreground, width, height);
	io->width = width;
	io->height = height;
}

static void on_detach(void *userdata)
{
	struct foreground *foreground = userdata;

	foreground->is_detached = true;
	loop_stop(foreground->loop, 0);
}

/* The service has the input from a FIFO whose end is not the end of the process' input. */
static void on_input_end(void *userdata)
{
	struct foreground *foreground = userdata;
	struct task_close_io_request request = {.container_id = (char *)foreground->id,
						.exec_id = (char *)foreground->options->exec_id,
						.stdin = true};
	struct ask *ask = &foreground->context->ask;

	if (!foreground->io.log && !foreground->io.terminal)
		return;
	if (task_close_io_ask(ask, &request, NULL) && ask->status != BUS_NOT_FOUND)
		log_debug("the input is not closed: %s", ask->text);
}

/* ---- another shim -------------------------------------------------------- */

static bool uses_shim(const struct foreground *foreground)
{
	return foreground->streams &&
	       (foreground->options->attach || foreground->io.log || foreground->io.terminal);
}

/* It was there when the process was made; another one was started after that. */
static bool has_made(pid_t shim, pid_t pid)
{
	uint64_t shim_start, start;

	return process_start_time(shim, &shim_start) || process_start_time(pid, &start) ||
	       shim_start <= start;
}

/* @made: the process to whose shim our streams were given when it was made, which may be another than the one that there is
 * now; 0: they have not been given yet. One that has ended with the process by now is not waited for. */
static void note_shim(struct foreground *foreground, pid_t made)
{
	_cleanup_(task_process_reply_clear) struct task_process_reply reply = {};
	struct task_name_request name = {.container_id = (char *)foreground->id};

	foreground->shim = close_fd(foreground->shim);
	foreground->is_unsure = false;
	if (!uses_shim(foreground) || task_get_ask(&foreground->context->ask, &name, &reply))
		return;
	foreground->shim_pid = (pid_t)reply.process->shim_pid;
	if (foreground->shim_pid)
		foreground->shim = pidfd_open(foreground->shim_pid, 0);
	foreground->is_unsure = foreground->shim < 0 ||
				(made && !has_made(foreground->shim_pid, made));
}

/* Between the end of its descriptors and that of its pidfd. */
static bool is_exiting(pid_t pid)
{
	_cleanup_(cleanup_free) char *path = text_format("/proc/%d/stat", (int)pid), *text = NULL;
	const char *fields;
	unsigned long flags = 0;

	if (!path || file_read_proc(path, 4096, &text, NULL))
		return false;
	fields = strrchr(text, ')');
	return fields && sscanf(fields + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 &&
	       flags & PF_EXITING;
}

static bool has_lost_shim(const struct foreground *foreground)
{
	struct pollfd poll_fd = {.fd = foreground->shim, .events = POLLIN};

	if (foreground->is_unsure || foreground->shim < 0)
		return foreground->is_unsure;
	return poll(&poll_fd, 1, 0) > 0 || is_exiting(foreground->shim_pid);
}

static void on_frames(void *userdata, const void *data, size_t size)
{
	struct foreground *foreground = userdata;

	if (frames_print(&foreground->frames, data, size))
		log_warning("output of '%s' is lost: it cannot be written, or is damaged",
			    process_name(foreground));
}

/* In the order of the log, from where our output began: what was seen is left out. */
static void begin_frames(struct foreground *foreground)
{
	struct frames *frames = &foreground->frames;

	frames_break(frames);
	if (foreground->has_frames)
		return;
	foreground->has_frames = true;
	frames->out = stdout;
	frames->err = stderr;
	frames->skip_bytes[foreground->options->terminal ? LOG_TTY : LOG_STDOUT] =
		streams_output_size(foreground->streams, 0);
	frames->skip_bytes[LOG_STDERR] = streams_output_size(foreground->streams, 1);
}

static int ask_attach(struct foreground *foreground, const struct task_io *io)
{
	struct task_attach_request request = {.container_id = (char *)foreground->id,
					      .exec_id = (char *)foreground->options->exec_id,
					      .stdin = io->stdin,
					      .stdout = io->stdout,
					      .frames = true,
					      .start = LOG_FROM_POSITION,
					      .position = &foreground->started};
	struct ask *ask = &foreground->context->ask;
	uint64_t timeout_ms = ask->timeout_ms;
	int r;

	ask->timeout_ms = ATTACH_LIMIT_MS;
	if (!foreground->started.file)
		request.start = LOG_FROM_START;
	r = task_attach_ask(ask, &request, NULL);
	ask->timeout_ms = timeout_ms;
	return r;
}

/* True: there is more to come, from the next shim. */
static bool attach_again(struct foreground *foreground)
{
	_cleanup_(cleanup_free) char *directory = NULL;
	_cleanup_(task_io_clear) struct task_io io = {};
	struct ask *ask = &foreground->context->ask;
	struct why why = {};

	begin_frames(foreground);
	if (io_options_directory(foreground->context, foreground->options->io->fifo_dir,
				 &directory) ||
	    streams_renew(foreground->streams, directory, on_frames, &io, &why)) {
		log_warning("'%s' has lost its shim: its output is in `davit logs` (%s)",
			    process_name(foreground), why.text);
		return false;
	}
	/* Before it is asked: if that one dies meanwhile another may answer, which is seen at the output's end. */
	note_shim(foreground, 0);
	foreground->is_unsure = foreground->shim < 0;
	if (ask_attach(foreground, &io)) {
		if (ask->status != BUS_NOT_FOUND)
			log_warning("'%s' has lost its shim: its output is in `davit logs` (%s)",
				    process_name(foreground), ask->text);
		return false;
	}
	return true;
}

static bool on_output_end(void *userdata)
{
	struct foreground *foreground = userdata;

	if (foreground->is_whole || !has_lost_shim(foreground)) {
		foreground->is_whole = true;
		return false;
	}
	foreground->is_whole = !attach_again(foreground);
	return !foreground->is_whole;
}

/* ---- signals ------------------------------------------------------------- */

/* Every signal that can be passed on is; one for a process that has just ended is nobody's. */
static void pass_on(struct foreground *foreground, int signal)
{
	struct task_kill_request kill = {.container_id = (char *)foreground->id,
					 .exec_id = (char *)foreground->options->exec_id,
					 .signal = (uint64_t)signal};
	struct ask *ask = &foreground->context->ask;

	if (task_kill_ask(ask, &kill, NULL) && ask->status != BUS_NOT_FOUND)
		log_warning("signal %d was not passed on: %s", signal, ask->text);
}

static void on_signal(struct loop_signals *signals, int signal)
{
	struct foreground *foreground = container_of(signals, struct foreground, signals);

	if (!foreground->options->terminal) {
		pass_on(foreground, signal);
		return;
	}
	switch (signal) {
	case SIGWINCH:
		follow_size(foreground, false);
		break;
	case SIGTSTP:
		terminal_stop_self();
		break;
	case SIGCONT: /* the shell has set the modes of its own */
		terminal_leave_raw();
		(void)terminal_enter_raw();
		break;
	default:
		/* The FIFOs first: nothing runs after this. */
		foreground->streams = streams_free(foreground->streams);
		terminal_die(signal);
	}
}

/* Without a terminal all but these are passed on. With one there are few whose default is not right. */
static void signal_mask(bool terminal, sigset_t *ret_mask)
{
	static const int kept[] = {SIGCHLD, SIGPIPE, SIGURG, SIGWINCH, SIGTSTP, SIGTTIN, SIGTTOU,
				   SIGCONT, SIGSEGV, SIGBUS, SIGFPE,   SIGILL,  SIGABRT};
	static const int taken[] = {SIGWINCH, SIGTSTP, SIGCONT, SIGTERM, SIGHUP,
				    SIGINT,   SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM};

	if (terminal)
		sigemptyset(ret_mask);
	else
		sigfillset(ret_mask);
	for (size_t i = 0; terminal && i < ARRAY_SIZE(taken); i++)
		sigaddset(ret_mask, taken[i]);
	for (size_t i = 0; !terminal && i < ARRAY_SIZE(kept); i++)
		sigdelset(ret_mask, kept[i]);
}

static int watch_signals(struct foreground *foreground)
{
	sigset_t mask;
	int r;

	signal_mask(foreground->options->terminal, &mask);
	r = loop_signals_add(foreground->loop, &foreground->signals, &mask, on_signal);
	if (r || !foreground->options->terminal)
		return r;
	r = terminal_enter_raw();
	if (!r)
		follow_size(foreground, foreground->options->attach);
	return r;
}

/* ---- making -------------------------------------------------------------- */

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

static int make_streams(struct foreground *foreground)
{
	const struct foreground_options *options = foreground->options;
	_cleanup_(cleanup_free) char *directory = NULL;
	struct streams_options streams = {
		.id = process_name(foreground),
		.terminal = options->terminal,
		.output_only = options->no_stdin,
		.on_detach = on_detach,
		.on_input_end = options->attach ? NULL : on_input_end,
		.on_output_end = on_output_end,
		.userdata = foreground,
	};
	struct why why = {};
	int code = io_options_directory(foreground->context, options->io->fifo_dir, &directory);

	if (code)
		return code;
	foreground->keys = io_options_keys(options->io->detach_keys);
	if (options->terminal && terminal_is_there())
		streams.keys = &foreground->keys;
	streams.directory = directory;
	if (streams_new(foreground->loop, &streams, &foreground->io, &foreground->streams, &why))
		return fail(foreground->context, "%s", why.text);
	return 0;
}

static int make_io(struct foreground *foreground)
{
	const struct foreground_options *options = foreground->options;
	struct task_io *io = &foreground->io;

	io->terminal = options->terminal;
	if (io->terminal)
		terminal_size(&io->width, &io->height);
	if (options->io->null_io)
		return 0;
	return (options->io->log_uri ? 0 : make_streams(foreground))
		       ?: io_options_set(foreground->context, options->io, false, io);
}

int foreground_new(struct context *context, const struct foreground_options *options,
		   struct foreground **ret_foreground)
{
	_cleanup_(foreground_freep) struct foreground *foreground = calloc(1, sizeof(*foreground));
	int code;

	if (!foreground)
		return fail(context, "out of memory");
	foreground->context = context;
	foreground->options = options;
	foreground->id = options->id;
	foreground->signals.fd = foreground->shim = -1;
	if (loop_new(&foreground->loop))
		return fail(context, "out of memory");
	code = note_log_end(foreground) ?: make_io(foreground);
	if (code)
		return code;
	code = options->terminal ? terminal_enter_waiting() : 0;
	if (code)
		return fail(context, "the terminal cannot be made raw: %s", strerror(-code));
	if (options->attach)
		note_shim(foreground, 0);
	*ret_foreground = TAKE(foreground);
	return 0;
}

struct foreground *foreground_free(struct foreground *foreground)
{
	if (!foreground)
		return NULL;
	terminal_leave_raw();
	watch_free(foreground->watch);
	streams_free(foreground->streams);
	loop_signals_remove(&foreground->signals);
	loop_timer_cancel(&foreground->remove_limit);
	close_fd(foreground->shim);
	frames_deinit(&foreground->frames);
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

	if (foreground->options->io->null_io)
		return 0;
	io = calloc(1, sizeof(*io));
	if (!io || task_io_copy(&foreground->io, io)) {
		free(io);
		return fail(foreground->context, "out of memory");
	}
	*ret_io = io;
	return 0;
}

/* As ctr does: the container stays, its ended task or added process does not. With --rm the service removes both. */
static void delete_process(struct foreground *foreground)
{
	struct task_delete_request delete = {.container_id = (char *)foreground->id,
					     .exec_id = (char *)foreground->options->exec_id,
					     .task_id = (char *)foreground->task_id};
	struct ask *ask = &foreground->context->ask;

	if (task_delete_ask(ask, &delete, NULL) && ask->status != BUS_NOT_FOUND)
		log_warning("'%s' has ended and is not deleted: %s", process_name(foreground),
			    ask->text);
}

static int copy_and_wait(struct foreground *foreground, pid_t pid)
{
	struct context *context = foreground->context;
	int r;

	foreground->topics[0] = "/tasks/exit";
	foreground->topics[1] = foreground->until_removed ? "/containers/delete" : NULL;
	r = watch_new(foreground->loop, context->paths.bus,
		      context->namespace ?: ENVELOPE_DEFAULT_NS, foreground->topics, foreground->id,
		      foreground->from, on_event, foreground, &foreground->watch);
	if (!r)
		r = watch_signals(foreground);
	if (!foreground->options->attach)
		note_shim(foreground, pid);
	if (foreground->streams && foreground->options->attach)
		streams_unlink(foreground->streams);
	if (!r && foreground->streams)
		r = streams_start(foreground->streams);
	return r ?: loop_run(foreground->loop);
}

void foreground_drop_input(struct foreground *foreground)
{
	if (foreground->streams)
		streams_drop_input(foreground->streams);
}

void foreground_starts_at(struct foreground *foreground, const struct log_position *position)
{
	foreground->started = *position;
}

int foreground_run(struct foreground *foreground, uint64_t pid, const char *uid,
		   const char *task_id, bool until_removed)
{
	const struct foreground_options *options = foreground->options;
	int r;

	foreground->uid = uid;
	foreground->task_id = task_id;
	foreground->until_removed = until_removed;
	r = copy_and_wait(foreground, (pid_t)pid);
	terminal_leave_raw();
	if (r)
		return fail(foreground->context, "%s", strerror(r < 0 ? -r : EINVAL));
	if (foreground->is_detached) {
		/* The shell's prompt comes on a line of its own. */
		fputc('\n', stderr);
		return EXIT_OK;
	}
	if (!until_removed && !options->attach)
		delete_process(foreground);
	return foreground->exit_code;
}
