/* Parsing and help, from the tables. See command.h. */

#include "tools/about_tables.h"
#include "tools/command.h"

#include <ctype.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "broker/lib/log.h"
#include "tools/times.h"

#define OPTIONS_MAX 96
#define LONG_BASE   256 /* val of long options: LONG_BASE + index */

const struct option_spec global_options[] = {
	{.name = "address",
	 .letter = 'a',
	 .kind = OPTION_TEXT,
	 .offset = offsetof(struct context, address),
	 .value = "PATH",
	 .help = "socket of the bus (default: bus.sock in the state directory)",
	 .environment = "DAVIT_ADDRESS"},
	{.name = "namespace",
	 .letter = 'n',
	 .kind = OPTION_TEXT,
	 .offset = offsetof(struct context, namespace),
	 .value = "NAME",
	 .help = "namespace of containers, images and tasks (default: default)",
	 .environment = "DAVIT_NAMESPACE"},
	{.name = "root",
	 .kind = OPTION_TEXT,
	 .offset = offsetof(struct context, root),
	 .value = "DIR",
	 .help = "durable directory (default: " PATHS_DEFAULT_ROOT ")",
	 .environment = "DAVIT_ROOT"},
	{.name = "state",
	 .kind = OPTION_TEXT,
	 .offset = offsetof(struct context, state),
	 .value = "DIR",
	 .help = "directory of this boot (default: " PATHS_DEFAULT_STATE ")",
	 .environment = "DAVIT_STATE"},
	{.name = "timeout",
	 .kind = OPTION_SECONDS,
	 .offset = offsetof(struct context, timeout_ms),
	 .value = "TIME",
	 .help = "limit of each call, e.g. 30s (default: 60s)"},
	{.name = "debug",
	 .kind = OPTION_FLAG,
	 .offset = offsetof(struct context, debug),
	 .help = "log what happens on stderr"},
	{.name = "help",
	 .letter = 'h',
	 .kind = OPTION_FLAG,
	 .offset = offsetof(struct context, help),
	 .help = "show help"},
	{.name = "version",
	 .letter = 'v',
	 .kind = OPTION_FLAG,
	 .offset = offsetof(struct context, version),
	 .help = "print the version of this program"},
	{}};

/* ---- failures ------------------------------------------------------------ */

static int failure_code(const struct context *context)
{
	return context->command && context->command->is_run ? EXIT_RUN_FAILED : EXIT_ERROR;
}

int fail(struct context *context, const char *format, ...)
{
	va_list args;

	fputs("davit: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return failure_code(context);
}

int fail_ask(struct context *context, int r)
{
	if (r < 0)
		return fail(context, "%s", strerror(-r));
	return fail(context, "%s",
		    context->ask.text[0]
			    ? context->ask.text
			    : schema_enum_text(&schema_enum_bus_status, context->ask.status));
}

int fail_usage(struct context *context, const char *format, ...)
{
	va_list args;

	fputs("davit: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs("; see --help\n", stderr);
	return context->command && context->command->is_run ? EXIT_RUN_FAILED : EXIT_USAGE;
}

/* ---- values -------------------------------------------------------------- */

static int parse_number(const char *text, uint64_t *ret_number)
{
	static const char units[] = "KMGT";
	unsigned long long number;
	const char *unit;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	if (*end && (!unit || end[1]))
		return -EINVAL;
	for (const char *u = units; unit && u <= unit; u++) {
		if (number > UINT64_MAX / 1024)
			return -ERANGE;
		number *= 1024;
	}
	*ret_number = number;
	return 0;
}

static int store_value(struct context *context, const struct option_spec *option, void *target,
		       char *text)
{
	void *member = (char *)target + option->offset;
	int r = 0;

	switch (option->kind) {
	case OPTION_FLAG:
		*(bool *)member = true;
		break;
	case OPTION_TEXT:
		*(char **)member = text;
		break;
	case OPTION_NUMBER:
		r = parse_number(text, member);
		break;
	case OPTION_SECONDS:
		r = times_parse_duration(text, member);
		break;
	case OPTION_LIST:
		r = schema_strs_add(member, text);
		break;
	}
	if (r)
		return fail_usage(context, "--%s: '%s' is not a %s", option->name, text,
				  option->kind == OPTION_NUMBER
					  ? "number (with K, M, G or T behind it)"
					  : "time such as 10s or 1m30s");
	return 0;
}

static int store_environment(struct context *context, const struct option_spec *options,
			     void *target)
{
	for (const struct option_spec *option = options; option && option->name; option++) {
		char *text = option->environment ? getenv(option->environment) : NULL;
		int r = text && *text ? store_value(context, option, target, text) : 0;

		if (r)
			return r;
	}
	return 0;
}

/* ---- parsing ------------------------------------------------------------- */

struct parser {
	struct context *context;
	const struct option_spec *options;
	void *target;
	const struct option_spec *by_index[OPTIONS_MAX + 1];
	struct option longs[OPTIONS_MAX + 1];
	char shorts[2 * OPTIONS_MAX + 3];
	size_t n_longs;
};

static void parser_add(struct parser *parser, const struct option_spec *option, const char *name)
{
	if (parser->n_longs == OPTIONS_MAX)
		return;
	parser->by_index[parser->n_longs] = option;
	parser->longs[parser->n_longs] = (struct option){
		.name = name,
		.has_arg = option->kind == OPTION_FLAG ? no_argument : required_argument,
		.val = LONG_BASE + (int)parser->n_longs};
	parser->n_longs++;
}

static void parser_add_all(struct parser *parser, const struct option_spec *options)
{
	char *shorts = parser->shorts + strlen(parser->shorts);

	for (const struct option_spec *option = options; option && option->name; option++) {
		parser_add(parser, option, option->name);
		if (option->alias)
			parser_add(parser, option, option->alias);
		if (!option->letter)
			continue;
		*shorts++ = option->letter;
		if (option->kind != OPTION_FLAG)
			*shorts++ = ':';
		*shorts = '\0';
	}
}

static const struct option_spec *parser_find(const struct parser *parser, int value)
{
	if (value >= LONG_BASE)
		return parser->by_index[value - LONG_BASE];
	for (size_t i = 0; i < parser->n_longs; i++) {
		if (parser->by_index[i]->letter == value)
			return parser->by_index[i];
	}
	return NULL;
}

/* The global options that go with a command too: -h everywhere, the rest where no letter collides. */
static const struct option_spec help_option[] = {{.name = "help",
						  .letter = 'h',
						  .kind = OPTION_FLAG,
						  .offset = offsetof(struct context, help),
						  .help = "show help"},
						 {}};

/* Edit distance of two short words (Levenshtein). */
static size_t distance(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b), row[64];

	if (n >= ARRAY_SIZE(row) || m >= ARRAY_SIZE(row))
		return SIZE_MAX;
	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 1; i <= m; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			size_t replaced = diagonal + (b[i - 1] != a[j - 1]);
			size_t other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;

			diagonal = row[j];
			row[j] = replaced < other ? replaced : other;
		}
	}
	return row[n];
}

/* Of a long option that is not there: the one that was meant, perhaps. */
static const char *nearest_option(const struct option_spec *const *options, const char *word)
{
	char name[64];
	const char *guess = NULL;
	size_t best = 3;

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word + strspn(word, "-"), "="),
		 word + strspn(word, "-"));
	for (; *options; options++) {
		if (distance((*options)->name, name) < best) {
			best = distance((*options)->name, name);
			guess = (*options)->name;
		}
	}
	return guess;
}

static int parse_error(struct context *context, const struct option_spec *const *by_index,
		       int value, char **argv)
{
	const char *guess;

	if (value == ':')
		return fail_usage(context, "%s needs a value", argv[optind - 1]);
	if (optopt >= LONG_BASE)
		return fail_usage(context, "--%s takes no value",
				  by_index[optopt - LONG_BASE]->name);
	if (optopt)
		return fail_usage(context, "unknown option -%c", optopt);
	guess = nearest_option(by_index, argv[optind - 1]);
	return guess ? fail_usage(context, "unknown option %s; did you mean --%s?",
				  argv[optind - 1], guess)
		     : fail_usage(context, "unknown option %s", argv[optind - 1]);
}

static bool is_context_option(const struct option_spec *option)
{
	return option >= help_option && option < help_option + 1;
}

/* Options until the first word, or all (words are moved behind them). Returns the index of the first word, or -code. */
static int parse_options(struct context *context, const struct option_spec *options, void *target,
			 bool until_word, int argc, char **argv)
{
	struct parser parser = {.context = context, .options = options, .target = target};
	int value, r;

	strcpy(parser.shorts, until_word ? "+:" : ":");
	parser_add_all(&parser, options);
	if (options != global_options)
		parser_add_all(&parser, help_option);
	r = store_environment(context, options, target);
	optind = 0;
	opterr = 0;
	while (!r && (value = getopt_long(argc, argv, parser.shorts, parser.longs, NULL)) != -1) {
		const struct option_spec *option = value == '?' || value == ':'
							   ? NULL
							   : parser_find(&parser, value);

		if (!option)
			return -parse_error(context, parser.by_index, value, argv);
		r = store_value(context, option,
				is_context_option(option) ? (void *)context : target, optarg);
	}
	return r ? -r : optind;
}

static bool is_named(const struct command *command, const char *word)
{
	const char *alias = command->aliases;
	size_t length = strlen(word);

	if (!strcmp(command->name, word))
		return true;
	for (; alias && *alias; alias += strcspn(alias, " "), alias += *alias == ' ') {
		if (strcspn(alias, " ") == length && !strncmp(alias, word, length))
			return true;
	}
	return false;
}

static const struct command *find_command(const struct command *const *list, const char *word)
{
	for (; *list; list++) {
		if (is_named(*list, word))
			return *list;
	}
	return NULL;
}

/* For "did you mean". */
static const char *nearest(const struct command *const *list, const char *word)
{
	const char *name = NULL;
	size_t best = 3;

	for (; *list; list++) {
		if (distance((*list)->name, word) < best) {
			best = distance((*list)->name, word);
			name = (*list)->name;
		}
	}
	return name;
}

/* ---- help ---------------------------------------------------------------- */

static void print_options(const struct option_spec *options, FILE *out)
{
	for (; options && options->name; options++) {
		char left[64], letter[8] = "";

		if (options->letter)
			snprintf(letter, sizeof(letter), "-%c, ", options->letter);
		snprintf(left, sizeof(left), "%s--%s%s%s", letter, options->name,
			 options->value ? " " : "", options->value ?: "");
		fprintf(out, "   %-30s %s%s%s%s\n", left, options->help,
			options->environment ? " [$" : "", options->environment ?: "",
			options->environment ? "]" : "");
	}
}

void command_print_help(const struct command *command, const char *path, FILE *out)
{
	fprintf(out, "NAME:\n   %s - %s\n\nUSAGE:\n   %s%s%s%s%s\n", path, command->summary, path,
		command->subcommands ? " COMMAND" : "", command->options ? " [options]" : "",
		command->arguments ? " " : "", command->arguments ?: "");
	if (command->details)
		fprintf(out, "\n%s\n", command->details);
	if (command->subcommands)
		fprintf(out, "\nCOMMANDS:\n");
	for (const struct command *const *sub = command->subcommands; sub && *sub; sub++) {
		char names[64];

		snprintf(names, sizeof(names), "%s%s%s", (*sub)->name, (*sub)->aliases ? ", " : "",
			 (*sub)->aliases ?: "");
		fprintf(out, "   %-30s %s\n", names, (*sub)->summary);
	}
	fprintf(out, "\nOPTIONS:\n");
	print_options(command->options, out);
	if (command->options != global_options)
		print_options(help_option, out);
}

/* ---- running ------------------------------------------------------------- */

static void options_clear(const struct option_spec *options, void *target)
{
	for (; options && options->name; options++) {
		if (options->kind == OPTION_LIST)
			schema_strs_clear((void *)((char *)target + options->offset));
	}
}

static int run_leaf(struct context *context, const struct command *command, const char *path,
		    int argc, char **argv)
{
	_cleanup_(cleanup_free) void *options = calloc(1, command->options_size ?: 1);
	int code = EXIT_OK, first, n;

	if (!options)
		return fail(context, "out of memory");
	first = parse_options(context, command->options, options, command->stops_at_argument, argc,
			      argv);
	n = argc - first;
	if (first < 0)
		code = -first;
	else if (context->help)
		command_print_help(command, path, stdout);
	else if (n < command->min_args)
		code = fail_usage(context, "%s needs %s", path, command->arguments ?: "arguments");
	else if (command->max_args >= 0 && n > command->max_args)
		code = fail_usage(context, "%s: unexpected argument '%s'", path,
				  argv[first + command->max_args]);
	else
		code = command->run(context, options, argv + first, n);
	options_clear(command->options, options);
	return code;
}

static int run_command_in(struct context *context, const struct command *parent, const char *path,
			  int argc, char **argv);

/* A group of commands, with the options that stand before the command. */
static int run_group(struct context *context, const struct command *group, const char *path,
		     int argc, char **argv)
{
	int first = 1;

	if (group->options)
		first = parse_options(context, group->options, context, true, argc, argv);
	if (first < 0)
		return -first;
	if (context->help) {
		command_print_help(group, path, stdout);
		return EXIT_OK;
	}
	return run_command_in(context, group, path, argc - first, argv + first);
}

static int run_command_in(struct context *context, const struct command *parent, const char *path,
			  int argc, char **argv)
{
	const struct command *command;
	char full[256];
	const char *guess;

	if (argc < 1 || !strcmp(argv[0], "help") || !strcmp(argv[0], "--help") ||
	    !strcmp(argv[0], "-h")) {
		command_print_help(parent, path, argc < 1 ? stderr : stdout);
		return argc < 1 ? EXIT_USAGE : EXIT_OK;
	}
	command = find_command(parent->subcommands, argv[0]);
	if (!command && parent->subcommands == commands && is_named(&help_all_command, argv[0]))
		command = &help_all_command;
	if (!command) {
		guess = nearest(parent->subcommands, argv[0]);
		return guess ? fail_usage(context, "%s has no command '%s'; did you mean '%s'?",
					  path, argv[0], guess)
			     : fail_usage(context, "%s has no command '%s'", path, argv[0]);
	}
	snprintf(full, sizeof(full), "%s %s", path, command->name);
	context->command = command;
	return command->subcommands ? run_group(context, command, full, argc, argv)
				    : run_leaf(context, command, full, argc, argv);
}

static int set_up(struct context *context)
{
	struct why why = {};

	log_init("davit", context->debug ? LOG_DEBUG : LOG_WARNING);
	if (paths_init(&context->paths, context->root, context->state, context->address, &why))
		return fail(context, "%s", why.text);
	context->ask = (struct ask){.bus_path = context->paths.bus,
				    .namespace = context->namespace,
				    .timeout_ms = context->timeout_ms};
	return 0;
}

int command_main(int argc, char *argv[])
{
	static const struct command top = {.name = "davit",
					   .summary = "containers on a message bus",
					   .subcommands = commands,
					   .options = global_options};
	struct context context = {};
	int first, code;

	first = parse_options(&context, global_options, &context, true, argc, argv);
	if (first < 0)
		return -first;
	if (context.help) {
		command_print_help(&top, "davit", stdout);
		return EXIT_OK;
	}
	if (context.version) {
		puts("davit " DAVIT_VERSION);
		return EXIT_OK;
	}
	code = set_up(&context);
	if (!code)
		code = run_command_in(&context, &top, "davit", argc - first, argv + first);
	ask_deinit(&context.ask);
	paths_deinit(&context.paths);
	if (fflush(stdout) && !code)
		code = fail(&context, "stdout: %s", strerror(errno));
	return code;
}
