/* Users and groups by name, as they stand in an image's files. The files' texts may be hostile. */

#include <ctype.h>
#include <string.h>

#include "services/runtime/user.h"

#define GROUPS_MAX 1024

/* A line's fields, up to @max; the last takes the rest. Spans into the text. */
struct field {
	const char *text;
	size_t size;
};

/* Digits only, no sign, no leading zero, at most SPEC_USER_MAX. */
static bool read_number(const char *text, size_t size, uint32_t *ret_number)
{
	uint64_t number = 0;

	if (!size || size > 10 || (size > 1 && *text == '0'))
		return false;
	for (size_t i = 0; i < size; i++) {
		if (!isdigit((unsigned char)text[i]))
			return false;
		number = number * 10 + (uint64_t)(text[i] - '0');
	}
	*ret_number = (uint32_t)number;
	return number <= SPEC_USER_MAX;
}

static bool is_name(const char *text, size_t size)
{
	if (!size || size > 128 || !(isalpha((unsigned char)*text) || *text == '_'))
		return false;
	for (size_t i = 1; i < size; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("_.-@$", text[i]))
			return false;
	return true;
}

static int parse_part(const char *what, const char *text, size_t size, char name[129],
		      bool *ret_has_number, uint32_t *ret_number, struct why *why)
{
	*ret_has_number = read_number(text, size, ret_number);
	if (*ret_has_number)
		return 0;
	if (!is_name(text, size))
		return why_set(why, SPEC_E_INVALID,
			       "'%.*s' is neither a %s name nor a number from 0 to %d",
			       (int)(size < 128 ? size : 128), text, what, SPEC_USER_MAX);
	memcpy(name, text, size);
	name[size] = '\0';
	return 0;
}

int user_parse(const char *text, struct user_name *ret_name, struct why *why)
{
	struct user_name name = {};
	size_t length = strcspn(text, ":");
	int r;

	if (!*text) {
		*ret_name = (struct user_name){.has_uid = true};
		return 0;
	}
	r = parse_part("user", text, length, name.user, &name.has_uid, &name.uid, why);
	if (r)
		return r;
	name.has_group = text[length] == ':';
	if (name.has_group)
		r = parse_part("group", text + length + 1, strlen(text + length + 1), name.group,
			       &name.has_gid, &name.gid, why);
	if (r)
		return r;
	*ret_name = name;
	return 0;
}

/* ---- the files ---- */

/* The next line with at least @n fields; lines of other shapes are passed over. */
static bool next_line(const char **text, struct field *fields, size_t n)
{
	while (*text && **text) {
		const char *line = *text;
		size_t length = strcspn(line, "\n"), count = 0;

		*text = line[length] ? line + length + 1 : NULL;
		for (const char *at = line;; at++) {
			size_t rest = length - (size_t)(at - line);
			const char *colon = count + 1 < n ? memchr(at, ':', rest) : NULL;

			fields[count].text = at;
			fields[count++].size = colon ? (size_t)(colon - at) : rest;
			if (!colon)
				break;
			at = colon;
		}
		if (count == n)
			return true;
	}
	return false;
}

static bool field_is(const struct field *field, const char *text)
{
	return field->size == strlen(text) && !memcmp(field->text, text, field->size);
}

/* name:password:uid:gid:rest */
static bool find_user(const char *passwd, const struct user_name *name, char ret_name[129],
		      uint32_t *ret_uid, uint32_t *ret_gid)
{
	struct field fields[5];
	uint32_t uid, gid;

	while (next_line(&passwd, fields, 5)) {
		if (!read_number(fields[2].text, fields[2].size, &uid) ||
		    !read_number(fields[3].text, fields[3].size, &gid) || fields[0].size > 128)
			continue;
		if (name->has_uid ? uid != name->uid : !field_is(&fields[0], name->user))
			continue;
		memcpy(ret_name, fields[0].text, fields[0].size);
		ret_name[fields[0].size] = '\0';
		*ret_uid = uid;
		*ret_gid = gid;
		return true;
	}
	return false;
}

/* name:password:gid:members */
static bool find_group(const char *group, const char *name, uint32_t *ret_gid)
{
	struct field fields[4];

	while (next_line(&group, fields, 4))
		if (field_is(&fields[0], name) &&
		    read_number(fields[2].text, fields[2].size, ret_gid))
			return true;
	return false;
}

static bool is_member(const struct field *members, const char *name)
{
	const char *at = members->text, *end = at + members->size;

	while (at < end) {
		const char *comma = memchr(at, ',', (size_t)(end - at));
		struct field member = {at, (size_t)((comma ? comma : end) - at)};

		if (field_is(&member, name))
			return true;
		at += member.size + 1;
	}
	return false;
}

static int add_group(struct spec_user *user, uint32_t gid, struct why *why)
{
	uint32_t *grown;

	for (size_t i = 0; i < user->n_groups; i++)
		if (user->groups[i] == gid)
			return 0;
	if (user->n_groups == GROUPS_MAX)
		return why_set(why, SPEC_E_INVALID, "user %u is in more than %d groups", user->uid,
			       GROUPS_MAX);
	grown = reallocarray(user->groups, user->n_groups + 1, sizeof(*grown));
	if (!grown)
		return error_origin(-ENOMEM);
	user->groups = grown;
	user->groups[user->n_groups++] = gid;
	return 0;
}

/* The primary group is among the additional ones: a process that drops it must not lose what the group forbids. */
static int add_groups(struct spec_user *user, const char *group, const char *name, struct why *why)
{
	struct field fields[4];
	uint32_t gid;
	int r = add_group(user, user->gid, why);

	while (!r && *name && next_line(&group, fields, 4))
		if (is_member(&fields[3], name) &&
		    read_number(fields[2].text, fields[2].size, &gid))
			r = add_group(user, gid, why);
	return r;
}

int user_resolve(const struct user_name *name, const char *passwd, const char *group,
		 struct spec_user *ret_user, struct why *why)
{
	_cleanup_(spec_user_clear) struct spec_user user = {.uid = name->uid};
	char found[129] = "";
	int r;

	if (!find_user(passwd, name, found, &user.uid, &user.gid) && !name->has_uid)
		return why_set(why, SPEC_E_INVALID, "no user '%s' in the container's etc/passwd",
			       name->user);
	if (name->has_gid)
		user.gid = name->gid;
	else if (name->has_group && !find_group(group, name->group, &user.gid))
		return why_set(why, SPEC_E_INVALID, "no group '%s' in the container's etc/group",
			       name->group);
	r = add_groups(&user, group, found, why);
	if (r)
		return r;
	*ret_user = user;
	user = (struct spec_user){};
	return 0;
}
