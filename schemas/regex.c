/*
 * See regex.h. A recursive descent over the pattern emits the program of a
 * non-deterministic automaton; the search runs all its states side by side, so
 * nothing is ever tried twice at one place of the text (Thompson 1968).
 *
 * Repeats are made by reading their atom again: so many copies as may be. What
 * that can cost is bounded by the program's length and by a count of atoms read.
 */

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/regex.h"

#define PATTERN_MAX 256
#define STEPS_MAX   512
#define SETS_MAX    128 /* a set takes two bytes of the pattern or more */
#define ATOMS_MAX   8192
#define DEPTH_MAX   32
#define REPEAT_MAX  255

enum op { OP_SET, OP_ANY, OP_SPLIT, OP_JUMP, OP_START, OP_END, OP_MATCH };

struct step {
	uint8_t op;
	uint16_t x; /* OP_SET: number of the set; OP_SPLIT, OP_JUMP: where to */
	uint16_t y; /* OP_SPLIT: the other way */
};

struct set {
	uint8_t bits[32];
};

struct regex {
	struct step steps[STEPS_MAX];
	struct set sets[SETS_MAX];
};

/* ---- sets ------------------------------------------------------------------ */

static void set_add(struct set *set, uint8_t byte)
{
	set->bits[byte / 8] |= (uint8_t)(1u << byte % 8);
}

static bool set_has(const struct set *set, uint8_t byte)
{
	return set->bits[byte / 8] & 1u << byte % 8;
}

static void set_invert(struct set *set)
{
	for (size_t i = 0; i < sizeof(set->bits); i++)
		set->bits[i] = (uint8_t)~set->bits[i];
}

static void set_fold_case(struct set *set)
{
	for (uint8_t c = 'a'; c <= 'z'; c++) {
		if (set_has(set, c) || set_has(set, c - 32)) {
			set_add(set, c);
			set_add(set, c - 32);
		}
	}
}

/* Adds what \d, \w or \s stand for; false if @letter names no class. */
static bool set_add_escape(struct set *set, char letter)
{
	for (unsigned c = 0; c < 128; c++) {
		if ((letter == 'd' && c >= '0' && c <= '9') ||
		    (letter == 'w' && (isalnum((int)c) || c == '_')) ||
		    (letter == 's' && c && strchr(" \t\n\r\f\v", (int)c)))
			set_add(set, (uint8_t)c);
	}
	return strchr("dws", letter);
}

static bool set_add_class(struct set *set, const char *name, size_t size)
{
	static const struct {
		const char *name;
		int (*is)(int);
	} classes[] = {
		{"alpha", isalpha}, {"digit", isdigit}, {"alnum", isalnum}, {"upper", isupper},
		{"lower", islower}, {"space", isspace}, {"blank", isblank}, {"punct", ispunct},
		{"print", isprint}, {"graph", isgraph}, {"cntrl", iscntrl}, {"xdigit", isxdigit},
	};

	for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
		if (strlen(classes[i].name) != size || memcmp(classes[i].name, name, size) != 0)
			continue;
		for (int c = 0; c < 128; c++) {
			if (classes[i].is(c))
				set_add(set, (uint8_t)c);
		}
		return true;
	}
	return false;
}

/* ---- reading the pattern ---------------------------------------------------- */

struct reader {
	struct regex *regex;
	const char *at;
	const char *problem; /* the first one; reading stops */
	size_t n_steps, n_sets, n_atoms;
	unsigned depth;
	bool ignore_case;
};

static bool refuse(struct reader *reader, const char *problem)
{
	if (!reader->problem)
		reader->problem = problem;
	return false;
}

/* Opens a gap for a step at @where, and mends the jumps behind it, which all lead into the gap's part. */
static bool insert(struct reader *reader, size_t where, struct step step)
{
	struct step *steps = reader->regex->steps;

	if (reader->n_steps >= STEPS_MAX)
		return refuse(reader, "is too large");
	for (size_t i = where; i < reader->n_steps; i++) {
		steps[i].x += steps[i].op == OP_SPLIT || steps[i].op == OP_JUMP;
		steps[i].y += steps[i].op == OP_SPLIT;
	}
	memmove(&steps[where + 1], &steps[where], (reader->n_steps - where) * sizeof(*steps));
	steps[where] = step;
	reader->n_steps++;
	return true;
}

static bool emit(struct reader *reader, enum op op, size_t x, size_t y)
{
	struct step step = {.op = (uint8_t)op, .x = (uint16_t)x, .y = (uint16_t)y};

	return insert(reader, reader->n_steps, step);
}

/* A repeated atom gives the same set again: those are shared. */
static bool emit_set(struct reader *reader, struct set *set)
{
	size_t i;

	if (reader->ignore_case)
		set_fold_case(set);
	for (i = 0; i < reader->n_sets; i++) {
		if (!memcmp(&reader->regex->sets[i], set, sizeof(*set)))
			return emit(reader, OP_SET, i, 0);
	}
	if (i >= SETS_MAX)
		return refuse(reader, "is too large");
	reader->regex->sets[reader->n_sets++] = *set;
	return emit(reader, OP_SET, i, 0);
}

static bool emit_byte(struct reader *reader, char byte)
{
	struct set set = {};

	set_add(&set, (uint8_t)byte);
	return emit_set(reader, &set);
}

/* The byte that an escape stands for, or -1. */
static int escaped_byte(char letter)
{
	static const char letters[] = "ntrfv", bytes[] = "\n\t\r\f\v";
	const char *known = letter ? strchr(letters, letter) : NULL;

	if (known)
		return bytes[known - letters];
	return ispunct((uint8_t)letter) ? letter : -1;
}

static bool read_escape(struct reader *reader)
{
	char letter = *++reader->at;
	struct set set = {};
	int byte;

	if (!letter)
		return refuse(reader, "ends with a backslash");
	reader->at++;
	if (set_add_escape(&set, (char)tolower((uint8_t)letter))) {
		if (isupper((uint8_t)letter))
			set_invert(&set);
		return emit_set(reader, &set);
	}
	byte = escaped_byte(letter);
	if (byte < 0)
		return refuse(reader, "has an escape that is not known here (no back references)");
	return emit_byte(reader, (char)byte);
}

/* One end of a range, or a byte on its own. */
static int read_set_byte(struct reader *reader)
{
	int byte = (uint8_t)*reader->at;

	if (byte == '\\') {
		byte = escaped_byte(*++reader->at);
		if (byte < 0) {
			refuse(reader, "has an unknown escape in []");
			return -1;
		}
	}
	reader->at++;
	return byte;
}

static bool read_range(struct reader *reader, struct set *set)
{
	int last, first = read_set_byte(reader);

	last = first;
	if (first >= 0 && reader->at[0] == '-' && reader->at[1] && reader->at[1] != ']') {
		reader->at++;
		last = read_set_byte(reader);
	}
	if (first < 0 || last < 0)
		return false;
	if (last < first)
		return refuse(reader, "has a range that runs backwards");
	for (int c = first; c <= last; c++)
		set_add(set, (uint8_t)c);
	return true;
}

static bool read_set_part(struct reader *reader, struct set *set)
{
	const char *at = reader->at, *end;

	if (at[0] == '[' && at[1] == ':') {
		end = strstr(at, ":]");
		if (!end || !set_add_class(set, at + 2, (size_t)(end - at - 2)))
			return refuse(reader, "has an unknown [:class:]");
		reader->at = end + 2;
		return true;
	}
	if (at[0] == '\\' && at[1] && set_add_escape(set, at[1])) {
		reader->at += 2;
		return true;
	}
	return read_range(reader, set);
}

static bool read_set(struct reader *reader)
{
	struct set set = {};
	bool is_inverted = reader->at[1] == '^';
	const char *start;

	reader->at += 1 + is_inverted;
	start = reader->at;
	while (*reader->at != ']' || reader->at == start) {
		if (!*reader->at)
			return refuse(reader, "has a [ without ]");
		if (!read_set_part(reader, &set))
			return false;
	}
	reader->at++;
	if (reader->ignore_case)
		set_fold_case(&set);
	if (is_inverted)
		set_invert(&set);
	return emit_set(reader, &set);
}

static bool read_alternatives(struct reader *reader);

static bool read_group(struct reader *reader)
{
	reader->at++;
	if (*reader->at == '?') {
		if (reader->at[1] != ':')
			return refuse(reader, "has a group that is not known here");
		reader->at += 2;
	}
	if (++reader->depth > DEPTH_MAX)
		return refuse(reader, "is nested too deep");
	if (!read_alternatives(reader))
		return false;
	reader->depth--;
	if (*reader->at != ')')
		return refuse(reader, "has a ( without )");
	reader->at++;
	return true;
}

static bool read_atom(struct reader *reader)
{
	if (++reader->n_atoms > ATOMS_MAX)
		return refuse(reader, "is too large");
	switch (*reader->at) {
	case '(':
		return read_group(reader);
	case '[':
		return read_set(reader);
	case '\\':
		return read_escape(reader);
	case '*':
	case '+':
	case '?':
	case '{':
		return refuse(reader, "repeats nothing");
	case '.':
		reader->at++;
		return emit(reader, OP_ANY, 0, 0);
	case '^':
		reader->at++;
		return emit(reader, OP_START, 0, 0);
	case '$':
		reader->at++;
		return emit(reader, OP_END, 0, 0);
	}
	return emit_byte(reader, *reader->at++);
}

struct repeat {
	unsigned min, max; /* max 0: any number */
};

static bool read_count(struct reader *reader, unsigned *ret_count)
{
	char *end;

	if (!isdigit((uint8_t)*reader->at))
		return refuse(reader, "has a { without a number");
	*ret_count = (unsigned)strtoul(reader->at, &end, 10);
	if (end - reader->at > 3 || *ret_count > REPEAT_MAX)
		return refuse(reader, "repeats more than 255 times");
	reader->at = end;
	return true;
}

static bool read_counts(struct reader *reader, struct repeat *repeat)
{
	reader->at++;
	if (!read_count(reader, &repeat->min))
		return false;
	repeat->max = repeat->min;
	if (*reader->at == ',') {
		reader->at++;
		repeat->max = 0;
		if (*reader->at != '}' && !read_count(reader, &repeat->max))
			return false;
		if (reader->at[-1] != ',' && repeat->max < repeat->min)
			return refuse(reader, "has counts that run backwards");
	}
	if (*reader->at != '}')
		return refuse(reader, "has a { without }");
	if (reader->at[-1] != ',' && !repeat->max)
		return refuse(reader, "repeats 0 times");
	reader->at++;
	return true;
}

/* What stands behind an atom; false: nothing, or a problem. */
static bool read_repeat(struct reader *reader, struct repeat *repeat)
{
	switch (*reader->at) {
	case '*':
		*repeat = (struct repeat){0, 0};
		break;
	case '+':
		*repeat = (struct repeat){1, 0};
		break;
	case '?':
		*repeat = (struct repeat){0, 1};
		break;
	case '{':
		if (!read_counts(reader, repeat))
			return false;
		reader->at -= 1;
		break;
	default:
		return false;
	}
	reader->at++;
	if (*reader->at == '?') /* lazy: the same texts match */
		reader->at++;
	return true;
}

/* The atom at @atom once more. */
static bool read_again(struct reader *reader, const char *atom)
{
	const char *at = reader->at;
	bool ok;

	reader->at = atom;
	ok = read_atom(reader);
	reader->at = at;
	return ok;
}

/* An atom that may be left out, or (@is_loop) come any number of times. */
static bool read_optional(struct reader *reader, const char *atom, bool is_loop)
{
	size_t start = reader->n_steps;
	struct step split = {.op = OP_SPLIT, .x = (uint16_t)(start + 1)};

	if (!read_again(reader, atom) || !insert(reader, start, split))
		return false;
	if (is_loop && !emit(reader, OP_JUMP, start, 0))
		return false;
	reader->regex->steps[start].y = (uint16_t)reader->n_steps;
	return true;
}

static bool read_piece(struct reader *reader)
{
	size_t start = reader->n_steps;
	const char *atom = reader->at;
	struct repeat repeat;
	bool ok;

	if (!read_atom(reader))
		return false;
	if (!read_repeat(reader, &repeat))
		return !reader->problem;
	if (strchr("*+?{", *reader->at) && *reader->at)
		return refuse(reader, "repeats a repeat");
	reader->n_steps = start; /* and as often as is wanted */
	ok = true;
	for (unsigned i = 0; ok && i < repeat.min; i++)
		ok = read_again(reader, atom);
	for (unsigned i = repeat.min; ok && i < repeat.max; i++)
		ok = read_optional(reader, atom, false);
	return ok && (repeat.max || read_optional(reader, atom, true));
}

static bool read_branch(struct reader *reader)
{
	while (*reader->at && *reader->at != '|' && *reader->at != ')') {
		if (!read_piece(reader))
			return false;
	}
	return true;
}

/* a|b: split to a and to (b), jump from a's end behind b. */
static bool read_alternatives(struct reader *reader)
{
	size_t start = reader->n_steps, jump;
	struct step split = {.op = OP_SPLIT, .x = (uint16_t)(start + 1)};

	if (!read_branch(reader))
		return false;
	if (*reader->at != '|')
		return true;
	if (!insert(reader, start, split))
		return false;
	jump = reader->n_steps;
	if (!emit(reader, OP_JUMP, 0, 0))
		return false;
	reader->regex->steps[start].y = (uint16_t)reader->n_steps;
	reader->at++;
	if (++reader->n_atoms > ATOMS_MAX)
		return refuse(reader, "is too large");
	if (!read_alternatives(reader))
		return false;
	reader->regex->steps[jump].x = (uint16_t)reader->n_steps;
	return true;
}

static bool read_pattern(struct reader *reader)
{
	if (!strncmp(reader->at, "(?i)", 4)) {
		reader->ignore_case = true;
		reader->at += 4;
	}
	if (!read_alternatives(reader))
		return false;
	if (*reader->at)
		return refuse(reader, "has a ) without (");
	return emit(reader, OP_MATCH, 0, 0);
}

struct regex *regex_new(const char *pattern, const char **ret_problem)
{
	struct reader reader = {.at = pattern};

	*ret_problem = NULL;
	if (strlen(pattern) > PATTERN_MAX) {
		*ret_problem = "is longer than 256 bytes";
		return NULL;
	}
	reader.regex = calloc(1, sizeof(*reader.regex));
	if (!reader.regex)
		return NULL;
	if (read_pattern(&reader))
		return reader.regex;
	*ret_problem = reader.problem;
	return regex_free(reader.regex);
}

struct regex *regex_free(struct regex *regex)
{
	free(regex);
	return NULL;
}

/* ---- searching --------------------------------------------------------------- */

/* The states that are alive at one place of the text, each once. */
struct states {
	uint16_t steps[STEPS_MAX];
	size_t count;
};

struct search {
	const struct regex *regex;
	const char *text, *at;
	uint8_t seen[STEPS_MAX / 8];
};

static bool mark(struct search *search, uint16_t step)
{
	uint8_t bit = (uint8_t)(1u << step % 8), *byte = &search->seen[step / 8];

	if (*byte & bit)
		return false;
	*byte |= bit;
	return true;
}

/* Adds @first and all that can be reached from it without a byte; true: the match is reached. */
static bool add(struct search *search, struct states *states, uint16_t first)
{
	uint16_t stack[STEPS_MAX + 1];
	size_t n = 0;

	stack[n++] = first;
	while (n) {
		uint16_t number = stack[--n];
		const struct step *step = &search->regex->steps[number];

		if (!mark(search, number))
			continue;
		if (step->op == OP_MATCH)
			return true;
		if (step->op == OP_SET || step->op == OP_ANY)
			states->steps[states->count++] = number;
		else if (step->op == OP_JUMP || step->op == OP_SPLIT)
			stack[n++] = step->x;
		else if (step->op == OP_START ? search->at == search->text : !*search->at)
			stack[n++] = number + 1;
		if (step->op == OP_SPLIT)
			stack[n++] = step->y;
	}
	return false;
}

static bool takes(const struct regex *regex, const struct step *step, uint8_t byte)
{
	return step->op == OP_ANY || set_has(&regex->sets[step->x], byte);
}

bool regex_search(const struct regex *regex, const char *text)
{
	struct search search = {.regex = regex, .text = text, .at = text};
	struct states lists[2], *now = &lists[0], *next = &lists[1], *swap;

	now->count = 0;
	for (;;) {
		uint8_t byte = (uint8_t)*search.at;

		if (add(&search, now, 0))
			return true;
		if (!byte)
			return false;
		search.at++;
		memset(search.seen, 0, sizeof(search.seen));
		next->count = 0;
		for (size_t i = 0; i < now->count; i++) {
			if (takes(regex, &regex->steps[now->steps[i]], byte) &&
			    add(&search, next, now->steps[i] + 1))
				return true;
		}
		swap = now;
		now = next;
		next = swap;
	}
}
