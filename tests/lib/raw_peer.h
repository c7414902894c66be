#pragma once
/* A peer that is no library's: a stream socket that a test writes bytes to. */

#include <stdbool.h>

/* -1: nobody takes it there. The caller closes it. */
int raw_peer_connect(const char *path);
/* True once the other side has closed the connection (what it sends before is thrown away). */
bool raw_peer_is_cut_off(int fd);
