#pragma once
/*
 * Regular expressions whose cost is known beforehand: a pattern of at most 256
 * bytes becomes a program of at most 512 steps, and matching takes at most
 * (bytes of the text) x (steps), with no memory beyond the stack. (regcomp(3)
 * promises neither: its cache of states grows with the texts.)
 *
 * The language is that of POSIX extended expressions as far as RE2 has it too,
 * with RE2's additions that people type: | ( ) (?: ) . ^ $ [] with ranges, ^ and
 * [:class:], * + ? {m} {m,} {m,n} (counts to 255; a lazy ? behind them changes
 * nothing here), \d \D \w \W \s \S, \n \t \r, and \ before punctuation. A leading
 * (?i) ignores the case of ASCII letters. No back references, no look-around. It
 * works on bytes: . is one byte of a UTF-8 sequence. A search, not a full match.
 */

#include <stdbool.h>
#include <stddef.h>

struct regex;

/* NULL: @ret_problem says why, or is NULL when memory is out. */
struct regex *regex_new(const char *pattern, const char **ret_problem);
struct regex *regex_free(struct regex *regex);
/* Whether the pattern occurs anywhere in @text. */
bool regex_search(const struct regex *regex, const char *text);
