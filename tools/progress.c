/* Bars and lines: see progress.h. */

#include "tools/progress.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "broker/lib/calls.h"
#include "broker/lib/file.h"
#include "schemas/messages.h"
#include "tools/output.h"

#define WAIT_MS     2000 /* of one read of the log */
#define COLUMNS_MAX 200
#define BAR_MAX     40

#define EXIT_INTERRUPTED 130

struct progress {
	pthread_t thread;
	struct ask ask; /* the thread's */
	const char *object;
	uint8_t id[16];
	uint64_t from;
	volatile int is_stopping;
	bool is_terminal;
	unsigned n_lines;            /* on the terminal, to be drawn over */
	struct schema_strs finished; /* that had their line */
};

/* ---- what it looks like ---- */

static const char *short_digest(const char *digest, char text[24])
{
	snprintf(text, 24, "%.19s", digest);
	return text;
}

void progress_bar(const struct transfer_item *item, unsigned columns, char *text, size_t size)
{
	const char *status = schema_enum_text(&schema_enum_transfer_status, item->status);
	bool is_over = item->status != TRANSFER_RUNNING && item->status != TRANSFER_WAITING;
	uint64_t offset = is_over ? item->total : item->offset;
	unsigned width = columns > 70 ? columns - 62 : 8, filled;
	char digest[24], bar[BAR_MAX + 1], moved[32], total[32];

	width = width < BAR_MAX ? width : BAR_MAX;
	offset = offset < item->total ? offset : item->total;
	filled = item->total ? (unsigned)((double)offset / (double)item->total * width)
			     : is_over * width;
	for (unsigned i = 0; i < width; i++)
		bar[i] = i < filled ? '=' : i == filled ? '>' : ' ';
	bar[width] = '\0';
	output_size(offset, moved);
	output_size(item->total, total);
	snprintf(text, size < columns + 1u ? size : columns + 1u, "%s  %-9s [%s] %s/%s",
		 short_digest(item->digest, digest), status, bar, moved, total);
}

static unsigned terminal_size(unsigned *ret_rows)
{
	struct winsize window = {};
	bool is_known = !ioctl(STDERR_FILENO, TIOCGWINSZ, &window) && window.ws_col;

	*ret_rows = is_known && window.ws_row > 4 ? window.ws_row - 2u : 20;
	if (!is_known)
		return 80;
	return window.ws_col < COLUMNS_MAX ? window.ws_col : COLUMNS_MAX;
}

static void draw(struct progress *progress, const struct event_image_progress *event)
{
	char text[COLUMNS_MAX + 1], moved[32], total[32];
	unsigned rows, columns = terminal_size(&rows), n = 0;

	if (progress->n_lines)
		fprintf(stderr, "\033[%uA", progress->n_lines);
	output_size(event->offset, moved);
	output_size(event->total, total);
	if (event->total)
		fprintf(stderr, "\r\033[K%.100s: %s %s/%s\n", event->name, event->state, moved,
			total);
	else if (event->offset)
		fprintf(stderr, "\r\033[K%.100s: %s %s\n", event->name, event->state, moved);
	else
		fprintf(stderr, "\r\033[K%.100s: %s\n", event->name, event->state);
	for (size_t i = 0; i < event->transfers.count && n + 1 < rows; i++, n++) {
		progress_bar(&event->transfers.items[i], columns - 1, text, sizeof(text));
		fprintf(stderr, "\r\033[K%s\n", text);
	}
	fputs("\033[J", stderr);
	/* The last event names no blobs: what was drawn stays. */
	progress->n_lines = n + 1;
	fflush(stderr);
}

static bool has_line(const struct progress *progress, const char *digest)
{
	for (size_t i = 0; i < progress->finished.count; i++) {
		if (!strcmp(progress->finished.items[i], digest))
			return true;
	}
	return false;
}

static void print_lines(struct progress *progress, const struct event_image_progress *event)
{
	for (size_t i = 0; i < event->transfers.count; i++) {
		const struct transfer_item *item = &event->transfers.items[i];
		char digest[24], size[32];

		if (item->status == TRANSFER_WAITING || item->status == TRANSFER_RUNNING ||
		    has_line(progress, item->digest) ||
		    schema_strs_add(&progress->finished, item->digest))
			continue;
		output_size(item->total, size);
		fprintf(stderr, "%s: %s (%s)\n", short_digest(item->digest, digest),
			schema_enum_text(&schema_enum_transfer_status, item->status), size);
	}
}

static void show(struct progress *progress, const struct bus_event *event)
{
	_cleanup_(event_image_progress_clear) struct event_image_progress body = {};

	if (schema_unpack(schema_event_image_progress(), event->event.data, event->event.size,
			  &body, NULL) ||
	    body.operation.size != 16 || memcmp(body.operation.data, progress->id, 16))
		return;
	if (!progress->is_terminal)
		print_lines(progress, &body);
	else if (body.transfers.count || !progress->n_lines)
		draw(progress, &body);
}

/* ---- the thread ---- */

static void *run(void *data)
{
	struct progress *progress = data;
	char *topics[] = {(char *)"/images/progress"};

	while (!progress->is_stopping) {
		_cleanup_(event_read_reply_clear) struct event_read_reply reply = {};
		struct event_read_request request = {.from = progress->from,
						     .topics = {topics, 1},
						     .object = (char *)progress->object,
						     .namespace = (char *)progress->ask.namespace,
						     .wait_ms = WAIT_MS};

		if (event_read_ask(&progress->ask, &request, &reply)) {
			usleep(progress->is_stopping ? 0 : 100000);
			continue;
		}
		for (size_t i = 0; i < reply.events.count; i++)
			show(progress, &reply.events.items[i]);
		progress->from = reply.next;
	}
	return NULL;
}

struct progress *progress_start(struct context *context, const char *object, const uint8_t id[16])
{
	_cleanup_(event_read_reply_clear) struct event_read_reply now = {};
	struct event_read_request request = {};
	struct progress *progress = calloc(1, sizeof(*progress));

	if (!progress)
		return NULL;
	progress->ask = (struct ask){.bus_path = context->ask.bus_path,
				     .namespace = context->ask.namespace,
				     .timeout_ms = 2 * WAIT_MS,
				     .interrupted = &progress->is_stopping};
	progress->object = object;
	progress->is_terminal = isatty(STDERR_FILENO);
	memcpy(progress->id, id, 16);
	if (!event_read_ask(&progress->ask, &request, &now)) {
		progress->from = now.last_seq + 1;
		if (!pthread_create(&progress->thread, NULL, run, progress))
			return progress;
	}
	ask_deinit(&progress->ask);
	free(progress);
	return NULL;
}

struct progress *progress_stop(struct progress *progress)
{
	if (!progress)
		return NULL;
	progress->is_stopping = 1;
	pthread_join(progress->thread, NULL);
	ask_deinit(&progress->ask);
	schema_strs_clear(&progress->finished);
	free(progress);
	return NULL;
}

void progress_stopp(struct progress **progress)
{
	*progress = progress_stop(*progress);
}

/* ---- the question ---- */

static volatile int is_interrupted;

static void on_signal(int signal)
{
	(void)signal;
	is_interrupted = 1;
}

static void cancel(struct context *context, const struct schema_method *method,
		   const uint8_t id[16])
{
	const struct schema_method *cancel = schema_find_method(method->service,
								"operation_cancel");
	struct operation_cancel_request request = {.id = {(uint8_t *)id, 16}};
	struct ask ask = {.bus_path = context->ask.bus_path,
			  .namespace = context->ask.namespace,
			  .timeout_ms = 5000};

	if (cancel)
		(void)ask_call(&ask, cancel, NULL, &request, NULL);
	ask_deinit(&ask);
}

int progress_ask(struct context *context, const struct schema_method *method, const uint8_t id[16],
		 const char *object, const void *request, void *ret_reply)
{
	_cleanup_(progress_stopp) struct progress *progress = NULL;
	struct sigaction action = {.sa_handler = on_signal}, before;
	int r;

	sigaction(SIGINT, &action, &before);
	context->ask.interrupted = &is_interrupted;
	progress = progress_start(context, object, id);
	r = ask_call(&context->ask, method, id, request, ret_reply);
	context->ask.interrupted = NULL;
	sigaction(SIGINT, &before, NULL);
	if (r && is_interrupted)
		cancel(context, method, id);
	return r;
}

int progress_ask_image(struct context *context, const char *method, const char *object,
		       const void *request, void *ret_reply)
{
	uint8_t id[ID_SIZE];
	int r;

	if (!context->ask.timeout_ms)
		context->ask.timeout_ms = ENVELOPE_DEADLINE_MAX;
	id_make(id);
	r = progress_ask(context, schema_find_method("image", method), id, object, request,
			 ret_reply);
	if (r == BUS_CANCELED)
		return fail_ask(context, r), EXIT_INTERRUPTED;
	return r ? fail_ask(context, r) : EXIT_OK;
}
