#include <stdio.h>

#include "broker/broker.h"
#include "broker/lib/log.h"
#include "broker/options.h"

int main(int argc, char *argv[])
{
	struct options options;
	struct why why = {};
	int code = 0;

	if (options_parse(&options, argc, argv, &why)) {
		fprintf(stderr, "davit-broker: %s\n", why.text);
		return 2;
	}
	if (!options.has_printed) {
		log_init("davit-broker", options.is_debug ? LOG_DEBUG : LOG_INFO);
		code = broker_run(&options);
	}
	fflush(stdout);
	/* nng's threads may hang in an orderly exit, and have nothing to lose. */
	_exit(code);
}
