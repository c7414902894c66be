/*
 * Removing files. What is to go is moved into trash/ at once, so that its name is
 * free; a little of it is then removed here, all that takes longer by a child. In
 * one turn of the loop that is little in all, however many were removed. What a
 * child has left, or could not be started for, is looked for in trash/ again later.
 */

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/image/image.h"

#define TURN_ENTRIES 64          /* that are removed here in one turn of the loop */
#define TURN_BYTES   (16u << 20) /* and of their files */
#define BATCH_MAX    512         /* names for one child */
#define RETRY_MS     15000       /* before what was left is tried again; twice as long each time */
#define RETRY_MAX_MS 3600000

struct trash_waiter {
	struct trash_waiter *next;
	void (*fn)(void *userdata);
	void *userdata;
};

static void start_remover(struct image_service *image);
static void left(struct image_service *image, const char *why);

/* ---- a little ---- */

static int remove_small(int dir, const char *name, struct trash_budget *budget);

static int remove_children(int fd, struct trash_budget *budget)
{
	_cleanup_(cleanup_dir) DIR *dir = fdopendir(fd);
	struct dirent *entry;
	int r;

	if (!dir) {
		close_fd(fd);
		return error_origin(-ENOMEM);
	}
	while ((entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		r = remove_small(dirfd(dir), entry->d_name, budget);
		if (r)
			return r;
	}
	return 0;
}

/* -EAGAIN: it is not little. */
static int remove_small(int dir, const char *name, struct trash_budget *budget)
{
	struct stat status;
	uint64_t bytes;
	int fd;
	int r;

	if (fstatat(dir, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	bytes = S_ISREG(status.st_mode) ? (uint64_t)status.st_blocks * 512 : 0;
	if (!budget->entries || bytes > budget->bytes)
		return -EAGAIN;
	budget->entries--;
	budget->bytes -= bytes;
	if (!S_ISDIR(status.st_mode))
		return unlinkat(dir, name, 0) < 0 ? -errno : 0;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = remove_children(fd, budget);
	if (r)
		return r;
	return unlinkat(dir, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

/* ---- much ---- */

static void tell_waiters(struct image_service *image)
{
	while (!image->is_removing && !image->trash_names.count && image->trash_waiters) {
		struct trash_waiter *waiter = image->trash_waiters;

		image->trash_waiters = waiter->next;
		waiter->fn(waiter->userdata);
		free(waiter);
	}
}

static void on_retry(struct loop_timer *timer)
{
	struct image_service *image = container_of(timer, struct image_service, trash_retry);

	schema_strs_clear(&image->trash_names);
	if (trash_clean(image))
		left(image, "trash/ cannot be read");
	start_remover(image);
	tell_waiters(image);
}

/* Nobody waits for what comes so much later. */
static void left(struct image_service *image, const char *why)
{
	uint64_t after_ms = image->trash_retry_ms ?: RETRY_MS;

	log_error("trash=left error=\"%s\"", why);
	schema_strs_clear(&image->trash_names);
	if (image->trash_retry.loop || image->is_draining)
		return;
	(void)loop_timer_set(service_loop(image->service), &image->trash_retry,
			     time_boot_ms() + after_ms, on_retry);
	image->trash_retry_ms = after_ms < RETRY_MAX_MS / 2 ? 2 * after_ms : RETRY_MAX_MS;
}

static void removed(void *userdata, void *data, const struct why *why)
{
	struct image_service *image = userdata;
	const struct work_remove_result *result = data;

	image->is_removing = false;
	if (!result || result->error)
		left(image, result ? result->error : why->text);
	else if (!image->trash_retry.loop)
		image->trash_retry_ms = 0;
	start_remover(image);
	tell_waiters(image);
}

static int take_batch(struct image_service *image, struct schema_strs *batch)
{
	size_t n = image->trash_names.count < BATCH_MAX ? image->trash_names.count : BATCH_MAX;
	int r = 0;

	for (size_t i = 0; i < n && !r; i++)
		r = schema_strs_add(batch, image->trash_names.items[i]);
	if (r)
		return error_trace(r);
	for (size_t i = 0; i < n; i++)
		free(image->trash_names.items[i]);
	image->trash_names.count -= n;
	memmove(image->trash_names.items, image->trash_names.items + n,
		image->trash_names.count * sizeof(*image->trash_names.items));
	return 0;
}

static void start_remover(struct image_service *image)
{
	_cleanup_(work_remove_request_clear) struct work_remove_request request = {};
	struct why why = {};
	int r;

	if (image->is_removing || !image->trash_names.count || !image->is_ready ||
	    image->is_draining)
		return;
	r = take_batch(image, &request.names);
	if (!r)
		r = image_work_start(image, "remove", schema_work_remove_request(), &request,
				     &image->trash, 1, schema_work_remove_result(), 0, removed,
				     image, &why);
	image->is_removing = !r;
	if (r)
		left(image, why.text[0] ? why.text : strerror(r < 0 ? -r : EIO));
}

/* ---- taking ---- */

static void turn_is_over(struct loop_timer *timer)
{
	(void)timer;
}

static struct trash_budget *budget_of_turn(struct image_service *image)
{
	if (!image->trash_timer.loop) {
		image->trash_budget = (struct trash_budget){TURN_ENTRIES, TURN_BYTES};
		(void)loop_timer_set(service_loop(image->service), &image->trash_timer, 0,
				     turn_is_over);
	}
	return &image->trash_budget;
}

void trash_take(struct image_service *image, int directory, const char *name)
{
	char place[40];

	snprintf(place, sizeof(place), "%d-%llu", getpid(),
		 (unsigned long long)image->next_trash++);
	if (renameat(directory, name, image->trash, place) < 0) {
		if (errno != ENOENT)
			log_error("trash=%s error=\"%s\"", name, strerror(errno));
		return;
	}
	if (!remove_small(image->trash, place, budget_of_turn(image)))
		return;
	if (schema_strs_add(&image->trash_names, place))
		left(image, "out of memory");
	start_remover(image);
}

struct taking {
	struct image_service *image;
	int directory;
	char *name, *digest;
	bool is_wanted;
};

static void taking_free(void *userdata)
{
	struct taking *taking = userdata;

	free(taking->name);
	free(taking->digest);
	free(taking);
}

/* A blob may have come back within the same turn. */
static int look(void *userdata)
{
	struct taking *taking = userdata;

	taking->is_wanted = content_find(taking->image, taking->digest) != STORE_E_NOT_FOUND;
	return 0;
}

static void take(void *userdata)
{
	struct taking *taking = userdata;

	if (taking->digest && service_transact(taking->image->service, look, taking))
		taking->is_wanted = true;
	if (!taking->is_wanted)
		trash_take(taking->image, taking->directory, taking->name);
	taking_free(taking);
}

int trash_after_commit(struct image_service *image, int directory, const char *name,
		       const char *digest)
{
	struct taking *taking = calloc(1, sizeof(*taking));
	int r;

	if (!taking)
		return error_origin(-ENOMEM);
	taking->image = image;
	taking->directory = directory;
	taking->name = strdup(name);
	taking->digest = digest ? strdup(digest) : NULL;
	r = taking->name && (!digest || taking->digest)
		    ? service_after_commit(image->service, take, taking_free, taking)
		    : -ENOMEM;
	if (r)
		taking_free(taking);
	return error_trace(r);
}

/* ---- waiting ---- */

int trash_wait(struct image_service *image, void (*fn)(void *userdata), void *userdata)
{
	struct trash_waiter *waiter = malloc(sizeof(*waiter));

	if (!waiter)
		return error_origin(-ENOMEM);
	*waiter =
		(struct trash_waiter){.next = image->trash_waiters, .fn = fn, .userdata = userdata};
	image->trash_waiters = waiter;
	tell_waiters(image);
	return 0;
}

void trash_forget_waiter(struct image_service *image, void *userdata)
{
	struct trash_waiter **at = &image->trash_waiters, *waiter;

	while ((waiter = *at)) {
		if (waiter->userdata == userdata) {
			*at = waiter->next;
			free(waiter);
		} else {
			at = &waiter->next;
		}
	}
}

/* ---- start and end ---- */

/* What an earlier process left. */
int trash_clean(struct image_service *image)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int fd;

	fd = openat(image->trash, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return error_origin(-EIO);
	}
	while ((entry = readdir(dir))) {
		int r = entry->d_name[0] == '.'
				? 0
				: schema_strs_add(&image->trash_names, entry->d_name);

		if (r)
			return error_trace(r);
	}
	return 0;
}

void trash_start(struct image_service *image)
{
	start_remover(image);
}

void trash_close(struct image_service *image)
{
	loop_timer_cancel(&image->trash_timer);
	loop_timer_cancel(&image->trash_retry);
	while (image->trash_waiters)
		trash_forget_waiter(image, image->trash_waiters->userdata);
	schema_strs_clear(&image->trash_names);
}
