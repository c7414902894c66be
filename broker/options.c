#include <ctype.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/options.h"

static const char help[] =
	"Usage: davit-broker [options]\n"
	"The bus: routes requests to services by name, keeps and sends out events.\n"
	"\n"
	"  --root DIR            durable files (default " PATHS_DEFAULT_ROOT ", or DAVIT_ROOT)\n"
	"  --state DIR           sockets of this boot (default " PATHS_DEFAULT_STATE
	", or DAVIT_STATE)\n"
	"  --ready-fd N          write READY=1 to this file descriptor when all sockets listen\n"
	"  --take-over           wait for the broker before, which ends: WAITING=1 to ready-fd meanwhile\n"
	"  --log-max-bytes SIZE  keep at most so much of the event log (default 256M)\n"
	"  --log-max-age TIME    and no event longer than this (default 30d; units s m h d)\n"
	"  --watchdog-ms MS      how often the broker tries its own socket (default 2000)\n"
	"  --copy-stores DIR     copy the event log there, as it is at one instant, and end\n"
	"  --print-events [TOPIC...]  write the events whose topic begins so to a program that reads them, and end\n"
	"  --rebuild-store       make the event log again from what can be read of it, and end\n"
	"  --debug               log more\n"
	"  --help, --version\n";

enum {
	ROOT = 256,
	STATE,
	READY_FD,
	LOG_MAX_BYTES,
	LOG_MAX_AGE,
	WATCHDOG,
	TAKE_OVER,
	COPY,
	PRINT,
	REBUILD,
	DEBUG,
	HELP,
	VERSION
};

static const struct option long_options[] = {
	{"root", required_argument, NULL, ROOT},
	{"state", required_argument, NULL, STATE},
	{"ready-fd", required_argument, NULL, READY_FD},
	{"log-max-bytes", required_argument, NULL, LOG_MAX_BYTES},
	{"log-max-age", required_argument, NULL, LOG_MAX_AGE},
	{"watchdog-ms", required_argument, NULL, WATCHDOG},
	{"take-over", no_argument, NULL, TAKE_OVER},
	{"copy-stores", required_argument, NULL, COPY},
	{"print-events", no_argument, NULL, PRINT},
	{"rebuild-store", no_argument, NULL, REBUILD},
	{"debug", no_argument, NULL, DEBUG},
	{"help", no_argument, NULL, HELP},
	{"version", no_argument, NULL, VERSION},
	{},
};

/* A positive number with an optional unit of one letter: the n-th in @units multiplies by @factors[n]. */
static int parse_number(const char *name, const char *text, const char *units,
			const uint64_t *factors, uint64_t max, uint64_t *ret, struct why *why)
{
	uint64_t value, factor = factors[0];
	const char *unit;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			end = (char *)text;
		else
			factor = factors[unit - units];
	}
	if (errno || end == text || !isdigit((unsigned char)text[0]) || value == 0 ||
	    value > max / factor)
		return why_set(why, -EINVAL, "--%s '%s' is not a number in range", name, text);
	*ret = value * factor;
	return 0;
}

static int parse_size(const char *name, const char *text, uint64_t *ret, struct why *why)
{
	static const uint64_t factors[] = {1, 1 << 10, 1 << 20, 1 << 30};

	return parse_number(name, text, "BKMG", factors, (uint64_t)1 << 36, ret, why);
}

static int parse_age(const char *name, const char *text, uint64_t *ret, struct why *why)
{
	static const uint64_t factors[] = {1000000000, 60000000000, 3600000000000, 86400000000000};

	return parse_number(name, text, "smhd", factors, INT64_MAX, ret, why);
}

static int parse_plain(const char *name, const char *text, uint64_t max, uint64_t *ret,
		       struct why *why)
{
	static const uint64_t factors[] = {1};

	return parse_number(name, text, "", factors, max, ret, why);
}

/* @option's own value; paths are kept by the caller. */
static int parse_one(struct options *options, int option, const char *argument, struct why *why)
{
	uint64_t number = 0;
	int r = 0;

	switch (option) {
	case READY_FD:
		r = parse_plain("ready-fd", argument, 1 << 20, &number, why);
		options->ready_fd = (int)number;
		return r;
	case LOG_MAX_BYTES:
		return parse_size("log-max-bytes", argument, &options->log_max_bytes, why);
	case LOG_MAX_AGE:
		return parse_age("log-max-age", argument, &options->log_max_age_ns, why);
	case WATCHDOG:
		r = parse_plain("watchdog-ms", argument, 3600000, &number, why);
		options->watchdog_ms = (unsigned)number;
		return r;
	case TAKE_OVER:
		options->takes_over = true;
		return 0;
	case COPY:
		options->copy_to = (char *)argument;
		return 0;
	case PRINT:
		options->is_print = true;
		return 0;
	case REBUILD:
		options->is_rebuild = true;
		return 0;
	case DEBUG:
		options->is_debug = true;
		return 0;
	case HELP:
		fputs(help, stdout);
		options->has_printed = true;
		return 0;
	case VERSION:
		puts("davit-broker " DAVIT_VERSION);
		options->has_printed = true;
		return 0;
	default:
		return why_set(why, -EINVAL, "see davit-broker --help");
	}
}

int options_parse(struct options *options, int argc, char *argv[], struct why *why)
{
	const char *root = NULL, *state = NULL;
	int option, r = 0;

	*options = (struct options){
		.ready_fd = -1,
		.log_max_bytes = (uint64_t)256 << 20,
		.log_max_age_ns = (uint64_t)30 * 86400 * 1000000000,
		.watchdog_ms = 2000,
	};
	optind = 0;
	while (!r && (option = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
		if (option == ROOT)
			root = optarg;
		else if (option == STATE)
			state = optarg;
		else
			r = parse_one(options, option, optarg, why);
	}
	options->topics = argv + optind;
	options->n_topics = (size_t)(argc - optind);
	if (!r && optind < argc && !options->is_print)
		r = why_set(why, -EINVAL, "'%s' is not expected; see davit-broker --help",
			    argv[optind]);
	if (r || options->has_printed)
		return r;
	return paths_init(&options->paths, root, state, NULL, why);
}

void options_deinit(struct options *options)
{
	paths_deinit(&options->paths);
}
