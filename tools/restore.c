/* davit restore: puts the stores of a backup back. */

#include "tools/backup.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"

#define MANIFEST_MAX (1u << 20)
#define STORES_MAX   64
#define CHUNK        65536

struct restore_options {
	bool force;
};

struct restore {
	struct context *context;
	char *directory; /* of the backup */
	json_t *manifest;
	uint64_t time_ns;
	bool force;
	bool has_containers; /* that run */
};

static void restore_clear(struct restore *restore)
{
	free(restore->directory);
	json_decref(restore->manifest);
}

/* ---- the backup ---- */

static int read_manifest(struct restore *restore)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/" BACKUP_MANIFEST, restore->directory);
	_cleanup_(cleanup_free) char *text = NULL;
	struct schema_fault fault = {};
	size_t size;
	int r = path ? file_read(AT_FDCWD, path, MANIFEST_MAX, &text, &size) : -ENOMEM;

	if (r)
		return fail(restore->context, "'%s' is no backup: %s: %s", restore->directory,
			    BACKUP_MANIFEST, strerror(-r));
	restore->manifest = json_parse(text, size, MANIFEST_MAX, &fault);
	if (json_integer_value(json_object_get(restore->manifest, "format")) != BACKUP_FORMAT)
		return fail(restore->context,
			    "'%s' is not the manifest of a backup that this davit "
			    "knows",
			    path);
	restore->time_ns =
		(uint64_t)json_integer_value(json_object_get(restore->manifest, "time_ns"));
	return EXIT_OK;
}

static const char *text_of(const json_t *store, const char *key)
{
	return json_string_value(json_object_get(store, key)) ?: "";
}

static bool is_name(const char *name)
{
	return *name && name[0] != '.' && !strchr(name, '/');
}

static char *copy_path(const struct restore *restore, const json_t *store)
{
	return text_format("%s/%s/%s/data.mdb", restore->directory, text_of(store, "kind"),
			   text_of(store, "name"));
}

/* Beneath the root; no part of it leads elsewhere. */
static bool is_file_name(const char *name)
{
	return *name && name[0] != '/' && name[0] != '.' && !strstr(name, "/.") &&
	       !strstr(name, "//");
}

static bool is_durable(const json_t *store)
{
	return !strcmp(text_of(store, "kind"), "durable");
}

static int fail_manifest(struct restore *restore)
{
	return fail(restore->context, "the manifest of '%s' is damaged", restore->directory);
}

static int check_digest(struct restore *restore, const char *path, const json_t *store)
{
	char digest[BACKUP_DIGEST_SIZE];
	uint64_t size = 0;
	int r;

	r = backup_digest(path, &size, digest);
	if (r)
		return fail(restore->context, "%s: %s", path, strerror(-r));
	if (size != (uint64_t)json_integer_value(json_object_get(store, "size")) ||
	    strcmp(digest, text_of(store, "digest")))
		return fail(
			restore->context,
			"%s is damaged: it has %llu bytes and %s, the manifest says %lld and %s",
			path, (unsigned long long)size, digest,
			json_integer_value(json_object_get(store, "size")),
			text_of(store, "digest"));
	return EXIT_OK;
}

static int check_copy(struct restore *restore, const json_t *store)
{
	_cleanup_(cleanup_free) char *path = copy_path(restore, store);

	if (!path || !is_name(text_of(store, "name")) || !is_name(text_of(store, "kind")))
		return fail_manifest(restore);
	return check_digest(restore, path, store);
}

static int check_file(struct restore *restore, const json_t *file)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/files/%s", restore->directory,
							 text_of(file, "name"));

	if (!path || !is_file_name(text_of(file, "name")))
		return fail_manifest(restore);
	return check_digest(restore, path, file);
}

/* ---- what is there ---- */

static bool is_locked(const char *path)
{
	_cleanup_(cleanup_fd) int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

	return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK;
}

static bool is_served(const char *socket_path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_fd) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(socket_path) >= sizeof(address.sun_path))
		return false;
	memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
	return fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address));
}

static int check_down(struct restore *restore)
{
	_cleanup_(cleanup_free) char *up = text_format("%s/up.lock", restore->context->paths.state);

	if (!up)
		return fail(restore->context, "out of memory");
	if (is_locked(up) || is_served(restore->context->paths.bus))
		return fail(restore->context, "davit is up in %s: `davit down` first",
			    restore->context->paths.state);
	return EXIT_OK;
}

/* Their shims go on telling a log that does not know them. */
static int check_containers(struct restore *restore)
{
	_cleanup_(cleanup_free) char *bundles = text_format("%s/bundles",
							    restore->context->paths.state);
	_cleanup_(cleanup_dir) DIR *dir = bundles ? opendir(bundles) : NULL;
	struct dirent *entry;

	while (!restore->has_containers && dir && (entry = readdir(dir))) {
		_cleanup_(cleanup_free) char *lock = text_format("%s/%s/lock", bundles,
								 entry->d_name);

		restore->has_containers = entry->d_name[0] != '.' && lock && is_locked(lock);
		if (restore->has_containers && !restore->force)
			return fail(restore->context,
				    "containers run (task %s): end them, or use --force",
				    entry->d_name);
	}
	return EXIT_OK;
}

static int check_present(struct restore *restore, const json_t *store)
{
	const char *root = restore->context->paths.root, *name = text_of(store, "name");
	_cleanup_(cleanup_free) char *data = text_format("%s/%s/data.mdb", root, name);
	_cleanup_(cleanup_free) char *lock = text_format("%s/%s/store.lock", root, name);
	struct stat status;

	if (!data || !lock)
		return fail(restore->context, "out of memory");
	if (is_locked(lock))
		return fail(restore->context, "store %s is open: its service runs", name);
	if (restore->force || stat(data, &status))
		return EXIT_OK;
	if ((uint64_t)status.st_mtim.tv_sec * 1000000000 + (uint64_t)status.st_mtim.tv_nsec >
	    restore->time_ns)
		return fail(
			restore->context,
			"store %s in %s was written after the backup: what it has since then would "
			"be lost; --force replaces it, and keeps it aside",
			name, root);
	return EXIT_OK;
}

/* ---- putting back ---- */

static int copy_file(const char *from, const char *to)
{
	_cleanup_(cleanup_fd) int in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_(cleanup_fd) int out = -1;
	uint8_t buffer[CHUNK];
	ssize_t n;
	int r = 0;

	if (in < 0)
		return -errno;
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (out < 0)
		return -errno;
	while (!r && (n = read(in, buffer, sizeof(buffer))) != 0)
		r = n < 0 ? -errno : file_write_all(out, buffer, (size_t)n);
	return r ?: fsync(out) ? -errno : 0;
}

static int put_aside(const char *store, const char *aside)
{
	/* The last one is the mark of a store that was rebuilt and not accepted. */
	static const char *const files[] = {"data.mdb", "lock.mdb", "rebuilt"};
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(files); i++) {
		_cleanup_(cleanup_free) char *from = text_format("%s/%s", store, files[i]);
		_cleanup_(cleanup_free) char *to = text_format("%s/%s", aside, files[i]);

		if (!from || !to)
			return -ENOMEM;
		if (access(from, F_OK))
			continue;
		if ((mkdir(aside, 0700) && errno != EEXIST) || rename(from, to))
			r = -errno;
	}
	return r;
}

static int sync_directory(const char *path)
{
	_cleanup_(cleanup_fd) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) ? -errno : 0;
}

/* The copy is whole before what is there goes aside. The mark makes the service another publisher: services/lib. */
static int put_back(struct restore *restore, const json_t *store, const char *stamp)
{
	const char *name = text_of(store, "name");
	_cleanup_(cleanup_free) char *from = copy_path(restore, store);
	_cleanup_(cleanup_free) char *to = text_format("%s/%s", restore->context->paths.root, name);
	_cleanup_(cleanup_free) char *new = text_format("%s/data.mdb.new", to ?: "");
	_cleanup_(cleanup_free) char *data = text_format("%s/data.mdb", to ?: "");
	_cleanup_(cleanup_free) char *mark = text_format("%s/restored", to ?: "");
	_cleanup_(cleanup_free) char *aside = text_format("%s/replaced-%s", to ?: "", stamp);
	struct why why = {};
	int r = from && to && new &&data &&mark &&aside ? 0 : -ENOMEM;

	if (!r)
		r = file_make_dir(to, 0700, &why);
	r = r ?: copy_file(from, new) ?: file_write(mark, stamp, strlen(stamp), 0600, true, &why);
	r = r ?: put_aside(to, aside);
	if (!r && rename(new, data))
		r = -errno;
	r = r ?: sync_directory(to);
	if (r)
		return fail(restore->context, "store %s: %s", name,
			    why.text[0] ? why.text : strerror(-r));
	printf("%s: restored%s%s\n", name, access(aside, F_OK) ? "" : "; what was there is in ",
	       access(aside, F_OK) ? "" : aside);
	return EXIT_OK;
}

/* A network that is to be taken back is named <owner>@<task>: another task's of the same owner is not that one, and plugins
 * would take them for each other. */
static bool has_owner(const char *path)
{
	const char *name = strrchr(path, '/') + 1;
	_cleanup_(cleanup_free) char *directory = strndup(path, (size_t)(name - path));
	_cleanup_(cleanup_dir) DIR *dir = directory ? opendir(directory) : NULL;
	size_t size = strcspn(name, "@");
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, name, size) &&
		    (entry->d_name[size] == '@' || !entry->d_name[size]))
			return true;
	return !dir;
}

static int put_back_file(struct restore *restore, const json_t *file)
{
	const char *name = text_of(file, "name");
	_cleanup_(cleanup_free) char *from = text_format("%s/files/%s", restore->directory, name);
	_cleanup_(cleanup_free) char *to = text_format("%s/%s", restore->context->paths.root, name);
	_cleanup_(cleanup_free) char *new = text_format("%s.new", to ?: ""), *directory = NULL;
	struct why why = {};
	int r = from && to && new ? 0 : -ENOMEM;

	if (!r) {
		directory = strndup(to, (size_t)(strrchr(to, '/') - to));
		r = directory ? file_make_dir(directory, 0700, &why) : -ENOMEM;
	}
	if (!r && has_owner(to)) {
		printf("%s: left as it is\n", name);
		return EXIT_OK;
	}
	r = r ?: copy_file(from, new);
	if (!r && rename(new, to))
		r = -errno;
	r = r ?: sync_directory(directory);
	if (r)
		return fail(restore->context, "%s: %s", name,
			    why.text[0] ? why.text : strerror(-r));
	printf("%s: restored\n", name);
	return EXIT_OK;
}

/* ---- the command ---- */

static int each_file(struct restore *restore,
		     int (*fn)(struct restore *restore, const json_t *file))
{
	const json_t *files = json_object_get(restore->manifest, "files");
	int code = EXIT_OK;

	for (size_t i = 0; !code && i < json_array_size(files); i++)
		code = fn(restore, json_array_get(files, i));
	return code;
}

static int each(struct restore *restore, bool only_durable,
		int (*fn)(struct restore *restore, const json_t *store))
{
	const json_t *stores = json_object_get(restore->manifest, "stores");
	int code = EXIT_OK;

	for (size_t i = 0; !code && i < json_array_size(stores) && i < STORES_MAX; i++) {
		const json_t *store = json_array_get(stores, i);

		if (!only_durable || is_durable(store))
			code = fn(restore, store);
	}
	return code;
}

static int put_back_stamped(struct restore *restore, const json_t *store)
{
	char stamp[32];
	time_t now = (time_t)(time_real_ns() / 1000000000);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &tm);
	return put_back(restore, store, stamp);
}

static int restore(struct context *context, void *data, char **args, int n_args)
{
	const struct restore_options *options = data;
	_cleanup_(restore_clear) struct restore restore = {
		.context = context, .directory = realpath(args[0], NULL), .force = options->force};
	int code;

	(void)n_args;
	if (!restore.directory)
		return fail(context, "'%s': %s", args[0], strerror(errno));
	code = read_manifest(&restore);
	if (!code)
		code = each(&restore, false, check_copy) ?: each_file(&restore, check_file);
	if (!code)
		code = check_down(&restore);
	if (!code)
		code = check_containers(&restore);
	if (!code)
		code = each(&restore, true, check_present);
	code = code ?: each(&restore, true, put_back_stamped);
	/* Those that run have networks that the backup may not know. */
	return code || restore.has_containers ? code : each_file(&restore, put_back_file);
}

static const struct option_spec restore_options[] = {
	OPTION(struct restore_options, force, FLAG, "force", 0, NULL,
	       "also over stores that were written after the backup, and while containers run"),
	{}};
const struct command restore_command = {
	.name = "restore",
	.arguments = "DIR",
	.summary = "put the stores of a backup back, while davit is down",
	.details =
		"All digests are checked before anything is changed. What was there is kept beside it, in "
		"replaced-<time>. Networks of containers that are gone are taken back at the next start, unless "
		"containers run. Stores that belong to a boot (tasks, runtimes) are not restored: running "
		"containers tell of themselves. `davit fsck` says afterwards what does not agree.",
	.options = restore_options,
	.options_size = sizeof(struct restore_options),
	.min_args = 1,
	.max_args = 1,
	.run = restore,
};
