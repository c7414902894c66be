/* Notes to davit-image and its answers: see channel.h. */

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "broker/lib/loop.h"
#include "services/image/work/channel.h"
#include "services/image/work/still.h"

#define ANSWER_MAX  65536
#define STACK_BYTES 131072

static void tell_still(int channel, uint64_t *told)
{
	struct work_note note = {.kind = NOTE_STILL};

	if (!still_is_news(still_since(), time_boot_ms(), told))
		return;
	note.still_since_ms = *told;
	(void)channel_note(channel, &note);
}

static void *watch(void *userdata)
{
	struct pollfd end = {.fd = *(int *)userdata};
	uint64_t told = 0;
	int n;

	while ((n = poll(&end, 1, STILL_LOOK_MS)) <= 0 ||
	       !(end.revents & (POLLHUP | POLLERR | POLLNVAL))) {
		if (!n)
			tell_still(end.fd, &told);
	}
	_exit(1);
}

int channel_watch(int channel, struct why *why)
{
	static int fd; /* the thread's, for good */
	pthread_attr_t attributes;
	pthread_t thread;
	int r;

	fd = channel;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	r = pthread_create(&thread, &attributes, watch, &fd);
	pthread_attr_destroy(&attributes);
	return r ? why_set(why, -ENOMEM, "cannot start a thread") : 0;
}

int channel_note(int channel, const struct work_note *note)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	int r;

	r = schema_pack(schema_work_note(), note, &packed, NULL);
	if (r)
		return error_fold(r);
	while (send(channel, packed.data, packed.size, MSG_NOSIGNAL) < 0) {
		if (errno != EINTR)
			return error_origin(-errno);
	}
	return 0;
}

static int receive(int channel, struct work_answer *ret_answer, int *ret_fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {};
	_cleanup_(cleanup_free) char *data = malloc(ANSWER_MAX);
	struct iovec part = {.iov_base = data, .iov_len = ANSWER_MAX};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	struct cmsghdr *header;
	ssize_t size;
	int r;

	if (!data)
		return error_origin(-ENOMEM);
	do
		size = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
	while (size < 0 && errno == EINTR);
	if (size <= 0)
		return error_origin(size ? -errno : -EPIPE);
	header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(header), sizeof(int));
	r = schema_unpack(schema_work_answer(), data, (size_t)size, ret_answer, NULL);
	return error_fold(r);
}

int channel_ask(int channel, enum work_note_kind kind, const struct descriptor *blob,
		struct work_answer *ret_answer, int *ret_fd, struct why *why)
{
	struct work_note note = {.kind = kind, .blob = (struct descriptor *)blob};
	_cleanup_(cleanup_fd) int fd = -1;
	int r;

	r = channel_note(channel, &note);
	if (!r)
		r = receive(channel, ret_answer, &fd);
	if (r)
		return why_errno(why, r, "davit-image does not answer");
	if (ret_fd)
		*ret_fd = TAKE_FD(fd);
	return 0;
}

void channel_log(void *userdata, const char *line)
{
	struct work_note note = {.kind = NOTE_LOG, .text = (char *)line};

	(void)channel_note(*(int *)userdata, &note);
}
