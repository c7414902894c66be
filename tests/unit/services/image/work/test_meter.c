/* What import and export tell of their progress. */

#include "tests/lib/main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "services/image/reference.h"
#include "services/image/work/meter.h"

#define DIGEST_A "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define DIGEST_B "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

struct fixture {
	int fds[2];
	struct meter meter;
	struct work_note note; /* the last that was told */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f->fds) < 0)
		return -1;
	f->meter = METER(f->fds[0]);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->fds[0]);
	close(f->fds[1]);
	meter_clear(&f->meter);
	work_note_clear(&f->note);
	free(f);
	return 0;
}

/* How many notes have come. */
static unsigned take_notes(struct fixture *f)
{
	static char packet[262144];
	unsigned n = 0;
	ssize_t size;

	while ((size = recv(f->fds[1], packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
		work_note_clear(&f->note);
		assert_int_equal(
			schema_unpack(schema_work_note(), packet, (size_t)size, &f->note, NULL), 0);
		assert_int_equal(f->note.kind, NOTE_PROGRESS);
		n++;
	}
	return n;
}

static void test_many_moves_are_few_notes(void **state)
{
	struct fixture *f = *state;

	f->meter.note.total = 100000;
	assert_int_equal(meter_begin(&f->meter, DIGEST_A, 100000), 0);
	for (unsigned i = 0; i < 1000; i++)
		meter_move(&f->meter, 1);
	assert_in_range(take_notes(f), 1, 10);
	meter_tell(&f->meter);
	assert_int_equal(take_notes(f), 1);
	assert_int_equal(f->note.offset, 1000);
	assert_int_equal(f->note.total, 100000);
	assert_int_equal(f->note.transfers.count, 1);
	assert_string_equal(f->note.transfers.items[0].digest, DIGEST_A);
	assert_int_equal(f->note.transfers.items[0].status, TRANSFER_RUNNING);
	assert_int_equal(f->note.transfers.items[0].offset, 1000);
}

static void test_a_blob_is_done_only_if_it_is_what_its_name_says(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(meter_begin(&f->meter, DIGEST_A, 5), 0);
	meter_end(&f->meter, false);
	assert_int_equal(meter_begin(&f->meter, NULL, 7), 0);
	meter_move(&f->meter, 7);
	meter_end(&f->meter, false);
	assert_int_equal(meter_begin(&f->meter, DIGEST_B, 5), 0);
	meter_move(&f->meter, 5);
	meter_end(&f->meter, true);
	assert_int_equal(meter_done(&f->meter, DIGEST_B, 5), 0);
	take_notes(f);
	meter_tell(&f->meter);
	assert_int_equal(take_notes(f), 1);
	assert_int_equal(f->note.offset, 12);
	assert_int_equal(f->note.transfers.count, 1);
	assert_string_equal(f->note.transfers.items[0].digest, DIGEST_B);
	assert_int_equal(f->note.transfers.items[0].status, TRANSFER_DONE);
}

static void test_of_very_many_blobs_the_last_are_told(void **state)
{
	struct fixture *f = *state;
	char digest[DIGEST_SIZE];

	for (unsigned i = 0; i < 2000; i++) {
		snprintf(digest, sizeof(digest), "sha256:%064x", i);
		assert_int_equal(meter_done(&f->meter, digest, i), 0);
	}
	meter_tell(&f->meter);
	assert_int_equal(take_notes(f), 1);
	assert_int_equal(f->note.transfers.count, 512);
	assert_string_equal(f->note.transfers.items[511].digest, digest);
	assert_int_equal(f->note.transfers.items[0].total, 2000 - 512);
}

static void test_of_a_file_its_position_counts(void **state)
{
	struct fixture *f = *state;
	int fd = memfd_create("archive", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, 4096), 0);
	meter_measure(&f->meter, fd);
	assert_int_equal(lseek(fd, 1024, SEEK_SET), 1024);
	meter_move(&f->meter, 5000);
	assert_int_equal(take_notes(f), 1);
	assert_int_equal(f->note.offset, 1024);
	assert_int_equal(f->note.total, 4096);
	close(fd);
}

static void test_nobody_who_listens_is_no_failure(void **state)
{
	struct fixture *f = *state;

	shutdown(f->fds[1], SHUT_RDWR);
	assert_int_equal(meter_begin(&f->meter, DIGEST_A, 5), 0);
	meter_move(&f->meter, 5);
	meter_end(&f->meter, true);
	meter_tell(&f->meter);
	assert_int_equal(f->meter.note.offset, 5);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(CASE(test_many_moves_are_few_notes),
	  CASE(test_a_blob_is_done_only_if_it_is_what_its_name_says),
	  CASE(test_of_very_many_blobs_the_last_are_told), CASE(test_of_a_file_its_position_counts),
	  CASE(test_nobody_who_listens_is_no_failure))
