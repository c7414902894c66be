#include "shim/shim.h"

#include <assert.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "broker/lib/log.h"
#include "shim/log_ring.h"
#include "shim/streams.h"

/* ---- states -------------------------------------------------------------- */

/* What the container's state says of init. */
static enum process_state init_state(const struct shim *shim, enum state state)
{
	switch (state) {
	case STATE_CREATING:
		return PROCESS_STARTING;
	case STATE_STOPPED:
		return PROCESS_STOPPED;
	case STATE_FAILED:
		return PROCESS_FAILED;
	default:
		return state_is_alive(state) ? PROCESS_RUNNING : shim->init.state;
	}
}

void shim_move(struct shim *shim, enum state next)
{
	enum process_state init = init_state(shim, next);

	assert(state_may_move(shim->state, next));
	log_debug("task=%s: %s -> %s", shim->config.task_id, state_name(shim->state),
		  state_name(next));
	shim->state = next;
	if (init != shim->init.state)
		process_move(&shim->init, init);
}

/* ---- the end ------------------------------------------------------------- */

static void on_linger(struct loop_timer *timer)
{
	struct shim *shim = container_of(timer, struct shim, linger);

	log_info("task=%s: nobody asks for it: ending", shim->config.task_id);
	(void)unlink(shim->config.socket);
	loop_stop(shim->loop, 0);
}

/*
 * The configuration goes while the lock's file is still there: who finds the lock
 * free, because its file was removed before the rest, finds nothing that a shim
 * could be started from.
 */
static void remove_config(const struct shim *shim)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/shim.msgpack", shim->config.bundle);

	if (path)
		(void)unlink(path);
}

static void end(struct shim *shim)
{
	struct why why = {};

	(void)unlink(shim->config.socket);
	remove_config(shim);
	if (file_remove_tree(AT_FDCWD, shim->config.bundle, &why))
		log_error("task=%s: %s", shim->config.task_id, why.text);
	loop_stop(shim->loop, 0);
}

void shim_consider_end(struct shim *shim)
{
	if (shim_is_busy(shim))
		return;
	if (shim->state == STATE_DELETED && !journal_is_unpublished(&shim->journal) &&
	    !shim->streaming.loggers)
		end(shim);
	else if ((shim->state == STATE_NEW || shim->state == STATE_FAILED) &&
		 !shim->control.n_connections && !shim->linger.loop)
		(void)loop_timer_set(shim->loop, &shim->linger, time_boot_ms() + SHIM_LINGER_MS,
				     on_linger);
}

/* ---- between two turns --------------------------------------------------- */

/* Pages of the program that were needed for what is done come back from the page cache. */
static int give_back_program(struct dl_phdr_info *info, size_t size, void *userdata)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	(void)size;
	(void)userdata;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[i];
		uintptr_t start = (info->dlpi_addr + part->p_vaddr) & ~(page - 1);

		if (part->p_type == PT_LOAD && !(part->p_flags & PF_W))
			(void)madvise((void *)start,
				      info->dlpi_addr + part->p_vaddr + part->p_memsz - start,
				      MADV_DONTNEED);
	}
	return 0;
}

/* Gives back what the heap, the stack and the program do not need while nothing happens. */
static void give_back_memory(void)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	uintptr_t top = (here & ~(page - 1)) - page, size = 32 * page;

	malloc_trim(0);
	/* Below this frame nothing is in use; ENOMEM where the stack never reached. */
	(void)madvise((void *)(top - size), size, MADV_DONTNEED);
	(void)dl_iterate_phdr(give_back_program, NULL);
}

static void after_turn(void *userdata)
{
	struct shim *shim = userdata;

	publisher_kick(&shim->publisher);
	if (shim->requests.first || shim_is_busy(shim) || shim->publisher.is_busy ||
	    streaming_is_busy(&shim->streaming))
		return;
	log_ring_trim(STDERR_FILENO);
	give_back_memory();
}

/* ---- making it ----------------------------------------------------------- */

static int open_parts(struct shim *shim, struct why *why)
{
	_cleanup_(cleanup_free) char *journal = NULL;
	int r;

	shim->rootfs = text_format("%s/rootfs", shim->config.bundle);
	journal = text_format("%s/journal", shim->config.bundle);
	if (!shim->rootfs || !journal)
		return error_origin(-ENOMEM);
	r = journal_open(&shim->journal, journal, shim_replay, shim, why);
	if (r)
		return r;
	r = publisher_init(&shim->publisher, shim);
	if (!r)
		r = shim_watch_signals(shim);
	return r ? why_errno(why, r, "cannot start") : 0;
}

int shim_init(struct shim *shim, struct loop *loop, struct shim_config *config, struct why *why)
{
	int r;

	*shim = (struct shim){
		.loop = loop, .config = *config, .journal = {.fd = -1}, .control = {.fd = -1}};
	*config = (struct shim_config){};
	process_init(&shim->init, shim, shim->config.container_id);
	shim->init.io = shim->config.io;
	processes_init(&shim->added);
	oom_init(&shim->oom, shim);
	runtime_init(&shim->runtime, loop, &shim->config);
	r = open_parts(shim, why);
	if (r)
		return error_trace(r);
	loop_set_after_turn(loop, after_turn, shim);
	return 0;
}

void shim_deinit(struct shim *shim)
{
	loop_timer_cancel(&shim->retry);
	loop_timer_cancel(&shim->linger);
	loop_timer_cancel(&shim->operation.timer);
	loop_signals_remove(&shim->signals);
	oom_deinit(&shim->oom);
	processes_deinit(&shim->added);
	streams_close(&shim->init);
	streaming_deinit(&shim->streaming);
	loop_timer_cancel(&shim->init.timer);
	process_forget(&shim->init);
	cgroup_deinit(&shim->cgroup);
	runtime_deinit(&shim->runtime);
	publisher_deinit(&shim->publisher);
	control_deinit(&shim->control);
	journal_deinit(&shim->journal);
	answers_deinit(&shim->requests.answers);
	schema_buffer_clear(&shim->requests.spare);
	shim_config_clear(&shim->config);
	free(shim->operation.text);
	free(shim->operation.work);
	free(shim->rootfs);
	shim->rootfs = NULL;
}
