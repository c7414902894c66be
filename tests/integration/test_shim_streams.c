/*
 * The streams of a process that go through its shim: the log, clients that are
 * attached to it, input, a log that cannot be written, another shim. The
 * container is a shell script that tests/programs/fake-oci runs.
 */

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/loop.h"
#include "broker/lib/output_log.h"
#include "tests/lib/shim_test.h"

#ifdef __SANITIZE_ADDRESS__
#define IS_SANITIZED true
#else
#define IS_SANITIZED false
#endif

static struct task_log task_log;
static struct task_io io;
static char *log_dir;
static bool has_mount;
static int held = -1; /* see wait_for_script() */

/* ---- a container --------------------------------------------------------- */

/* The script finds the scratch directory in $D. */
static void setup(const char *script)
{
	_cleanup_(cleanup_free) char *text = NULL;

	shim_case_init(&test, "");
	text = text_format("D=%s\n%s", test.state, script);
	shim_case_write(&test, "init.sh", text);
	log_dir = scratch_path(&test.scratch, "logs");
	task_log = (struct task_log){};
	io = (struct task_io){.log = &task_log};
	test.config.log_dir = log_dir;
	test.config.io = &io;
	shim_case_bus_start(&test, SHIM_BUS_TAKES);
}

static int teardown(void **state)
{
	int r;

	(void)state;
	if (has_mount)
		umount2(log_dir, MNT_DETACH);
	has_mount = false;
	free(log_dir);
	log_dir = NULL;
	r = shim_case_deinit(&test);
	return r;
}

#define STREAM_TEST(name) cmocka_unit_test_teardown(name, teardown)

static void start(void)
{
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &create_and_start);
}

static void run(const char *script)
{
	setup(script);
	start();
}

static void delete_it(void)
{
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	assert_int_equal(shim_case_wait_end(&test), 0);
}

static char *path_of(const char *name)
{
	return scratch_path(&test.scratch, name);
}

static void make_fifo(const char *name)
{
	_cleanup_(cleanup_free) char *path = path_of(name);

	assert_int_equal(mkfifo(path, 0600), 0);
}

static int open_fifo(const char *name, int flags)
{
	_cleanup_(cleanup_free) char *path = path_of(name);
	int fd;

	if (access(path, F_OK))
		make_fifo(name);
	fd = open(path, flags | O_NONBLOCK | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* Until somebody has read all that is in the FIFO. */
static void wait_until_empty(int fd)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) > 0) {
		assert_true(time_boot_ms() < limit_ms);
		poll(NULL, 0, 1);
	}
}

/* Lets the script's `read x <$D/NAME` go on. */
static void release(const char *name)
{
	_cleanup_(cleanup_free) char *path = path_of(name);
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_int_equal(write(fd, "x\n", 2), 2);
	wait_until_empty(fd);
	close(fd);
	held = close_fd(held);
}

/* ---- reading ------------------------------------------------------------- */

/* What comes, until @size bytes or the end. */
static size_t read_some(int fd, void *data, size_t size)
{
	size_t done = 0;
	ssize_t n;

	while (done < size) {
		if (!wait_on_fd(fd, POLLIN, WAIT_MS))
			fail_msg("only %zu bytes of %zu have come", done, size);
		n = read(fd, (char *)data + done, size - done);
		if (!n)
			break;
		if (n > 0)
			done += (size_t)n;
	}
	return done;
}

static void assert_fifo(int fd, const char *expected)
{
	char text[4096];
	size_t n = read_some(fd, text, strlen(expected));

	text[n] = '\0';
	assert_string_equal(text, expected);
}

static void assert_fifo_ends(int fd)
{
	char byte;

	assert_int_equal(read_some(fd, &byte, 1), 0);
}

/* One frame from a client's FIFO; its data in @data. False: the end. */
static bool read_frame(int fd, struct log_frame *frame, uint8_t *data)
{
	uint8_t header[LOG_FRAME_HEADER], trailer[LOG_FRAME_TRAILER];

	if (!read_some(fd, header, sizeof(header)))
		return false;
	assert_int_equal(log_frame_read_header(header, sizeof(header), frame), 0);
	assert_int_equal(read_some(fd, data, frame->size), frame->size);
	assert_int_equal(read_some(fd, trailer, sizeof(trailer)), sizeof(trailer));
	frame->data = data;
	return true;
}

/* All of the log that is there, streams told apart by a letter for each frame. */
static char *log_text(const char *process, bool marks)
{
	_cleanup_(cleanup_free) char *directory = text_format("%s/%s", log_dir, process);
	struct output_log log = OUTPUT_LOG_NULL;
	struct log_position position = {};
	struct output_log_read read = {};
	uint8_t *buffer = malloc(LOG_FRAME_MAX);
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);
	struct log_frame frame;

	if (output_log_open(&log, directory, NULL))
		fail_msg("no log %s", directory);
	do {
		assert_int_equal(output_log_read(&log, &position, buffer, LOG_FRAME_MAX, &read), 0);
		for (size_t at = 0; at < read.size; at += log_frame_size(&frame)) {
			assert_int_equal(log_frame_read(buffer + at, read.size - at, &frame), 0);
			if (marks)
				fputc("?oetd"[frame.stream], to);
			if (frame.stream == LOG_DROPPED)
				fprintf(to, "%lu;", (unsigned long)log_frame_output(&frame));
			else
				fwrite(frame.data, 1, frame.size, to);
		}
	} while (!read.at_end);
	fclose(to);
	free(buffer);
	output_log_close(&log);
	return text;
}

static void assert_log(const char *expected)
{
	_cleanup_(cleanup_free) char *text = log_text("web", true);

	assert_string_equal(text, expected);
}

/* Until the log holds @part. */
static void wait_for_log(const char *part)
{
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;

	for (;;) {
		_cleanup_(cleanup_free) char *text = log_text("web", true);

		if (strstr(text, part))
			return;
		if (time_boot_ms() > limit_ms)
			fail_msg("the log is '%s', without '%s'", text, part);
		poll(NULL, 0, 2);
	}
}

static struct shim_attach_request attach_to(const char *name)
{
	static char *paths[8];
	static size_t n;
	char **path = &paths[n++ % ARRAY_SIZE(paths)];

	free(*path);
	*path = path_of(name);
	return (struct shim_attach_request){.stdout = *path, .start = LOG_FROM_START};
}

/* ---- the log ------------------------------------------------------------- */

static void output_of_both_streams_is_in_the_log_in_order(void **state)
{
	(void)state;
	setup("echo one; read x <$D/a; echo two >&2; read x <$D/b; printf three");
	make_fifo("a");
	make_fifo("b");
	start();
	wait_for_log("oone\n");
	release("a");
	wait_for_log("etwo\n");
	release("b");
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	assert_log("oone\netwo\nothree");
	assert_false(shim_case_has(&test, "bundle"));
}

static void input_that_nobody_asked_for_is_at_its_end(void **state)
{
	(void)state;
	run("cat; echo end");
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	assert_log("oend\n");
}

static void a_log_is_bounded_in_size_and_files(void **state)
{
	_cleanup_(cleanup_free) char *text = NULL;
	struct stat stat;

	(void)state;
	setup("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
	task_log = (struct task_log){.max_size = 8192, .max_files = 2};
	start();
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	text = log_text("web", false);
	assert_non_null(strstr(text, "line 2999\n"));
	assert_null(strstr(text, "line 0\n"));
	for (int file = 1, n = 0; file < 10000; file++) {
		_cleanup_(cleanup_free) char *path = text_format("%s/web/%d", log_dir, file);

		if (lstat(path, &stat))
			continue;
		assert_true(stat.st_size <= 8192);
		assert_true(++n <= 2);
	}
}

static void a_log_without_a_directory_is_refused(void **state)
{
	(void)state;
	setup("");
	test.config.log_dir = NULL;
	shim_case_start(&test);
	assert_call(BUS_INVALID_ARGUMENT, "shim.create", &create_and_start);
	assert_text("no directory for a log");
	delete_it();
}

static void files_as_streams_of_a_log_are_refused(void **state)
{
	(void)state;
	setup("");
	io.stdout = (char *)"file:///tmp/never";
	shim_case_start(&test);
	assert_call(BUS_INVALID_ARGUMENT, "shim.create", &create_and_start);
	assert_text("streams are FIFOs");
	delete_it();
}

/* ---- clients ------------------------------------------------------------- */

static void the_first_client_misses_nothing(void **state)
{
	int out, err;

	(void)state;
	setup("echo out; echo err >&2");
	out = open_fifo("out", O_RDONLY);
	err = open_fifo("err", O_RDONLY);
	io.stdout = path_of("out");
	io.stderr = path_of("err");
	start();
	assert_fifo(out, "out\n");
	assert_fifo_ends(out);
	assert_fifo(err, "err\n");
	assert_fifo_ends(err);
	close(out);
	close(err);
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	free(io.stdout);
	free(io.stderr);
}

static void clients_start_where_they_say(void **state)
{
	struct task_attach_reply reply = {};
	struct shim_attach_request request;
	int all, now, rest;

	(void)state;
	setup("echo one; read x <$D/a; echo two; read x <$D/b; echo three");
	make_fifo("a");
	make_fifo("b");
	all = open_fifo("all", O_RDONLY);
	now = open_fifo("now", O_RDONLY);
	rest = open_fifo("rest", O_RDONLY);
	start();
	wait_for_log("oone\n");
	request = attach_to("now");
	request.start = LOG_FROM_NOW;
	assert_int_equal(shim_case_call(&test, "shim.attach", NULL, 0, &request, &reply), BUS_OK);
	assert_int_equal(reply.position->file, 1);
	assert_int_equal(reply.position->offset, 4 + LOG_FRAME_OVERHEAD);
	assert_false(reply.ended);
	release("a");
	assert_fifo(now, "two\n");
	request = attach_to("all");
	assert_call(BUS_OK, "shim.attach", &request);
	assert_fifo(all, "one\ntwo\n");
	request = attach_to("rest");
	request.start = LOG_FROM_POSITION;
	request.position = reply.position;
	assert_call(BUS_OK, "shim.attach", &request);
	assert_fifo(rest, "two\n");
	release("b");
	assert_fifo(all, "three\n");
	assert_fifo(now, "three\n");
	assert_fifo(rest, "three\n");
	assert_fifo_ends(all);
	assert_fifo_ends(now);
	assert_fifo_ends(rest);
	close(all);
	close(now);
	close(rest);
	task_attach_reply_clear(&reply);
	shim_case_wait_event(&test, "/tasks/exit");
	all = open_fifo("all", O_RDONLY);
	request = attach_to("all");
	assert_int_equal(shim_case_call(&test, "shim.attach", NULL, 0, &request, &reply), BUS_OK);
	assert_true(reply.ended);
	task_attach_reply_clear(&reply);
	assert_fifo(all, "one\ntwo\nthree\n");
	close(all);
	delete_it();
}

static void frames_name_their_stream_and_time(void **state)
{
	struct shim_attach_request request;
	struct log_frame frame;
	uint8_t data[LOG_FRAME_DATA_MAX];
	uint64_t since_ns = time_real_ns();
	int fd;

	(void)state;
	setup("echo out; read x <$D/a; printf err >&2");
	make_fifo("a");
	fd = open_fifo("frames", O_RDONLY);
	start();
	request = attach_to("frames");
	request.frames = true;
	assert_call(BUS_OK, "shim.attach", &request);
	assert_true(read_frame(fd, &frame, data));
	assert_int_equal(frame.stream, LOG_STDOUT);
	assert_true(frame.ends_line && frame.size == 4 && frame.start == 0);
	assert_true(frame.time_ns >= since_ns && frame.time_ns <= time_real_ns());
	release("a");
	assert_true(read_frame(fd, &frame, data));
	assert_int_equal(frame.stream, LOG_STDERR);
	assert_true(!frame.ends_line && frame.size == 3 && frame.start == 4);
	assert_false(read_frame(fd, &frame, data));
	close(fd);
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
}

static void a_client_that_cannot_be_served_is_told_why(void **state)
{
	struct log_position nowhere = {.file = 1, .offset = 3};
	struct task_attach_reply reply = {};
	struct shim_attach_request request;
	int fd;

	(void)state;
	setup("read x <$D/a");
	make_fifo("a");
	start();
	request = attach_to("unread");
	assert_call(BUS_INVALID_ARGUMENT, "shim.attach", &request);
	assert_text("No such file");
	make_fifo("unread");
	assert_call(BUS_INVALID_ARGUMENT, "shim.attach", &request);
	assert_text("nobody has the FIFO");
	request.stdout = test.bundle;
	assert_call(BUS_INVALID_ARGUMENT, "shim.attach", &request);
	request = attach_to("unread");
	fd = open_fifo("unread", O_RDONLY);
	request.start = LOG_FROM_POSITION;
	request.position = &nowhere;
	assert_call(BUS_INVALID_ARGUMENT, "shim.attach", &request);
	assert_text("no frame of the log starts at byte 3");
	request = (struct shim_attach_request){};
	assert_call(BUS_INVALID_ARGUMENT, "shim.attach", &request);
	assert_text("no FIFO is named");
	request = attach_to("unread");
	request.exec_id = (char *)"nobody";
	assert_call(BUS_NOT_FOUND, "shim.attach", &request);
	request = attach_to("unread");
	request.stdin = TAKE(request.stdout);
	assert_call(BUS_INVALID_ARGUMENT, "shim.attach", &request);
	assert_text("no standard input: it was made without one");
	/* Who wants the output too gets that. */
	request = attach_to("unread");
	request.stdin = request.stdout;
	assert_int_equal(shim_case_call(&test, "shim.attach", NULL, 0, &request, &reply), BUS_OK);
	assert_true(reply.no_input);
	task_attach_reply_clear(&reply);
	assert_call(BUS_FAILED_PRECONDITION, "shim.resize",
		    &(struct shim_resize_request){.width = 80, .height = 24});
	assert_text("has no terminal");
	close(fd);
	release("a");
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
}

static void a_process_has_at_most_32_clients_and_forgets_those_that_are_gone(void **state)
{
	struct shim_attach_request request;
	int fds[33];
	char name[8];

	(void)state;
	setup("echo one; read x <$D/a; echo two");
	make_fifo("a");
	start();
	for (int i = 0; i < 33; i++) {
		snprintf(name, sizeof(name), "c%d", i);
		fds[i] = open_fifo(name, O_RDONLY);
		request = attach_to(name);
		assert_call(i < 32 ? BUS_OK : BUS_RESOURCE_EXHAUSTED, "shim.attach", &request);
	}
	assert_text("has 32 clients already");
	/* The shim learns of the end of a reader without writing anything. */
	close(fds[7]);
	for (uint64_t limit_ms = time_boot_ms() + WAIT_MS;;) {
		if (shim_case_call(&test, "shim.attach", NULL, 0, &request, NULL) == BUS_OK)
			break;
		assert_true(time_boot_ms() < limit_ms);
	}
	release("a");
	for (int i = 0; i < 33; i++) {
		if (i == 7)
			continue;
		assert_fifo(fds[i], "one\ntwo\n");
		assert_fifo_ends(fds[i]);
		close(fds[i]);
	}
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
}

static void a_stopped_client_is_told_how_much_it_missed(void **state)
{
	struct shim_attach_request request;
	uint8_t data[LOG_FRAME_DATA_MAX];
	struct log_frame frame;
	uint64_t next = 0;
	int fd, n_gaps = 0;

	(void)state;
	setup("i=0; while [ $i -lt 40 ]; do head -c 65536 /dev/zero | tr '\\0' x; i=$((i+1)); done");
	task_log = (struct task_log){.max_size = 100000, .max_files = 2};
	fd = open_fifo("frames", O_RDONLY);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &(struct shim_create_request){});
	request = attach_to("frames");
	request.frames = true;
	assert_call(BUS_OK, "shim.attach", &request);
	assert_call(BUS_OK, "shim.start", NULL);
	/* It does not read until all is written. */
	shim_case_wait_event(&test, "/tasks/exit");
	while (read_frame(fd, &frame, data)) {
		assert_int_equal(frame.start, next);
		n_gaps += frame.stream == LOG_DROPPED;
		next += log_frame_output(&frame);
	}
	assert_int_equal(next, 40 * 65536);
	assert_int_equal(n_gaps, 1);
	close(fd);
	delete_it();
}

/* ---- added processes ----------------------------------------------------- */

static void exec(const char *id, const char *script, struct task_io *added)
{
	_cleanup_(cleanup_free) char *file = text_format("%s.json", id);
	_cleanup_(cleanup_free) char *script_file = text_format("%s.json.sh", id);
	_cleanup_(cleanup_free) char *text = text_format("D=%s\n%s", test.state, script);
	struct shim_exec_request request = {
		.exec_id = (char *)id, .process_file = file, .io = added, .start = true};

	shim_case_write(&test, file,
			"{\"cwd\":\"/\",\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"x\"]}");
	shim_case_write(&test, script_file, text);
	assert_call(BUS_OK, "shim.exec", &request);
}

static void added_processes_have_logs_and_clients_of_their_own(void **state)
{
	struct shim_attach_request request;
	_cleanup_(cleanup_free) char *text = NULL;
	struct task_io added = {.log = &task_log};
	int two, three;

	(void)state;
	setup("echo init; read x <$D/a");
	make_fifo("a");
	make_fifo("b");
	two = open_fifo("two", O_RDONLY);
	three = open_fifo("three", O_RDONLY);
	start();
	added.stdout = path_of("two");
	exec("two", "echo two", &added);
	free(added.stdout);
	added.stdout = NULL;
	exec("three", "echo one; read x <$D/b; echo two", &added);
	assert_fifo(two, "two\n");
	assert_fifo_ends(two);
	request = attach_to("three");
	request.exec_id = (char *)"three";
	assert_call(BUS_OK, "shim.attach", &request);
	assert_fifo(three, "one\n");
	/* Another shim takes up the log of an added process, too. */
	shim_case_replace(&test);
	assert_fifo_ends(three);
	release("b");
	request.start = LOG_FROM_START;
	assert_call(BUS_OK, "shim.attach", &request);
	assert_fifo(three, "one\ntwo\n");
	assert_fifo_ends(three);
	close(two);
	close(three);
	release("a");
	shim_case_wait_process(&test, "/tasks/exit", "web");
	delete_it();
	text = log_text("three", true);
	assert_string_equal(text, "oone\notwo\n");
	assert_log("oinit\n");
}

/* A name that is used again starts a log of its own. */
static void a_process_of_the_same_name_has_a_new_log(void **state)
{
	struct task_io added = {.log = &task_log};

	(void)state;
	setup("read x <$D/a");
	make_fifo("a");
	start();
	for (int i = 0; i < 2; i++) {
		_cleanup_(cleanup_free) char *text = NULL;

		test.n_events = 0;
		exec("two", i ? "echo second" : "echo first", &added);
		shim_case_wait_process(&test, "/tasks/exit", "two");
		assert_call(BUS_OK, "shim.exec_delete",
			    &(struct shim_process_request){.exec_id = (char *)"two"});
		text = log_text("two", true);
		assert_string_equal(text, i ? "osecond\n" : "ofirst\n");
	}
	release("a");
	shim_case_wait_process(&test, "/tasks/exit", "web");
	delete_it();
}

/* ---- input --------------------------------------------------------------- */

static void several_clients_type_until_the_input_is_closed(void **state)
{
	struct shim_attach_request request = {};
	int first, second;

	(void)state;
	setup("cat; echo end");
	first = open_fifo("first", O_RDWR);
	second = open_fifo("second", O_RDWR);
	io.stdin = path_of("first");
	start();
	assert_int_equal(write(first, "one\n", 4), 4);
	wait_for_log("oone\n");
	request.stdin = path_of("second");
	assert_call(BUS_OK, "shim.attach", &request);
	assert_int_equal(write(second, "two\n", 4), 4);
	wait_for_log("otwo\n");
	/* The end of a client is not the end of the input. */
	close(second);
	assert_int_equal(write(first, "three\n", 6), 6);
	wait_for_log("othree\n");
	assert_call(BUS_OK, "shim.close_io", &(struct shim_process_request){});
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_INVALID_ARGUMENT, "shim.attach", &request);
	assert_text("no standard input any more");
	close(first);
	delete_it();
	assert_log("oone\notwo\nothree\noend\n");
	free(request.stdin);
	free(io.stdin);
}

static void input_that_the_process_does_not_read_waits_for_it(void **state)
{
	static char text[200000];
	size_t done = 0;
	ssize_t n;
	int fd;

	(void)state;
	setup("read x <$D/a; wc -c");
	make_fifo("a");
	fd = open_fifo("typed", O_RDWR);
	io.stdin = path_of("typed");
	start();
	/* Into the two FIFOs and the bytes that the shim holds. */
	while ((n = write(fd, text, 4096)) > 0 ||
	       poll(&(struct pollfd){fd, POLLOUT, 0}, 1, 200) > 0)
		done += n > 0 ? (size_t)n : 0;
	assert_true(done >= 128 << 10 && done < sizeof(text));
	assert_call(BUS_OK, "shim.state", NULL);
	release("a");
	while (done < sizeof(text)) {
		size_t part = sizeof(text) - done < 4096 ? sizeof(text) - done : 4096;

		assert_true(wait_on_fd(fd, POLLOUT, WAIT_MS));
		n = write(fd, text, part);
		done += n > 0 ? (size_t)n : 0;
	}
	wait_until_empty(fd);
	assert_call(BUS_OK, "shim.close_io", &(struct shim_process_request){});
	shim_case_wait_event(&test, "/tasks/exit");
	close(fd);
	delete_it();
	assert_log("o200000\n");
	free(io.stdin);
}

/* ---- much ---------------------------------------------------------------- */

static unsigned long anonymous_kb(void)
{
	char path[64], *at;
	_cleanup_(cleanup_free) char *text = NULL;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)test.shim);
	assert_int_equal(file_read_proc(path, 65536, &text, NULL), 0);
	at = strstr(text, "Anonymous:");
	assert_non_null(at);
	return strtoul(at + 10, NULL, 10);
}

/* The next bytes of the script's output: lines of 64 bytes that count up. */
static void assert_numbers(const char *data, size_t size, uint64_t start)
{
	char line[65];

	for (size_t at = 0; at < size;) {
		size_t in_line = (start + at) % 64, n = 64 - in_line;

		if (n > size - at)
			n = size - at;
		snprintf(line, sizeof(line), "%063lu\n", (unsigned long)((start + at) / 64));
		assert_memory_equal(data + at, line + in_line, n);
		at += n;
	}
}

static void assert_log_has_numbers(uint64_t size)
{
	_cleanup_(cleanup_free) char *directory = text_format("%s/web", log_dir);
	_cleanup_(cleanup_free) uint8_t *buffer = malloc(LOG_FRAME_MAX);
	struct output_log log = OUTPUT_LOG_NULL;
	struct log_position position = {};
	struct output_log_read read = {};
	struct log_frame frame;
	uint64_t seen = 0;

	assert_int_equal(output_log_open(&log, directory, NULL), 0);
	while (!read.at_end) {
		assert_int_equal(output_log_read(&log, &position, buffer, LOG_FRAME_MAX, &read), 0);
		for (size_t at = 0; at < read.size; at += log_frame_size(&frame)) {
			assert_int_equal(log_frame_read(buffer + at, read.size - at, &frame), 0);
			assert_true(frame.start == seen);
			assert_numbers((const char *)frame.data, frame.size, seen);
			seen += frame.size;
		}
	}
	assert_true(seen == size);
	output_log_close(&log);
}

static void much_output_comes_in_order_while_a_client_is_stopped(void **state)
{
	bool is_slow = getenv("SLOW");
	uint64_t size = is_slow ? 1ull << 30 : 64ull << 20, seen = 0;
	_cleanup_(cleanup_free) char *program = shim_case_program("tests/bin/write-lines");
	_cleanup_(cleanup_free) char *script = text_format("%s %lu", program, (unsigned long)size);
	static char data[65536];
	unsigned long most_kb = 0, kb;
	struct shim_attach_request request;
	int reads, stopped;
	size_t n;

	(void)state;
	setup(script);
	task_log = (struct task_log){.max_size = size / 2, .max_files = 4};
	reads = open_fifo("reads", O_RDONLY);
	stopped = open_fifo("stopped", O_RDONLY);
	shim_case_start(&test);
	assert_call(BUS_OK, "shim.create", &(struct shim_create_request){});
	request = attach_to("stopped");
	assert_call(BUS_OK, "shim.attach", &request);
	request = attach_to("reads");
	assert_call(BUS_OK, "shim.attach", &request);
	assert_call(BUS_OK, "shim.start", NULL);
	while ((n = read_some(reads, data, sizeof(data)))) {
		assert_numbers(data, n, seen);
		seen += n;
		if (seen % (1 << 20) == 0) {
			kb = anonymous_kb();
			most_kb = kb > most_kb ? kb : most_kb;
		}
	}
	assert_true(seen == size);
	shim_case_wait_event(&test, "/tasks/exit");
	printf("at most %lu KB of anonymous memory\n", most_kb);
	assert_true(most_kb <= 250 || IS_SANITIZED);
	close(reads);
	close(stopped);
	delete_it();
	assert_log_has_numbers(size);
}

static unsigned long count_switches(void)
{
	char path[64], *at;
	_cleanup_(cleanup_free) char *text = NULL;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)test.shim);
	assert_int_equal(file_read_proc(path, 65536, &text, NULL), 0);
	at = strstr(text, "\nvoluntary_ctxt_switches:");
	assert_non_null(at);
	return strtoul(at + 25, NULL, 10);
}

/* One client has all, one does not read, one types nothing: the shim sleeps. */
static void a_shim_with_clients_that_wait_sleeps_and_gives_its_memory_back(void **state)
{
	_cleanup_(cleanup_free) char *program = shim_case_program("tests/bin/write-lines");
	_cleanup_(cleanup_free) char *script = text_format("%s 1048576; read x <$D/a", program);
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;
	struct shim_attach_request request;
	int reads, stopped, typed;
	static char data[1 << 20];
	unsigned long before;

	(void)state;
	setup(script);
	make_fifo("a");
	typed = open_fifo("typed", O_RDWR);
	io.stdin = path_of("typed");
	reads = open_fifo("reads", O_RDONLY);
	stopped = open_fifo("stopped", O_RDONLY);
	start();
	request = attach_to("stopped");
	assert_call(BUS_OK, "shim.attach", &request);
	request = attach_to("reads");
	assert_call(BUS_OK, "shim.attach", &request);
	assert_int_equal(read_some(reads, data, sizeof(data)), sizeof(data));
	do {
		assert_true(time_boot_ms() < limit_ms);
		before = count_switches();
		poll(NULL, 0, 400);
	} while (count_switches() != before);
	printf("%lu KB of anonymous memory\n", anonymous_kb());
	assert_true(anonymous_kb() <= 120 || IS_SANITIZED);
	release("a");
	assert_fifo_ends(reads);
	close(reads);
	close(stopped);
	close(typed);
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	free(io.stdin);
}

/* ---- a log that cannot be written ---------------------------------------- */

static void fill(const char *name, size_t size)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", log_dir, name);
	static const char zeros[4096];
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	for (size_t at = 0; at < size; at += sizeof(zeros))
		if (write(fd, zeros, sizeof(zeros)) != sizeof(zeros))
			break;
	close(fd);
}

static void empty(const char *name)
{
	_cleanup_(cleanup_free) char *path = text_format("%s/%s", log_dir, name);

	assert_int_equal(unlink(path), 0);
}

static size_t count_events(const char *topic)
{
	size_t n = 0;

	for (size_t i = 0; i < test.n_events; i++)
		n += !strcmp(test.events[i].topic, topic);
	return n;
}

static size_t count_of(const char *text, char c)
{
	size_t n = 0;

	for (; *text; text++)
		n += *text == c;
	return n;
}

/* Until the script has come to its `read x <$D/NAME`. */
static void wait_for_script(const char *name)
{
	_cleanup_(cleanup_free) char *path = path_of(name);
	uint64_t limit_ms = time_boot_ms() + WAIT_MS;
	int fd;

	/* A shell that opens a FIFO waits for a writer, and is then seen by one that does not wait. */
	while ((fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0) {
		assert_true(time_boot_ms() < limit_ms);
		poll(NULL, 0, 1);
	}
	held = fd;
}

/* The script writes 1 MB onto a file system of 256 KB, most of which is taken. */
static void run_on_small_disk(bool drop)
{
	setup("read x <$D/a; i=0; while [ $i -lt 16 ]; do head -c 65536 /dev/zero | tr '\\0' x; i=$((i+1)); done; "
	      "echo last; read x <$D/b; echo end");
	make_fifo("a");
	make_fifo("b");
	task_log = (struct task_log){.drop = drop};
	assert_int_equal(mkdir(log_dir, 0700), 0);
	if (mount("log", log_dir, "tmpfs", 0, "size=2m"))
		fail_msg("tmpfs: %s", strerror(errno));
	has_mount = true;
	start();
	fill("filler", (2 << 20) - (256 << 10));
	release("a");
	shim_case_wait_event(&test, "/tasks/log");
}

static void a_full_disk_makes_the_process_wait(void **state)
{
	_cleanup_(cleanup_free) char *text = NULL;

	(void)state;
	run_on_small_disk(false);
	assert_call(BUS_OK, "shim.state", NULL);
	empty("filler");
	wait_for_log("last\n");
	release("b");
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	text = log_text("web", false);
	assert_int_equal(strlen(text), 16 * 65536 + strlen("last\nend\n"));
	/* Told once when it began and once when it ended. */
	assert_int_equal(count_events("/tasks/log"), 2);
}

static void on_a_full_disk_output_is_dropped_and_counted(void **state)
{
	_cleanup_(cleanup_free) char *text = NULL;
	unsigned long dropped, kept;
	char *mark;

	(void)state;
	run_on_small_disk(true);
	/* The process goes on; then there is room. */
	assert_call(BUS_OK, "shim.state", NULL);
	wait_for_script("b");
	empty("filler");
	wait_for_log("d");
	release("b");
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	text = log_text("web", true);
	mark = strchr(text, 'd');
	dropped = strtoul(mark + 1, &mark, 10);
	assert_string_equal(mark, ";oend\n");
	kept = count_of(text, 'x');
	assert_int_equal(kept + dropped, 16 * 65536 + 5);
	assert_true(kept > 0 && dropped > 0);
	assert_int_equal(count_events("/tasks/log"), 2);
}

static void what_a_full_disk_never_took_is_told_before_the_deletion(void **state)
{
	(void)state;
	run_on_small_disk(true);
	wait_for_script("b");
	release("b");
	shim_case_wait_event(&test, "/tasks/exit");
	assert_call(BUS_OK, "shim.delete", &delete_gently);
	shim_case_wait_event(&test, "/tasks/delete");
	assert_int_equal(count_events("/tasks/log"), 2);
	assert_string_equal(test.events[test.n_events - 1].topic, "/tasks/delete");
	assert_int_equal(shim_case_wait_end(&test), 0);
}

/* ---- deaths -------------------------------------------------------------- */

static void another_shim_goes_on_where_the_log_ends(void **state)
{
	_cleanup_(cleanup_free) char *file = NULL;
	struct shim_attach_request request;
	int client, fd;

	(void)state;
	setup("echo one; read x <$D/a; echo two; read x <$D/b; echo three");
	make_fifo("a");
	make_fifo("b");
	client = open_fifo("client", O_RDONLY);
	start();
	wait_for_log("oone\n");
	/* The shim is dead in the midst of a write, and the process goes on writing. */
	kill(test.shim, SIGSTOP);
	release("a");
	wait_for_script("b");
	file = text_format("%s/web/1", log_dir);
	fd = open(file, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_int_equal(write(fd, "torn frame which is longer than a header", 40), 40);
	close(fd);
	shim_case_replace(&test);
	wait_for_log("otwo\n");
	request = attach_to("client");
	assert_call(BUS_OK, "shim.attach", &request);
	assert_fifo(client, "one\ntwo\n");
	release("b");
	assert_fifo(client, "three\n");
	assert_fifo_ends(client);
	close(client);
	shim_case_wait_event(&test, "/tasks/exit");
	delete_it();
	assert_log("oone\notwo\nothree\n");
}

static void a_log_of_an_ended_process_is_served_by_another_shim(void **state)
{
	struct shim_attach_request request;
	int client;

	(void)state;
	run("echo one");
	shim_case_wait_event(&test, "/tasks/exit");
	wait_for_log("oone\n");
	shim_case_replace(&test);
	client = open_fifo("client", O_RDONLY);
	request = attach_to("client");
	assert_call(BUS_OK, "shim.attach", &request);
	assert_fifo(client, "one\n");
	assert_fifo_ends(client);
	close(client);
	delete_it();
}

static void delete_waits_for_output_only_so_long(void **state)
{
	uint64_t start_ms;

	(void)state;
	/* A child of the process holds its output open. */
	setup("(read x <$D/a; echo late) & echo early; exit 0");
	make_fifo("a");
	test.config.stdio_wait_ms = 300;
	start();
	shim_case_wait_event(&test, "/tasks/exit");
	start_ms = time_boot_ms();
	delete_it();
	assert_true(time_boot_ms() - start_ms >= 300);
	assert_log("oearly\n");
	release("a");
}

static void delete_takes_along_what_comes_in_time(void **state)
{
	int client;

	(void)state;
	setup("(read x <$D/a; echo late) & echo early; exit 0");
	make_fifo("a");
	test.config.stdio_wait_ms = 20000;
	client = open_fifo("client", O_RDONLY);
	io.stdout = path_of("client");
	start();
	shim_case_wait_event(&test, "/tasks/exit");
	shim_case_send(&test, test.fd, "shim.delete", (const uint8_t *)"0123456789abcdef", 0,
		       &delete_gently);
	release("a");
	assert_fifo(client, "early\nlate\n");
	assert_fifo_ends(client);
	assert_int_equal(shim_case_receive(&test, test.fd, "shim.delete",
					   (const uint8_t *)"0123456789abcdef", NULL),
			 BUS_OK);
	assert_int_equal(shim_case_wait_end(&test), 0);
	assert_log("oearly\nolate\n");
	close(client);
	free(io.stdout);
}

/* In a mount namespace of its own, for a small disk. */
static int enter_namespace(void)
{
	return unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		STREAM_TEST(output_of_both_streams_is_in_the_log_in_order),
		STREAM_TEST(input_that_nobody_asked_for_is_at_its_end),
		STREAM_TEST(a_log_is_bounded_in_size_and_files),
		STREAM_TEST(a_log_without_a_directory_is_refused),
		STREAM_TEST(files_as_streams_of_a_log_are_refused),
		STREAM_TEST(the_first_client_misses_nothing),
		STREAM_TEST(clients_start_where_they_say),
		STREAM_TEST(frames_name_their_stream_and_time),
		STREAM_TEST(a_client_that_cannot_be_served_is_told_why),
		STREAM_TEST(a_process_has_at_most_32_clients_and_forgets_those_that_are_gone),
		STREAM_TEST(a_stopped_client_is_told_how_much_it_missed),
		STREAM_TEST(added_processes_have_logs_and_clients_of_their_own),
		STREAM_TEST(a_process_of_the_same_name_has_a_new_log),
		STREAM_TEST(several_clients_type_until_the_input_is_closed),
		STREAM_TEST(input_that_the_process_does_not_read_waits_for_it),
		STREAM_TEST(much_output_comes_in_order_while_a_client_is_stopped),
		STREAM_TEST(a_shim_with_clients_that_wait_sleeps_and_gives_its_memory_back),
		STREAM_TEST(a_full_disk_makes_the_process_wait),
		STREAM_TEST(on_a_full_disk_output_is_dropped_and_counted),
		STREAM_TEST(what_a_full_disk_never_took_is_told_before_the_deletion),
		STREAM_TEST(another_shim_goes_on_where_the_log_ends),
		STREAM_TEST(a_log_of_an_ended_process_is_served_by_another_shim),
		STREAM_TEST(delete_waits_for_output_only_so_long),
		STREAM_TEST(delete_takes_along_what_comes_in_time),
	};

	if (enter_namespace()) {
		puts("needs root, for a mount namespace");
		return 77;
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
