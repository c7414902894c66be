/* davit-image-work: one mode, one request on fd 3, one answer on fd 4. */

#include <fcntl.h>
#include <locale.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "services/image/work/fetch.h"
#include "services/image/work/meter.h"

#define REQUEST_FD 3
#define ANSWER_FD  4
#define FIRST_FD   5
#define SECOND_FD  6

static int read_request(const struct schema_message *schema, void *ret_request, struct why *why)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	uint8_t block[65536];
	ssize_t size;

	while ((size = read(REQUEST_FD, block, sizeof(block))) > 0) {
		if (buffer.size + (size_t)size > SCHEMA_MESSAGE_MAX)
			return why_set(why, -EMSGSIZE, "the request is too long");
		if (schema_buffer_add(&buffer, block, (size_t)size))
			return error_origin(-ENOMEM);
	}
	if (size < 0)
		return why_errno(why, error_origin(-errno), "cannot read the request");
	if (schema_unpack(schema, buffer.data, buffer.size, ret_request, &fault))
		return why_set(why, error_origin(-EBADMSG), "bad request: %s", fault.text);
	return 0;
}

static int write_answer(const struct schema_message *schema, const void *answer)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer buffer = {};
	struct schema_fault fault = {};
	size_t done = 0;

	if (schema_pack(schema, answer, &buffer, &fault)) {
		log_error("cannot pack the answer: %s", fault.text);
		return error_origin(-EBADMSG);
	}
	while (done < buffer.size) {
		ssize_t n = write(ANSWER_FD, buffer.data + done, buffer.size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_origin(-errno);
		done += (size_t)n;
	}
	return 0;
}

static uint64_t memory_limit;

/* What every result says of a failure. */
static int describe(int r, const struct why *why, char **error, enum bus_status *status)
{
	*status = work_status(r);
	if (!r)
		return 0;
	if (r == -ENOMEM) {
		*error = text_format("%s%sit needs more than %llu bytes (limit memory)", why->text,
				     why->text[0] ? ": " : "", (unsigned long long)memory_limit);
		return *error ? 0 : error_origin(-ENOMEM);
	}
	return schema_set(error, why->text[0] ? why->text : strerror(r < 0 ? -r : EINVAL));
}

static int run_import(struct why *why)
{
	_cleanup_(work_import_request_clear) struct work_import_request request = {};
	_cleanup_(work_import_result_clear) struct work_import_result result = {};
	_cleanup_(meter_clear) struct meter meter = METER(FIRST_FD);
	int r;

	r = read_request(schema_work_import_request(), &request, why);
	if (!r)
		r = sandbox_unshare(SECOND_FD, why);
	if (!r)
		r = sandbox_filter(why);
	if (!r)
		r = channel_watch(FIRST_FD, why);
	if (!r)
		r = work_import(&request, SECOND_FD, -1, &meter, &result, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_import_result(), &result));
}

static int run_apply(struct why *why)
{
	_cleanup_(work_apply_request_clear) struct work_apply_request request = {};
	_cleanup_(work_apply_result_clear) struct work_apply_result result = {};
	int r;

	r = read_request(schema_work_apply_request(), &request, why);
	if (!r)
		r = sandbox_unshare(SECOND_FD, why);
	if (!r)
		r = work_apply(&request, FIRST_FD, SECOND_FD, true, &result, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_apply_result(), &result));
}

static int run_remove(struct why *why)
{
	_cleanup_(work_remove_request_clear) struct work_remove_request request = {};
	_cleanup_(work_remove_result_clear) struct work_remove_result result = {};
	int r;

	r = read_request(schema_work_remove_request(), &request, why);
	if (!r)
		r = work_remove(&request, FIRST_FD, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_remove_result(), &result));
}

static int run_convert(struct why *why)
{
	_cleanup_(work_convert_request_clear) struct work_convert_request request = {};
	_cleanup_(work_import_result_clear) struct work_import_result result = {};
	int r;

	r = read_request(schema_work_convert_request(), &request, why);
	if (!r)
		r = sandbox_unshare(FIRST_FD, why);
	if (!r)
		r = sandbox_filter(why);
	if (!r)
		r = work_convert(&request, FIRST_FD, SECOND_FD, &result, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_import_result(), &result));
}

static int run_diff(struct why *why)
{
	_cleanup_(work_diff_request_clear) struct work_diff_request request = {};
	_cleanup_(work_import_result_clear) struct work_import_result result = {};
	int r;

	r = read_request(schema_work_diff_request(), &request, why);
	if (!r)
		r = sandbox_unshare(FIRST_FD, why);
	if (!r)
		r = work_diff(&request, FIRST_FD, SECOND_FD, true, &result, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_import_result(), &result));
}

static int run_export(struct why *why)
{
	_cleanup_(work_export_request_clear) struct work_export_request request = {};
	_cleanup_(work_remove_result_clear) struct work_remove_result result = {};
	_cleanup_(meter_clear) struct meter meter = METER(FIRST_FD);
	int r;

	r = read_request(schema_work_export_request(), &request, why);
	if (!r)
		r = sandbox_filter(why);
	if (!r)
		r = channel_watch(FIRST_FD, why);
	if (!r)
		r = work_export(&request, SECOND_FD, &meter, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_remove_result(), &result));
}

static int run_usage(struct why *why)
{
	_cleanup_(work_usage_request_clear) struct work_usage_request request = {};
	_cleanup_(work_usage_result_clear) struct work_usage_result result = {};
	int r;

	r = read_request(schema_work_usage_request(), &request, why);
	if (!r)
		r = sandbox_filter(why);
	if (!r)
		r = work_usage(&request, FIRST_FD, &result, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_usage_result(), &result));
}

static int run_digest(struct why *why)
{
	_cleanup_(work_digest_request_clear) struct work_digest_request request = {};
	_cleanup_(work_digest_result_clear) struct work_digest_result result = {};
	int r;

	r = read_request(schema_work_digest_request(), &request, why);
	if (!r)
		r = sandbox_unshare(FIRST_FD, why);
	if (!r)
		r = sandbox_filter(why);
	if (!r)
		r = work_digest_files(&request, FIRST_FD, &result, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_digest_result(), &result));
}

/* Waits until all of the file system is on disk. */
static int run_sync(struct why *why)
{
	_cleanup_(work_remove_result_clear) struct work_remove_result result = {};
	struct empty request = {};
	int r;

	r = read_request(schema_empty(), &request, why);
	if (!r && syncfs(FIRST_FD) < 0)
		r = why_errno(why, error_origin(-errno), "cannot sync the snapshots");
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_remove_result(), &result));
}

static int run_fetch(struct why *why)
{
	_cleanup_(work_fetch_request_clear) struct work_fetch_request request = {};
	_cleanup_(work_fetch_result_clear) struct work_fetch_result result = {};
	int r;

	r = read_request(schema_work_fetch_request(), &request, why);
	if (!r)
		r = work_fetch(&request, FIRST_FD, SECOND_FD, &result, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_fetch_result(), &result));
}

static int run_push(struct why *why)
{
	_cleanup_(work_push_request_clear) struct work_push_request request = {};
	_cleanup_(work_push_result_clear) struct work_push_result result = {};
	int r;

	r = read_request(schema_work_push_request(), &request, why);
	if (!r)
		r = work_push(&request, FIRST_FD, &result, why);
	if (describe(r, why, &result.error, &result.status))
		return error_origin(-ENOMEM);
	return error_trace(write_answer(schema_work_push_result(), &result));
}

static int run(const char *mode, struct why *why)
{
	int r;

	r = sandbox_limit(memory_limit, why);
	if (r)
		return error_trace(r);
	if (!strcmp(mode, "import"))
		return error_trace(run_import(why));
	if (!strcmp(mode, "apply"))
		return error_trace(run_apply(why));
	if (!strcmp(mode, "remove"))
		return error_trace(run_remove(why));
	if (!strcmp(mode, "digest"))
		return error_trace(run_digest(why));
	if (!strcmp(mode, "sync"))
		return error_trace(run_sync(why));
	if (!strcmp(mode, "convert"))
		return error_trace(run_convert(why));
	if (!strcmp(mode, "diff"))
		return error_trace(run_diff(why));
	if (!strcmp(mode, "export"))
		return error_trace(run_export(why));
	if (!strcmp(mode, "usage"))
		return error_trace(run_usage(why));
	if (!strcmp(mode, "fetch"))
		return error_trace(run_fetch(why));
	if (!strcmp(mode, "push"))
		return error_trace(run_push(why));
	return why_set(why, -EINVAL, "unknown mode '%s'", mode);
}

#ifdef __SANITIZE_ADDRESS__
/* The leak check at the end traces the process with ptrace(2), which the system call filter refuses. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

int main(int argc, char *argv[])
{
	struct why why = {};

	log_init("davit-image-work", LOG_INFO);
	memory_limit = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
	if (!memory_limit || fcntl(REQUEST_FD, F_GETFD) < 0 || fcntl(ANSWER_FD, F_GETFD) < 0) {
		fprintf(stderr,
			"davit-image-work is started by davit-image:\n"
			"usage: davit-image-work "
			"import|apply|convert|diff|export|remove|digest|sync|usage|fetch|push "
			"MEMORY 3<REQUEST 4>ANSWER\n");
		return 2;
	}
	/* Names are bytes; libarchive takes those of pax headers through the locale. Built into libc. */
	setlocale(LC_CTYPE, "C.UTF-8");
	umask(0);
	/* A reader that went away is an error of write(2). */
	signal(SIGPIPE, SIG_IGN);
	/* Each arena takes 64 MiB of the address space, which is limited. */
	mallopt(M_ARENA_MAX, 2);
	if (run(argv[1], &why)) {
		log_error("%s", why.text[0] ? why.text : "failed");
		return 1;
	}
	return 0;
}
