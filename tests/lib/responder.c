#include "tests/lib/responder.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "broker/lib/bus_server.h"
#include "broker/lib/spawn.h"
#include "schemas/envelope.h"

#define RESPONDER "--responder"
#define IDS_MAX   64

struct responder {
	struct loop *loop;
	struct bus_server *server;
	unsigned n_requests;
	struct {
		uint8_t id[ENVELOPE_ID_SIZE];
		unsigned n;
	} ids[IDS_MAX]; /* how often each request id came */
	unsigned n_ids;
};

struct late {
	struct loop_timer timer;
	struct bus_server_request *request;
	struct envelope_request envelope;
};

static void answer(struct bus_server_request *request, const struct envelope_request *envelope,
		   enum bus_status status, const char *text, const void *body, size_t size)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct envelope_reply reply = {
		.status = status,
		.body = {.data = body, .size = size},
	};

	memcpy(reply.id, envelope->id, sizeof(reply.id));
	snprintf(reply.text, sizeof(reply.text), "%s", text);
	if (envelope_write_reply(&reply, &buffer))
		_exit(2);
	bus_server_reply(request, buffer.data, buffer.size);
}

static void echo(struct bus_server_request *request, const struct envelope_request *envelope)
{
	answer(request, envelope, BUS_OK, "", envelope->body.data, envelope->body.size);
}

static void answer_late(struct loop_timer *timer)
{
	struct late *late = container_of(timer, struct late, timer);

	echo(late->request, &late->envelope);
	free(late);
}

static void echo_late(struct responder *responder, struct bus_server_request *request,
		      const struct envelope_request *envelope, unsigned delay_ms)
{
	struct late *late = calloc(1, sizeof(*late));

	if (!late)
		_exit(2);
	late->request = request;
	late->envelope = *envelope;
	loop_timer_set(responder->loop, &late->timer, time_boot_ms() + delay_ms, answer_late);
}

/* How often this id came before. */
static unsigned count_id(struct responder *responder, const uint8_t *id)
{
	unsigned i;

	for (i = 0; i < responder->n_ids; i++) {
		if (memcmp(responder->ids[i].id, id, ENVELOPE_ID_SIZE) == 0)
			return responder->ids[i].n++;
	}
	if (i == IDS_MAX)
		_exit(2);
	memcpy(responder->ids[i].id, id, ENVELOPE_ID_SIZE);
	responder->ids[i].n = 1;
	responder->n_ids++;
	return 0;
}

static void answer_oddly(struct responder *responder, struct bus_server_request *request,
			 const struct envelope_request *envelope, unsigned n)
{
	if (count_id(responder, envelope->id) >= n)
		echo(request, envelope);
	else if (envelope->method[0] == 'p')
		answer(request, envelope, BUS_PENDING, ENVELOPE_WAITS "the test", NULL, 0);
	else if (envelope->method[0] == 'g')
		bus_server_reply(request, "\xdd\x08\x00\x00\x00", 5);
	else
		bus_server_drop(request);
}

static void respond(void *userdata, struct bus_server_request *request)
{
	struct responder *responder = userdata;
	struct envelope_request envelope;
	char service[ENVELOPE_NAME_MAX + 1], text[64];
	const char *argument;
	size_t size;
	const void *data = bus_server_request_data(request, &size);
	uint8_t n;

	responder->n_requests++;
	if (envelope_read_request(data, size, &envelope, NULL)) {
		bus_server_drop(request);
		return;
	}
	argument = envelope_split_method(envelope.method, service);
	n = (uint8_t)responder->n_requests;
	if (strcmp(service, "late") == 0) {
		echo_late(responder, request, &envelope, (unsigned)atoi(argument));
	} else if (strcmp(service, "pending") == 0 || strcmp(service, "garbage") == 0 ||
		   strcmp(service, "drop") == 0) {
		answer_oddly(responder, request, &envelope, (unsigned)atoi(argument));
	} else if (strcmp(service, "deny") == 0) {
		snprintf(text, sizeof(text), "no %.40s", envelope.method);
		answer(request, &envelope, BUS_PERMISSION_DENIED, text, NULL, 0);
	} else if (strcmp(service, "stat") == 0) {
		answer(request, &envelope, BUS_OK, "", &n, 1);
	} else if (strcmp(service, "never") != 0) {
		echo(request, &envelope);
	}
}

bool responder_main(int argc, char **argv)
{
	struct responder responder = {};
	struct bus_server_options options = {.mode = 0600};

	if (argc < 3 || strcmp(argv[1], RESPONDER) != 0)
		return false;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	options.path = argv[2];
	unlink(options.path);
	if (loop_new(&responder.loop) ||
	    bus_server_new(responder.loop, &options, respond, &responder, &responder.server, NULL))
		_exit(1);
	loop_run(responder.loop);
	_exit(1);
}

pid_t responder_start(const char *path)
{
	const char *const argv[] = {"responder", RESPONDER, path, NULL};
	const struct spawn_fd fds[] = {{.from = 2, .to = 2}};
	char program[4096] = "";
	struct spawn options = {
		.path = program,
		.argv = argv,
		.envp = (const char *const *)environ,
		.fds = fds,
		.n_fds = 1,
	};
	pid_t pid = -1;

	if (readlink("/proc/self/exe", program, sizeof(program) - 1) < 0 ||
	    spawn(&options, &pid, NULL))
		return -1;
	return pid;
}

void responder_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}
