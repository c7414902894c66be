#pragma once
/*
 * One process that `davit up` looks after. It is started again when it dies, with
 * back-off, and replaced while it serves:
 *
 *	new	starts with --take-over, says WAITING=1 when it stands at the lock
 *	old	is asked to end then (SIGTERM): it drains, and gives the lock up
 *	new	takes the lock, serves, says READY=1
 *
 * A new one that ends before it waits changes nothing: the old one goes on.
 */

#include "broker/lib/loop.h"
#include "broker/lib/paths.h"

#define MEMBER_READY_MS 20000 /* until a process must be ready */
#define MEMBER_STOP_MS  10000 /* until a process that was asked to stop is killed */

struct member;

struct member_process {
	struct member *member;
	struct loop_child child; /* pidfd -1: there is none */
	struct loop_file ready_file;
	int ready_fd;
	bool is_ready;
};

struct member {
	/* Given by its owner. */
	struct loop *loop;
	const struct paths *paths;
	const char *program;
	char *path;
	const char *const *words; /* further arguments, with NULL at the end; NULL: none */
	void (*ready)(struct member *member);   /* it serves; again after each restart */
	void (*stopped)(struct member *member); /* after member_stop(): nothing runs any more */
	/* @why is empty when it worked; then @pause_ms is the time without a process that serves. */
	void (*replaced)(struct member *member, uint64_t pause_ms, const char *why);

	struct member_process processes[2];
	struct member_process *now, *next; /* one of the two each; next only while it is replaced */
	struct loop_timer timer;           /* restart, or the kill of one that does not stop */
	struct loop_timer limit;           /* of a replacement */
	uint64_t started_ms, backoff_ms;
	uint64_t asked_ms; /* the old one was asked to end, or ended; 0: not yet */
	pid_t old_pid;     /* the one that is, or was last, replaced */
	bool is_stopping, is_replacing;
	bool has_served; /* since it was started */
};

#define MEMBER_ENVIRONMENT 16
/* What a supervisor or a service is given of the environment: a PATH, and proxies to whom talks to registries. */
void member_environment(bool is_debugged, bool has_network, const char *ret_environment[MEMBER_ENVIRONMENT]);
/* @member has what its owner gives. */
void member_init(struct member *member);
void member_start(struct member *member);
/* It serves and is not being replaced. */
bool member_is_ready(const struct member *member);
bool member_is_running(const struct member *member);
bool member_has_pid(const struct member *member, pid_t pid);
/* Ends it for good; @stopped is called if anything ran. */
void member_stop(struct member *member);
/* 0: @replaced will be called. Only when it is ready. */
int member_replace(struct member *member, struct why *why);
