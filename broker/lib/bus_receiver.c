#include "broker/lib/bus_receiver.h"

#include <pthread.h>
#include <string.h>

#include "broker/lib/bus_port.h"

#define PENDING_MAX 512 /* messages that are on their way to the loop */
#define HEARTBEAT   "/bus/heartbeat"

/* What nng's callbacks touch; stays with nng's socket. */
struct receiver_core {
	nng_socket socket;
	nng_aio *aio;
	struct bus_port *port;
	pthread_mutex_t lock;
	unsigned n_pending;
	bool is_paused; /* no receive is posted until the loop has caught up */
};

struct bus_receiver {
	struct receiver_core *core; /* nng's from here on */
	bus_receiver_fn fn;
	void *userdata;
};

/* ---- receiving, on nng's threads ---- */

static struct bus_live *live_new(nng_msg *message)
{
	struct bus_live *live;

	live = calloc(1, sizeof(*live));
	if (!live)
		return NULL;

	live->n_refs = 1;
	live->message = message;
	return live;
}

void bus_live_unref(void *userdata)
{
	struct bus_live *live = userdata;

	if (--live->n_refs > 0)
		return;
	if (live->message)
		nng_msg_free(live->message);
	free(live);
}

/* Without memory the message is lost here, and its number is seen to be missing. */
static void core_post(struct receiver_core *core, nng_msg *message)
{
	struct bus_live *live = live_new(message);

	if (live && bus_port_post(core->port, &live->item))
		return;
	if (message)
		nng_msg_free(message);
	free(live);
	pthread_mutex_lock(&core->lock);
	core->n_pending--;
	pthread_mutex_unlock(&core->lock);
}

static bool core_begin(struct receiver_core *core)
{
	bool may_receive;

	pthread_mutex_lock(&core->lock);
	may_receive = ++core->n_pending < PENDING_MAX;
	core->is_paused = !may_receive;
	pthread_mutex_unlock(&core->lock);
	return may_receive;
}

static void core_received(void *userdata)
{
	struct receiver_core *core = userdata;
	nng_msg *message;
	bool may_receive;

	if (nng_aio_result(core->aio))
		return; /* only when the socket is closed */

	message = nng_aio_get_msg(core->aio);
	nng_aio_set_msg(core->aio, NULL);
	may_receive = core_begin(core);
	core_post(core, message);
	if (may_receive)
		nng_recv_aio(core->socket, core->aio);
}

static void core_pipe(void *userdata, bool is_added, bool is_own)
{
	struct receiver_core *core = userdata;

	(void)is_own;
	if (!is_added)
		return;
	pthread_mutex_lock(&core->lock);
	core->n_pending++;
	pthread_mutex_unlock(&core->lock);
	core_post(core, NULL);
}

/* On the loop's thread: one message is dealt with. */
static void core_end(struct receiver_core *core)
{
	bool may_resume;

	pthread_mutex_lock(&core->lock);
	core->n_pending--;
	may_resume = core->is_paused && core->n_pending < PENDING_MAX / 2;
	if (may_resume)
		core->is_paused = false;
	pthread_mutex_unlock(&core->lock);
	if (may_resume)
		nng_recv_aio(core->socket, core->aio);
}

static void receive_heartbeat(struct bus_receiver *receiver, const uint8_t *data, size_t size)
{
	_cleanup_(broker_heartbeat_clear) struct broker_heartbeat heartbeat = {};

	if (schema_unpack(schema_broker_heartbeat(), data, size, &heartbeat, NULL))
		return;
	if (heartbeat.log_id.size == ENVELOPE_ID_SIZE)
		receiver->fn(receiver->userdata, NULL, &heartbeat);
}

/* topic '\0' envelope; what is something else is passed over: its number will be missing. */
static void receive_message(struct bus_receiver *receiver, struct bus_live *live)
{
	const uint8_t *data = nng_msg_body(live->message), *rest;
	size_t size = nng_msg_len(live->message);

	rest = memchr(data, '\0', size < ENVELOPE_TOPIC_MAX + 1 ? size : ENVELOPE_TOPIC_MAX + 1);
	if (!rest)
		return;
	rest++;
	size -= (size_t)(rest - data);
	if (strcmp((const char *)data, HEARTBEAT) == 0)
		receive_heartbeat(receiver, rest, size);
	else if (envelope_read_event(rest, size, &live->event, NULL) == 0)
		receiver->fn(receiver->userdata, live, NULL);
}

static void receiver_deliver(void *userdata, struct loop_mail_item *item)
{
	struct bus_live *live = container_of(item, struct bus_live, item);
	struct bus_receiver *receiver = userdata;

	core_end(receiver->core);
	if (live->message)
		receive_message(receiver, live);
	else
		receiver->fn(receiver->userdata, NULL, NULL);
	bus_live_unref(live);
}

static int core_open(struct receiver_core *core, const char *path)
{
	int r;

	r = nng_aio_alloc(&core->aio, core_received, core);
	if (r)
		return error_origin(nng_compat_errno(r));

	nng_aio_set_timeout(core->aio, NNG_DURATION_INFINITE);
	r = nng_compat_open_sub(&core->socket);
	if (r)
		return error_trace(r);

	r = nng_compat_on_pipe(core->socket, core_pipe, core);
	if (!r)
		r = nng_compat_dial(core->socket, path, true);
	if (r) {
		nng_close(core->socket); /* it was never connected */
		return error_trace(r);
	}
	nng_recv_aio(core->socket, core->aio);
	return 0;
}

static int core_new(struct loop *loop, const char *path, struct bus_receiver *receiver,
		    struct receiver_core **ret_core)
{
	struct receiver_core *core;
	int r;

	core = calloc(1, sizeof(*core));
	if (!core)
		return error_origin(-ENOMEM);

	pthread_mutex_init(&core->lock, NULL);
	r = bus_port_new(loop, receiver_deliver, receiver, &core->port);
	if (!r)
		r = core_open(core, path);
	if (r) {
		bus_port_close(core->port);
		if (core->aio)
			nng_aio_free(core->aio);
		free(core);
		return error_trace(r);
	}
	bus_port_ref(core->port); /* nng's callbacks may post for as long as the process lives */
	*ret_core = core;
	return 0;
}

int bus_receiver_new(struct loop *loop, const char *path, bus_receiver_fn fn, void *userdata,
		     struct bus_receiver **ret_receiver)
{
	struct bus_receiver *receiver;
	int r;

	receiver = calloc(1, sizeof(*receiver));
	if (!receiver)
		return error_origin(-ENOMEM);

	receiver->fn = fn;
	receiver->userdata = userdata;
	r = core_new(loop, path, receiver, &receiver->core);
	if (r) {
		free(receiver);
		return error_trace(r);
	}
	*ret_receiver = receiver;
	return 0;
}

struct bus_receiver *bus_receiver_free(struct bus_receiver *receiver)
{
	if (!receiver)
		return NULL;

	bus_port_close(receiver->core->port);
	free(receiver);
	return NULL;
}
