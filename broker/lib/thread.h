#pragma once
/* Threads of processes that have a loop. */

#include <pthread.h>
#include <stddef.h>

/* Starts @run with a stack of @stack_size bytes, and all signals blocked: they are for the loop's signalfd. Who has it joins it. */
int thread_start(pthread_t *ret_thread, size_t stack_size, void *(*run)(void *userdata), void *userdata);
