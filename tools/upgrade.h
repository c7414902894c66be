#pragma once
/*
 * `davit upgrade`: <state>/up.sock, where `davit up` is asked to replace its
 * processes one after another. SOCK_SEQPACKET, text; the directory keeps others out.
 *
 *	up	"ready"
 *	client	names of programs, separated by spaces; none means all
 *	up	"replaced PROGRAM OLD-PID NEW-PID PAUSE-MS" for each,
 *		then "done", or "failed SENTENCE", which ends it
 *
 * One upgrade at a time: others hear "failed SENTENCE" at once. A client that goes away
 * ends it after the process that is being replaced.
 */

#include "tools/member.h"

#define UPGRADE_SOCKET     "up.sock"
#define UPGRADE_PACKET_MAX 512

struct upgrade_server;

/* @members are the caller's, in the order in which they are replaced. */
int upgrade_server_new(struct loop *loop, const char *state, struct member *members,
		       size_t n_members, struct upgrade_server **ret_server, struct why *why);
struct upgrade_server *upgrade_server_free(struct upgrade_server *server);
/* What members[i].replaced has to pass on. */
void upgrade_server_replaced(struct upgrade_server *server, struct member *member,
			     uint64_t pause_ms, const char *why);
