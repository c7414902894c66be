/* What pull, push, import and export share: see transfer.h. */

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "broker/lib/file.h"
#include "broker/lib/log.h"
#include "schemas/check.h"
#include "services/image/lease.h"
#include "services/image/limits.h"
#include "services/image/transfer.h"

#define NOTE_MAX        1048576
#define NOTES_PER_ROUND 64
#define TELL_MS         350 /* between two events */
#define SHOWN_MAX       96  /* blobs of an event */
#define NAME_SHOWN_MAX  255 /* of an event's object */
#define SOURCE_LABEL    "containerd.io/distribution.source."
#define SOURCES_SIZE    2048
#define SECRETS_WAIT_MS 60000
#define STILL_LOOK_MS   1000 /* between two looks whether anybody waits */

struct transfer {
	struct image_service *image;
	struct operation *operation;
	const char *name; /* the request's */
	const char *state;
	int channel;
	struct loop_file file;
	const struct transfer_hooks *hooks;
	void *userdata;
	struct work_note progress; /* the last one */
	uint64_t told_ms;
	uint8_t *buffer; /* of NOTE_MAX bytes */
	struct loop_timer turn;
	struct loop_timer still;
	uint64_t still_since_ms; /* 0: it moves */
	enum bus_status refusal;
	bool is_deaf; /* something that its child said is not known */
};

/* ---- events ---- */

static bool is_over(enum transfer_status status)
{
	return status != TRANSFER_WAITING && status != TRANSFER_RUNNING;
}

static int add_item(struct event_image_progress *event, const struct transfer_item *item)
{
	struct transfer_item *copy = schema_list_add(&event->transfers);

	return copy ? error_trace(transfer_item_copy(item, copy)) : error_origin(-ENOMEM);
}

/* Those that are under way come first, so that they are seen if there are very many. */
static int fill_event(struct transfer *transfer, struct event_image_progress *event)
{
	int r = 0;

	for (size_t i = 0; i < transfer->progress.transfers.count; i++) {
		struct transfer_item *item = &transfer->progress.transfers.items[i];

		event->total += item->total;
		event->offset += is_over(item->status) ? item->total : item->offset;
		if (transfer->hooks->describe)
			transfer->hooks->describe(transfer->userdata, item);
	}
	/* An archive has more than its blobs, and its size is known before theirs. */
	if (transfer->hooks->tells_progress) {
		event->offset = transfer->progress.offset;
		event->total = transfer->progress.total;
	}
	for (unsigned round = 0; round < 2; round++) {
		for (size_t i = 0; i < transfer->progress.transfers.count && !r; i++) {
			const struct transfer_item *item = &transfer->progress.transfers.items[i];

			if (is_over(item->status) == (round == 1) &&
			    event->transfers.count < SHOWN_MAX)
				r = add_item(event, item);
		}
	}
	return error_trace(r);
}

static int emit(struct operation *operation, struct event_image_progress *event, const char *method,
		const char *name, const char *state)
{
	int r;

	r = schema_set(&event->name, name) ?: schema_set(&event->state, state);
	if (!r)
		r = schema_set(&event->method, method);
	if (!r)
		r = schema_bytes_set(&event->operation, operation_id(operation), 16);
	if (!r)
		r = service_emit(operation_service(operation), operation_namespace(operation),
				 schema_find_event("/images/progress"), name, event);
	return error_trace(r);
}

int transfer_tell(struct transfer *transfer, const char *state)
{
	_cleanup_(event_image_progress_clear) struct event_image_progress event = {};
	int r;

	transfer->state = state ?: transfer->state;
	r = fill_event(transfer, &event);
	return r ? error_trace(r)
		 : error_trace(emit(transfer->operation, &event, transfer->hooks->method,
				    transfer->name, transfer->state));
}

int transfer_tell_end(struct operation *operation, const char *method, const char *name,
		      const char *state)
{
	_cleanup_(event_image_progress_clear) struct event_image_progress event = {};

	return error_trace(emit(operation, &event, method, name, state));
}

static int tell(void *userdata)
{
	return transfer_tell(userdata, NULL);
}

static void keep_progress(struct transfer *transfer, struct work_note *note)
{
	uint64_t now = time_boot_ms();

	work_note_clear(&transfer->progress);
	transfer->progress = *note;
	*note = (struct work_note){};
	if (now - transfer->told_ms < TELL_MS)
		return;
	transfer->told_ms = now;
	if (service_transact(transfer->image->service, tell, transfer))
		log_warning("image=%s progress=untold", transfer->name);
}

/* ---- answers ---- */

struct look {
	struct transfer *transfer;
	const struct descriptor *blob;
	struct work_answer *answer;
};

void transfer_split(const char *name, char **ret_host, const char **ret_repository,
		    size_t *ret_size)
{
	size_t host = strcspn(name, "/");
	const char *repository = name[host] ? name + host + 1 : name + host, *colon;
	size_t size = strcspn(repository, "@");

	colon = memrchr(repository, ':', size);
	if (colon && !memchr(colon, '/', size - (size_t)(colon - repository)))
		size = (size_t)(colon - repository);
	*ret_host = strndup(name, host);
	*ret_repository = repository;
	*ret_size = size;
}

/* The label that names the repositories of that registry: a,b,c. */
static char *source_label(const char *name, const char **ret_repository, size_t *ret_size)
{
	_cleanup_(cleanup_free) char *host = NULL;

	transfer_split(name, &host, ret_repository, ret_size);
	return host ? text_format(SOURCE_LABEL "%s", host) : NULL;
}

static int add_sources(struct transfer *transfer, const struct content_record *record,
		       struct work_answer *answer)
{
	_cleanup_(cleanup_free) char *label = NULL, *list = NULL;
	const char *repository, *value;
	char *rest, *source;
	size_t size;
	int r = 0;

	label = source_label(transfer->name, &repository, &size);
	value = label ? schema_map_get(&record->labels, label) : NULL;
	list = value ? strdup(value) : NULL;
	rest = list;
	while (!r && (source = strsep(&rest, ",")) && answer->sources.count < 16) {
		if (*source)
			r = schema_strs_add(&answer->sources, source);
	}
	return error_trace(r);
}

/* What is there is held until the operation has ended. */
static int look_up(void *userdata)
{
	_cleanup_(content_record_clear) struct content_record record = {};
	struct look *look = userdata;
	struct image_service *image = look->transfer->image;
	struct store_key key;
	int r;

	work_answer_clear(look->answer);
	r = content_key(look->blob->digest, &key);
	if (!r)
		r = store_get(image->store, TABLE_BLOBS, &key, schema_content_record(), &record);
	if (r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED)
		return 0;
	if (!r)
		r = lease_hold_content(look->transfer->operation, look->blob->digest);
	if (!r)
		r = add_sources(look->transfer, &record, look->answer);
	look->answer->is_present = !r;
	return r;
}

static int send_answer(int channel, const struct work_answer *answer, int fd)
{
	_cleanup_(schema_buffer_clear) struct schema_buffer packed = {};
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec part;
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	int r;

	r = schema_pack(schema_work_answer(), answer, &packed, NULL);
	if (r)
		return error_fold(r);
	part = (struct iovec){.iov_base = packed.data, .iov_len = packed.size};
	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
						  .cmsg_level = SOL_SOCKET,
						  .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	return sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? error_origin(-errno)
									   : 0;
}

/* A file that lost or gained bytes is as good as missing: a pull replaces it. */
static bool open_whole(struct image_service *image, const struct descriptor *blob, int *ret_fd)
{
	struct stat status;

	return !content_open_blob(image, blob->digest, ret_fd, NULL) && !fstat(*ret_fd, &status) &&
	       (uint64_t)status.st_size == blob->size;
}

static void answer_ask(struct transfer *transfer, const struct work_note *note)
{
	_cleanup_(work_answer_clear) struct work_answer answer = {};
	struct look look = {.transfer = transfer, .blob = note->blob, .answer = &answer};
	_cleanup_(cleanup_fd) int fd = -1;

	if (service_transact(transfer->image->service, look_up, &look) ||
	    (answer.is_present && !open_whole(transfer->image, note->blob, &fd)))
		answer.is_present = false;
	if (send_answer(transfer->channel, &answer, note->kind == NOTE_OPEN ? fd : -1)) {
		transfer_stop(transfer);
		return;
	}
	if (answer.is_present && transfer->hooks->arrived)
		transfer->hooks->arrived(transfer->userdata, note->blob, false);
}

/* ---- ended from here ---- */

static void refuse(struct transfer *transfer, enum bus_status status)
{
	transfer->refusal = status;
	transfer_stop(transfer);
}

/* Nobody but the next one needs its turn: it may stand still for as long as nobody waits. */
static void on_still(struct loop_timer *timer)
{
	struct transfer *transfer = container_of(timer, struct transfer, still);
	uint64_t limit_ms = work_limits_fill(&transfer->image->limits).still * 1000;
	uint64_t now = time_boot_ms(), end = transfer->still_since_ms + limit_ms;

	if (now >= end && image_work_is_waited_for(transfer->image, transfer)) {
		refuse(transfer, BUS_DEADLINE_EXCEEDED);
		return;
	}
	(void)loop_timer_set(service_loop(transfer->image->service), timer,
			     now < end ? end : now + STILL_LOOK_MS, on_still);
}

static void take_still(struct transfer *transfer, uint64_t since_ms)
{
	transfer->still_since_ms = since_ms;
	loop_timer_cancel(&transfer->still);
	if (since_ms)
		on_still(&transfer->still);
}

/* ---- notes ---- */

static void take_note(struct transfer *transfer, struct work_note *note)
{
	const struct transfer_hooks *hooks = transfer->hooks;

	if (note->kind == NOTE_PROGRESS) {
		keep_progress(transfer, note);
	} else if (note->kind == NOTE_LOG) {
		log_info("image=%s http=\"%s\"", transfer->name, note->text ? note->text : "");
	} else if (note->kind == NOTE_STILL) {
		take_still(transfer, note->still_since_ms);
	} else if (hooks->tells_progress) {
		log_error("image=%s error=\"davit-image-work sent a note that is no progress\"",
			  transfer->name);
		transfer_stop(transfer);
	} else if (!note->blob || !check_digest(note->blob->digest)) {
		log_error("image=%s error=\"davit-image-work sent a note without a digest\"",
			  transfer->name);
		transfer_stop(transfer);
	} else if (note->kind == NOTE_ASK || note->kind == NOTE_OPEN) {
		answer_ask(transfer, note);
	} else if (note->kind == NOTE_RESOLVED && hooks->resolved) {
		hooks->resolved(transfer->userdata, note->blob);
	} else if (note->kind == NOTE_ARRIVED && hooks->arrived) {
		hooks->arrived(transfer->userdata, note->blob, true);
	}
}

/* The child may wait for the answer to what cannot be read, or tell nothing of it again. */
static void be_deaf(struct transfer *transfer, const char *why)
{
	log_error("image=%s error=\"a note of davit-image-work cannot be read: %s\"",
		  transfer->name, why);
	transfer->is_deaf = true;
	transfer_stop(transfer);
}

static void on_channel(struct loop_file *file, uint32_t events)
{
	struct transfer *transfer = container_of(file, struct transfer, file);

	(void)events;
	for (unsigned i = 0; i < NOTES_PER_ROUND && transfer->file.loop; i++) {
		_cleanup_(work_note_clear) struct work_note note = {};
		struct schema_fault fault = {};
		ssize_t size = recv(transfer->channel, transfer->buffer, NOTE_MAX, MSG_DONTWAIT);
		int r;

		if (size < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		/* Its end is told by work_fn. */
		if (size <= 0) {
			loop_file_remove(&transfer->file);
			return;
		}
		r = schema_unpack(schema_work_note(), transfer->buffer, (size_t)size, &note,
				  &fault);
		if (r < 0 && transfer->hooks->tells_progress)
			continue; /* the next one tells more */
		if (r) {
			be_deaf(transfer, r < 0 ? "out of memory" : fault.text);
			return;
		}
		take_note(transfer, &note);
	}
}

/* ---- life ---- */

static void explain_refusal(const struct transfer *transfer, struct why *why)
{
	struct work_limits limits = work_limits_fill(&transfer->image->limits);

	*why = (struct why){};
	if (transfer->refusal == BUS_DEADLINE_EXCEEDED)
		why_set(why, -ETIMEDOUT,
			"its stream moved nothing for %llu seconds (limit still), and others wait "
			"for their turn: %llu may be under way (limit children)",
			(unsigned long long)limits.still, (unsigned long long)limits.children);
	why_set(why, -ETIMEDOUT,
		"its turn did not come within %llu seconds (limit turn): %llu are under way already "
		"(limit children), and one of them may wait for this stream",
		(unsigned long long)limits.turn, (unsigned long long)limits.children);
}

/* What it said before its end is read first. */
static void ended(void *userdata, void *reply, const struct why *why)
{
	struct transfer *transfer = userdata;
	struct why own = *why;

	while (transfer->file.loop) {
		struct loop_file *file = &transfer->file;
		char byte;

		if (recv(transfer->channel, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0)
			break;
		on_channel(file, EPOLLIN);
	}
	transfer_stop(transfer);
	if (transfer->refusal)
		explain_refusal(transfer, &own);
	if (transfer->is_deaf)
		own = (struct why){"what davit-image-work said cannot be read"};
	transfer->hooks->ended(transfer->userdata, transfer->is_deaf ? NULL : reply, &own);
}

static void on_turn(struct loop_timer *timer)
{
	struct transfer *transfer = container_of(timer, struct transfer, turn);

	if (!image_work_waits(transfer->image, transfer))
		return;
	refuse(transfer, BUS_UNAVAILABLE);
}

void transfer_limit_turn(struct transfer *transfer)
{
	uint64_t seconds = work_limits_fill(&transfer->image->limits).turn;

	if (!image_work_waits(transfer->image, transfer) ||
	    !loop_timer_set(service_loop(transfer->image->service), &transfer->turn,
			    time_boot_ms() + seconds * 1000, on_turn))
		return;
	/* Out of memory: rather none than one that waits for ever. */
	refuse(transfer, BUS_UNAVAILABLE);
}

enum bus_status transfer_refusal(const struct transfer *transfer)
{
	return transfer->refusal;
}

void transfer_stop(struct transfer *transfer)
{
	loop_timer_cancel(&transfer->turn);
	loop_timer_cancel(&transfer->still);
	loop_file_remove(&transfer->file);
	transfer->channel = close_fd(transfer->channel);
	image_work_drop(transfer->image, transfer);
}

struct transfer *transfer_free(struct transfer *transfer)
{
	if (!transfer)
		return NULL;
	transfer_stop(transfer);
	work_note_clear(&transfer->progress);
	free(transfer->buffer);
	free(transfer);
	return NULL;
}

static int start_child(struct transfer *transfer, const char *mode,
		       const struct schema_message *request, const void *message, int directory,
		       const struct schema_message *reply, struct why *why)
{
	struct image_service *image = transfer->image;
	_cleanup_(cleanup_fd) int other = -1;
	int fds[2];
	int r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return why_errno(why, error_origin(-errno), "socketpair");
	transfer->channel = fds[0];
	other = fds[1];
	r = loop_file_add(service_loop(image->service), &transfer->file, transfer->channel, EPOLLIN,
			  on_channel);
	if (r)
		return error_trace(r);
	fds[0] = other;
	fds[1] = directory;
	return image_work_start(image, mode, request, message, fds, directory < 0 ? 1 : 2, reply,
				operation_deadline(transfer->operation), ended, transfer, why);
}

int transfer_start(struct operation *operation, const char *name, const char *mode,
		   const struct schema_message *request, const void *message, int directory,
		   const struct schema_message *reply, const struct transfer_hooks *hooks,
		   void *userdata, struct transfer **ret_transfer, struct why *why)
{
	struct transfer *transfer = calloc(1, sizeof(*transfer));
	int r;

	if (!transfer)
		return error_origin(-ENOMEM);
	*transfer = (struct transfer){.image = operation_object(operation),
				      .operation = operation,
				      .name = name,
				      .state = "running",
				      .channel = -1,
				      .hooks = hooks,
				      .userdata = userdata,
				      .buffer = malloc(NOTE_MAX)};
	r = transfer->buffer ? start_child(transfer, mode, request, message, directory, reply, why)
			     : error_origin(-ENOMEM);
	if (r) {
		transfer_free(transfer);
		return r;
	}
	*ret_transfer = transfer;
	return 0;
}

/* ---- waiting for credentials ---- */

static void secrets_never_came(struct loop_timer *timer)
{
	struct transfer_wait *wait = container_of(timer, struct transfer_wait, timer);
	struct why why = {};

	why_set(&why, 0,
		"the %s was cut by a restart, and its credentials are not stored: ask for it again, "
		"what has come is kept",
		wait->what);
	image_step_ended(wait->operation, refused(BUS_UNAVAILABLE), &why);
}

void transfer_begin(struct transfer_wait *wait, struct operation *operation,
		    void (*start)(struct operation *operation), const char *verb, const char *name)
{
	wait->operation = operation;
	snprintf(wait->what, sizeof(wait->what), "%s of '%.200s'", verb, name);
	if (!operation_lacks_secrets(operation))
		start(operation);
	else
		(void)loop_timer_set(service_loop(operation_service(operation)), &wait->timer,
				     time_boot_ms() + SECRETS_WAIT_MS, secrets_never_came);
}

void transfer_wait_end(struct transfer_wait *wait)
{
	loop_timer_cancel(&wait->timer);
}

bool transfer_wait_cancel(struct transfer_wait *wait)
{
	struct why why = {};

	if (!wait->timer.loop)
		return false;
	loop_timer_cancel(&wait->timer);
	why_set(&why, 0, "the %s was cancelled", wait->what);
	image_step_ended(wait->operation, refused(BUS_CANCELED), &why);
	return true;
}

/* ---- small things ---- */

const char *transfer_archive_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (strlen(path) <= NAME_SHOWN_MAX)
		return path;
	return slash && strlen(slash + 1) <= NAME_SHOWN_MAX ? slash + 1 : "archive";
}

int transfer_environment(struct schema_strs *environment)
{
	static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
					    "ALL_PROXY",  "no_proxy",    "NO_PROXY"};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names) && !r; i++) {
		const char *value = getenv(names[i]);
		_cleanup_(cleanup_free) char *text = NULL;

		if (!value || strlen(value) > 4096)
			continue;
		text = text_format("%s=%s", names[i], value);
		r = text ? schema_strs_add(environment, text) : error_origin(-ENOMEM);
	}
	return error_trace(r);
}

static bool has_item(const char *list, const char *item, size_t size)
{
	while (*list) {
		size_t n = strcspn(list, ",");

		if (n == size && !strncmp(list, item, size))
			return true;
		list += n + (list[n] == ',');
	}
	return false;
}

int transfer_add_source(struct image_service *image, const char *digest, const char *name)
{
	_cleanup_(content_record_clear) struct content_record record = {};
	_cleanup_(cleanup_free) char *label = NULL, *value = NULL;
	const char *repository, *old;
	struct store_key key;
	size_t size;
	int r;

	label = source_label(name, &repository, &size);
	if (!label)
		return error_origin(-ENOMEM);
	r = content_key(digest, &key);
	if (!r)
		r = store_get(image->store, TABLE_BLOBS, &key, schema_content_record(), &record);
	if (r)
		return r == STORE_E_NOT_FOUND || r == STORE_E_DAMAGED ? 0 : error_trace(r);
	old = schema_map_get(&record.labels, label) ?: "";
	if (has_item(old, repository, size) || strlen(old) + size > SOURCES_SIZE)
		return 0;
	value = text_format("%s%s%.*s", old, *old ? "," : "", (int)size, repository);
	if (!value)
		return error_origin(-ENOMEM);
	r = schema_map_set(&record.labels, label, value);
	if (!r)
		r = store_put(image->store, TABLE_BLOBS, &key, schema_content_record(), &record);
	return error_trace(r);
}

static int check_path(const char *path, const char *what, struct why *why)
{
	if (!path || !path[0] || path[0] == '/')
		return 0;
	return why_set(why, refused(BUS_INVALID_ARGUMENT), "%s '%.200s' is not an absolute path",
		       what, path);
}

int transfer_check_options(const struct registry_options *options, struct why *why)
{
	int r;

	if (!options)
		return 0;
	r = check_path(options->hosts_dir, "hosts_dir", why);
	if (!r)
		r = check_path(options->tls_ca, "tls_ca", why);
	if (!r)
		r = check_path(options->tls_cert, "tls_cert", why);
	if (!r)
		r = check_path(options->tls_key, "tls_key", why);
	if (!r && options->username && strchr(options->username, ':'))
		r = why_set(why, refused(BUS_INVALID_ARGUMENT), "a user name has no colon");
	if (!r && options->tls_key && options->tls_key[0] &&
	    (!options->tls_cert || !options->tls_cert[0]))
		r = why_set(why, refused(BUS_INVALID_ARGUMENT), "tls_key needs tls_cert");
	return r;
}

/* Fit for a header, as it is. */
static bool is_media_type(const char *text)
{
	for (const char *c = text; *c; c++) {
		if (*c <= ' ' || *c >= 0x7f || *c == ',')
			return false;
	}
	return strchr(text, '/');
}

int transfer_check_object(const char *name, const char *digest, char *const *media_types,
			  size_t n_media_types, struct why *why)
{
	if (!check_reference(name))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.200s' is not an image name",
			       name);
	if (digest && *digest && !check_digest(digest))
		return why_set(why, refused(BUS_INVALID_ARGUMENT), "'%.100s' is not a digest",
			       digest);
	for (size_t i = 0; i < n_media_types; i++) {
		if (*media_types[i] && !is_media_type(media_types[i]))
			return why_set(why, refused(BUS_INVALID_ARGUMENT),
				       "'%.100s' is not a media type", media_types[i]);
	}
	return 0;
}
