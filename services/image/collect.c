/* When the collection runs, and who waits for it: see collect.h. */

#include <malloc.h>
#include <string.h>

#include "broker/lib/calls.h"
#include "broker/lib/log.h"
#include "services/image/collect_private.h"

#define DELAY_MS       100 /* after what made it necessary */
#define LATER_MS       2000
#define STEP_NS        2000000 /* of work at a time */
#define PAUSE_MS       6       /* between steps: what others do then is not delayed */
#define SHARE          20      /* a run is followed by so many times its length without one */
#define INTERVAL_MAX   10000
#define RETRY_MS       15000 /* when containers were not known */
#define CLOCK_CHECK_MS 3600000
#define CALL_MS        5000

struct collector {
	struct image_service *image;
	struct collect_waiter *waiters;
	struct loop_timer start_timer, step_timer, expiry_timer;
	uint64_t expires_ns; /* when something ends next; UINT64_MAX: nothing does */
	uint64_t earliest_ms, started_ms;
	struct collect_run *run; /* NULL: none is under way */
	struct bus_call *call;
	const char *refusal; /* of the last run that was refused */
};

static void start(struct collector *collector);

/* ---- the end of a run ---- */

static struct collect_waiter *take_served(struct collector *collector)
{
	for (struct collect_waiter **at = &collector->waiters; *at; at = &(*at)->next) {
		struct collect_waiter *waiter = *at;

		if (!waiter->is_served)
			continue;
		*at = waiter->next;
		return waiter;
	}
	return NULL;
}

static void tell(const struct collect_run *run)
{
	if (run->refusal)
		log_info("collect=refused note=\"%s\"", run->refusal);
	if (run->report.note)
		log_warning("collect=partly note=\"%s\"", run->report.note);
	if (!run->is_dry && run->report.count)
		log_info("collect=done removed=%llu bytes=%llu",
			 (unsigned long long)run->report.count,
			 (unsigned long long)run->report.size);
}

static void arm_start(struct collector *collector, uint64_t at_ms)
{
	if (!collector->start_timer.loop || collector->start_timer.at_ms > at_ms)
		loop_timer_set(service_loop(collector->image->service), &collector->start_timer,
			       at_ms, collector->start_timer.fn);
}

static void end(struct collector *collector, int r)
{
	struct collect_run *run = collector->run;
	uint64_t now = time_boot_ms(), length = now - collector->started_ms;
	struct collect_waiter *waiter;

	collector->run = NULL;
	store_on_put(collector->image->store, NULL, NULL);
	collector->earliest_ms = now +
				 (SHARE * length < INTERVAL_MAX ? SHARE * length : INTERVAL_MAX);
	if (r)
		log_error("collect=failed result=%d", r);
	else
		tell(run);
	if (r || run->has_undecided)
		arm_start(collector, now + RETRY_MS);
	if (!r && run->refusal) {
		collector->refusal = run->refusal;
		r = refused(BUS_FAILED_PRECONDITION);
	}
	while ((waiter = take_served(collector))) {
		waiter->fn(waiter->userdata, r, r ? NULL : &run->report);
		free(waiter);
	}
	collect_run_clear(run);
	free(run);
	/* What it took goes back to the host: a run is followed by a pause. */
	malloc_trim(0);
	if (collector->waiters)
		start(collector);
}

/* ---- steps ---- */

static int run_step(void *userdata)
{
	struct collect_run *run = userdata;

	return collect_run_step(run, time_boot_ns() + STEP_NS);
}

static const char *note_of(const struct collect_run *run)
{
	if (run->is_blind)
		return "a damaged record of the image service lies in quarantine: blobs and snapshots are left "
		       "alone, since it is not known what it kept. `davit store quarantine list image` shows it; "
		       "make again what it was (import or pull the image, make the lease), then "
		       "`davit store quarantine drop --all image` lets collections go on";
	if (run->has_undecided)
		return "the container service did not say what containers keep: snapshots of "
		       "namespaces are left alone";
	return NULL;
}

static void step(struct loop_timer *timer)
{
	struct collector *collector = container_of(timer, struct collector, step_timer);
	struct collect_run *run = collector->run;
	int r;

	if (collector->image->is_draining)
		return;
	r = service_transact(collector->image->service, run_step, run);
	if (!r && !run->is_done) {
		loop_timer_set(service_loop(collector->image->service), timer,
			       time_boot_ms() + PAUSE_MS, step);
		return;
	}
	if (!r)
		r = schema_set(&run->report.note, note_of(run));
	end(collector, r);
}

static void go_on(struct collector *collector)
{
	loop_timer_set(service_loop(collector->image->service), &collector->step_timer,
		       time_boot_ms(), step);
}

/* ---- containers ---- */

static void ask_containers(struct collector *collector, const struct container_root *after);

struct adding {
	struct collect_run *run;
	const struct container_roots_reply *reply;
};

static int add_containers(void *userdata)
{
	struct adding *adding = userdata;
	int r = 0;

	for (size_t i = 0; i < adding->reply->roots.count && !r; i++)
		r = collect_add_container(adding->run, &adding->reply->roots.items[i]);
	return error_trace(r);
}

static void on_containers(void *userdata, enum bus_status status, const char *text,
			  struct container_roots_reply *reply)
{
	struct collector *collector = userdata;
	struct adding adding = {collector->run, reply};
	int r;

	collector->call = NULL;
	if (collector->image->is_draining)
		return;
	if (status != BUS_OK || reply->incomplete) {
		log_info("collect=partly containers=unknown error=\"%s\"", text);
		go_on(collector);
		return;
	}
	if (reply->unaccepted && !collector->run->is_dry) {
		collector->run->refusal =
			"the container service's store was rebuilt, and nobody has accepted it yet: nothing "
			"is removed before `davit store accept container`";
		end(collector, 0);
		return;
	}
	r = service_transact(collector->image->service, add_containers, &adding);
	if (r) {
		end(collector, r);
	} else if (reply->more && reply->roots.count) {
		ask_containers(collector, &reply->roots.items[reply->roots.count - 1]);
	} else {
		collector->run->knows_containers = true;
		go_on(collector);
	}
}

static void ask_containers(struct collector *collector, const struct container_root *after)
{
	struct bus_options options = {.deadline_ms = time_boot_ms() + CALL_MS};
	struct container_roots_request request = {.after_namespace = after ? after->namespace
									   : NULL,
						  .after_id = after ? after->id : NULL};

	if (container_roots_call(service_bus(collector->image->service), &options, &request,
				 on_containers, collector, &collector->call))
		go_on(collector);
}

static int stop_at_first(void *userdata, const struct store_key *key, void *data)
{
	(void)userdata;
	(void)key;
	(void)data;
	return 1;
}

/* Namespaces begin with a letter or digit, which come after the scope of layers. */
static int has_own_snapshots(void *userdata)
{
	struct image_service *image = userdata;
	struct store_key from;

	store_key_bytes(&from, "+", 1);
	return store_walk(image->store, TABLE_SNAPSHOTS, NULL, &from, schema_snapshot_record(),
			  stop_at_first, NULL);
}

/* ---- the start of a run ---- */

/* Serves everyone who wants the same as who came first. */
static bool choose_waiters(struct collector *collector)
{
	bool is_dry = collector->waiters && collector->waiters->is_dry;

	for (struct collect_waiter *waiter = collector->waiters; waiter; waiter = waiter->next)
		waiter->is_served = waiter->is_dry == is_dry;
	return is_dry;
}

static void start(struct collector *collector)
{
	struct image_service *image = collector->image;
	struct collect_run *run;

	if (collector->run || image->is_draining || !image->is_ready)
		return;
	run = calloc(1, sizeof(*run));
	if (!run) {
		arm_start(collector, time_boot_ms() + RETRY_MS);
		return;
	}
	run->image = run->references.image = image;
	run->is_dry = choose_waiters(collector);
	collector->run = run;
	collector->started_ms = time_boot_ms();
	if (!run->is_dry)
		loop_timer_cancel(&collector->start_timer);
	if (!run->is_dry && store_rebuilt(image->store)) {
		run->refusal =
			"the image service's store was rebuilt, and nobody has accepted it yet: nothing is "
			"removed before `davit store accept image`";
		end(collector, 0);
		return;
	}
	store_on_put(image->store, collect_note_put, run);
	if (service_transact(image->service, has_own_snapshots, image)) {
		ask_containers(collector, NULL);
		return;
	}
	run->knows_containers = true;
	go_on(collector);
}

static void on_start(struct loop_timer *timer)
{
	struct collector *collector = container_of(timer, struct collector, start_timer);

	if (collector->run)
		arm_start(collector, time_boot_ms() + DELAY_MS);
	else
		start(collector);
}

static int schedule(struct collector *collector, uint64_t delay_ms)
{
	uint64_t at_ms = time_boot_ms() + delay_ms;

	arm_start(collector, at_ms < collector->earliest_ms ? collector->earliest_ms : at_ms);
	return 0;
}

int collect(struct image_service *image)
{
	return schedule(image->collector, DELAY_MS);
}

int collect_later(struct image_service *image)
{
	return schedule(image->collector, LATER_MS);
}

int collect_wait(struct image_service *image, bool dry_run, collect_fn fn, void *userdata)
{
	struct collect_waiter **at = &image->collector->waiters;
	struct collect_waiter *waiter = calloc(1, sizeof(*waiter));

	if (!waiter)
		return error_origin(-ENOMEM);
	waiter->fn = fn;
	waiter->userdata = userdata;
	waiter->is_dry = dry_run;
	while (*at)
		at = &(*at)->next;
	*at = waiter;
	start(image->collector);
	return 0;
}

const char *collect_refusal(const struct image_service *image)
{
	return image->collector->refusal;
}

void collect_forget(struct image_service *image, void *userdata)
{
	struct collect_waiter **at = &image->collector->waiters, *waiter;

	while ((waiter = *at)) {
		if (waiter->userdata == userdata) {
			*at = waiter->next;
			free(waiter);
		} else {
			at = &waiter->next;
		}
	}
}

/* ---- what ends by itself ---- */

static void expired(struct loop_timer *timer)
{
	struct collector *collector = container_of(timer, struct collector, expiry_timer);

	collector->expires_ns = UINT64_MAX;
	collect(collector->image);
}

/* The wall clock may be set: it is looked at again each hour. */
void collect_expires(struct image_service *image, uint64_t ns)
{
	struct collector *collector = image->collector;
	uint64_t now = time_real_ns(), wait;

	if (ns >= collector->expires_ns)
		return;
	collector->expires_ns = ns;
	wait = ns > now ? (ns - now) / 1000000 + 1 : 0;
	loop_timer_set(service_loop(image->service), &collector->expiry_timer,
		       time_boot_ms() + (wait < CLOCK_CHECK_MS ? wait : CLOCK_CHECK_MS), expired);
}

/* ---- life ---- */

int collect_open(struct image_service *image)
{
	struct collector *collector = calloc(1, sizeof(*collector));

	if (!collector)
		return error_origin(-ENOMEM);
	collector->image = image;
	collector->expires_ns = UINT64_MAX;
	collector->start_timer.fn = on_start;
	image->collector = collector;
	return 0;
}

void collect_close(struct image_service *image)
{
	struct collector *collector = image->collector;

	if (!collector)
		return;
	loop_timer_cancel(&collector->start_timer);
	loop_timer_cancel(&collector->step_timer);
	loop_timer_cancel(&collector->expiry_timer);
	if (collector->call)
		bus_call_cancel(collector->call);
	while (collector->waiters)
		collect_forget(image, collector->waiters->userdata);
	store_on_put(image->store, NULL, NULL);
	if (collector->run)
		collect_run_clear(collector->run);
	free(collector->run);
	free(collector);
	image->collector = NULL;
}
