/*
 * Children of the service. Of each bounded kind only so many run at a time; the
 * others wait in the order in which they were asked for, with copies of what they
 * need. None waits for another one once it runs, so each turn comes: but for those
 * that read or write what a caller moves meanwhile, who may move it to or from one
 * that waits. These do not wait for long (transfer_limit_turn()), and do not stand
 * still for long while others wait (NOTE_STILL in transfer.c).
 */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/loop.h"
#include "services/image/image.h"

#define WORK_PROGRAM "davit-image-work"
#define WORK_FDS_MAX 4

struct image_work {
	struct image_work *next; /* in image->works, the oldest first */
	struct image_service *image;
	struct work *work; /* NULL: it waits */
	const struct mode *mode;
	work_fn fn;
	void *userdata;
	uint64_t deadline_ms;
	uint64_t end_ms; /* by the limit of seconds, if that comes before the deadline; else 0 */

	/* While it waits. */
	const struct schema_message *request, *reply;
	void *message;
	int fds[WORK_FDS_MAX];
	size_t n_fds;
	struct loop_timer timer;
	bool is_dropped;
};

static const struct mode {
	const char *name;
	bool is_bounded; /* by the limit of children */
	bool is_timed;   /* by the limit of seconds */
	bool is_restful; /* the end of the service does not wait for it: it cannot be killed, and changes nothing */
} modes[] = {
	{.name = "import", .is_bounded = true},
	{.name = "export", .is_bounded = true},
	{.name = "fetch", .is_bounded = true},
	{.name = "push", .is_bounded = true},
	{.name = "apply", .is_bounded = true, .is_timed = true},
	{.name = "convert", .is_bounded = true, .is_timed = true},
	{.name = "diff", .is_bounded = true, .is_timed = true},
	{.name = "sync", .is_restful = true},
	{.name = "remove"},
	{.name = "digest"},
	{.name = "usage"},
};

static const struct mode *find_mode(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		if (!strcmp(modes[i].name, name))
			return &modes[i];
	}
	return NULL;
}

static bool is_any_awaited(const struct image_service *image)
{
	for (const struct image_work *child = image->works; child; child = child->next) {
		if (child->work && !child->mode->is_restful)
			return true;
	}
	return false;
}

static void clear_waiting(struct image_work *child)
{
	for (size_t i = 0; i < child->n_fds; i++)
		close_fd(child->fds[i]);
	child->n_fds = 0;
	if (child->message)
		schema_clear(child->request, child->message);
	free(TAKE(child->message));
	loop_timer_cancel(&child->timer);
}

static void image_work_free(struct image_work *child)
{
	for (struct image_work **at = &child->image->works; *at; at = &(*at)->next) {
		if (*at == child) {
			*at = child->next;
			break;
		}
	}
	clear_waiting(child);
	free(child);
}

static struct image_work *image_work_new(struct image_service *image, const char *mode, work_fn fn,
					 void *userdata, uint64_t deadline_ms)
{
	struct image_work *child = calloc(1, sizeof(*child)), **at = &image->works;

	if (!child)
		return NULL;
	*child = (struct image_work){.image = image,
				     .mode = find_mode(mode),
				     .fn = fn,
				     .userdata = userdata,
				     .deadline_ms = deadline_ms};
	while (*at)
		at = &(*at)->next;
	*at = child;
	return child;
}

/* ---- running ---- */

static void start_waiting(struct image_service *image, const struct mode *mode);

/* When the service ends, nobody is told: the next instance begins that work again. */
static void work_ended(void *userdata, void *reply, const struct why *why)
{
	struct image_work *child = userdata;
	struct image_service *image = child->image;
	const struct mode *mode = child->mode;
	work_fn fn = child->fn;
	void *fn_userdata = child->userdata;
	struct why own = *why;

	if (!reply && child->end_ms && time_boot_ms() >= child->end_ms) {
		own = (struct why){};
		why_set(&own, -ETIMEDOUT, "it took more than %llu seconds (limit seconds)",
			(unsigned long long)work_limits_fill(&image->limits).seconds);
	}
	image_work_free(child);
	if (image->is_draining) {
		if (!mode->is_restful && !is_any_awaited(image))
			service_drained(image->service);
		return;
	}
	fn(fn_userdata, reply, &own);
	start_waiting(image, mode);
}

static int run(struct image_work *child, const struct schema_message *request, const void *message,
	       const int *fds, size_t n_fds, const struct schema_message *reply, struct why *why)
{
	struct work_limits limits = work_limits_fill(&child->image->limits);
	struct spawn_fd passed[WORK_FDS_MAX];
	char memory[24];
	const char *argv[] = {child->mode->name, memory, NULL};
	struct work_options options = {
		.program = WORK_PROGRAM,
		.argv = argv,
		.fds = passed,
		.n_fds = n_fds,
		.request = request,
		.request_message = message,
		.reply = reply,
		.deadline_ms = child->deadline_ms,
	};
	uint64_t end_ms = time_boot_ms() + limits.seconds * 1000;

	snprintf(memory, sizeof(memory), "%llu", (unsigned long long)limits.memory);
	if (child->mode->is_timed && (!options.deadline_ms || end_ms < options.deadline_ms))
		options.deadline_ms = child->end_ms = end_ms;
	for (size_t i = 0; i < n_fds; i++)
		passed[i] = (struct spawn_fd){.from = fds[i], .to = 5 + (int)i};
	return error_trace(
		work_start(child->image->service, &options, work_ended, child, &child->work, why));
}

/* ---- waiting ---- */

static void fail_waiting(struct image_work *child, const struct why *why)
{
	work_fn fn = child->fn;
	void *userdata = child->userdata;

	image_work_free(child);
	fn(userdata, NULL, why);
}

static void on_timer(struct loop_timer *timer)
{
	struct image_work *child = container_of(timer, struct image_work, timer);
	struct why why = {};

	if (child->is_dropped)
		why_set(&why, -ECANCELED, "it was cancelled before its turn");
	else
		why_set(&why, -ETIMEDOUT,
			"its deadline came before its turn: %llu are under way already (limit children)",
			(unsigned long long)work_limits_fill(&child->image->limits).children);
	fail_waiting(child, &why);
}

/* The oldest that waits, if there is room for it. */
static struct image_work *find_next(struct image_service *image, const struct mode *mode)
{
	uint64_t room = work_limits_fill(&image->limits).children;
	struct image_work *first = NULL;

	for (struct image_work *child = image->works; child; child = child->next) {
		if (child->mode != mode)
			continue;
		if (child->work)
			room -= room > 0;
		else if (!first && !child->is_dropped)
			first = child;
	}
	return room ? first : NULL;
}

static void start_waiting(struct image_service *image, const struct mode *mode)
{
	struct image_work *child;

	while ((child = find_next(image, mode))) {
		struct why why = {};
		int r = run(child, child->request, child->message, child->fds, child->n_fds,
			    child->reply, &why);

		if (!r) {
			clear_waiting(child);
			continue;
		}
		if (!why.text[0])
			why_errno(&why, r, "cannot start " WORK_PROGRAM);
		fail_waiting(child, &why);
	}
}

static int wait_for_turn(struct image_work *child, const void *message, const int *fds,
			 size_t n_fds)
{
	int r;

	child->message = calloc(1, child->request->size ?: 1);
	r = child->message ? schema_copy(child->request, message, child->message)
			   : error_origin(-ENOMEM);
	for (size_t i = 0; i < n_fds && !r; i++) {
		child->fds[i] = fds[i] < 0 ? -1 : fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
		if (child->fds[i] < 0 && fds[i] >= 0)
			r = error_origin(-errno);
		else
			child->n_fds++;
	}
	if (!r && child->deadline_ms)
		r = loop_timer_set(service_loop(child->image->service), &child->timer,
				   child->deadline_ms, on_timer);
	return error_trace(r);
}

int image_work_start(struct image_service *image, const char *mode,
		     const struct schema_message *request, const void *message, const int *fds,
		     size_t n_fds, const struct schema_message *reply, uint64_t deadline_ms,
		     work_fn fn, void *userdata, struct why *why)
{
	struct image_work *child = image_work_new(image, mode, fn, userdata, deadline_ms);
	int r;

	if (!child)
		return error_origin(-ENOMEM);
	child->request = request;
	child->reply = reply;
	if (child->mode->is_bounded && find_next(image, child->mode) != child)
		r = wait_for_turn(child, message, fds, n_fds);
	else
		r = run(child, request, message, fds, n_fds, reply, why);
	if (r)
		image_work_free(child);
	return error_trace(r);
}

static struct image_work *find_waiting(const struct image_service *image, const void *userdata)
{
	for (struct image_work *child = image->works; child; child = child->next) {
		if (!child->work && child->userdata == userdata && !child->is_dropped)
			return child;
	}
	return NULL;
}

bool image_work_waits(const struct image_service *image, const void *userdata)
{
	return find_waiting(image, userdata);
}

bool image_work_is_waited_for(const struct image_service *image, const void *userdata)
{
	const struct image_work *own = image->works;

	while (own && own->userdata != userdata)
		own = own->next;
	for (const struct image_work *child = image->works; own && child; child = child->next) {
		if (child != own && child->mode == own->mode && !child->work && !child->is_dropped)
			return true;
	}
	return false;
}

bool image_work_drop(struct image_service *image, const void *userdata)
{
	struct image_work *child = find_waiting(image, userdata);

	if (!child)
		return false;
	child->is_dropped = true;
	(void)loop_timer_set(service_loop(image->service), &child->timer, 0, on_timer);
	return true;
}

/* ---- the end ---- */

void image_work_drain(struct image_service *image)
{
	for (struct image_work *child = image->works; child; child = child->next) {
		if (child->work)
			work_kill(child->work);
		else
			loop_timer_cancel(&child->timer);
	}
	if (!is_any_awaited(image))
		service_drained(image->service);
}

void image_work_close(struct image_service *image)
{
	while (image->works)
		image_work_free(image->works);
}

int image_limits_copy(const struct image_service *image, struct work_limits **ret_limits)
{
	struct work_limits *limits = malloc(sizeof(*limits));

	if (!limits)
		return error_origin(-ENOMEM);
	*limits = image->limits;
	*ret_limits = limits;
	return 0;
}
