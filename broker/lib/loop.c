#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/error.h"
#include "broker/lib/loop.h"

/* So many descriptors are taken up in one round; the others come in the next. */
#define READY_MAX 64

struct loop {
	int epoll;
	bool is_stopped;
	int result;

	/* What epoll reported in this round; a source that is removed is blanked out here. */
	struct epoll_event ready[READY_MAX];
	int n_ready;
	unsigned n_files;

	/* Binary heap: the earliest is first. The timerfd exists from the first timer on and is
	 * armed for the first in the heap, once before each sleep. */
	struct loop_timer **timers;
	unsigned n_timers, timers_size;
	struct loop_file timer_file;
	uint64_t armed_ms; /* 0: not armed */
	uint64_t now_ms;   /* when timers were last looked at */
	unsigned round;
	bool has_dispatched;

	void (*after_turn)(void *userdata);
	void *after_turn_userdata;
};

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t time_boot_ms(void)
{
	return clock_ns(CLOCK_BOOTTIME) / 1000000;
}

uint64_t time_boot_ns(void)
{
	return clock_ns(CLOCK_BOOTTIME);
}

uint64_t time_real_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

/* ---- file descriptors ---- */

int loop_file_add(struct loop *loop, struct loop_file *file, int fd, uint32_t events,
		  loop_file_fn fn)
{
	struct epoll_event event = {.events = events, .data.ptr = file};

	assert(!file->loop);
	if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		return error_origin(-errno);
	*file = (struct loop_file){.loop = loop, .fn = fn, .fd = fd, .events = events};
	loop->n_files++;
	return 0;
}

int loop_file_set(struct loop_file *file, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = file};

	assert(file->loop);
	if (events == file->events)
		return 0;
	if (epoll_ctl(file->loop->epoll, EPOLL_CTL_MOD, file->fd, &event) < 0)
		return error_origin(-errno);
	file->events = events;
	return 0;
}

void loop_file_remove(struct loop_file *file)
{
	struct loop *loop = file->loop;

	if (!loop)
		return;
	epoll_ctl(loop->epoll, EPOLL_CTL_DEL, file->fd, NULL);
	for (int i = 0; i < loop->n_ready; i++)
		if (loop->ready[i].data.ptr == file)
			loop->ready[i].data.ptr = NULL;
	loop->n_files--;
	file->loop = NULL;
}

static void dispatch_files(struct loop *loop)
{
	for (int i = 0; i < loop->n_ready; i++) {
		struct loop_file *file = loop->ready[i].data.ptr;
		uint32_t events;

		if (!file)
			continue;
		/* An earlier callback of this round may have asked for less. */
		events = loop->ready[i].events & (file->events | EPOLLERR | EPOLLHUP);
		if (!events)
			continue;
		if (file != &loop->timer_file)
			loop->has_dispatched = true;
		file->fn(file, events);
	}
	loop->n_ready = 0;
}

/* ---- timers ---- */

static void heap_put(struct loop *loop, unsigned position, struct loop_timer *timer)
{
	loop->timers[position] = timer;
	timer->position = position;
}

static void heap_rise(struct loop *loop, struct loop_timer *timer)
{
	unsigned at = timer->position;

	while (at > 0 && loop->timers[(at - 1) / 2]->at_ms > timer->at_ms) {
		heap_put(loop, at, loop->timers[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	heap_put(loop, at, timer);
}

static void heap_sink(struct loop *loop, struct loop_timer *timer)
{
	unsigned at = timer->position, child;

	while ((child = 2 * at + 1) < loop->n_timers) {
		if (child + 1 < loop->n_timers &&
		    loop->timers[child + 1]->at_ms < loop->timers[child]->at_ms)
			child++;
		if (loop->timers[child]->at_ms >= timer->at_ms)
			break;
		heap_put(loop, at, loop->timers[child]);
		at = child;
	}
	heap_put(loop, at, timer);
}

static int heap_grow(struct loop *loop)
{
	unsigned size = loop->timers_size ? 2 * loop->timers_size : 8;
	struct loop_timer **timers;

	timers = realloc(loop->timers, size * sizeof(struct loop_timer *));
	if (!timers)
		return error_origin(-ENOMEM);
	loop->timers = timers;
	loop->timers_size = size;
	return 0;
}

static void timer_file_ready(struct loop_file *file, uint32_t events)
{
	struct loop *loop = container_of(file, struct loop, timer_file);
	uint64_t n_expired;

	(void)events;
	/* Only wakes the loop up; the timers themselves are looked at after each sleep. */
	if (read(file->fd, &n_expired, sizeof(n_expired)) == sizeof(n_expired))
		loop->armed_ms = 0;
}

static int timer_file_open(struct loop *loop)
{
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (fd < 0)
		return error_origin(-errno);
	r = loop_file_add(loop, &loop->timer_file, fd, EPOLLIN, timer_file_ready);
	if (r)
		return error_trace(r);
	(void)TAKE_FD(fd);
	return 0;
}

int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ms, loop_timer_fn fn)
{
	int r;

	assert(!timer->loop || timer->loop == loop);
	if (!loop->timer_file.loop) {
		r = timer_file_open(loop);
		if (r)
			return error_trace(r);
	}
	if (!timer->loop) {
		if (loop->n_timers == loop->timers_size) {
			r = heap_grow(loop);
			if (r)
				return error_trace(r);
		}
		timer->loop = loop;
		heap_put(loop, loop->n_timers++, timer);
	}
	timer->fn = fn;
	timer->round = loop->round;
	/* One that is always armed in the past must not stand before all others for ever. */
	timer->at_ms = at_ms > loop->now_ms ? at_ms : loop->now_ms;
	heap_rise(loop, timer);
	heap_sink(loop, timer);
	return 0;
}

void loop_timer_cancel(struct loop_timer *timer)
{
	struct loop *loop = timer->loop;
	struct loop_timer *last;

	if (!loop)
		return;
	last = loop->timers[--loop->n_timers];
	timer->loop = NULL;
	if (last == timer)
		return;
	heap_put(loop, timer->position, last);
	heap_rise(loop, last);
	heap_sink(loop, last);
}

/* A timer that was armed in this round waits for the next, so that this ends. */
static void dispatch_timers(struct loop *loop)
{
	if (!loop->n_timers)
		return;
	loop->now_ms = time_boot_ms();
	while (loop->n_timers) {
		struct loop_timer *timer = loop->timers[0];

		if (timer->at_ms > loop->now_ms || timer->round == loop->round)
			break;
		loop_timer_cancel(timer);
		loop->has_dispatched = true;
		timer->fn(timer);
	}
}

/* Brings the timerfd in line with the heap; without timers it is off and the loop sleeps on. */
static int arm(struct loop *loop)
{
	uint64_t at_ms = 0;
	struct itimerspec when = {};

	if (loop->n_timers)
		at_ms = loop->timers[0]->at_ms ? loop->timers[0]->at_ms : 1;
	if (at_ms == loop->armed_ms)
		return 0;
	when.it_value.tv_sec = (time_t)(at_ms / 1000);
	when.it_value.tv_nsec = (long)(at_ms % 1000) * 1000000;
	if (timerfd_settime(loop->timer_file.fd, TFD_TIMER_ABSTIME, &when, NULL) < 0)
		return error_origin(-errno);
	loop->armed_ms = at_ms;
	return 0;
}

/* ---- the loop ---- */

int loop_new(struct loop **ret_loop)
{
	_cleanup_(loop_freep) struct loop *loop = NULL;

	loop = calloc(1, sizeof(*loop));
	if (!loop)
		return error_origin(-ENOMEM);
	loop->round = 1;
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll < 0)
		return error_origin(-errno);
	*ret_loop = TAKE(loop);
	return 0;
}

struct loop *loop_free(struct loop *loop)
{
	if (!loop)
		return NULL;
	while (loop->n_timers)
		loop_timer_cancel(loop->timers[0]);
	if (loop->timer_file.loop) {
		loop_file_remove(&loop->timer_file);
		close_fd(loop->timer_file.fd);
	}
	assert(!loop->n_files);
	close_fd(loop->epoll);
	free(loop->timers);
	free(loop);
	return NULL;
}

void loop_freep(struct loop **loop)
{
	*loop = loop_free(*loop);
}

uint64_t loop_round(const struct loop *loop)
{
	return loop->round;
}

int loop_turn(struct loop *loop, int timeout_ms)
{
	int r;

	assert(!loop->n_ready);
	r = arm(loop);
	if (r)
		return error_trace(r);
	r = epoll_wait(loop->epoll, loop->ready, READY_MAX, timeout_ms);
	if (r < 0 && errno != EINTR)
		return error_origin(-errno);
	loop->n_ready = r < 0 ? 0 : r;
	loop->round++;
	loop->has_dispatched = false;
	dispatch_files(loop);
	dispatch_timers(loop);
	if (loop->has_dispatched && loop->after_turn)
		loop->after_turn(loop->after_turn_userdata);
	return 0;
}

int loop_run(struct loop *loop)
{
	int r;

	while (!loop->is_stopped) {
		r = loop_turn(loop, -1);
		if (r)
			return error_trace(r);
	}
	loop->is_stopped = false;
	return loop->result;
}

void loop_stop(struct loop *loop, int result)
{
	loop->is_stopped = true;
	loop->result = result;
}

void loop_set_after_turn(struct loop *loop, void (*fn)(void *userdata), void *userdata)
{
	loop->after_turn = fn;
	loop->after_turn_userdata = userdata;
}
