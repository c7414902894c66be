/* Children, signals and mail: sources made of a descriptor of their own on the loop. */

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/error.h"
#include "broker/lib/loop.h"

/* ---- children ---- */

static void child_ready(struct loop_file *file, uint32_t events)
{
	struct loop_child *child = container_of(file, struct loop_child, file);
	siginfo_t info = {};

	(void)events;
	if (waitid(P_PIDFD, (id_t)child->pidfd, &info, WEXITED | WNOHANG) < 0)
		memset(&info, 0, sizeof(info));
	else if (!info.si_pid)
		return;
	loop_child_remove(child);
	child->fn(child, &info);
}

int loop_child_add(struct loop *loop, struct loop_child *child, int pid, loop_child_fn fn)
{
	_cleanup_(cleanup_fd) int pidfd = -1;
	int r;

	/* Close-on-exec by the kernel's own choice. */
	pidfd = pidfd_open(pid, 0);
	if (pidfd < 0)
		return error_origin(-errno);
	r = loop_file_add(loop, &child->file, pidfd, EPOLLIN, child_ready);
	if (r)
		return error_trace(r);
	child->fn = fn;
	child->pid = pid;
	child->pidfd = TAKE_FD(pidfd);
	return 0;
}

void loop_child_remove(struct loop_child *child)
{
	if (!child->file.loop)
		return;
	loop_file_remove(&child->file);
	child->pidfd = close_fd(child->pidfd);
}

/* ---- signals ---- */

/* One signal a round: the callback may be the last that is done with @signals. */
static void signals_ready(struct loop_file *file, uint32_t events)
{
	struct loop_signals *signals = container_of(file, struct loop_signals, file);
	struct signalfd_siginfo info;

	(void)events;
	if (read(signals->fd, &info, sizeof(info)) == sizeof(info))
		signals->fn(signals, (int)info.ssi_signo);
}

int loop_signals_add(struct loop *loop, struct loop_signals *signals, const sigset_t *mask,
		     loop_signal_fn fn)
{
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	r = pthread_sigmask(SIG_BLOCK, mask, NULL);
	if (r)
		return error_origin(-r);
	fd = signalfd(-1, mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return error_origin(-errno);
	r = loop_file_add(loop, &signals->file, fd, EPOLLIN, signals_ready);
	if (r)
		return error_trace(r);
	signals->fn = fn;
	signals->fd = TAKE_FD(fd);
	return 0;
}

void loop_signals_remove(struct loop_signals *signals)
{
	if (!signals->file.loop)
		return;
	loop_file_remove(&signals->file);
	signals->fd = close_fd(signals->fd);
}

/* ---- mail ---- */

/* So many items are delivered in one round, that files and timers get their turn. */
#define MAIL_ROUND_MAX 256

static void mail_ring(struct loop_mail *mail)
{
	/* Fails only if the counter is full, and then the bell rings already. */
	if (eventfd_write(mail->fd, 1) < 0)
		assert(errno == EAGAIN);
}

static struct loop_mail_item *mail_take(struct loop_mail *mail)
{
	struct loop_mail_item *item;

	pthread_mutex_lock(mail->lock);
	item = mail->first;
	if (item)
		mail->first = item->next;
	if (!mail->first)
		mail->last = &mail->first;
	pthread_mutex_unlock(mail->lock);
	return item;
}

/* The newest that waits, or NULL. */
static struct loop_mail_item *mail_newest(struct loop_mail *mail)
{
	struct loop_mail_item *newest;

	pthread_mutex_lock(mail->lock);
	newest = mail->first ? container_of(mail->last, struct loop_mail_item, next) : NULL;
	pthread_mutex_unlock(mail->lock);
	return newest;
}

/*
 * Takes what was there when it began: what is posted meanwhile comes in the next
 * round, after the other sources. The last of a batch is delivered without
 * looking at @mail afterwards only if the callback removed it: `is_removed`
 * stands on this stack, because the mail's owner may be gone by then.
 */
static void mail_ready(struct loop_file *file, uint32_t events)
{
	struct loop_mail *mail = container_of(file, struct loop_mail, file);
	struct loop_mail_item *item, *newest;
	bool is_removed = false, is_newest = false;
	uint64_t n_rings;

	(void)events;
	if (read(mail->fd, &n_rings, sizeof(n_rings)) < 0)
		return;
	newest = mail_newest(mail);
	mail->is_removed = &is_removed;
	for (unsigned i = 0; newest && i < MAIL_ROUND_MAX && !is_newest; i++) {
		item = mail_take(mail);
		is_newest = item == newest; /* the callback may free it, or post it again */
		mail->fn(mail, item);
		if (is_removed)
			return;
	}
	mail->is_removed = NULL;
	pthread_mutex_lock(mail->lock);
	if (mail->first)
		mail_ring(mail);
	pthread_mutex_unlock(mail->lock);
}

static pthread_mutex_t *mail_lock_new(void)
{
	pthread_mutex_t *lock = malloc(sizeof(*lock));

	if (lock)
		pthread_mutex_init(lock, NULL);
	return lock;
}

int loop_mail_add(struct loop *loop, struct loop_mail *mail, loop_mail_fn fn)
{
	_cleanup_(cleanup_free) pthread_mutex_t *lock = NULL;
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	lock = mail_lock_new();
	if (!lock)
		return error_origin(-ENOMEM);
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return error_origin(-errno);
	r = loop_file_add(loop, &mail->file, fd, EPOLLIN, mail_ready);
	if (r)
		return error_trace(r);
	mail->fn = fn;
	mail->first = NULL;
	mail->last = &mail->first;
	mail->is_removed = NULL;
	mail->lock = TAKE(lock);
	mail->fd = TAKE_FD(fd);
	return 0;
}

void loop_mail_remove(struct loop_mail *mail)
{
	if (!mail->file.loop)
		return;
	loop_file_remove(&mail->file);
	if (mail->is_removed)
		*mail->is_removed = true;
	/* A poster whose item was delivered may still be in the lock, on its way out. */
	pthread_mutex_lock(mail->lock);
	mail->fd = close_fd(mail->fd);
	pthread_mutex_unlock(mail->lock);
	pthread_mutex_destroy(mail->lock);
	free(mail->lock);
	mail->lock = NULL;
}

/* Rings inside the lock: outside it the receiver might have closed the descriptor already. */
void loop_mail_post(struct loop_mail *mail, struct loop_mail_item *item)
{
	item->next = NULL;
	pthread_mutex_lock(mail->lock);
	*mail->last = item;
	mail->last = &item->next;
	if (mail->first == item)
		mail_ring(mail);
	pthread_mutex_unlock(mail->lock);
}
