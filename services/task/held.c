/*
 * Descriptors of a task's processes that this service keeps in case the shim
 * dies: pidfds, through which the kernel tells the next shim how a process ended
 * even if somebody else has reaped it by then, and masters of terminals, whose
 * last descriptor must not close. Pidfds are opened here, by pid and start time;
 * terminals are asked for, once a process with one runs. And the writing end of a
 * logged process' input, which is a FIFO: without it the process would read the end.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/pidfd.h>

#include "broker/lib/log.h"
#include "services/task/task.h"

struct task_held {
	struct task_held *next;
	char exec_id[ENVELOPE_NAME_MAX + 1]; /* "": init */
	int pidfd, terminal, input;
	bool is_given; /* to the shim that takes over now */
};

static struct task_held *find(struct task_shim *shim, const char *exec_id)
{
	struct task_held *held = shim->held;

	while (held && strcmp(held->exec_id, exec_id))
		held = held->next;
	return held;
}

static struct task_held *find_or_add(struct task_shim *shim, const char *exec_id)
{
	struct task_held *held = find(shim, exec_id);

	if (held)
		return held;
	held = calloc(1, sizeof(*held));
	if (!held)
		return NULL;
	snprintf(held->exec_id, sizeof(held->exec_id), "%s", exec_id);
	held->pidfd = held->terminal = held->input = -1;
	held->next = shim->held;
	shim->held = held;
	return held;
}

/* Closes what it gets when memory is out. */
void held_take(struct task_shim *shim, const char *exec_id, int pidfd, int terminal)
{
	struct task_held *held = find_or_add(shim, exec_id);

	if (!held) {
		close_fd(pidfd);
		close_fd(terminal);
		return;
	}
	if (pidfd >= 0) {
		close_fd(held->pidfd);
		held->pidfd = pidfd;
	}
	if (terminal >= 0) {
		close_fd(held->terminal);
		held->terminal = terminal;
	}
}

void held_open(struct task_shim *shim, const char *exec_id, uint64_t pid, uint64_t start_time)
{
	struct task_held *held = find(shim, exec_id);
	_cleanup_(cleanup_fd) int fd = -1;
	uint64_t found;

	if ((held && held->pidfd >= 0) || !pid || !start_time)
		return;
	fd = pidfd_open((pid_t)pid, 0);
	if (fd < 0) {
		if (errno != ESRCH)
			log_warning("task=%s: no pidfd of %llu: %s", shim->task_id,
				    (unsigned long long)pid, strerror(errno));
		return;
	}
	/* The process that the pidfd names had its start time before and after. */
	if (process_start_time((pid_t)pid, &found) || found != start_time)
		return;
	held_take(shim, exec_id, TAKE_FD(fd), -1);
}

void held_drop(struct task_shim *shim, const char *exec_id)
{
	struct task_held **at = &shim->held, *held;

	while (*at && strcmp((*at)->exec_id, exec_id))
		at = &(*at)->next;
	held = *at;
	if (!held)
		return;
	*at = held->next;
	close_fd(held->pidfd);
	close_fd(held->terminal);
	close_fd(held->input);
	free(held);
}

void held_drop_all(struct task_shim *shim)
{
	while (shim->held)
		held_drop(shim, shim->held->exec_id);
}

/* ---- inputs -------------------------------------------------------------- */

/* The shim removes the FIFO when it closes the input, so one that is closed is never opened again. */
void held_open_input(struct task_shim *shim, const char *exec_id, const char *path)
{
	struct task_held *held = find_or_add(shim, exec_id);

	if (held && held->input < 0)
		held->input = open(path, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
}

void held_close_input(struct task_shim *shim, const char *exec_id)
{
	struct task_held *held = find(shim, exec_id);

	if (held)
		held->input = close_fd(held->input);
}

/* ---- terminals ----------------------------------------------------------- */

struct asking {
	struct task_shim *shim;
	char exec_id[ENVELOPE_NAME_MAX + 1];
};

static void on_descriptors(void *userdata, enum bus_status status, const char *text, void *message)
{
	struct shim_descriptors_reply *reply = message;
	struct asking *asking = userdata;
	int fds[2] = {-1, -1}, pidfd = -1;
	size_t next = 0;

	if (status == BUS_OK) {
		shim_link_take_fds(asking->shim->link, fds);
		if (reply->pidfd)
			pidfd = fds[next++];
		held_take(asking->shim, asking->exec_id, pidfd, reply->terminal ? fds[next++] : -1);
		for (; next < ARRAY_SIZE(fds); next++)
			close_fd(fds[next]);
	} else if (status != BUS_CANCELED && status != BUS_UNAVAILABLE && status != BUS_NOT_FOUND) {
		log_debug("task=%s: no terminal of '%s': %s", asking->shim->task_id,
			  asking->exec_id, text);
	}
	free(asking);
}

void held_ask_terminal(struct task_shim *shim, const char *exec_id)
{
	struct shim_process_request request = {.exec_id = (char *)exec_id};
	struct task_held *held = find(shim, exec_id);
	struct asking *asking;
	uint8_t id[ID_SIZE];

	if (!shim->link || (held && held->terminal >= 0))
		return;
	asking = calloc(1, sizeof(*asking));
	if (!asking)
		return;
	asking->shim = shim;
	snprintf(asking->exec_id, sizeof(asking->exec_id), "%s", exec_id);
	id_make(id);
	if (shim_link_call(shim->link, "shim.descriptors", id, time_boot_ms() + SHIM_HELLO_MS,
			   &request, on_descriptors, asking))
		free(asking);
}

/* ---- giving them back ---------------------------------------------------- */

struct giving {
	struct task_shim *shim;
	void (*fn)(struct task_shim *shim);
};

static void give_next(struct giving *giving);

static void on_given(void *userdata, enum bus_status status, const char *text, void *reply)
{
	struct giving *giving = userdata;

	(void)reply;
	if (status == BUS_CANCELED || status == BUS_UNAVAILABLE) {
		free(giving);
		return;
	}
	if (status != BUS_OK)
		log_debug("task=%s: its shim does not take a descriptor: %s", giving->shim->task_id,
			  text);
	give_next(giving);
}

static int give(struct giving *giving, struct task_held *held)
{
	struct shim_adopt_request request = {.exec_id = held->exec_id,
					     .pidfd = held->pidfd >= 0,
					     .terminal = held->terminal >= 0};
	uint8_t id[ID_SIZE];
	int fds[2];
	size_t n = 0;

	held->is_given = true;
	if (held->pidfd >= 0)
		fds[n++] = held->pidfd;
	if (held->terminal >= 0)
		fds[n++] = held->terminal;
	id_make(id);
	return shim_link_call_fds(giving->shim->link, "shim.adopt", id,
				  time_boot_ms() + SHIM_HELLO_MS, &request, fds, n, on_given,
				  giving);
}

/* Others may be taken or dropped between two. */
static void give_next(struct giving *giving)
{
	struct task_held *held = giving->shim->held;

	while (held && held->is_given)
		held = held->next;
	if (held && !give(giving, held))
		return;
	giving->fn(giving->shim);
	free(giving);
}

void held_give(struct task_shim *shim, void (*fn)(struct task_shim *shim))
{
	struct giving *giving = calloc(1, sizeof(*giving));

	if (!giving) {
		fn(shim);
		return;
	}
	for (struct task_held *held = shim->held; held; held = held->next)
		held->is_given = false;
	*giving = (struct giving){.shim = shim, .fn = fn};
	give_next(giving);
}
