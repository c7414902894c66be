#pragma once
/* Rules for names that several processes check (containerd's). Pure. */

#include <stdbool.h>
#include <stddef.h>

#include "schemas/schema.h"

/* ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$ and 1 to 76 bytes: containers, exec ids, namespaces, services. */
bool check_identifier(const char *text);
/* As above, with the sentence for the user in @fault: "container id 'a/b' …" (@what names the object's kind). */
int check_identifier_why(const char *what, const char *text, struct schema_fault *fault);
/* "/" and identifiers joined by "/"; at most 256 bytes. */
bool check_topic(const char *text);
/* sha256: and 64 lower-case hex digits. */
bool check_digest(const char *text);
/* Keys 1 to 128 bytes of printable ASCII without spaces; key and value together at most 4096 bytes; at most 64 KiB in all. */
int check_labels(const struct schema_map *labels, struct schema_fault *fault);
/* An OCI reference as a name of an image: no spaces, control characters or "..", 1 to 512 bytes. */
bool check_reference(const char *text);
