/* See about_tables.h. Both walk the same tables as parsing and --help do. */

#include "tools/about_tables.h"

#include <ctype.h>
#include <string.h>

/* ---- the manual page ----------------------------------------------------- */

/* roff: a dash that is typed is \-, a line that begins with a dot or quote is not text. */
static void print_roff(FILE *out, const char *text)
{
	bool is_start = true;

	for (; *text; text++) {
		if (is_start && *text == ' ')
			continue;
		if (is_start && (*text == '.' || *text == '\''))
			fputs("\\&", out);
		if (*text == '-')
			fputs("\\-", out);
		else if (*text == '\\')
			fputs("\\e", out);
		else
			fputc(*text, out);
		is_start = *text == '\n';
	}
}

static void print_roff_options(FILE *out, const struct option_spec *options)
{
	for (; options && options->name; options++) {
		fputs(".TP\n\\fB", out);
		if (options->letter)
			fprintf(out, "\\-%c\\fR, \\fB", options->letter);
		fputs("\\-\\-", out);
		print_roff(out, options->name);
		fputs("\\fR", out);
		if (options->value) {
			fputs(" \\fI", out);
			print_roff(out, options->value);
			fputs("\\fR", out);
		}
		fputc('\n', out);
		print_roff(out, options->help);
		if (options->environment)
			fprintf(out, " [$%s]", options->environment);
		fputc('\n', out);
	}
}

static void print_roff_command(FILE *out, const struct command *command, const char *path)
{
	char full[256];

	snprintf(full, sizeof(full), "%s %s", path, command->name);
	for (const struct command *const *sub = command->subcommands; sub && *sub; sub++)
		print_roff_command(out, *sub, full);
	if (command->subcommands)
		return;
	fputs(".SS ", out);
	print_roff(out, full);
	fprintf(out, "%s%s", command->options ? " [options]" : "", command->arguments ? " " : "");
	print_roff(out, command->arguments ?: "");
	fputc('\n', out);
	print_roff(out, command->summary);
	fputs(".\n", out);
	if (command->aliases)
		fprintf(out, "Also: %s.\n", command->aliases);
	if (command->details) {
		fputs(".PP\n", out);
		print_roff(out, command->details);
		fputc('\n', out);
	}
	print_roff_options(out, command->options);
}

void print_manual_page(FILE *out)
{
	fputs(".\\\" Made by `make docs` from the tables of the command line.\n"
	      ".TH DAVIT 1 \"\" \"davit\" \"User Commands\"\n"
	      ".SH NAME\ndavit \\- containers on a message bus\n"
	      ".SH SYNOPSIS\n\\fBdavit\\fR [global options] \\fICOMMAND\\fR [options] [arguments]\n"
	      ".SH GLOBAL OPTIONS\n",
	      out);
	print_roff_options(out, global_options);
	fputs(".SH COMMANDS\n", out);
	for (const struct command *const *command = commands; *command; command++)
		print_roff_command(out, *command, "davit");
	fputs(".SH EXIT STATUS\n"
	      "\\fBrun\\fR and \\fBtasks start\\fR give the container's own code, 128+n when signal n ended it; "
	      "125: davit failed, 126: the program cannot be executed, 127: it was not found. "
	      "Other commands: 0, 1 when one failed, 2 when the command line makes no sense.\n",
	      out);
}

/* ---- completion ---------------------------------------------------------- */

static void print_words(FILE *out, const struct command *command)
{
	for (const struct command *const *sub = command->subcommands; sub && *sub; sub++)
		fprintf(out, " %s", (*sub)->name);
	for (const struct option_spec *option = command->options; option && option->name; option++)
		fprintf(out, " --%s", option->name);
	fputs(" --help", out);
}

/* "a|b c" as bash patterns: the name and each alias. */
static void print_names(FILE *out, const char *path, const struct command *command)
{
	const char *alias = command->aliases;

	fprintf(out, "\t'%s %s'", path, command->name);
	for (; alias && *alias; alias += strcspn(alias, " "), alias += *alias == ' ')
		fprintf(out, " | '%s %.*s'", path, (int)strcspn(alias, " "), alias);
}

static void print_case(FILE *out, const struct command *command, const char *path)
{
	char full[256];

	snprintf(full, sizeof(full), "%s %s", path, command->name);
	print_names(out, path, command);
	fprintf(out, ") words=\"");
	print_words(out, command);
	fprintf(out, "\"; path='%s' ;;\n", full);
	for (const struct command *const *sub = command->subcommands; sub && *sub; sub++)
		print_case(out, *sub, full);
}

/* Options that take a value, so that the word after them is none of ours. */
static void print_valued(FILE *out, const struct option_spec *options)
{
	const char *separator = "";

	for (; options && options->name; options++) {
		if (options->kind == OPTION_FLAG)
			continue;
		fprintf(out, "%s--%s", separator, options->name);
		separator = " | ";
		if (options->letter)
			fprintf(out, " | -%c", options->letter);
	}
}

void print_completion(FILE *out)
{
	static const struct command top = {.subcommands = commands, .options = global_options};

	fputs("# Made by `make docs` from the tables of the command line.\n"
	      "# shellcheck shell=bash\n"
	      "_davit_step() {\n\tcase \"$path $1\" in\n",
	      out);
	for (const struct command *const *command = commands; *command; command++)
		print_case(out, *command, "davit");
	fputs("\tesac\n}\n_davit() {\n\tlocal path=davit words i\n\twords=\"", out);
	print_words(out, &top);
	fputs("\"\n\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase \"${COMP_WORDS[i]}\" in\n\t\t",
	      out);
	print_valued(out, global_options);
	fputs(") i=$((i + 1)) ;;\n\t\t-*) ;;\n\t\t*) _davit_step \"${COMP_WORDS[i]}\" ;;\n\t\tesac\n\tdone\n"
	      "\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\")\n}\n"
	      "complete -o default -F _davit davit\n",
	      out);
}

/* ---- the command --------------------------------------------------------- */

struct help_all_options {
	char *format;
};

static int run(struct context *context, void *data, char **args, int n_args)
{
	const struct help_all_options *options = data;

	(void)args;
	(void)n_args;
	if (options->format && !strcmp(options->format, "man"))
		print_manual_page(stdout);
	else if (options->format && !strcmp(options->format, "bash"))
		print_completion(stdout);
	else
		return fail_usage(context, "--format is man or bash");
	return EXIT_OK;
}

static const struct option_spec options[] = {
	OPTION(struct help_all_options, format, TEXT, "format", 0, "man|bash", "what to print"),
	{}};

const struct command help_all_command = {
	.name = "help-all",
	.summary = "print the manual page or the completion of bash",
	.options = options,
	.options_size = sizeof(struct help_all_options),
	.run = run,
};
