/* Collections, a step at a time: what is put between any two steps stays. */

#include "tests/lib/main.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/image/collect_private.h"
#include "services/image/labels.h"
#include "services/image/lease.h"
#include "tests/lib/image_case.h"

/* ---- what lies in the store ---- */

static int transact(int (*fn)(void *userdata), void *userdata)
{
	int r = service_transact(test.service, fn, userdata);

	service_case_turn(&test);
	return r;
}

struct blob {
	char digest[DIGEST_SIZE];
	struct schema_map labels;
};

static int record_blob(void *userdata)
{
	struct blob *blob = userdata;
	struct content_record record = {.digest = blob->digest, .size = 1, .labels = blob->labels};
	bool existed;

	return content_commit_record(service(), "default", &record, &existed);
}

static void put_blob(const char *text, struct blob *blob)
{
	_cleanup_(cleanup_free) char *path = NULL, *full = NULL;
	struct why why = {};

	digest_of(text, strlen(text), blob->digest);
	path = text_format("root/image/content/blobs/sha256/%s", blob->digest + 7);
	full = scratch_path(&test.scratch, path);
	assert_int_equal(file_write(full, text, strlen(text), 0600, false, &why), 0);
	assert_int_equal(transact(record_blob, blob), 0);
}

static bool is_there;

static int look_for_blob(void *userdata)
{
	is_there = content_has(service(), userdata);
	return 0;
}

static bool has_blob(const char *digest)
{
	transact(look_for_blob, (void *)digest);
	return is_there;
}

/* A manifest with a config and two layers. */
#define N_PARTS 4
struct image {
	struct blob parts[N_PARTS]; /* the manifest is the last */
};

static void put_image(unsigned salt, struct image *image)
{
	_cleanup_(cleanup_free) char *config = NULL, *manifest = NULL;

	for (unsigned i = 0; i < 2; i++) {
		char text[64];

		snprintf(text, sizeof(text), "layer %u %u", salt, i);
		put_blob(text, &image->parts[i]);
	}
	config = text_format("{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"type\":"
			     "\"layers\",\"diff_ids\":[\"%s\",\"%s\"]}}",
			     image->parts[0].digest, image->parts[1].digest);
	put_blob(config, &image->parts[2]);
	manifest = text_format(
		"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
		"\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":"
		"\"%s\",\"size\":%zu},\"layers\":[{\"mediaType\":"
		"\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"%s\",\"size\":9},"
		"{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"%s\","
		"\"size\":9}]}",
		image->parts[2].digest, strlen(config), image->parts[0].digest,
		image->parts[1].digest);
	put_blob(manifest, &image->parts[3]);
}

static int hold(void *userdata)
{
	int r = lease_make(service(), "default", "l", false);

	return r ? r : lease_add_content(service(), "default", "l", userdata);
}

static int drop(void *userdata)
{
	(void)userdata;
	return lease_drop(service(), "default", "l");
}

struct layer {
	const char *scope, *key, *parent;
	uint64_t number;
};

static int record_snapshot(void *userdata)
{
	const struct layer *layer = userdata;
	struct snapshot_record record = {.key = (char *)layer->key,
					 .parent = (char *)layer->parent,
					 .kind = SNAPSHOT_COMMITTED,
					 .snapshotter = (char *)SNAPSHOTTER_OVERLAY,
					 .number = layer->number};
	struct store_key key;

	return store_key(&key, layer->scope, SNAPSHOTTER_OVERLAY, layer->key, NULL)
		       ?: store_put(service()->store, TABLE_SNAPSHOTS, &key,
				    schema_snapshot_record(), &record);
}

static void put_snapshot(const char *scope, const char *key, const char *parent, uint64_t number)
{
	struct layer layer = {scope, key, parent, number};

	assert_int_equal(transact(record_snapshot, &layer), 0);
}

/* ---- runs by hand ---- */

static int one_step(void *userdata)
{
	return collect_run_step(userdata, 0);
}

static void begin(struct collect_run *run, bool is_dry)
{
	*run = (struct collect_run){.image = service(),
				    .references = {.image = service()},
				    .is_dry = is_dry,
				    .knows_containers = true};
	store_on_put(service()->store, collect_note_put, run);
}

/* At most @n steps; true when it is done. */
static bool go_on(struct collect_run *run, unsigned n)
{
	for (unsigned i = 0; i < n && !run->is_done; i++)
		assert_int_equal(service_transact(test.service, one_step, run), 0);
	service_case_turn(&test);
	return run->is_done;
}

static void finish(struct collect_run *run)
{
	assert_true(go_on(run, 10000));
	store_on_put(service()->store, NULL, NULL);
}

static void run_whole(bool is_dry, struct collect_run *run)
{
	begin(run, is_dry);
	finish(run);
}

static void test_what_nothing_needs_goes_and_the_rest_stays(void **state)
{
	struct collect_run run;
	struct image keep = {}, drop_ = {};

	(void)state;
	put_image(1, &keep);
	put_image(2, &drop_);
	assert_int_equal(transact(hold, keep.parts[3].digest), 0);
	run_whole(true, &run);
	assert_int_equal(run.report.count, N_PARTS);
	collect_run_clear(&run);
	assert_true(has_blob(drop_.parts[0].digest));
	run_whole(false, &run);
	assert_int_equal(run.report.count, N_PARTS);
	collect_run_clear(&run);
	for (unsigned i = 0; i < N_PARTS; i++) {
		assert_true(has_blob(keep.parts[i].digest));
		assert_false(has_blob(drop_.parts[i].digest));
	}
}

/* However far the run is: what a lease is put on while it is there is not removed, nor what it leads to. */
static void test_what_is_leased_between_any_two_steps_stays(void **state)
{
	bool was_done = false;
	unsigned n_steps;

	(void)state;
	for (n_steps = 0; !was_done; n_steps++) {
		bool was_there[N_PARTS];
		struct collect_run run;
		struct image image = {};

		put_image(n_steps, &image);
		begin(&run, false);
		was_done = go_on(&run, n_steps);
		for (unsigned i = 0; i < N_PARTS; i++)
			was_there[i] = has_blob(image.parts[i].digest);
		assert_int_equal(transact(hold, image.parts[3].digest), 0);
		finish(&run);
		collect_run_clear(&run);
		for (unsigned i = 0; i < N_PARTS; i++)
			assert_int_equal(has_blob(image.parts[i].digest),
					 was_there[3] ? was_there[i]
						      : has_blob(image.parts[i].digest));
		assert_int_equal(transact(drop, NULL), 0);
		run_whole(false, &run);
		collect_run_clear(&run);
		for (unsigned i = 0; i < N_PARTS; i++)
			assert_false(has_blob(image.parts[i].digest));
	}
	/* It was interrupted in each of its phases. */
	assert_true(n_steps > 12);
}

static void test_snapshots_go_leaf_first_whatever_their_names(void **state)
{
	struct collect_run run;

	(void)state;
	put_snapshot("default", "b", "m", 11);
	put_snapshot("default", "m", "a", 12);
	put_snapshot("default", "a", "z", 13);
	put_snapshot("default", "z", NULL, 14);
	run_whole(false, &run);
	assert_int_equal(run.report.garbage.count, 4);
	assert_string_equal(run.report.garbage.items[0].id, "b");
	assert_string_equal(run.report.garbage.items[1].id, "m");
	assert_string_equal(run.report.garbage.items[2].id, "a");
	assert_string_equal(run.report.garbage.items[3].id, "z");
	collect_run_clear(&run);
}

static void test_snapshots_whose_parents_go_round_in_a_circle_end(void **state)
{
	struct collect_run run;

	(void)state;
	put_snapshot("default", "a", "b", 11);
	put_snapshot("default", "b", "a", 12);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 2);
	collect_run_clear(&run);
}

static void test_a_container_keeps_its_snapshot_and_all_below_it(void **state)
{
	struct container_root root = {.namespace = (char *)"default",
				      .id = (char *)"c",
				      .snapshotter = (char *)SNAPSHOTTER_OVERLAY,
				      .snapshot_key = (char *)"top"};
	struct collect_run run;

	(void)state;
	put_snapshot("default", "top", "below", 11);
	put_snapshot("default", "below", NULL, 12);
	put_snapshot("other", "top", NULL, 13);
	begin(&run, false);
	assert_int_equal(collect_add_container(&run, &root), 0);
	finish(&run);
	assert_int_equal(run.report.count, 1);
	assert_string_equal(run.report.garbage.items[0].namespace, "other");
	collect_run_clear(&run);
}

static void test_without_word_of_containers_namespaces_snapshots_stay(void **state)
{
	struct collect_run run;

	(void)state;
	put_snapshot("default", "top", "below", 11);
	put_snapshot("default", "below", NULL, 12);
	begin(&run, false);
	run.knows_containers = false;
	finish(&run);
	assert_int_equal(run.report.count, 0);
	assert_true(run.has_undecided);
	collect_run_clear(&run);
}

static int damage_image(void *userdata)
{
	const struct lease_resource other = {.type = (char *)"not", .id = (char *)"an image"};
	struct store_key key;

	(void)userdata;
	return store_key(&key, "default", "docker.io/library/x:latest", NULL)
		       ?: store_put(service()->store, TABLE_IMAGES, &key, schema_lease_resource(),
				    &other);
}

/* What the damaged record kept is not known. */
static void test_a_damaged_record_lets_nothing_be_removed(void **state)
{
	struct collect_run run;
	struct image image = {};

	(void)state;
	put_image(1, &image);
	assert_int_equal(transact(damage_image, NULL), 0);
	run_whole(false, &run);
	assert_true(run.is_blind);
	assert_int_equal(run.report.count, 0);
	collect_run_clear(&run);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 0);
	collect_run_clear(&run);
	assert_true(has_blob(image.parts[0].digest));
}

/* By a link, which is not followed. */
static void make_unreadable(const struct blob *blob)
{
	_cleanup_(cleanup_free) char *name = NULL, *path = NULL;

	name = text_format("root/image/content/blobs/sha256/%s", blob->digest + 7);
	path = scratch_path(&test.scratch, name);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/dev/null", path), 0);
}

/* It is live, and leads to what can be told only when it can be read again. */
static void test_a_document_that_cannot_be_read_lets_nothing_be_removed(void **state)
{
	struct collect_run run;
	struct image image = {};
	int r = 0;

	(void)state;
	put_image(1, &image);
	assert_int_equal(transact(hold, image.parts[3].digest), 0);
	make_unreadable(&image.parts[3]);
	begin(&run, false);
	for (unsigned i = 0; i < 10000 && !r && !run.is_done; i++)
		r = service_transact(test.service, one_step, &run);
	service_case_turn(&test);
	store_on_put(service()->store, NULL, NULL);
	assert_false(run.is_done);
	assert_int_equal(r, -ELOOP);
	assert_int_equal(run.report.count, 0);
	collect_run_clear(&run);
	for (unsigned i = 0; i < N_PARTS; i++)
		assert_true(has_blob(image.parts[i].digest));
}

static int all_steps(void *userdata)
{
	return collect_run_step(userdata, UINT64_MAX);
}

/* A small store is marked and swept in one step, in which the damage is met. */
static void test_a_damaged_record_that_is_met_in_a_runs_only_step_lets_nothing_be_removed(
	void **state)
{
	struct collect_run run;
	struct image image = {};

	(void)state;
	put_image(1, &image);
	assert_int_equal(transact(damage_image, NULL), 0);
	begin(&run, false);
	assert_int_equal(service_transact(test.service, all_steps, &run), 0);
	assert_true(run.is_done);
	store_on_put(service()->store, NULL, NULL);
	assert_true(run.is_blind);
	assert_int_equal(run.report.count, 0);
	collect_run_clear(&run);
	assert_true(has_blob(image.parts[0].digest));
}

static void test_a_lease_that_has_expired_is_removed_with_what_it_held(void **state)
{
	struct schema_pair label = {(char *)LABEL_EXPIRE, (char *)"2020-01-01T00:00:00Z"};
	struct lease_create_request request = {.id = (char *)"l", .labels = {&label, 1}};
	struct collect_run run;
	struct image image = {};

	(void)state;
	put_image(1, &image);
	assert_int_equal(service_case_call(&test, "lease.create", NULL, &request, NULL), BUS_OK);
	assert_int_equal(transact(hold, image.parts[3].digest), 0);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 1 + N_PARTS);
	assert_int_equal(run.report.garbage.items[0].kind, GARBAGE_LEASE);
	assert_non_null(strstr(run.report.garbage.items[0].reason, "2020-01-01T00:00:00Z"));
	collect_run_clear(&run);
}

/* ---- labels ---- */

#define PAST   "2020-01-01T00:00:00Z"
#define FUTURE "2200-01-01T00:00:00Z"

struct labelled {
	const char *namespace, *name, *target; /* of an image; of a snapshot name alone */
	struct schema_pair pair;
};

static struct labelled labelled(const char *namespace, const char *name, const char *target,
				const char *key, const char *value)
{
	return (struct labelled){namespace, name, target, {(char *)key, (char *)value}};
}

static int record_image(void *userdata)
{
	struct labelled *image = userdata;
	struct descriptor target = {
		.media_type = (char *)"a/b", .digest = (char *)image->target, .size = 1};
	struct image_record record = {.name = (char *)image->name,
				      .target = &target,
				      .labels = {&image->pair, image->pair.key != NULL}};
	struct store_key key;

	return store_key(&key, image->namespace, image->name, NULL)
		       ?: store_put(service()->store, TABLE_IMAGES, &key, schema_image_record(),
				    &record);
}

static int record_labelled_snapshot(void *userdata)
{
	struct labelled *snapshot = userdata;
	struct snapshot_record record = {.key = (char *)snapshot->name,
					 .kind = SNAPSHOT_ACTIVE,
					 .snapshotter = (char *)SNAPSHOTTER_OVERLAY,
					 .labels = {&snapshot->pair, 1},
					 .number = 1};
	struct store_key key;

	return store_key(&key, snapshot->namespace, SNAPSHOTTER_OVERLAY, snapshot->name, NULL)
		       ?: store_put(service()->store, TABLE_SNAPSHOTS, &key,
				    schema_snapshot_record(), &record);
}

static void put_labelled(int (*record)(void *userdata), struct labelled object)
{
	assert_int_equal(transact(record, &object), 0);
}

static void put_labelled_blob(const char *text, const char *key, const char *value,
			      struct blob *ret_blob)
{
	struct schema_pair pair = {(char *)key, (char *)value};

	*ret_blob = (struct blob){.labels = {&pair, 1}};
	put_blob(text, ret_blob);
	ret_blob->labels = (struct schema_map){};
}

static bool has_garbage(const struct collect_run *run, enum garbage_kind kind, const char *id)
{
	for (size_t i = 0; i < run->report.garbage.count; i++) {
		const struct image_garbage *garbage = &run->report.garbage.items[i];

		if (garbage->kind == kind && !strcmp(garbage->id, id))
			return true;
	}
	return false;
}

static void test_blobs_and_snapshots_are_roots_until_they_expire(void **state)
{
	struct blob over, good;
	struct collect_run run;

	(void)state;
	put_labelled_blob("over", LABEL_EXPIRE, PAST, &over);
	put_labelled_blob("good", LABEL_EXPIRE, FUTURE, &good);
	put_labelled(record_labelled_snapshot,
		     labelled("default", "over", NULL, LABEL_EXPIRE, PAST));
	put_labelled(record_labelled_snapshot,
		     labelled("default", "good", NULL, LABEL_EXPIRE, FUTURE));
	run_whole(false, &run);
	assert_int_equal(run.report.count, 2);
	assert_true(has_garbage(&run, GARBAGE_CONTENT, over.digest));
	assert_true(has_garbage(&run, GARBAGE_SNAPSHOT, "over"));
	collect_run_clear(&run);
	assert_true(has_blob(good.digest));
}

static void test_an_image_that_has_expired_goes_unless_something_refers_to_it(void **state)
{
	struct blob target = {}, kept = {}, holder;
	struct collect_run run;

	(void)state;
	put_blob("target", &target);
	put_blob("kept", &kept);
	put_labelled(record_image,
		     labelled("default", "t:over", target.digest, LABEL_EXPIRE, PAST));
	put_labelled(record_image, labelled("default", "t:kept", kept.digest, LABEL_EXPIRE, PAST));
	put_labelled(record_image,
		     labelled("default", "t:good", kept.digest, LABEL_EXPIRE, FUTURE));
	put_labelled(record_image, labelled("default", "t:odd", kept.digest, LABEL_EXPIRE, "soon"));
	put_labelled(record_image, labelled("default", "t:from", kept.digest,
					    "containerd.io/gc.ref.image", "t:kept"));
	run_whole(false, &run);
	assert_int_equal(run.report.count, 2);
	assert_true(has_garbage(&run, GARBAGE_IMAGE, "t:over"));
	assert_non_null(strstr(run.report.garbage.items[0].reason, PAST));
	assert_true(has_garbage(&run, GARBAGE_CONTENT, target.digest));
	collect_run_clear(&run);
	/* The label of a blob, which all namespaces share, means images of any of them. */
	put_labelled(record_image, labelled("default", "t:from", kept.digest, "other", "x"));
	put_labelled_blob("holder", "containerd.io/gc.ref.image.x", "t:kept", &holder);
	assert_int_equal(transact(hold, holder.digest), 0);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 0);
	collect_run_clear(&run);
	assert_int_equal(transact(drop, NULL), 0);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 2);
	assert_true(has_garbage(&run, GARBAGE_IMAGE, "t:kept"));
	collect_run_clear(&run);
}

static void test_what_refers_back_lives_as_long_as_that(void **state)
{
	struct container_root root = {.namespace = (char *)"default", .id = (char *)"c"};
	struct blob first = {}, second, third, of_container, of_image, of_snapshot, of_nothing;
	struct collect_run run;

	(void)state;
	put_blob("first", &first);
	put_labelled_blob("second", "containerd.io/gc.bref.content", first.digest, &second);
	put_labelled_blob("third", "containerd.io/gc.bref.content.0", second.digest, &third);
	put_labelled_blob("c", "containerd.io/gc.bref.container", "c", &of_container);
	put_labelled_blob("i", "containerd.io/gc.bref.image", "t:1", &of_image);
	put_labelled_blob("s", "containerd.io/gc.bref.snapshot.overlayfs", "s", &of_snapshot);
	put_labelled_blob("n", "containerd.io/gc.bref.image", "t:none", &of_nothing);
	put_labelled(record_labelled_snapshot,
		     labelled("default", "s", NULL, "containerd.io/gc.bref.content", third.digest));
	put_labelled(record_image, labelled("other", "t:1", first.digest, NULL, NULL));
	begin(&run, false);
	assert_int_equal(collect_add_container(&run, &root), 0);
	finish(&run);
	assert_int_equal(run.report.count, 1);
	assert_true(has_garbage(&run, GARBAGE_CONTENT, of_nothing.digest));
	collect_run_clear(&run);
	/* Without the container. */
	run_whole(false, &run);
	assert_int_equal(run.report.count, 1);
	assert_true(has_garbage(&run, GARBAGE_CONTENT, of_container.digest));
	collect_run_clear(&run);
	put_labelled(record_image, labelled("other", "t:1", of_nothing.digest, LABEL_EXPIRE, PAST));
	run_whole(false, &run);
	assert_int_equal(run.report.count, 7);
	assert_true(has_garbage(&run, GARBAGE_SNAPSHOT, "s"));
	collect_run_clear(&run);
}

static void test_what_refers_back_to_a_container_stays_while_containers_are_not_known(void **state)
{
	struct collect_run run;
	struct blob blob;

	(void)state;
	put_labelled_blob("c", "containerd.io/gc.bref.container", "c", &blob);
	put_labelled(record_image, labelled("default", "t:1", blob.digest, LABEL_EXPIRE, PAST));
	begin(&run, false);
	run.knows_containers = false;
	finish(&run);
	assert_int_equal(run.report.count, 0);
	collect_run_clear(&run);
	assert_true(has_blob(blob.digest));
}

/* However far the run is: what lives with it stays when it is leased. */
static void test_what_refers_back_to_what_is_leased_between_any_two_steps_stays(void **state)
{
	bool was_done = false;

	(void)state;
	for (unsigned n_steps = 0; !was_done; n_steps++) {
		struct blob target = {}, holder;
		struct collect_run run;
		bool was_there, had_holder;

		put_blob("target", &target);
		put_labelled_blob("holder", "containerd.io/gc.bref.content", target.digest,
				  &holder);
		begin(&run, false);
		was_done = go_on(&run, n_steps);
		was_there = has_blob(target.digest);
		had_holder = has_blob(holder.digest);
		assert_int_equal(transact(hold, target.digest), 0);
		finish(&run);
		collect_run_clear(&run);
		if (was_there)
			assert_int_equal(has_blob(holder.digest), had_holder);
		assert_int_equal(transact(drop, NULL), 0);
		run_whole(false, &run);
		collect_run_clear(&run);
		assert_false(has_blob(holder.digest));
	}
}

/* Nothing is gone along by calls within calls. */
static void test_a_long_chain_of_back_references_is_followed(void **state)
{
	struct blob blob = {}, last = {};
	struct collect_run run;

	(void)state;
	put_blob("link", &blob);
	assert_int_equal(transact(hold, blob.digest), 0);
	for (unsigned i = 0; i < 300; i++) {
		char text[32];

		snprintf(text, sizeof(text), "link %u", i);
		put_labelled_blob(text, "containerd.io/gc.bref.content", blob.digest, &last);
		blob = last;
	}
	run_whole(false, &run);
	assert_int_equal(run.report.count, 0);
	collect_run_clear(&run);
	assert_int_equal(transact(drop, NULL), 0);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 301);
	collect_run_clear(&run);
}

struct leased {
	const char *lease, *type, *id;
};

static int lease_one(void *userdata)
{
	const struct leased *leased = userdata;

	return lease_add(service(), "default", leased->lease, leased->type, leased->id);
}

static void make_lease(const char *id, bool is_flat)
{
	struct schema_pair label = {(char *)LABEL_FLAT, (char *)"yes"};
	struct lease_create_request request = {.id = (char *)id, .labels = {&label, is_flat}};

	assert_int_equal(service_case_call(&test, "lease.create", NULL, &request, NULL), BUS_OK);
}

static void add_to_lease(const char *lease, const char *type, const char *id)
{
	assert_int_equal(transact(lease_one, &(struct leased){lease, type, id}), 0);
}

static void test_an_image_that_has_expired_stays_while_it_is_leased(void **state)
{
	struct blob target, named = {};
	struct collect_run run;

	(void)state;
	put_blob("named", &named);
	put_labelled_blob("target", "containerd.io/gc.ref.content", named.digest, &target);
	put_labelled(record_image, labelled("default", "t:1", target.digest, LABEL_EXPIRE, PAST));
	put_labelled(record_image, labelled("other", "t:1", target.digest, LABEL_EXPIRE, PAST));
	make_lease("l", false);
	add_to_lease("l", LEASE_IMAGES, "t:1");
	add_to_lease("l", LEASE_IMAGES, "t:none");
	run_whole(false, &run);
	assert_int_equal(run.report.count, 1);
	assert_string_equal(run.report.garbage.items[0].namespace, "other");
	assert_true(has_blob(named.digest));
	collect_run_clear(&run);
	assert_int_equal(transact(drop, NULL), 0);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 3);
	assert_true(has_garbage(&run, GARBAGE_IMAGE, "t:1"));
	collect_run_clear(&run);
}

/* An image with its target, a snapshot with those below it; not what labels name. */
static void test_a_flat_lease_follows_no_labels(void **state)
{
	struct blob target, named = {}, of_image = {}, of_snapshot = {};
	struct collect_run run;

	(void)state;
	put_blob("named", &named);
	put_blob("of image", &of_image);
	put_blob("of snapshot", &of_snapshot);
	put_labelled_blob("target", "containerd.io/gc.ref.content", named.digest, &target);
	put_labelled(record_image, labelled("default", "t:1", target.digest, LABEL_EXPIRE, PAST));
	put_labelled(record_labelled_snapshot,
		     labelled("default", "base", NULL, "containerd.io/gc.ref.content",
			      of_snapshot.digest));
	put_snapshot("default", "top", "base", 2);
	make_lease("l", true);
	add_to_lease("l", LEASE_IMAGES, "t:1");
	add_to_lease("l", LEASE_SNAPSHOTS SNAPSHOTTER_OVERLAY, "top");
	add_to_lease("l", LEASE_SNAPSHOTS SNAPSHOTTER_OVERLAY, "none");
	run_whole(false, &run);
	assert_int_equal(run.report.count, 3);
	assert_true(has_garbage(&run, GARBAGE_CONTENT, named.digest));
	assert_true(has_garbage(&run, GARBAGE_CONTENT, of_image.digest));
	assert_true(has_garbage(&run, GARBAGE_CONTENT, of_snapshot.digest));
	collect_run_clear(&run);
	assert_true(has_blob(target.digest));
	assert_int_equal(transact(drop, NULL), 0);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 4);
	collect_run_clear(&run);
}

static void test_a_snapshot_keeps_what_has_a_condition_on_it_while_that_holds(void **state)
{
	struct blob target = {}, cached, stale, of_none;
	char now[LABEL_TIME_SIZE];
	struct collect_run run;

	(void)state;
	label_format_time(time_real_ns(), now);
	put_blob("target", &target);
	put_labelled_blob("cached", LABEL_CONDITION ".overlayfs", "usedat<1h|s", &cached);
	put_labelled_blob("stale", LABEL_CONDITION ".overlayfs", "usedat>1h|s", &stale);
	put_labelled_blob("none", LABEL_CONDITION ".overlayfs", "usedat<1h|none", &of_none);
	put_labelled(record_labelled_snapshot, labelled("default", "s", NULL, LABEL_USED_AT, now));
	put_labelled(record_labelled_snapshot,
		     labelled("other", "s", NULL, LABEL_USED_AT, "2020-01-01T00:00:00Z"));
	make_lease("l", false);
	add_to_lease("l", LEASE_SNAPSHOTS SNAPSHOTTER_OVERLAY, "s");
	run_whole(false, &run);
	assert_int_equal(run.report.count, 4);
	assert_true(has_garbage(&run, GARBAGE_CONTENT, target.digest));
	assert_true(has_garbage(&run, GARBAGE_CONTENT, stale.digest));
	assert_true(has_garbage(&run, GARBAGE_CONTENT, of_none.digest));
	assert_true(has_garbage(&run, GARBAGE_SNAPSHOT, "s"));
	collect_run_clear(&run);
	assert_true(has_blob(cached.digest));
	/* It is used no more. */
	put_labelled(record_labelled_snapshot,
		     labelled("default", "s", NULL, LABEL_USED_AT, "2020-01-01T00:00:00Z"));
	run_whole(false, &run);
	assert_int_equal(run.report.count, 1);
	assert_true(has_garbage(&run, GARBAGE_CONTENT, cached.digest));
	collect_run_clear(&run);
	/* It is used, but nothing keeps it. */
	put_labelled_blob("cached", LABEL_CONDITION ".overlayfs", "usedat<1h|s", &cached);
	put_labelled(record_labelled_snapshot, labelled("default", "s", NULL, LABEL_USED_AT, now));
	assert_int_equal(transact(drop, NULL), 0);
	run_whole(false, &run);
	assert_int_equal(run.report.count, 2);
	collect_run_clear(&run);
}

static int record_many(void *userdata)
{
	int r = 0;

	(void)userdata;
	for (unsigned i = 0; i < 2100 && !r; i++) {
		struct blob blob = {};
		char text[32];

		snprintf(text, sizeof(text), "blob %u", i);
		digest_of(text, strlen(text), blob.digest);
		r = record_blob(&blob);
	}
	return r;
}

/* More of a report than fits into a message is counted, not told. */
static void test_a_long_report_is_cut(void **state)
{
	struct collect_run run;

	(void)state;
	assert_int_equal(transact(record_many, NULL), 0);
	run_whole(true, &run);
	assert_int_equal(run.report.count, 2100);
	assert_int_equal(run.report.garbage.count, 2000);
	collect_run_clear(&run);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, image_case_setup_idle, image_case_teardown)

TEST_MAIN(CASE(test_what_nothing_needs_goes_and_the_rest_stays),
	  CASE(test_what_is_leased_between_any_two_steps_stays),
	  CASE(test_snapshots_go_leaf_first_whatever_their_names),
	  CASE(test_snapshots_whose_parents_go_round_in_a_circle_end),
	  CASE(test_a_container_keeps_its_snapshot_and_all_below_it),
	  CASE(test_without_word_of_containers_namespaces_snapshots_stay),
	  CASE(test_a_damaged_record_lets_nothing_be_removed),
	  CASE(test_a_document_that_cannot_be_read_lets_nothing_be_removed),
	  CASE(test_a_damaged_record_that_is_met_in_a_runs_only_step_lets_nothing_be_removed),
	  CASE(test_a_lease_that_has_expired_is_removed_with_what_it_held),
	  CASE(test_blobs_and_snapshots_are_roots_until_they_expire),
	  CASE(test_an_image_that_has_expired_goes_unless_something_refers_to_it),
	  CASE(test_what_refers_back_lives_as_long_as_that),
	  CASE(test_what_refers_back_to_a_container_stays_while_containers_are_not_known),
	  CASE(test_what_refers_back_to_what_is_leased_between_any_two_steps_stays),
	  CASE(test_a_long_chain_of_back_references_is_followed),
	  CASE(test_an_image_that_has_expired_stays_while_it_is_leased),
	  CASE(test_a_flat_lease_follows_no_labels),
	  CASE(test_a_snapshot_keeps_what_has_a_condition_on_it_while_that_holds),
	  CASE(test_a_long_report_is_cut))
