#pragma once
/* What `backup` and `restore` share: DIR/{durable,volatile}/<store>/data.mdb, DIR/files/<directory>/<name>, and the manifest. */

#include "tools/command.h"

#define BACKUP_FORMAT      1
#define BACKUP_MANIFEST    "manifest.json"
#define BACKUP_DIGEST_SIZE 24

/* "crc32c:<8 hex digits>": tells of damage, not of malice; the directory is root's own. */
int backup_digest(const char *path, uint64_t *ret_size, char ret_digest[BACKUP_DIGEST_SIZE]);
