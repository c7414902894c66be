/* See thread.h. */

#include "broker/lib/thread.h"

#include <signal.h>

#include "broker/lib/error.h"

int thread_start(pthread_t *ret_thread, size_t stack_size, void *(*run)(void *userdata),
		 void *userdata)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	int r;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, stack_size);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(ret_thread, &attributes, run, userdata);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return r ? error_origin(-r) : 0;
}
