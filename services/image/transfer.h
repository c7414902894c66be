#pragma once
/*
 * A pull, push, import or export under way: the child that does it, the channel on which it asks
 * and tells, and the events that say how far it is. Closing the channel ends the
 * child; what it has loaded stays in the ingest directory.
 */

#include "broker/lib/loop.h"
#include "services/image/image.h"

struct transfer;

struct transfer_hooks {
	const char *method;
	bool tells_progress; /* and nothing else: what it asks is refused */
	/* All may be NULL; outside of a transaction. */
	void (*resolved)(void *userdata, const struct descriptor *target);
	/* It lies verified in the ingest directory (@is_new), or is in the content store and held by the operation's lease. */
	void (*arrived)(void *userdata, const struct descriptor *blob, bool is_new);
	/* Fills in what only the owner knows of @item. */
	void (*describe)(void *userdata, struct transfer_item *item);
	/* The child has ended; @reply as in work_fn. Once, whatever happened. */
	void (*ended)(void *userdata, void *reply, const struct why *why);
};

/* Starts davit-image-work @mode; @directory (-1: none) is given to it behind the channel. The operation's step is OPERATION_LATER until @ended. */
int transfer_start(struct operation *operation, const char *name, const char *mode,
		   const struct schema_message *request, const void *message, int directory,
		   const struct schema_message *reply, const struct transfer_hooks *hooks,
		   void *userdata, struct transfer **ret_transfer, struct why *why);
/* Of a stream, which whatever runs may wait for: unless its turn comes soon (limit `turn`) it is refused. */
void transfer_limit_turn(struct transfer *transfer);
/*
 * BUS_OK, or why it was ended from here: UNAVAILABLE, as its turn did not come; DEADLINE_EXCEEDED, as its stream stood
 * still (limit `still`) while others waited for their turn. @ended has no reply then, and a sentence.
 */
enum bus_status transfer_refusal(const struct transfer *transfer);
/* The child ends soon, and @ended is called. */
void transfer_stop(struct transfer *transfer);
struct transfer *transfer_free(struct transfer *transfer);
/* Publishes how far it is, in a transaction. @state NULL: as it was last. */
int transfer_tell(struct transfer *transfer, const char *state);
/* In a transaction, when nothing is known of its blobs any more: its last event. */
int transfer_tell_end(struct operation *operation, const char *method, const char *name,
		      const char *state);

/*
 * The start of an operation whose request may have credentials, which are not stored: after a crash a request without
 * them waits for its caller, who asks again, for a minute.
 */
struct transfer_wait {
	struct loop_timer timer; /* armed: it waits */
	struct operation *operation;
	char what[256]; /* for sentences: "pull of 'x'" */
};
/* After the commit. @start: at once, or, by the operation's type, when the credentials come. */
void transfer_begin(struct transfer_wait *wait, struct operation *operation,
		    void (*start)(struct operation *operation), const char *verb, const char *name);
/* The credentials have come, or it is over. */
void transfer_wait_end(struct transfer_wait *wait);
/* It was cancelled: true if it was still waiting, and has ended now. */
bool transfer_wait_cancel(struct transfer_wait *wait);

/* An archive's path, or what of it fits into an event. */
const char *transfer_archive_name(const char *path);

/* Proxies, as this service was started with. */
int transfer_environment(struct schema_strs *environment);
/* The registry of a full reference, and its repository, which points into @name and ends at *ret_size. */
void transfer_split(const char *name, char **ret_host, const char **ret_repository,
		    size_t *ret_size);
/* In a transaction: notes from which repository a blob came, for mounts when it is pushed. */
int transfer_add_source(struct image_service *image, const char *digest, const char *name);
/* Checks what a caller says of a registry. */
int transfer_check_options(const struct registry_options *options, struct why *why);
/* Checks what a caller says of one object: its repository, its digest (NULL or "": none), its media types. */
int transfer_check_object(const char *name, const char *digest, char *const *media_types,
			  size_t n_media_types, struct why *why);
