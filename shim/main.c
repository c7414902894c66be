/*
 * davit-shim --config <bundle>/shim.msgpack --root R --state S
 *
 * fd 2: <bundle>/log; fd 3: the first control connection; fd 4: <bundle>/lock,
 * locked, which says that this shim lives for as long as it does; fd 5, if there is
 * one: the sealed copy of the OCI runtime's program.
 */

#include <fcntl.h>
#include <getopt.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "broker/lib/log.h"
#include "shim/config.h"
#include "shim/mounts.h"
#include "shim/privileges.h"
#include "shim/runtime.h"
#include "shim/shim.h"

#define CONTROL_FD 3
#define LOCK_FD    4
/* and RUNTIME_COPY_FD */

static void usage(FILE *to)
{
	fprintf(to, "Usage: davit-shim --config FILE --root DIR --state DIR\n"
		    "\n"
		    "Looks after one container; started by davit-task.\n"
		    "\n"
		    "  --config FILE  <bundle>/shim.msgpack\n"
		    "  --root DIR     davit's durable directory\n"
		    "  --state DIR    davit's directory of this boot\n"
		    "  --version      print the version\n"
		    "  --help         print this\n");
}

/* 0: go on; otherwise the exit code plus one. --root and --state are for who lists processes. */
static int parse(int argc, char **argv, const char **ret_config)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'}, {"root", required_argument, NULL, 'r'},
		{"state", required_argument, NULL, 's'},  {"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},         {}};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'c') {
			*ret_config = optarg;
		} else if (option == 'v') {
			puts("davit-shim " DAVIT_VERSION);
			return 1;
		} else if (option == 'h') {
			usage(stdout);
			return 1;
		} else if (option == '?') {
			return 126;
		}
	}
	if (*ret_config && optind == argc)
		return 0;
	usage(stderr);
	return 126;
}

/* Nothing of who started us is kept but the descriptors that we know. */
static int settle(struct why *why)
{
	(void)close_range(RUNTIME_COPY_FD + 1, ~0U, 0);
	for (int fd = CONTROL_FD; fd <= RUNTIME_COPY_FD; fd++)
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) && errno != EBADF)
			return why_errno(why, error_origin(-errno), "fd %d", fd);
	/* An outer supervisor's signals are not for us: we outlive every service. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	(void)setsid();
	umask(022);
	if (chdir("/"))
		return why_errno(why, error_origin(-errno), "cannot go to /");
	if (prctl(PR_SET_CHILD_SUBREAPER, 1))
		return why_errno(why, error_origin(-errno), "cannot become a subreaper");
	return privileges_clear_inheritable(why);
}

static int setup(struct shim *shim, struct loop *loop, const char *path, struct why *why)
{
	_cleanup_(shim_config_clear) struct shim_config config = {};
	int fd = CONTROL_FD;
	int r;

	r = config_read(path, &config, why);
	if (!r)
		r = mounts_enter(config.detach_unified, why);
	if (!r)
		r = shim_init(shim, loop, &config, why);
	if (r)
		return r;
	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
	r = control_init(&shim->control, shim, shim->config.socket, fd, why);
	return r ?: shim_recover(shim, why);
}

static int run(struct shim *shim, struct loop *loop)
{
	publisher_kick(&shim->publisher);
	shim_consider_end(shim);
	return loop_run(loop);
}

int main(int argc, char **argv)
{
	_cleanup_(loop_freep) struct loop *loop = NULL;
	static struct shim shim;
	const char *path = NULL;
	struct why why = {};
	int r;

	r = parse(argc, argv, &path);
	if (r)
		return r - 1;
	log_init("davit-shim", LOG_INFO);
	r = settle(&why);
	if (!r)
		r = loop_new(&loop);
	if (!r)
		r = setup(&shim, loop, path, &why);
	if (r)
		log_error("%s", why.text[0] ? why.text : strerror(r < 0 ? -r : EINVAL));
	else
		r = run(&shim, loop);
	shim_deinit(&shim);
	return r ? 1 : 0;
}
