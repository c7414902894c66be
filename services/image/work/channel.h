#pragma once
/*
 * The way to davit-image while a transfer is under way: a SOCK_SEQPACKET pair, a
 * message each packet. When the other end is closed, this process ends: what it has
 * loaded so far is there for the next one.
 */

#include "services/image/work/work.h"

/* Starts the thread that watches for the other end's end. */
int channel_watch(int channel, struct why *why);
/* From any thread. */
int channel_note(int channel, const struct work_note *note);
/* NOTE_ASK or NOTE_OPEN; one thread only. @ret_fd: -1 if there is none; NULL with NOTE_ASK. */
int channel_ask(int channel, enum work_note_kind kind, const struct descriptor *blob,
		struct work_answer *ret_answer, int *ret_fd, struct why *why);
/* For http_set_log(); @userdata points at the descriptor. */
void channel_log(void *userdata, const char *line);
