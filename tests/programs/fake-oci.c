/*
 * A stand-in for an OCI runtime, which misbehaves on order. It takes crun's
 * command line; its "container" is a child process that runs <bundle>/init.sh,
 * without namespaces, so that a shim is tested without any kernel set-up.
 *
 * Since a shim gives no environment, orders stand in <root>/orders, one a line:
 *
 *	<verb> <order> [argument]
 *
 *	fail TEXT	log TEXT and exit with 1		before the verb's effect;
 *	hang		sleep for ever				with "after-" in front
 *	die		SIGKILL itself				(after-fail …) behind it
 *	delay MS	wait
 *	fill MB		touch that much memory, whose end takes a while when it is killed
 *	after-kill-init	kill init and wait until it is dead
 *	after-wait-init	wait until init has ended by itself
 *	gate MS		(start) wait between taking the gate away and opening it, as crun and runc do in no time
 *	console KIND	with --console-socket, instead of init's terminal: send nothing (none),
 *			two of them (two), a file (file), or from another mount namespace (stranger)
 *
 * A verb may name the process that it is about: "exec:p1.json hang". The process
 * that exec adds runs the script beside its file, p1.json.sh.
 *
 * Each call appends what it was given to <root>/dump.<verb>: arguments,
 * environment, directory, umask, descriptors, inheritable capabilities.
 */

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/file.h"

struct call {
	const char *root, *log, *verb, *bundle, *pid_file, *id, *console;
	const char *process, *image, *resources;
	bool force, leave_running;
	char *dir; /* of the container */
};

extern char **environ;

__attribute__((noreturn, format(printf, 2, 3))) static void die(const struct call *call,
								const char *format, ...)
{
	_cleanup_(cleanup_file) FILE *log = call->log ? fopen(call->log, "ae") : NULL;
	va_list arguments;

	if (!log)
		log = stderr;
	fputs("{\"msg\":\"", log);
	va_start(arguments, format);
	vfprintf(log, format, arguments);
	va_end(arguments);
	fputs("\",\"level\":\"error\"}\n", log);
	fflush(log);
	_exit(1);
}

/* ---- the command line ---------------------------------------------------- */

static void parse(int argc, char **argv, struct call *call)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--root"))
			call->root = argv[++i];
		else if (!strcmp(argv[i], "--log"))
			call->log = argv[++i];
		else if (!strcmp(argv[i], "--log-format"))
			i++;
		else if (!strcmp(argv[i], "--bundle"))
			call->bundle = argv[++i];
		else if (!strcmp(argv[i], "--console-socket"))
			call->console = argv[++i];
		else if (!strcmp(argv[i], "--pid-file"))
			call->pid_file = argv[++i];
		else if (!strcmp(argv[i], "--process"))
			call->process = argv[++i];
		else if (!strcmp(argv[i], "--image-path"))
			call->image = argv[++i];
		else if (!strcmp(argv[i], "--resources"))
			call->resources = argv[++i];
		else if (!strcmp(argv[i], "--work-path") || !strcmp(argv[i], "--parent-path"))
			i++;
		else if (!strcmp(argv[i], "--leave-running"))
			call->leave_running = true;
		else if (!strcmp(argv[i], "--force"))
			call->force = true;
		else if (argv[i][0] == '-')
			continue; /* --detach, --no-pivot, --systemd-cgroup */
		else if (!call->verb)
			call->verb = argv[i];
		else
			call->id = argv[i];
	}
	if (!call->root || !call->verb || !call->id)
		die(call, "usage: fake-oci --root DIR VERB ID");
	call->dir = text_format("%s/%s", call->root, call->id);
}

static void dump_fds(FILE *to)
{
	_cleanup_(cleanup_dir) DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char target[4096] = "";
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fd == dirfd(dir) || fd == fileno(to))
			continue;
		(void)!readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
		fprintf(to, "fd %d %s\n", fd, target);
	}
}

static void dump_file(FILE *to, const char *path)
{
	_cleanup_(cleanup_free) char *text = NULL;

	if (!file_read_proc(path, 65536, &text, NULL))
		fputs(text, to);
}

static void dump(const struct call *call, char **argv)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/dump.%s", call->root, call->verb);
	_cleanup_(cleanup_free) char *cwd = getcwd(NULL, 0);
	_cleanup_(cleanup_file) FILE *to = fopen(path, "ae");
	mode_t mask = umask(0);
	char exe[256] = "";

	umask(mask);
	(void)!readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	if (!to)
		return;
	for (char **at = argv; *at; at++)
		fprintf(to, "argument %s\n", *at);
	for (char **at = environ; *at; at++)
		fprintf(to, "environment %s\n", *at);
	fprintf(to, "exe %s\n", exe);
	fprintf(to, "cwd %s\numask %03o\nsession %d\n", cwd, mask, getsid(0) == getpid());
	dump_fds(to);
	dump_file(to, "/proc/self/status");
	dump_file(to, "/proc/self/cgroup");
}

/* ---- init ---------------------------------------------------------------- */

static pid_t read_pid(const struct call *call)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/pid", call->dir), *text = NULL;

	return file_read(AT_FDCWD, path, 64, &text, NULL) ? 0 : (pid_t)atoi(text);
}

/* Gone, or a zombie that its parent has not reaped. */
static bool is_dead(pid_t pid)
{
	_cleanup_(cleanup_free) char *text = NULL;
	const char *behind_name;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (file_read_proc(path, 4096, &text, NULL))
		return true;
	behind_name = strrchr(text, ')');
	return !behind_name || behind_name[2] == 'Z' || behind_name[2] == 'X';
}

static void wait_for_death(pid_t pid)
{
	while (pid > 0 && !is_dead(pid))
		usleep(1000);
}

static void kill_init(const struct call *call)
{
	pid_t pid = read_pid(call);

	if (pid > 0)
		kill(pid, SIGKILL);
	wait_for_death(pid);
}

/* ---- orders -------------------------------------------------------------- */

static void fill(size_t size)
{
	(void)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
		   -1, 0);
}

static void obey(const struct call *call, const char *order, const char *argument)
{
	if (!strcmp(order, "fail"))
		die(call, "%s", argument);
	if (!strcmp(order, "die"))
		raise(SIGKILL);
	if (!strcmp(order, "fill"))
		fill((size_t)atoi(argument) << 20);
	while (!strcmp(order, "hang"))
		pause();
	if (!strcmp(order, "delay"))
		usleep((useconds_t)atoi(argument) * 1000);
	if (!strcmp(order, "kill-init"))
		kill_init(call);
	if (!strcmp(order, "wait-init"))
		wait_for_death(read_pid(call));
}

static void find_order(const struct call *call, const char *name, char argument[16])
{
	_cleanup_(cleanup_free) char *path = text_format("%s/orders", call->root), *text = NULL;
	_cleanup_(cleanup_free) char *order = text_format("%s %s ", call->verb, name);
	char *at;

	argument[0] = '\0';
	if (file_read(AT_FDCWD, path, 65536, &text, NULL))
		return;
	at = strstr(text, order);
	if (at)
		sscanf(at + strlen(order), "%15s", argument);
}

/* "exec", or "exec:p1.json" */
static bool is_for(const struct call *call, const char *verb)
{
	size_t size = strlen(call->verb);
	const char *name = call->process ? strrchr(call->process, '/') : NULL;

	if (strncmp(verb, call->verb, size))
		return false;
	return !verb[size] || (verb[size] == ':' && name && !strcmp(verb + size + 1, name + 1));
}

static void take_orders(const struct call *call, bool is_after)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/orders", call->root), *text = NULL;
	char *line, *rest;

	if (file_read(AT_FDCWD, path, 65536, &text, NULL))
		return;
	for (rest = text; (line = strsep(&rest, "\n"));) {
		const char *verb = strsep(&line, " "), *order = line ? strsep(&line, " ") : NULL;
		bool after = order && !strncmp(order, "after-", 6);

		if (order && is_for(call, verb) && after == is_after)
			obey(call, order + (after ? 6 : 0), line ?: "");
	}
}

/* ---- init's terminal ----------------------------------------------------- */

static void send_descriptors(const struct call *call, const int *fds, size_t n)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = {};
	struct iovec part = {"terminal", 8};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(header), fds, n * sizeof(int));
	strncpy(address.sun_path, call->console, sizeof(address.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    sendmsg(fd, &message, 0) < 0)
		die(call, "%s: %s", call->console, strerror(errno));
	close_fd(fd);
}

/* Returns the slave's descriptor, or -1. */
static int make_terminal(const struct call *call)
{
	int fds[2] = {posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), -1};
	char kind[16], name[64];
	int slave;

	if (!call->console)
		return -1;
	if (fds[0] < 0 || grantpt(fds[0]) || unlockpt(fds[0]) ||
	    ptsname_r(fds[0], name, sizeof(name)))
		die(call, "no terminal: %s", strerror(errno));
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	find_order(call, "console", kind);
	if (!strcmp(kind, "none"))
		return slave;
	if (!strcmp(kind, "file"))
		fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (!strcmp(kind, "stranger") && unshare(CLONE_NEWNS))
		die(call, "unshare: %s", strerror(errno));
	fds[1] = fds[0];
	send_descriptors(call, fds, strcmp(kind, "two") ? 1 : 2);
	return slave;
}

static void use_terminal(int slave)
{
	if (slave < 0)
		return;
	ioctl(slave, TIOCSCTTY, 0);
	for (int fd = 0; fd < 3; fd++)
		dup2(slave, fd);
}

/* ---- verbs --------------------------------------------------------------- */

static void run_init(const struct call *call, bool waits, int slave)
{
	_cleanup_(cleanup_free) char *script = text_format("%s/init.sh", call->bundle);
	_cleanup_(cleanup_free) char *gate = text_format("%s/exec.fifo", call->dir);
	char byte;
	int fd;

	setsid();
	use_terminal(slave);
	if (waits) {
		fd = open(gate, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, &byte, 1) != 1)
			_exit(120);
	}
	execl("/bin/sh", "sh", script, NULL);
	_exit(127);
}

static void write_text(const struct call *call, const char *path, const char *text)
{
	if (file_write(path, text, strlen(text), 0600, false, NULL))
		die(call, "cannot write %s", path);
}

static void create(const struct call *call, bool waits)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/pid", call->dir);
	_cleanup_(cleanup_free) char *gate = text_format("%s/exec.fifo", call->dir);
	char text[16];
	int slave;
	pid_t pid;

	if (mkdir(call->root, 0700) && errno != EEXIST)
		die(call, "mkdir %s: %s", call->root, strerror(errno));
	if (mkdir(call->dir, 0700) || (waits && mkfifo(gate, 0600)))
		die(call, "container %s exists already", call->id);
	slave = make_terminal(call);
	pid = fork();
	if (pid < 0)
		die(call, "fork: %s", strerror(errno));
	if (!pid)
		run_init(call, waits, slave);
	snprintf(text, sizeof(text), "%d", (int)pid);
	write_text(call, path, text);
	write_text(call, call->pid_file, text);
}

/* A gate without init behind it opens only when nobody waits for ever: not at all. */
static void start(const struct call *call)
{
	_cleanup_(cleanup_free) char *gate = text_format("%s/exec.fifo", call->dir);
	char ms[16];
	int fd;

	do {
		if (is_dead(read_pid(call)))
			die(call, "cannot start %s: init is dead", call->id);
		fd = open(gate, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	} while (fd < 0 && errno == ENXIO && !usleep(1000));
	(void)unlink(gate);
	find_order(call, "gate", ms);
	usleep((useconds_t)atoi(ms) * 1000);
	if (fd < 0 || write(fd, "", 1) != 1)
		die(call, "cannot start %s", call->id);
}

static void delete (const struct call *call)
{
	pid_t pid = read_pid(call);

	if (!pid && !call->force && access(call->dir, F_OK))
		die(call, "container %s does not exist", call->id);
	if (pid && !is_dead(pid) && !call->force)
		die(call, "container %s is not stopped", call->id);
	kill_init(call);
	(void)file_remove_tree(AT_FDCWD, call->dir, NULL);
}

static void exec(const struct call *call)
{
	_cleanup_(cleanup_free) char *script = text_format("%s.sh", call->process);
	char text[16];
	int slave;
	pid_t pid;

	if (is_dead(read_pid(call)))
		die(call, "the container is not running");
	slave = make_terminal(call);
	pid = fork();
	if (pid < 0)
		die(call, "fork: %s", strerror(errno));
	if (!pid) {
		setsid();
		use_terminal(slave);
		execl("/bin/sh", "sh", script, NULL);
		_exit(127);
	}
	snprintf(text, sizeof(text), "%d", (int)pid);
	write_text(call, call->pid_file, text);
}

static void update(const struct call *call)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/updated", call->root), *text = NULL;

	if (file_read(AT_FDCWD, call->resources, 65536, &text, NULL))
		die(call, "cannot read %s", call->resources);
	write_text(call, path, text);
}

static void checkpoint(const struct call *call)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/dump.img", call->image);

	if (is_dead(read_pid(call)))
		die(call, "the container is not running");
	if (file_make_dir(call->image, 0700, NULL))
		die(call, "cannot make %s", call->image);
	write_text(call, path, "image");
	if (!call->leave_running)
		kill_init(call);
}

static void restore(const struct call *call)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/dump.img", call->image);

	if (access(path, F_OK))
		die(call, "no image in %s", call->image);
	create(call, false);
}

static void run_verb(const struct call *call)
{
	if (!strcmp(call->verb, "create"))
		create(call, true);
	else if (!strcmp(call->verb, "run"))
		create(call, false);
	else if (!strcmp(call->verb, "start"))
		start(call);
	else if (!strcmp(call->verb, "delete"))
		delete (call);
	else if (!strcmp(call->verb, "kill"))
		kill_init(call);
	else if (!strcmp(call->verb, "exec"))
		exec(call);
	else if (!strcmp(call->verb, "pause"))
		kill(read_pid(call), SIGSTOP);
	else if (!strcmp(call->verb, "resume"))
		kill(read_pid(call), SIGCONT);
	else if (!strcmp(call->verb, "update"))
		update(call);
	else if (!strcmp(call->verb, "checkpoint"))
		checkpoint(call);
	else if (!strcmp(call->verb, "restore"))
		restore(call);
	else if (!strcmp(call->verb, "state"))
		printf("{\"id\":\"%s\",\"pid\":%d,\"status\":\"%s\"}\n", call->id,
		       (int)read_pid(call), is_dead(read_pid(call)) ? "stopped" : "running");
	else
		die(call, "unknown command %s", call->verb);
}

int main(int argc, char **argv)
{
	struct call call = {};

	parse(argc, argv, &call);
	dump(&call, argv);
	take_orders(&call, false);
	run_verb(&call);
	take_orders(&call, true);
	free(call.dir);
	return 0;
}
