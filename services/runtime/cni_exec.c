/* See cni_exec.h. */

#include "services/runtime/cni_exec.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/spawn.h"
#include "services/runtime/cni.h"

#define ERRORS_MAX 4095 /* bytes of stderr that are kept: the last ones */
#define LOCK_FD    3
#define PATH       "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct running {
	pid_t pid;
	int pidfd, output_fd, errors_fd;
	char *output;
	size_t output_size;
	char errors[ERRORS_MAX + 1];
	size_t errors_size;
	bool is_flood;
};

static void running_clear(struct running *running)
{
	close_fd(running->pidfd);
	close_fd(running->output_fd);
	close_fd(running->errors_fd);
	free(running->output);
}

/* ---- the program ---- */

static bool is_program(const char *path)
{
	struct stat status;

	return !stat(path, &status) && S_ISREG(status.st_mode) && !access(path, X_OK);
}

int cni_find(const char *bin_dirs, const char *type, char **ret_path, struct why *why)
{
	for (const char *at = bin_dirs; *at; at += strcspn(at, ":"), at += *at == ':') {
		_cleanup_(cleanup_free) char *path = text_format("%.*s/%s", (int)strcspn(at, ":"),
								 at, type);

		if (!path)
			return error_origin(-ENOMEM);
		if (*at == '/' && is_program(path)) {
			*ret_path = TAKE(path);
			return 0;
		}
	}
	return why_set(why, CNI_E_INVALID, "there is no such program in %s", bin_dirs);
}

int cni_plugin_main(const char *program, const char *parent)
{
	char *const argv[] = {(char *)program, NULL};

	/* Whose end came before this was asked has left another parent. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != (pid_t)strtol(parent, NULL, 10))
		return EXIT_FAILURE;
	execve(program, argv, environ);
	fprintf(stderr, "%s: %s\n", program, strerror(errno));
	return EXIT_FAILURE;
}

/* ---- the start ---- */

static int open_pipe(int *ret_read, int *ret_write)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC))
		return error_origin(-errno);
	*ret_read = fds[0];
	*ret_write = fds[1];
	return fcntl(fds[0], F_SETFL, O_NONBLOCK) ? error_origin(-errno) : 0;
}

static int spawn_plugin(const struct cni_run *run, const char *program, const struct spawn_fd *fds,
			pid_t *ret_pid, struct why *why)
{
	_cleanup_(cleanup_free) char *id = text_format("CNI_CONTAINERID=%s", run->attach_id);
	_cleanup_(cleanup_free) char *command = text_format("CNI_COMMAND=%s", run->command);
	_cleanup_(cleanup_free) char *netns = text_format("CNI_NETNS=%s", run->netns);
	_cleanup_(cleanup_free) char *interface = text_format("CNI_IFNAME=%s", run->interface);
	_cleanup_(cleanup_free) char *path = text_format("CNI_PATH=%s", run->bin_dirs);
	_cleanup_(cleanup_free) char *self = NULL;
	const char *envp[] = {"PATH=" PATH, "CNI_ARGS=", id, command, netns, interface, path, NULL};
	char parent[16];
	const char *argv[] = {"davit-runtime", "--cni-plugin", program, parent, NULL};

	if (!id || !command || !netns || !interface || !path)
		return error_origin(-ENOMEM);
	if (spawn_find_program("davit-runtime", &self))
		return why_set(why, -ENOENT, "davit-runtime is not beside itself");
	snprintf(parent, sizeof(parent), "%d", (int)getpid());
	return spawn(&(struct spawn){.path = self,
				     .argv = argv,
				     .envp = envp,
				     .cwd = "/",
				     .fds = fds,
				     .n_fds = run->lock_fd < 0 ? 3 : 4,
				     .new_session = true},
		     ret_pid, why);
}

static void kill_it(struct running *running)
{
	(void)kill(-running->pid, SIGKILL);
	(void)kill(running->pid, SIGKILL);
}

static int start(const struct cni_run *run, struct running *running, struct why *why)
{
	_cleanup_(cleanup_fd) int input = -1, output = -1, errors = -1;
	_cleanup_(cleanup_free) char *program = NULL;
	int r = cni_find(run->bin_dirs, run->type, &program, why);

	/* A file and not a pipe: a plugin that does not read blocks nobody. */
	r = r ?: file_open_text("cni", run->input, &input);
	r = r ?: open_pipe(&running->output_fd, &output);
	r = r ?: open_pipe(&running->errors_fd, &errors);
	if (r)
		return r;
	r = spawn_plugin(run, program,
			 (const struct spawn_fd[]){
				 {input, 0}, {output, 1}, {errors, 2}, {run->lock_fd, LOCK_FD}},
			 &running->pid, why);
	if (r)
		return r;
	running->pidfd = pidfd_open(running->pid, 0);
	if (running->pidfd >= 0)
		return 0;
	r = error_origin(-errno);
	kill_it(running);
	(void)waitpid(running->pid, NULL, 0);
	return r;
}

/* ---- what it says ---- */

static void keep_errors(struct running *running, const char *data, size_t size)
{
	size_t keep = ERRORS_MAX - size;

	if (running->errors_size > keep) {
		memmove(running->errors, running->errors + running->errors_size - keep, keep);
		running->errors_size = keep;
	}
	memcpy(running->errors + running->errors_size, data, size);
	running->errors_size += size;
	running->errors[running->errors_size] = '\0';
}

/* Whether there may be more. */
static bool read_errors(struct running *running)
{
	char buffer[ERRORS_MAX];
	ssize_t n = read(running->errors_fd, buffer, sizeof(buffer));

	if (n > 0)
		keep_errors(running, buffer, (size_t)n);
	else if (!n)
		running->errors_fd = close_fd(running->errors_fd);
	return n > 0;
}

static bool read_output(struct running *running)
{
	size_t room = CNI_CONF_MAX - running->output_size;
	ssize_t n = read(running->output_fd, running->output + running->output_size, room + 1);

	if (n > 0 && (size_t)n > room)
		running->is_flood = true;
	else if (n > 0)
		running->output_size += (size_t)n;
	else if (!n)
		running->output_fd = close_fd(running->output_fd);
	return n > 0 && !running->is_flood;
}

/* Until it has ended: whoever has inherited its pipes is not waited for. */
static int follow(struct running *running, uint64_t deadline_ms)
{
	for (;;) {
		uint64_t now_ms = time_boot_ms();
		struct pollfd files[] = {{.fd = running->pidfd, .events = POLLIN},
					 {.fd = running->output_fd, .events = POLLIN},
					 {.fd = running->errors_fd, .events = POLLIN}};
		int n;

		if (now_ms >= deadline_ms)
			return -ETIMEDOUT;
		n = poll(files, 3, (int)(deadline_ms - now_ms));
		if (n < 0 && errno != EINTR)
			return error_origin(-errno);
		if (n <= 0)
			continue;
		if (files[1].revents)
			(void)read_output(running);
		if (files[2].revents)
			(void)read_errors(running);
		if (running->is_flood)
			return -EFBIG;
		if (files[0].revents)
			return 0;
	}
}

static void read_rest(struct running *running)
{
	while (running->output_fd >= 0 && read_output(running))
		;
	for (unsigned i = 0; i < 256 && running->errors_fd >= 0 && read_errors(running); i++)
		;
	running->output[running->output_size] = '\0';
}

/* ---- the end ---- */

static int explain(const struct running *running, const siginfo_t *end, struct why *why)
{
	if (running->is_flood)
		return why_set(why, CNI_E_INVALID, "it answers with more than %d bytes",
			       CNI_CONF_MAX);
	if (end->si_code != CLD_EXITED)
		return why_set(why, CNI_E_INVALID, "it was killed by signal %d (%s)",
			       end->si_status, strsignal(end->si_status));
	if (end->si_status) {
		cni_explain_failure(running->output, running->errors, end->si_status, why);
		return CNI_E_INVALID;
	}
	return 0;
}

static int wait_for(struct running *running, const struct cni_run *run, struct why *why)
{
	siginfo_t end = {};
	int r = follow(running, run->deadline_ms);

	if (r)
		kill_it(running);
	else
		read_rest(running);
	while (waitid(P_PID, (id_t)running->pid, &end, WEXITED) && errno == EINTR)
		;
	if (r == -ETIMEDOUT)
		return why_set(why, CNI_E_INVALID, "it did not end in time and was killed");
	if (r && r != -EFBIG)
		return error_trace(r);
	return explain(running, &end, why);
}

int cni_exec(const struct cni_run *run, char **ret_output, struct why *why)
{
	_cleanup_(running_clear) struct running running = {
		.pidfd = -1, .output_fd = -1, .errors_fd = -1};
	int r;

	running.output = malloc(CNI_CONF_MAX + 1);
	if (!running.output)
		return error_origin(-ENOMEM);
	r = start(run, &running, why) ?: wait_for(&running, run, why);
	if (r)
		return r;
	if (strlen(running.output) != running.output_size)
		return why_set(why, CNI_E_INVALID, "its answer is not text");
	*ret_output = TAKE(running.output);
	return 0;
}
