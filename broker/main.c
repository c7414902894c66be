#include <stdio.h>
#include <sys/stat.h>

#include "broker/broker.h"
#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "broker/log_db.h"
#include "broker/logprint.h"
#include "broker/logrebuild.h"
#include "broker/options.h"

/* A line for who asked: as services print it. */
static int copy_log(const struct options *options)
{
	_cleanup_(cleanup_free) char *from = text_format("%s/events", options->paths.root);
	_cleanup_(cleanup_free) char *to = text_format("%s/durable/events", options->copy_to);
	struct why why = {};
	int r;

	umask(077);
	r = from && to ? log_db_copy(from, to, &why) : -ENOMEM;
	if (!r)
		puts("durable events");
	else if (r != LOG_E_NOT_FOUND)
		fprintf(stderr, "davit-broker: %s\n", why.text);
	return r && r != LOG_E_NOT_FOUND;
}

static int print_events(const struct options *options)
{
	_cleanup_(cleanup_free) char *from = text_format("%s/events", options->paths.root);

	return !from || log_print(from, options->topics, options->n_topics, STDOUT_FILENO);
}

static int rebuild_log(const struct options *options)
{
	_cleanup_(cleanup_free) char *directory = text_format("%s/events", options->paths.root);

	return directory ? log_rebuild(directory) : 1;
}

int main(int argc, char *argv[])
{
	struct options options;
	struct why why = {};
	int code = 0;

	if (options_parse(&options, argc, argv, &why)) {
		fprintf(stderr, "davit-broker: %s\n", why.text);
		return 2;
	}
	if (!options.has_printed && options.copy_to) {
		code = copy_log(&options);
	} else if (!options.has_printed && options.is_print) {
		code = print_events(&options);
	} else if (!options.has_printed && options.is_rebuild) {
		code = rebuild_log(&options);
	} else if (!options.has_printed) {
		log_init("davit-broker", options.is_debug ? LOG_DEBUG : LOG_INFO);
		code = broker_run(&options);
	}
	fflush(stdout);
	/* nng's threads may hang in an orderly exit, and have nothing to lose. */
	_exit(code);
}
