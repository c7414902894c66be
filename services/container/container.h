#pragma once
/*
 * The container service's own parts: records of containers and namespaces, and
 * the operations that run and remove a container.
 *
 * Tables of the store (durable):
 *	containers	namespace, id -> container_record
 *	namespaces	name -> namespace_record
 *	auto_remove	namespace, id -> container_name_row	those to be removed when their process has ended
 */

#include "services/lib/operation.h"
#include "services/lib/service.h"

#define CONTAINER_TABLE   "containers"
#define NAMESPACE_TABLE   "namespaces"
#define AUTO_REMOVE_TABLE "auto_remove"

#define PAGE_SIZE 786432 /* bytes of records in one reply: the rest of 1 MiB is for the envelope */

struct sweep;

struct container_service {
	struct service *service;
	struct store *store;
	struct sweep *sweep;
};

enum {
	_CONTAINER_E_SUCCESS,
	CONTAINER_E_NOT_FOUND,
	CONTAINER_E_EXISTS,
	CONTAINER_E_OTHER,   /* another container of that id: the uid differs */
	CONTAINER_E_DAMAGED, /* its record cannot be read */
};

/* The handlers: service.c binds them. */
#define METHOD(service_, name_, request_, reply_, effect_, doc_)                                   \
	int service_##_##name_(struct container_service *, const struct request_ *,                \
			       struct reply_ *, struct call *);
#include "schemas/container.def"
#include "schemas/end.h"

/* ---- records (record.c); inside a transaction ---- */
int record_get(struct container_service *service, const char *namespace, const char *id,
	       struct container_record *ret_record);
bool record_exists(struct container_service *service, const char *namespace, const char *id);
/* A new one: sets the times, makes its namespace if needed, emits the event. CONTAINER_E_EXISTS. */
int record_add(struct container_service *service, const char *namespace,
	       struct container_record *record);
/* Changes one: sets the time, emits the event. */
int record_change(struct container_service *service, const char *namespace,
		  struct container_record *record);
/* Only if it still is the one with @uid (NULL: whichever). CONTAINER_E_NOT_FOUND, CONTAINER_E_OTHER. */
int record_remove(struct container_service *service, const char *namespace, const char *id,
		  const char *uid);
/* Of what record_remove() returned: there is no such container any more. A damaged record is set aside. */
static inline bool record_is_gone(int r)
{
	return r == CONTAINER_E_NOT_FOUND || r == CONTAINER_E_OTHER || r == CONTAINER_E_DAMAGED;
}
/* How many containers are in @namespace. */
size_t record_count(struct container_service *service, const char *namespace);
/* Key of a container, and of the place before a namespace's first one. */
int record_key(struct store_key *key, const char *namespace, const char *id);
/* As many labels as an event can hold. */
int record_event_labels(const struct schema_map *labels, struct schema_map *ret_labels);

/* ---- rules (check.c): pure; 0, or 1 with the sentence in @fault, or negative ---- */
int check_container(const struct container_record *record, struct schema_fault *fault);
int check_namespace(const struct namespace_record *record, struct schema_fault *fault);
int check_spec_text(const char *spec, struct schema_fault *fault);
/* Puts what @mask names from @from into @record. */
int check_apply_mask(struct container_record *record, const struct container_record *from,
		     const struct schema_strs *mask, struct schema_fault *fault);
int check_apply_labels(struct schema_map *labels, const struct schema_map *from,
		       const struct schema_strs *mask, struct schema_fault *fault);
/* Labels of an image config that a container takes over: those that are valid and mean nothing to davit. */
int check_image_labels(const char *image_config, struct schema_map *labels);

/* ---- namespaces (namespace.c); inside a transaction ---- */
/* A namespace springs into being with its first object. */
int namespace_touch(struct container_service *service, const char *name);
/* Label `containerd.io/defaults/<what>` of a namespace, or NULL; the caller frees. */
int namespace_default(struct container_service *service, const char *name, const char *what,
		      char **ret_value);

/* ---- operations ---- */
extern const struct operation_type container_run_operation;
extern const struct operation_type container_remove_operation;
extern const struct operation_type container_delete_operation;

/* ---- rebuild.c ---- */
int container_rebuild(struct rebuild *rebuild);

/* ---- sweep.c: containers with auto_remove that nobody runs ---- */
int sweep_new(struct container_service *service, struct sweep **ret_sweep);
struct sweep *sweep_free(struct sweep *sweep);
/* One round, as the timer makes them. */
void sweep_now(struct sweep *sweep);
