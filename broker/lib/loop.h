#pragma once
/*
 * The event loop: level-triggered epoll, timers on CLOCK_BOOTTIME, signals by
 * signalfd, children by pidfd, and a mailbox through which other threads (nng's)
 * hand work to the loop's thread. One loop, one thread. Callbacks may add and
 * remove any source, themselves included, at any time.
 *
 * Sources are embedded in their owners and must outlive their registration.
 * An idle loop without timers never wakes up.
 */

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop;
struct loop_file;
struct loop_timer;
struct loop_child;
struct loop_mail;
struct loop_signals;

/* CLOCK_BOOTTIME in ms and ns; CLOCK_REALTIME in ns since 1970. */
uint64_t time_boot_ms(void);
uint64_t time_boot_ns(void);
uint64_t time_real_ns(void);

int loop_new(struct loop **ret_loop);
/* Files, children, signals and mail must have been removed before; timers are cancelled. Not from a
 * callback. */
struct loop *loop_free(struct loop *loop);
void loop_freep(struct loop **loop);

/* Dispatches until loop_stop(); returns the value given there, or a negative errno. */
int loop_run(struct loop *loop);
/* One round: waits at most @timeout_ms (-1: until something happens), dispatches what is ready. */
int loop_turn(struct loop *loop, int timeout_ms);
/* Of the turn that is under way. */
uint64_t loop_round(const struct loop *loop);
void loop_stop(struct loop *loop, int result);

/* Called after each round in which anything was dispatched, before the loop sleeps again: where a
 * service commits its turn. At most one. */
void loop_set_after_turn(struct loop *loop, void (*fn)(void *userdata), void *userdata);

/* ---- file descriptors ---- */
typedef void (*loop_file_fn)(struct loop_file *file, uint32_t events);
struct loop_file {
	struct loop *loop; /* NULL: not registered */
	loop_file_fn fn;
	int fd; /* borrowed */
	uint32_t events;
};
int loop_file_add(struct loop *loop, struct loop_file *file, int fd, uint32_t events,
		  loop_file_fn fn);
/* Even with @events 0 the kernel reports EPOLLERR and EPOLLHUP: remove what must stay silent. */
int loop_file_set(struct loop_file *file, uint32_t events);
/* Must be called before @fd is closed. Safe on one that is not registered. */
void loop_file_remove(struct loop_file *file);

/* ---- timers (one shot) ---- */
typedef void (*loop_timer_fn)(struct loop_timer *timer);
struct loop_timer {
	struct loop *loop; /* NULL: not armed */
	loop_timer_fn fn;
	uint64_t at_ms;    /* CLOCK_BOOTTIME */
	unsigned position; /* in the heap */
	unsigned round;    /* in which it was armed */
};
/* Arms or re-arms. A time in the past fires in the next round. */
int loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ms, loop_timer_fn fn);
void loop_timer_cancel(struct loop_timer *timer);

/* ---- children ---- */
typedef void (*loop_child_fn)(struct loop_child *child, const siginfo_t *info);
struct loop_child {
	struct loop_file file;
	loop_child_fn fn;
	int pid;
	int pidfd; /* owned; -1: not watched */
};
/* Watches a child of this process by pidfd; reaps it with waitid(P_PIDFD), then calls @fn once, with
 * @child already removed. If somebody else reaped it, all of @info is 0. */
int loop_child_add(struct loop *loop, struct loop_child *child, int pid, loop_child_fn fn);
/* Forgets it without reaping. */
void loop_child_remove(struct loop_child *child);

/* ---- signals ---- */
typedef void (*loop_signal_fn)(struct loop_signals *signals, int signal);
struct loop_signals {
	struct loop_file file;
	loop_signal_fn fn;
	int fd;
};
/* Blocks @mask in the calling thread and delivers by signalfd. Removal leaves it blocked. */
int loop_signals_add(struct loop *loop, struct loop_signals *signals, const sigset_t *mask,
		     loop_signal_fn fn);
void loop_signals_remove(struct loop_signals *signals);

/* ---- mail from other threads ---- */
struct loop_mail_item {
	struct loop_mail_item *next;
};
typedef void (*loop_mail_fn)(struct loop_mail *mail, struct loop_mail_item *item);
struct loop_mail {
	struct loop_file file;
	loop_mail_fn fn;
	struct loop_mail_item *first, **last;
	void *lock;       /* pthread_mutex_t *, owned */
	int fd;           /* eventfd, owned */
	bool *is_removed; /* while it is being delivered: where to note a removal */
};
int loop_mail_add(struct loop *loop, struct loop_mail *mail, loop_mail_fn fn);
/* Nobody may post any more. What was not delivered stays in mail->first, for its owner to free. */
void loop_mail_remove(struct loop_mail *mail);
/* From any thread; never blocks beyond a short lock. @item belongs to the callback from here on.
 * Items arrive in order, each once. */
void loop_mail_post(struct loop_mail *mail, struct loop_mail_item *item);
