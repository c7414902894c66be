/* See rebuild.h. The steps on the files of the store are store_rebuild.c's. */

#include "services/lib/rebuild.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/spawn.h"
#include "services/lib/store_private.h"

#define LOOK_MS    600000
#define SILENCE_MS 30000 /* of who reads the log */

bool rebuild_is_lost(int error)
{
	switch (error < 0 ? -error : error) {
	case ENOENT:
	case ENOTDIR:
	case ELOOP:
	case EINVAL:
	case EFBIG:
	case EIO:
	case EUCLEAN:
	case EBADMSG:
	case ENODATA:
	case EOPNOTSUPP:
		return true;
	}
	return false;
}

bool rebuild_is_whole(const struct rebuild *rebuild, const char *table)
{
	for (size_t i = 0; rebuild->tables[i]; i++)
		if (!strcmp(rebuild->tables[i], table))
			return rebuild->salvaged[i].is_whole;
	return false;
}

void rebuild_say(const struct rebuild *rebuild, const char *format, ...)
{
	va_list arguments;

	printf("%s: ", rebuild->definition->directory);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
}

/* ---- the event log, as its own program reads it ---- */

static int spawn_reader(const struct rebuild *rebuild, const char *const *topics, int to,
			pid_t *ret_pid)
{
	_cleanup_(cleanup_free) char *path = NULL;
	const char *argv[16] = {"davit-broker",        "--root",
				rebuild->paths->root,  "--state",
				rebuild->paths->state, "--print-events"};
	struct spawn_fd fds[] = {{to, 1}, {STDERR_FILENO, 2}};
	size_t n = 6;
	int r;

	for (size_t i = 0; topics[i] && n < ARRAY_SIZE(argv) - 1; i++)
		argv[n++] = topics[i];
	r = spawn_find_program("davit-broker", &path);
	return r
		       ?: spawn(&(struct spawn){.path = path,
						.argv = argv,
						.cwd = "/",
						.fds = fds,
						.n_fds = ARRAY_SIZE(fds)},
				ret_pid, NULL);
}

static bool read_all(int fd, void *data, size_t size)
{
	struct pollfd in = {.fd = fd, .events = POLLIN};
	uint8_t *at = data;

	while (size) {
		ssize_t n;

		if (poll(&in, 1, SILENCE_MS) <= 0)
			return false;
		n = read(fd, at, size);
		if (n <= 0)
			return false;
		at += n;
		size -= (size_t)n;
	}
	return true;
}

/* Each is its size (u32, as this machine has it) and its bytes; the last one has none, but whether events lack. */
static int take_events(int fd, int (*fn)(void *userdata, const struct bus_event *event),
		       void *userdata, bool *ret_end, uint32_t *ret_lacking)
{
	_cleanup_(cleanup_free) uint8_t *data = malloc(SCHEMA_MESSAGE_MAX);
	uint32_t size;
	int r = data ? 0 : error_origin(-ENOMEM);

	while (!r && read_all(fd, &size, sizeof(size))) {
		_cleanup_(bus_event_clear) struct bus_event event = {};

		if (!size)
			*ret_end = read_all(fd, ret_lacking, sizeof(*ret_lacking));
		if (!size || size > SCHEMA_MESSAGE_MAX || !read_all(fd, data, size))
			break;
		r = schema_unpack(schema_bus_event(), data, size, &event, NULL);
		r = r > 0 ? 0 : r ?: fn(userdata, &event);
	}
	return r;
}

int rebuild_events(struct rebuild *rebuild, const char *const *topics,
		   int (*fn)(void *userdata, const struct bus_event *event), void *userdata)
{
	_cleanup_(cleanup_fd) int ours = -1, theirs = -1;
	int pipe_fds[2], status, r;
	uint32_t lacking = 0;
	bool is_end = false;
	pid_t pid = 0;

	if (pipe2(pipe_fds, O_CLOEXEC))
		return error_origin(-errno);
	ours = pipe_fds[0];
	theirs = pipe_fds[1];
	r = spawn_reader(rebuild, topics, theirs, &pid);
	theirs = close_fd(theirs);
	if (r)
		return r;
	r = take_events(ours, fn, userdata, &is_end, &lacking);
	ours = close_fd(ours);
	/* Who reads a damaged log to where that can be read ends well. */
	if (store_reap(pid, SILENCE_MS, &status) && status && !r) {
		rebuild_say(
			rebuild,
			"the event log could not be read now: davit-broker --print-events has failed");
		return -EAGAIN;
	}
	rebuild->log = !is_end   ? REBUILD_LOG_DAMAGED
		       : lacking ? REBUILD_LOG_LACKING
				 : REBUILD_LOG_WHOLE;
	return r;
}

void rebuild_say_lost(const struct rebuild *rebuild, const char *what)
{
	static const char *const reasons[] = {
		[REBUILD_LOG_DAMAGED] = "it cannot be read, or not all of it",
		[REBUILD_LOG_LACKING] = "it does not have all its events any more",
	};

	if (rebuild->log != REBUILD_LOG_WHOLE)
		rebuild_say(rebuild, "missing: %s that the event log told of: %s", what,
			    reasons[rebuild->log]);
}

/* ---- the steps ---- */

static void tell_salvaged(const struct rebuild *rebuild)
{
	for (size_t i = 0; rebuild->tables[i]; i++) {
		const struct store_salvaged *salvaged = &rebuild->salvaged[i];
		const char *table = rebuild->tables[i];

		if (salvaged->is_whole && salvaged->n_records)
			rebuild_say(rebuild, "salvaged: %s: all %llu", table,
				    (unsigned long long)salvaged->n_records);
		else if (!salvaged->is_whole && salvaged->n_expected)
			rebuild_say(rebuild, "salvaged: %s: %llu of %llu; the others are lost",
				    table, (unsigned long long)salvaged->n_records,
				    (unsigned long long)salvaged->n_expected);
		else if (!salvaged->is_whole)
			rebuild_say(rebuild, "salvaged: %s: %llu; how many there were is not known",
				    table, (unsigned long long)salvaged->n_records);
	}
}

/* What is in place is whole before anything of it is in place. */
static int rebuild_locked(struct rebuild *rebuild, const char *directory, const char *reason,
			  struct why *why)
{
	_cleanup_(store_closep) struct store *store = NULL;
	_cleanup_(cleanup_free) char *aside = NULL;
	int r;

	r = store_rebuild_begin(directory, rebuild->definition->tables, rebuild->tables,
				rebuild->salvaged, &store, why);
	if (r)
		return r;
	tell_salvaged(rebuild);
	rebuild->store = store;
	if (rebuild->definition->rebuild)
		r = rebuild->definition->rebuild(rebuild);
	r = r ?: store_commit(store);
	if (r)
		return why_set(why, r, "what is there cannot be recorded: %s",
			       r < 0 ? strerror(-r) : "the store or the disk is full");
	store = store_close(store);
	r = store_rebuild_end(directory, rebuild->stamp, reason, &aside, why);
	if (r)
		return r;
	rebuild_say(rebuild, "the damaged file is in %s", aside);
	rebuild_say(rebuild,
		    "nothing is collected until it is accepted: look at what is there, then "
		    "`davit store accept %s`",
		    rebuild->definition->directory);
	return 0;
}

static int rebuild_if_damaged(struct rebuild *rebuild, const char *directory, struct why *why)
{
	_cleanup_(cleanup_fd) int lock_fd = -1;
	char reason[STORE_REASON_SIZE];
	int r;

	if (access(directory, F_OK))
		return why_errno(why, -errno, "there is no store '%s'", directory);
	/* Its service may have it open, and then need not be stopped to hear that nothing is wrong. */
	r = store_look(directory, LOOK_MS, reason);
	if (r == -EUCLEAN)
		r = store_lock_for_rebuild(directory, "store.lock", "its service", &lock_fd, why)
			    ?: store_look(directory, LOOK_MS, reason);
	if (!r) {
		rebuild_say(rebuild, "the store can be read: there is nothing to rebuild");
		return 0;
	}
	if (r != -EUCLEAN)
		return why_errno(why, r, "store '%s' cannot be read through", directory);
	rebuild_say(rebuild, "damaged: %s", reason);
	return rebuild_locked(rebuild, directory, reason, why);
}

int rebuild_run(const struct service_definition *definition, const struct paths *paths)
{
	_cleanup_(cleanup_free) char *directory = text_format("%s/%s", paths->root,
							      definition->directory);
	struct store_salvaged salvaged[STORE_TABLES_MAX] = {};
	const char *tables[STORE_TABLES_MAX + 1];
	char stamp[STORE_STAMP_SIZE];
	struct rebuild rebuild = {.definition = definition,
				  .paths = paths,
				  .stamp = stamp,
				  .tables = tables,
				  .salvaged = salvaged};
	struct why why = {};
	int r;

	umask(077);
	store_stamp(stamp);
	store_all_tables(definition->tables, tables);
	r = directory ? rebuild_if_damaged(&rebuild, directory, &why) : error_origin(-ENOMEM);
	if (r)
		fprintf(stderr, "%s: %s\n", definition->program,
			why.text[0] ? why.text : strerror(r < 0 ? -r : EIO));
	return r ? 1 : 0;
}
