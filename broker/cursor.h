#pragma once
/* Named cursors of the event log: looked up on the loop's thread, changed on the log's. */

#include "broker/broker.h"

/* On the loop's thread; @ack: where it stands. */
typedef void (*cursor_fn)(void *userdata, enum bus_status status, uint64_t ack);

/* 0, LOG_E_NOT_FOUND, or negative. */
int cursor_find(struct broker *broker, const char *name, uint64_t *ret_ack);
int cursor_list(struct broker *broker, struct event_cursors_reply *reply);
int cursor_count(struct broker *broker, size_t *ret_count);
/* 0: @fn will be called when it is on disk; negative: it will not. */
int cursor_move(struct broker *broker, const char *name, uint64_t from, uint64_t ack, cursor_fn fn,
		void *userdata);
int cursor_delete(struct broker *broker, const char *name, cursor_fn fn, void *userdata);
