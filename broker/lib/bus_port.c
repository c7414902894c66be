#include "broker/lib/bus_port.h"

static void port_deliver(struct loop_mail *mail, struct loop_mail_item *item)
{
	struct bus_port *port = container_of(mail, struct bus_port, mail);

	port->fn(port->userdata, item);
}

int bus_port_new(struct loop *loop, void (*fn)(void *userdata, struct loop_mail_item *item),
		 void *userdata, struct bus_port **ret_port)
{
	struct bus_port *port;
	int r;

	port = calloc(1, sizeof(*port));
	if (!port)
		return error_origin(-ENOMEM);

	pthread_mutex_init(&port->lock, NULL);
	port->n_refs = 1;
	port->fn = fn;
	port->userdata = userdata;
	r = loop_mail_add(loop, &port->mail, port_deliver);
	if (r) {
		free(port);
		return error_trace(r);
	}
	*ret_port = port;
	return 0;
}

struct bus_port *bus_port_ref(struct bus_port *port)
{
	pthread_mutex_lock(&port->lock);
	port->n_refs++;
	pthread_mutex_unlock(&port->lock);
	return port;
}

struct bus_port *bus_port_unref(struct bus_port *port)
{
	unsigned n_refs;

	if (!port)
		return NULL;

	pthread_mutex_lock(&port->lock);
	n_refs = --port->n_refs;
	pthread_mutex_unlock(&port->lock);
	if (n_refs == 0) {
		pthread_mutex_destroy(&port->lock);
		free(port);
	}
	return NULL;
}

bool bus_port_post(struct bus_port *port, struct loop_mail_item *item)
{
	bool is_open;

	pthread_mutex_lock(&port->lock);
	is_open = !port->is_closed;
	if (is_open)
		loop_mail_post(&port->mail, item);
	pthread_mutex_unlock(&port->lock);
	return is_open;
}

struct bus_port *bus_port_close(struct bus_port *port)
{
	if (!port)
		return NULL;

	pthread_mutex_lock(&port->lock);
	port->is_closed = true;
	pthread_mutex_unlock(&port->lock);
	loop_mail_remove(&port->mail);
	return bus_port_unref(port);
}
