/*
 * davit bus bench: round trips through the broker to a service, and events from
 * publishing to delivery. Plain sockets, one connection a caller, nothing cached.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "tools/lists.h"

#define CALLERS_MAX 256
#define BATCH_MAX   1024

struct bench_options {
	uint64_t callers, requests, batch;
	char *method, *format;
	bool events;
};

struct figures {
	uint64_t *times_ns;
	size_t count;
	uint64_t total_ns;
	unsigned failures;
};

static int compare_times(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double at(const struct figures *figures, double share)
{
	size_t i = (size_t)(share * (double)(figures->count - 1));

	return figures->count ? (double)figures->times_ns[i] / 1e3 : 0;
}

static void print_figures(const struct bench_options *options, struct figures *figures,
			  uint64_t per_time)
{
	double rate = (double)(figures->count * per_time) / ((double)figures->total_ns / 1e9);

	qsort(figures->times_ns, figures->count, sizeof(uint64_t), compare_times);
	if (options->format && !strcmp(options->format, "json")) {
		output_json(json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:i}", "count",
				      (int)figures->count, "rate", rate, "min_us", at(figures, 0),
				      "median_us", at(figures, 0.5), "p99_us", at(figures, 0.99),
				      "max_us", at(figures, 1), "failures",
				      (int)figures->failures));
		return;
	}
	printf("%zu times, %u failed: %.0f per second; min %.0f, median %.0f, p99 %.0f, max %.0f us\n",
	       figures->count, figures->failures, rate, at(figures, 0), at(figures, 0.5),
	       at(figures, 0.99), at(figures, 1));
}

/* ---- requests ------------------------------------------------------------ */

struct requests {
	struct context *context;
	const struct bench_options *options;
	struct figures figures;
	atomic_size_t next;
	atomic_uint failures;
};

static void *call_again_and_again(void *data)
{
	struct requests *requests = data;
	struct ask ask = {.bus_path = requests->context->paths.bus, .timeout_ms = 10000};
	size_t i;

	while ((i = atomic_fetch_add(&requests->next, 1)) < requests->options->requests) {
		_cleanup_(cleanup_free) void *reply = NULL;
		uint64_t start = time_boot_ns();
		size_t size;

		if (ask_raw(&ask, requests->options->method, NULL, NULL, 0, &reply, &size))
			atomic_fetch_add(&requests->failures, 1);
		requests->figures.times_ns[i] = time_boot_ns() - start;
	}
	ask_deinit(&ask);
	return NULL;
}

static int bench_requests(struct context *context, const struct bench_options *options)
{
	struct requests requests = {.context = context, .options = options};
	_cleanup_(cleanup_free) uint64_t *times = calloc(options->requests, sizeof(uint64_t));
	pthread_t threads[CALLERS_MAX];
	uint64_t start = time_boot_ns();
	size_t n = 0;

	requests.figures.times_ns = times;
	while (times && n < options->callers &&
	       !pthread_create(&threads[n], NULL, call_again_and_again, &requests))
		n++;
	for (size_t i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	if (n < options->callers)
		return fail(context, "cannot start %llu callers",
			    (unsigned long long)options->callers);
	requests.figures.total_ns = time_boot_ns() - start;
	requests.figures.count = options->requests;
	requests.figures.failures = atomic_load(&requests.failures);
	print_figures(options, &requests.figures, 1);
	return requests.figures.failures ? EXIT_ERROR : EXIT_OK;
}

/* ---- events -------------------------------------------------------------- */

struct publisher {
	struct context *context;
	uint8_t id[ID_SIZE];
	uint64_t seq;
	struct event_item items[BATCH_MAX];
};

static int publish(struct publisher *publisher, size_t n)
{
	static uint8_t body[] = {0x81, 0xa1, 'n', 0x01};
	struct event_publish_request request = {.publisher = {publisher->id, ID_SIZE}};

	for (size_t i = 0; i < n; i++)
		publisher->items[i] = (struct event_item){.seq = ++publisher->seq,
							  .time_ns = time_real_ns(),
							  .topic = (char *)"/bench/event",
							  .object = (char *)"bench",
							  .event = {body, sizeof(body)}};
	request.events.items = publisher->items;
	request.events.count = n;
	return event_publish_ask(&publisher->context->ask, &request, NULL);
}

/* The next event of our own on the SUB socket; heartbeats and others' events pass by. */
static int receive_own(struct sp *sp, const uint8_t id[ID_SIZE], uint64_t *ret_seq)
{
	for (;;) {
		_cleanup_(cleanup_free) char *message = NULL;
		struct envelope_event event;
		size_t size, n;
		int r = sp_receive(sp, time_boot_ms() + 10000, (void **)&message, &size);

		if (r)
			return r;
		n = strnlen(message, size) + 1;
		if (n > size || envelope_read_event(message + n, size - n, &event, NULL) ||
		    memcmp(event.publisher, id, ID_SIZE))
			continue;
		*ret_seq = event.publisher_seq;
		return 0;
	}
}

/* One at a time: from before the publishing call until it is here. */
static int bench_latency(struct publisher *publisher, struct sp *sp,
			 const struct bench_options *options)
{
	_cleanup_(cleanup_free) uint64_t *times = calloc(options->requests, sizeof(uint64_t));
	struct figures figures = {.times_ns = times, .count = options->requests};
	uint64_t begin = time_boot_ns();
	int r = times ? 0 : -ENOMEM;

	for (size_t i = 0; !r && i < options->requests; i++) {
		uint64_t start = time_boot_ns(), seq = 0;

		r = publish(publisher, 1);
		while (!r && seq < publisher->seq)
			r = receive_own(sp, publisher->id, &seq);
		times[i] = time_boot_ns() - start;
	}
	figures.total_ns = time_boot_ns() - begin;
	if (!r)
		print_figures(options, &figures, 1);
	return r;
}

/* In batches, each acknowledged when it is on disk. */
static int bench_rate(struct publisher *publisher, const struct bench_options *options)
{
	size_t n = (options->requests + options->batch - 1) / options->batch;
	_cleanup_(cleanup_free) uint64_t *times = calloc(n, sizeof(uint64_t));
	struct figures figures = {.times_ns = times, .count = n};
	uint64_t begin = time_boot_ns();
	int r = times ? 0 : -ENOMEM;

	for (size_t i = 0; !r && i < n; i++) {
		uint64_t start = time_boot_ns();

		r = publish(publisher, options->batch);
		times[i] = time_boot_ns() - start;
	}
	figures.total_ns = time_boot_ns() - begin;
	if (!r)
		print_figures(options, &figures, options->batch);
	return r;
}

static int bench_events(struct context *context, const struct bench_options *options)
{
	_cleanup_(cleanup_free) struct publisher *publisher = calloc(1, sizeof(*publisher));
	_cleanup_(sp_freep) struct sp *sp = NULL;
	int r;

	if (!publisher)
		return fail(context, "out of memory");
	publisher->context = context;
	id_make(publisher->id);
	r = sp_connect(context->paths.events, SP_SUB, time_boot_ms() + 10000, &sp);
	if (r)
		return fail(context, "no bus at %s", context->paths.events);
	r = options->batch > 1 ? bench_rate(publisher, options)
			       : bench_latency(publisher, sp, options);
	return r ? fail(context, "events: %s",
			context->ask.text[0] ? context->ask.text : "not delivered")
		 : EXIT_OK;
}

/* ---- the command --------------------------------------------------------- */

static int bench(struct context *context, void *data, char **args, int n_args)
{
	struct bench_options *options = data;

	(void)args;
	(void)n_args;
	options->callers = options->callers ?: 1;
	options->requests = options->requests ?: 10000;
	options->batch = options->batch ?: 1;
	options->method = options->method ?: (char *)"bus.echo";
	if (options->callers > CALLERS_MAX || options->requests > 10000000 ||
	    options->batch > BATCH_MAX)
		return fail_usage(context, "at most %d callers, 10M requests and batches of %d",
				  CALLERS_MAX, BATCH_MAX);
	return options->events ? bench_events(context, options) : bench_requests(context, options);
}

static const struct option_spec bench_options[] = {
	OPTION(struct bench_options, callers, NUMBER, "callers", 'c', "N",
	       "callers at a time (default: 1)"),
	OPTION(struct bench_options, requests, NUMBER, "requests", 'r', "N",
	       "requests or events in all (default: 10000)"),
	OPTION(struct bench_options, method, TEXT, "method", 'm', "NAME",
	       "method to call with an empty body (default: bus.echo, of the broker itself)"),
	OPTION(struct bench_options, events, FLAG, "events", 'e', NULL,
	       "publish events instead, until they are delivered"),
	OPTION(struct bench_options, batch, NUMBER, "batch", 'b', "N",
	       "with --events: events in a batch; above 1 only until they are acknowledged"),
	OPTION(struct bench_options, format, TEXT, "format", 0, "table|json", "how to print"),
	{}};

const struct command bus_bench_command = {
	.name = "bench",
	.summary = "measure round trips and events through the broker",
	.options = bench_options,
	.options_size = sizeof(struct bench_options),
	.run = bench,
};
