/* davit content edit. */

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "tools/content.h"
#include "tools/lists.h"

#define DOCUMENT_MAX (8u << 20) /* of what is validated */

struct edit_options {
	char *validate, *editor;
};

/* ---- the editor ---- */

static int explain_end(struct context *context, const char *editor, int status)
{
	if (WIFSIGNALED(status))
		return fail(context, "editor '%s' was ended by signal %d", editor,
			    WTERMSIG(status));
	if (WEXITSTATUS(status))
		return fail(context, "editor '%s' failed with code %d: nothing is stored", editor,
			    WEXITSTATUS(status));
	return EXIT_OK;
}

/* Words of a shell, as in $EDITOR. The terminal's signals are the editor's. */
static int run_editor(struct context *context, const char *editor, const char *path)
{
	_cleanup_(cleanup_free) char *line = text_format("%s \"$1\"", editor);
	struct sigaction ignored = {.sa_handler = SIG_IGN}, interrupt, quit;
	int status = 0, r = 0;
	pid_t pid;

	if (!line)
		return fail(context, "out of memory");
	sigaction(SIGINT, &ignored, &interrupt);
	sigaction(SIGQUIT, &ignored, &quit);
	pid = fork();
	if (!pid) {
		sigaction(SIGINT, &interrupt, NULL);
		sigaction(SIGQUIT, &quit, NULL);
		execlp("sh", "sh", "-c", line, "sh", path, NULL);
		_exit(127);
	}
	while (pid > 0 && (r = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
		;
	sigaction(SIGINT, &interrupt, NULL);
	sigaction(SIGQUIT, &quit, NULL);
	if (pid < 0 || r < 0)
		return fail(context, "cannot start editor '%s': %s", editor, strerror(errno));
	return explain_end(context, editor, status);
}

/* ---- what came out ---- */

static int check_format(struct context *context, const char *format)
{
	if (!format || !strcmp(format, "json") || strchr(format, '/'))
		return EXIT_OK;
	return fail_usage(context, "--validate: '%s' is neither json nor a media type", format);
}

/* Of a media type it is JSON too, and says of itself nothing else. */
static int validate(struct context *context, const char *format, const char *path)
{
	_cleanup_(cleanup_free) char *text = NULL;
	struct schema_fault fault = {};
	const char *type;
	int code = EXIT_OK;
	size_t size;
	json_t *json;

	if (file_read(AT_FDCWD, path, DOCUMENT_MAX, &text, &size))
		return fail(context, "it cannot be read, or has more than %u bytes", DOCUMENT_MAX);
	json = json_parse(text, size, DOCUMENT_MAX, &fault);
	if (!json)
		return fail(context, "it is not JSON: %s", fault.text);
	type = json_string_value(json_object_get(json, "mediaType"));
	if (strcmp(format, "json") != 0 && !json_is_object(json))
		code = fail(context, "it is not a JSON object, as '%s' is", format);
	else if (strcmp(format, "json") != 0 && type && strcmp(type, format) != 0)
		code = fail(context, "its mediaType is '%s', not '%s'", type, format);
	json_decref(json);
	return code;
}

/* The editor may have put another file in its place. */
static int store(struct context *context, const char *digest, const char *path,
		 const char *media_type)
{
	_cleanup_(cleanup_free) char *ref = NULL;
	_cleanup_(cleanup_file) FILE *in = NULL;
	char text[ID_TEXT_SIZE];
	uint8_t id[ID_SIZE];
	struct content_write_request request = {};

	id_make(id);
	id_format(id, text);
	ref = text_format("edit-%s-%s", digest, text);
	if (!ref)
		return fail(context, "out of memory");
	in = fopen(path, "re");
	if (!in)
		return fail(context, "%s: %s", path, strerror(errno));
	request.ref = ref;
	return content_store(context, in, &request, media_type);
}

/* ---- all of it ---- */

static int make_copy(struct context *context, const char *digest, char **ret_path)
{
	const char *directory = getenv("XDG_RUNTIME_DIR") ?: getenv("TMPDIR") ?: "/tmp";
	_cleanup_(cleanup_free) char *path = text_format("%s/davit-edit-XXXXXX", directory);
	_cleanup_(cleanup_file) FILE *out = NULL;
	int code, fd = path ? mkostemp(path, O_CLOEXEC) : -1;

	if (fd < 0)
		return fail(context, "cannot make a file in %s: %s", directory, strerror(errno));
	out = fdopen(fd, "w");
	code = out ? list_print_blob(context, digest, out) : fail(context, "out of memory");
	if (!code && fflush(out))
		code = fail(context, "cannot write %s: %s", path, strerror(errno));
	if (code)
		unlink(path);
	else
		*ret_path = TAKE(path);
	return code;
}

static int edit(struct context *context, void *data, char **args, int n_args)
{
	const struct edit_options *options = data;
	struct content_info_request request = {.digest = args[0]};
	_cleanup_(content_reply_clear) struct content_reply info = {};
	_cleanup_(cleanup_free) char *path = NULL;
	int code, r;

	(void)n_args;
	if (!options->editor || !*options->editor)
		return fail_usage(context, "--editor, or the variable EDITOR, must name an editor");
	code = check_format(context, options->validate);
	if (code)
		return code;
	r = content_info_ask(&context->ask, &request, &info);
	if (r)
		return fail_ask(context, r);
	code = make_copy(context, args[0], &path);
	if (code)
		return code;
	code = run_editor(context, options->editor, path);
	if (code) {
		unlink(path);
		return code;
	}
	if (options->validate)
		code = validate(context, options->validate, path);
	if (!code)
		code = store(context, args[0], path, info.content->media_type);
	/* Work of somebody's is not thrown away. */
	return code ? fail(context, "nothing is stored: what was written is in %s", path)
		    : (unlink(path), EXIT_OK);
}

static const struct option_spec options[] = {
	OPTION(struct edit_options, validate, TEXT, "validate", 0, "json|MEDIA-TYPE",
	       "store it only if it is JSON, and has no other media type"),
	{.name = "editor",
	 .kind = OPTION_TEXT,
	 .offset = offsetof(struct edit_options, editor),
	 .value = "COMMAND",
	 .help = "words of a shell, to which the file's name is added",
	 .environment = "EDITOR"},
	{}};

const struct command content_edit_command = {
	.name = "edit",
	.arguments = "DIGEST",
	.summary = "edit a copy of a blob, and print the digest of the new one",
	.details =
		"What comes out is labelled containerd.io/gc.root and has the media type of the "
		"blob that it was made from. The copy lies in $XDG_RUNTIME_DIR, else in $TMPDIR or "
		"/tmp; if what was written cannot be stored it stays there, and is named.",
	.options = options,
	.options_size = sizeof(struct edit_options),
	.min_args = 1,
	.max_args = 1,
	.run = edit,
};
