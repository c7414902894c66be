#include "broker/lib/follow.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS_MIN 64

void follow_init(struct follow *follow, uint64_t from, void (*free_data)(void *data))
{
	*follow = (struct follow){.next = from, .free_data = free_data};
}

static void drop_first(struct follow *follow)
{
	if (follow->free_data)
		follow->free_data(follow->items[follow->first].data);
	follow->first = (follow->first + 1) % follow->n_slots;
	follow->n_items--;
}

static void drop_all(struct follow *follow)
{
	while (follow->n_items > 0)
		drop_first(follow);
}

void follow_deinit(struct follow *follow)
{
	drop_all(follow);
	free(follow->items);
	*follow = (struct follow){};
}

/* ---- which log ---- */

static bool is_log(const struct follow *follow, const uint8_t *log_id)
{
	return follow->has_log && memcmp(follow->log_id, log_id, ENVELOPE_ID_SIZE) == 0;
}

/*
 * Another log: from its first event on, saying that what was before is gone. Who has no place yet
 * has none to lose: from now still means from now.
 */
static void change_log(struct follow *follow, const uint8_t *log_id)
{
	drop_all(follow);
	follow->last = 0;
	if (follow->has_log && follow->next > 0) {
		follow->next = 1;
		follow->is_truncated = true;
	}
	memcpy(follow->log_id, log_id, ENVELOPE_ID_SIZE);
	follow->has_log = true;
}

/* Whether a live message is of the present log, as far as is known. */
static bool hear_log(struct follow *follow, const uint8_t *log_id)
{
	if (is_log(follow, log_id))
		return true;
	if (!follow->is_joined) {
		change_log(follow, log_id);
		return true;
	}
	follow->is_suspicious = true;
	return false;
}

static void know_last(struct follow *follow, uint64_t last)
{
	if (last > follow->last)
		follow->last = last;
}

/* ---- live ---- */

static bool grow(struct follow *follow)
{
	size_t n_slots = follow->n_slots ? follow->n_slots * 2 : SLOTS_MIN;
	struct follow_item *items;

	if (follow->n_items < follow->n_slots)
		return true;
	if (follow->n_slots >= FOLLOW_BUFFER_MAX)
		return false;

	items = calloc(n_slots, sizeof(*items));
	if (!items)
		return false;

	for (size_t i = 0; i < follow->n_items; i++)
		items[i] = follow->items[(follow->first + i) % follow->n_slots];
	free(follow->items);
	follow->items = items;
	follow->n_slots = n_slots;
	follow->first = 0;
	return true;
}

static enum follow_verdict keep(struct follow *follow, uint64_t seq, void *data)
{
	size_t last;

	if (follow->n_items > 0) {
		last = (follow->first + follow->n_items - 1) % follow->n_slots;
		if (seq <= follow->items[last].seq)
			return FOLLOW_DROP;
	}
	if (!grow(follow))
		return FOLLOW_DROP;

	last = (follow->first + follow->n_items++) % follow->n_slots;
	follow->items[last] = (struct follow_item){.seq = seq, .data = data};
	return FOLLOW_KEEP;
}

enum follow_verdict follow_live(struct follow *follow, const uint8_t *log_id, uint64_t seq,
				void *data)
{
	if (seq == 0 || !hear_log(follow, log_id))
		return FOLLOW_DROP;

	know_last(follow, seq);
	if (follow->is_joined && seq == follow->next) {
		follow->next++;
		return FOLLOW_DELIVER;
	}
	if (follow->next > seq)
		return FOLLOW_DROP;

	return keep(follow, seq, data);
}

void follow_heartbeat(struct follow *follow, const uint8_t *log_id, uint64_t last_seq)
{
	if (hear_log(follow, log_id))
		know_last(follow, last_seq);
}

void follow_suspect(struct follow *follow)
{
	follow->is_suspicious = true;
}

void *follow_take(struct follow *follow)
{
	void *data;

	if (!follow->is_joined)
		return NULL;

	while (follow->n_items > 0 && follow->items[follow->first].seq < follow->next)
		drop_first(follow);
	if (follow->n_items == 0 || follow->items[follow->first].seq != follow->next)
		return NULL;

	data = follow->items[follow->first].data;
	follow->first = (follow->first + 1) % follow->n_slots;
	follow->n_items--;
	follow->next++;
	return data;
}

bool follow_take_truncated(struct follow *follow)
{
	bool is_truncated = follow->is_truncated;

	follow->is_truncated = false;
	return is_truncated;
}

/* ---- reading the log ---- */

/* Asked for after follow_take() gave NULL: what is kept then lies behind a gap. */
bool follow_wants_read(const struct follow *follow, uint64_t *ret_from)
{
	if (follow->is_reading)
		return false;
	if (follow->is_joined && follow->last < follow->next && !follow->is_suspicious)
		return false;

	*ret_from = follow->next;
	return true;
}

void follow_read_begin(struct follow *follow)
{
	follow->is_reading = true;
	follow->is_suspicious = false;
	follow->asked = follow->next;
}

/* The first reply says where the log is: "now", or that the number asked for is not of this log. */
static bool join(struct follow *follow, const struct follow_reply *reply)
{
	follow->is_joined = true;
	if (follow->next == 0)
		follow->next = reply->next > 0 ? reply->next : 1;
	if (follow->next <= reply->last_seq || follow->next - reply->last_seq == 1)
		return true;

	change_log(follow, reply->log_id);
	return false;
}

/* Whether the reply goes on where we are; if not, that is set right. */
static bool reply_fits(struct follow *follow, const struct follow_reply *reply)
{
	bool is_same = is_log(follow, reply->log_id);
	bool fits = is_same || !follow->has_log || follow->next == 0;

	if (!is_same)
		change_log(follow, reply->log_id);
	/* Asked for before we were set back. */
	if (follow->next < follow->asked)
		fits = false;
	if (!fits)
		follow->is_joined = true;
	else if (!follow->is_joined)
		fits = join(follow, reply);
	know_last(follow, reply->last_seq);
	return fits;
}

bool follow_read_reply(struct follow *follow, const struct follow_reply *reply)
{
	if (!reply_fits(follow, reply)) {
		follow_read_failed(follow);
		return false;
	}
	follow->read_start = follow->asked;
	/* Not when live messages have brought us past the hole since. */
	if (reply->is_truncated && follow->next < reply->first_seq)
		follow->is_truncated = true;
	follow->read_next = reply->next;
	if (follow->read_next > reply->last_seq && follow->read_next - reply->last_seq > 1)
		follow->read_next = reply->last_seq + 1;
	return true;
}

bool follow_read_event(struct follow *follow, uint64_t seq)
{
	if (seq < follow->next)
		return false;

	know_last(follow, seq);
	follow->next = seq + 1;
	return true;
}

bool follow_read_end(struct follow *follow)
{
	follow->is_reading = false;
	if (follow->read_next > follow->next)
		follow->next = follow->read_next;
	return follow->next > follow->read_start;
}

void follow_read_failed(struct follow *follow)
{
	follow->is_reading = false;
}
