#include "shim/oom.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#include "broker/lib/log.h"
#include "shim/shim.h"

#define LOOKS    12 /* after an eventfd spoke, 5 ms apart and then doubling */
#define LOOK_MS  5
#define PAUSE_MS 1000 /* between two events of kills that no exit tells of */

/* ---- telling ------------------------------------------------------------- */

int shim_note_oom(struct shim *shim, uint64_t kills)
{
	struct oom *oom = &shim->oom;
	int r;

	if (kills <= oom->kills)
		return 0;
	r = shim_journal_oom(shim);
	if (r)
		return r;
	oom->kills = kills;
	oom->told_ms = time_boot_ms();
	return 0;
}

static void on_look(struct loop_timer *timer);

static void look_again(struct oom *oom, uint64_t ms)
{
	(void)loop_timer_set(oom->shim->loop, &oom->timer, time_boot_ms() + ms, on_look);
}

static void look(struct oom *oom)
{
	uint64_t kills = cgroup_oom_kills(&oom->shim->cgroup), now_ms = time_boot_ms();

	if (!process_is_alive(&oom->shim->init))
		return;
	if (kills <= oom->kills) {
		if (oom->looks) {
			oom->looks--;
			look_again(oom, LOOK_MS << (LOOKS - oom->looks) / 2);
		}
		return;
	}
	oom->looks = 0;
	if (oom->told_ms && now_ms < oom->told_ms + PAUSE_MS)
		look_again(oom, oom->told_ms + PAUSE_MS - now_ms);
	else
		(void)shim_note_oom(oom->shim, kills);
}

static void on_look(struct loop_timer *timer)
{
	look(container_of(timer, struct oom, timer));
}

/* ---- hearing ------------------------------------------------------------- */

static void stop(struct oom *oom)
{
	loop_file_remove(&oom->file);
	loop_timer_cancel(&oom->timer);
	oom->fd = close_fd(oom->fd);
}

static bool take_inotify(int fd)
{
	_Alignas(struct inotify_event) char events[1024];
	bool is_gone = false;
	ssize_t n;

	while ((n = read(fd, events, sizeof(events))) > 0)
		for (ssize_t at = 0; at < n;) {
			struct inotify_event *event = (void *)(events + at);

			is_gone |= event->mask & IN_IGNORED;
			at += (ssize_t)(sizeof(*event) + event->len);
		}
	return !is_gone;
}

static void on_event(struct loop_file *file, uint32_t events)
{
	struct oom *oom = container_of(file, struct oom, file);
	uint64_t count;

	(void)events;
	if (oom->is_v2) {
		if (!take_inotify(oom->fd)) {
			stop(oom);
			return;
		}
	} else {
		(void)!read(oom->fd, &count, sizeof(count));
		oom->looks = LOOKS;
		/* The cgroup's removal speaks too. */
		if (access(oom->shim->cgroup.memory, F_OK)) {
			stop(oom);
			return;
		}
	}
	if (!oom->timer.loop)
		look(oom);
}

static int open_v2(const char *directory)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/memory.events", directory);
	_cleanup_(cleanup_fd) int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	if (!path || fd < 0 || inotify_add_watch(fd, path, IN_MODIFY) < 0)
		return -1;
	return TAKE_FD(fd);
}

static int open_v1(const char *directory)
{
	_cleanup_(cleanup_fd) int dir = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(cleanup_fd) int control = -1, order = -1, fd = -1;
	char text[32];
	int n;

	if (dir < 0)
		return -1;
	control = openat(dir, "memory.oom_control", O_RDONLY | O_CLOEXEC);
	order = openat(dir, "cgroup.event_control", O_WRONLY | O_CLOEXEC);
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	n = snprintf(text, sizeof(text), "%d %d", fd, control);
	if (control < 0 || order < 0 || fd < 0 || write(order, text, (size_t)n) != n)
		return -1;
	return TAKE_FD(fd);
}

void oom_watch(struct oom *oom)
{
	const struct cgroup *cgroup = &oom->shim->cgroup;

	stop(oom);
	if (!cgroup->memory)
		return;
	oom->is_v2 = cgroup->is_v2;
	oom->fd = cgroup->is_v2 ? open_v2(cgroup->memory) : open_v1(cgroup->memory);
	if (oom->fd < 0 || loop_file_add(oom->shim->loop, &oom->file, oom->fd, EPOLLIN, on_event)) {
		log_debug("task=%s: kills for memory are seen at exits only",
			  oom->shim->config.task_id);
		oom->fd = close_fd(oom->fd);
	}
}

void oom_init(struct oom *oom, struct shim *shim)
{
	*oom = (struct oom){.shim = shim, .fd = -1};
}

void oom_deinit(struct oom *oom)
{
	if (oom->shim)
		stop(oom);
}
