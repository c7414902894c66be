#pragma once
/*
 * Ingests: writes that are under way. The record is made with the first part;
 * how far it is, and since when, is its file's size and time: a part costs no
 * commit. What a power cut may have taken is not gone on with: an ingest ends
 * with its boot.
 */

#include "services/image/image.h"

#define TABLE_INGESTS "ingests" /* namespace, ref -> content_ingest */
#define INGEST_NS     (24ull * 3600 * 1000000000ull)

/* ---- in a transaction ---- */
int ingest_check_ref(const char *ref, struct why *why);
int ingest_get(struct image_service *image, const char *namespace, const char *ref,
	       struct content_ingest *ret_ingest, struct why *why);
/* How far it is, from its file. */
int ingest_look(struct image_service *image, struct content_ingest *ingest);
/* Its file goes after the commit. */
int ingest_drop(struct image_service *image, const char *namespace,
		const struct content_ingest *ingest);

/* ---- writers: one at a time ---- */
int ingest_lock(struct image_service *image, const char *namespace, const char *ref,
		const char *writer, struct why *why);
void ingest_unlock(struct image_service *image, const char *namespace, const char *ref);
/* What content.commit calls itself in the list of operations. */
char *ingest_commit_name(const char *ref);

/* At the start: drops ingests of another boot and files of none. */
int ingest_clean(struct image_service *image);
void ingest_close(struct image_service *image);
