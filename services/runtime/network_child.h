#pragma once
/*
 * The child of the runtime service that makes a network, or takes it back: all
 * that blocks or may hang (davit-runtime --network; see work.h for its
 * descriptors). When the service dies it ends what it has begun; the next child
 * for the same container waits for it.
 */

/* Returns the exit code. */
int network_child_main(void);
