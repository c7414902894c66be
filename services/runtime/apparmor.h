#pragma once
/*
 * The AppArmor profile of --apparmor-default-profile: containers may not mount,
 * nor write to the parts of /proc and /sys that are the host's. It is loaded
 * into the kernel by apparmor_parser when a task is prepared, by a child, since
 * compiling takes a while; one of that name that is loaded already stays.
 */

#include <stdbool.h>

#include "broker/lib/error.h"

#define APPARMOR_LOADED "/sys/kernel/security/apparmor/profiles"

/* The profile's text, malloc'd; NULL when memory is out. @has_includes: /etc/apparmor.d has the usual files. */
char *apparmor_text(const char *name, bool has_includes);
/* Whether @profiles (the text of APPARMOR_LOADED) has @name. */
bool apparmor_is_loaded(const char *profiles, const char *name);
/* SPEC_E_INVALID with the reason: the file @loaded does not have @name. One that cannot be read says nothing. */
int apparmor_check(const char *loaded, const char *name, struct why *why);
/* Loads it with the program @parser, unless the file @loaded has it. Positive or negative with @why. */
int apparmor_load(const char *loaded, const char *parser, const char *name, struct why *why);
/* The child: davit-runtime --apparmor NAME. Returns its exit code. */
int apparmor_main(const char *name);
