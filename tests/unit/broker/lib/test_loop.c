#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "broker/lib/cleanup.h"
#include "broker/lib/loop.h"
#include "tests/lib/main.h"

struct fixture {
	struct scratch scratch;
	struct loop *loop;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	return scratch_init(&f->scratch) || loop_new(&f->loop) ? -1 : 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	int r;

	loop_freep(&f->loop);
	r = scratch_deinit(&f->scratch);
	free(f);
	return r;
}

/* ---- files ---- */

struct pipe_source {
	struct loop_file file;
	int reader, writer;
	unsigned n_calls;
	uint32_t events;
	struct loop_file *removes;
	struct loop_file *quiets;
};

static void pipe_ready(struct loop_file *file, uint32_t events)
{
	struct pipe_source *source = container_of(file, struct pipe_source, file);

	source->n_calls++;
	source->events = events;
	if (source->removes)
		loop_file_remove(source->removes);
	if (source->quiets)
		assert_int_equal(loop_file_set(source->quiets, 0), 0);
}

static void pipe_open(struct fixture *f, struct pipe_source *source)
{
	int fds[2];

	*source = (struct pipe_source){};
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	source->reader = fds[0];
	source->writer = fds[1];
	assert_int_equal(loop_file_add(f->loop, &source->file, source->reader, EPOLLIN, pipe_ready),
			 0);
}

static void pipe_close(struct pipe_source *source)
{
	loop_file_remove(&source->file);
	close(source->reader);
	if (source->writer >= 0)
		close(source->writer);
}

static void test_a_ready_file_is_dispatched_until_it_is_read(void **state)
{
	struct fixture *f = *state;
	struct pipe_source source;
	char byte;

	pipe_open(f, &source);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(source.n_calls, 0);
	assert_int_equal(write(source.writer, "x", 1), 1);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(source.n_calls, 2);
	assert_int_equal(source.events, EPOLLIN);
	assert_int_equal(read(source.reader, &byte, 1), 1);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(source.n_calls, 2);
	close(source.writer);
	source.writer = -1;
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(source.events, EPOLLHUP);
	pipe_close(&source);
	pipe_close(&source);
}

static void test_a_source_removed_in_its_round_is_not_called(void **state)
{
	struct fixture *f = *state;
	struct pipe_source a, b;

	pipe_open(f, &a);
	pipe_open(f, &b);
	a.removes = &b.file;
	b.removes = &a.file;
	assert_int_equal(write(a.writer, "x", 1), 1);
	assert_int_equal(write(b.writer, "x", 1), 1);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(a.n_calls + b.n_calls, 1);
	pipe_close(&a);
	pipe_close(&b);
}

static void test_a_source_that_turned_quiet_in_its_round_is_not_called(void **state)
{
	struct fixture *f = *state;
	struct pipe_source a, b;

	pipe_open(f, &a);
	pipe_open(f, &b);
	a.quiets = &b.file;
	b.quiets = &a.file;
	assert_int_equal(write(a.writer, "x", 1), 1);
	assert_int_equal(write(b.writer, "x", 1), 1);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(a.n_calls + b.n_calls, 1);
	pipe_close(&a);
	pipe_close(&b);
}

/* A source that frees itself, and a new one that gets its number: the worst of both. */
struct ephemeral {
	struct loop_file file;
	unsigned *n_calls;
	int peer;
};

static void ephemeral_ready(struct loop_file *file, uint32_t events)
{
	struct ephemeral *self = container_of(file, struct ephemeral, file);

	(void)events;
	++*self->n_calls;
	loop_file_remove(file);
	close(file->fd);
	close(self->peer);
	free(self);
}

static void ephemeral_new(struct fixture *f, unsigned *n_calls)
{
	struct ephemeral *self = calloc(1, sizeof(*self));
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	self->n_calls = n_calls;
	self->peer = fds[1];
	assert_int_equal(write(fds[1], "x", 1), 1);
	assert_int_equal(loop_file_add(f->loop, &self->file, fds[0], EPOLLIN, ephemeral_ready), 0);
}

static void test_sources_may_free_themselves(void **state)
{
	struct fixture *f = *state;
	unsigned n_calls = 0;

	for (int i = 0; i < 200; i++)
		ephemeral_new(f, &n_calls);
	/* More than one round takes up. */
	assert_true(wait_on_loop_count(f->loop, &n_calls, 200, WAIT_MS));
}

static void test_a_bad_descriptor_is_refused(void **state)
{
	struct loop_file file = {};
	struct fixture *f = *state;

	assert_int_equal(loop_file_add(f->loop, &file, -1, EPOLLIN, NULL), -EBADF);
	assert_null(file.loop);
	loop_file_remove(&file);
}

/* ---- running ---- */

static void count_turn(void *userdata)
{
	++*(unsigned *)userdata;
}

static struct loop *stopped_loop;

static void stop_with_seven(struct loop_timer *timer)
{
	(void)timer;
	loop_stop(stopped_loop, 7);
}

static void test_run_returns_what_stop_was_given_and_runs_again(void **state)
{
	struct fixture *f = *state;
	struct loop_timer timer = {};
	unsigned n_turns = 0;

	stopped_loop = f->loop;
	loop_set_after_turn(f->loop, count_turn, &n_turns);
	for (unsigned i = 1; i <= 2; i++) {
		assert_int_equal(loop_timer_set(f->loop, &timer, 0, stop_with_seven), 0);
		assert_int_equal(loop_run(f->loop), 7);
		assert_int_equal(n_turns, i);
	}
	loop_stop(f->loop, 3);
	assert_int_equal(loop_run(f->loop), 3);
}

static void test_after_turn_comes_only_after_something_was_dispatched(void **state)
{
	struct fixture *f = *state;
	struct loop_timer later = {};
	struct pipe_source a, b;
	unsigned n_turns = 0;

	loop_set_after_turn(f->loop, count_turn, &n_turns);
	pipe_open(f, &a);
	pipe_open(f, &b);
	assert_int_equal(loop_timer_set(f->loop, &later, time_boot_ms() + 100000, stop_with_seven),
			 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(n_turns, 0);
	assert_int_equal(write(a.writer, "x", 1), 1);
	assert_int_equal(write(b.writer, "x", 1), 1);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(n_turns, 1);
	loop_timer_cancel(&later);
	pipe_close(&a);
	pipe_close(&b);
}

/* ---- timers ---- */

struct test_timer {
	struct loop_timer timer;
	unsigned *n_fired;
	unsigned order;
	uint64_t at_ms;
	struct loop *rearm;
	struct test_timer *cancels;
};

static void timer_fired(struct loop_timer *timer)
{
	struct test_timer *self = container_of(timer, struct test_timer, timer);

	self->order = ++*self->n_fired;
	if (self->cancels)
		loop_timer_cancel(&self->cancels->timer);
	if (self->rearm)
		assert_int_equal(loop_timer_set(self->rearm, timer, 0, timer_fired), 0);
}

static void test_timers_fire_in_the_order_of_their_times(void **state)
{
	enum { N = 500 };
	static struct test_timer timers[N];
	struct fixture *f = *state;
	uint64_t now_ms = time_boot_ms();
	unsigned n_fired = 0, random = 1, n_left = 0;

	memset(timers, 0, sizeof(timers));
	for (unsigned i = 0; i < N; i++) {
		random = random * 1103515245u + 12345u;
		timers[i].n_fired = &n_fired;
		timers[i].at_ms = now_ms - 10 + (random >> 16) % 40;
		assert_int_equal(loop_timer_set(f->loop, &timers[i].timer, timers[i].at_ms + 50000,
						timer_fired),
				 0);
	}
	/* Every way through the heap: all move forward, every third goes. */
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(
			loop_timer_set(f->loop, &timers[i].timer, timers[i].at_ms, timer_fired), 0);
		if (i % 3 == 0)
			loop_timer_cancel(&timers[i].timer);
		else
			n_left++;
	}
	assert_true(wait_on_loop_count(f->loop, &n_fired, n_left, WAIT_MS));
	for (unsigned i = 0; i < N; i++) {
		assert_null(timers[i].timer.loop);
		assert_int_equal(timers[i].order == 0, i % 3 == 0);
		for (unsigned k = 0; k < i && i % 3; k++)
			if (timers[k].order && timers[k].at_ms < timers[i].at_ms)
				assert_true(timers[k].order < timers[i].order);
	}
	assert_int_equal(n_fired, n_left);
}

static void test_a_timer_does_not_fire_before_its_time(void **state)
{
	struct fixture *f = *state;
	unsigned n_fired = 0;
	struct test_timer timer = {.n_fired = &n_fired};
	uint64_t at_ms = time_boot_ms() + 30;

	assert_int_equal(loop_timer_set(f->loop, &timer.timer, at_ms, timer_fired), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	if (time_boot_ms() < at_ms)
		assert_int_equal(n_fired, 0);
	assert_true(wait_on_loop_count(f->loop, &n_fired, 1, WAIT_MS));
	assert_true(time_boot_ms() >= at_ms);
}

static void test_a_timer_armed_in_the_past_fires_once_each_round(void **state)
{
	struct fixture *f = *state;
	unsigned n_eager = 0, n_other = 0;
	struct test_timer eager = {.n_fired = &n_eager, .rearm = f->loop};
	struct test_timer other = {.n_fired = &n_other};

	assert_int_equal(loop_timer_set(f->loop, &eager.timer, 0, timer_fired), 0);
	for (unsigned i = 1; i <= 5; i++) {
		assert_int_equal(loop_turn(f->loop, -1), 0);
		assert_int_equal(n_eager, i);
	}
	/* It keeps nobody else from firing. */
	assert_int_equal(loop_timer_set(f->loop, &other.timer, time_boot_ms() + 5, timer_fired), 0);
	assert_true(wait_on_loop_count(f->loop, &n_other, 1, WAIT_MS));
	loop_timer_cancel(&eager.timer);
}

static void test_a_timer_cancelled_in_its_round_does_not_fire(void **state)
{
	struct fixture *f = *state;
	unsigned n_fired = 0;
	struct test_timer a = {.n_fired = &n_fired}, b = {.n_fired = &n_fired};

	a.cancels = &b;
	b.cancels = &a;
	assert_int_equal(loop_timer_set(f->loop, &a.timer, 0, timer_fired), 0);
	assert_int_equal(loop_timer_set(f->loop, &b.timer, 0, timer_fired), 0);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(n_fired, 1);
	loop_timer_cancel(&a.timer);
}

static void test_an_idle_loop_never_wakes(void **state)
{
	struct fixture *f = *state;
	unsigned n_fired = 0;
	struct test_timer far = {.n_fired = &n_fired}, soon = {.n_fired = &n_fired};
	uint64_t before_ns;

	/* One that is never, one that was armed, slept on, and then cancelled. */
	assert_int_equal(loop_timer_set(f->loop, &far.timer, UINT64_MAX, timer_fired), 0);
	assert_int_equal(loop_timer_set(f->loop, &soon.timer, time_boot_ms() + 40, timer_fired), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	loop_timer_cancel(&soon.timer);
	/* A turn that was woken for nothing would come back before its timeout. */
	before_ns = time_boot_ns();
	assert_int_equal(loop_turn(f->loop, 100), 0);
	assert_true(time_boot_ns() - before_ns >= 100 * 1000000ull);
	assert_int_equal(n_fired, 0);
	loop_timer_cancel(&far.timer);
}

static void test_freeing_the_loop_disarms_its_timers(void **state)
{
	struct fixture *f = *state;
	unsigned n_fired = 0;
	struct test_timer timer = {.n_fired = &n_fired};

	assert_int_equal(loop_timer_set(f->loop, &timer.timer, 0, timer_fired), 0);
	loop_freep(&f->loop);
	assert_null(timer.timer.loop);
}

/* ---- children ---- */

struct test_child {
	struct loop_child child;
	unsigned n_ended;
	siginfo_t info;
};

static void child_ended(struct loop_child *child, const siginfo_t *info)
{
	struct test_child *self = container_of(child, struct test_child, child);

	self->n_ended++;
	self->info = *info;
}

/* A child that ends with @code once the returned descriptor is closed, or is killed by a signal. */
static int child_start(struct fixture *f, struct test_child *child, int code)
{
	int fds[2];
	pid_t pid;
	char byte;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		close(fds[1]);
		_exit(read(fds[0], &byte, 1) ? 99 : code);
	}
	close(fds[0]);
	assert_true(pid > 0);
	*child = (struct test_child){};
	assert_int_equal(loop_child_add(f->loop, &child->child, pid, child_ended), 0);
	return fds[1];
}

static void test_a_child_is_reaped_once_with_its_code(void **state)
{
	struct fixture *f = *state;
	struct test_child child;
	int fd = child_start(f, &child, 42);

	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(child.n_ended, 0);
	close(fd);
	assert_true(wait_on_loop_count(f->loop, &child.n_ended, 1, WAIT_MS));
	assert_int_equal(child.info.si_code, CLD_EXITED);
	assert_int_equal(child.info.si_status, 42);
	assert_int_equal(child.info.si_pid, child.child.pid);
	assert_int_equal(child.child.pidfd, -1);
	assert_int_equal(waitpid(child.child.pid, NULL, WNOHANG), -1);
	loop_child_remove(&child.child);
}

static void test_a_killed_child_names_its_signal(void **state)
{
	struct fixture *f = *state;
	struct test_child child;
	int fd = child_start(f, &child, 0);

	kill(child.child.pid, SIGKILL);
	assert_true(wait_on_loop_count(f->loop, &child.n_ended, 1, WAIT_MS));
	assert_int_equal(child.info.si_code, CLD_KILLED);
	assert_int_equal(child.info.si_status, SIGKILL);
	close(fd);
}

static void test_a_child_that_was_removed_is_left_to_its_parent(void **state)
{
	struct fixture *f = *state;
	struct test_child child;
	int fd = child_start(f, &child, 5), status;

	loop_child_remove(&child.child);
	close(fd);
	assert_int_equal(waitpid(child.child.pid, &status, 0), child.child.pid);
	assert_int_equal(WEXITSTATUS(status), 5);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(child.n_ended, 0);
}

static void test_a_child_that_is_dead_already_is_reaped_too(void **state)
{
	struct fixture *f = *state;
	struct test_child child = {};
	siginfo_t info;
	pid_t pid = fork();

	if (!pid)
		_exit(3);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(loop_child_add(f->loop, &child.child, pid, child_ended), 0);
	assert_true(wait_on_loop_count(f->loop, &child.n_ended, 1, WAIT_MS));
	assert_int_equal(child.info.si_status, 3);
	assert_int_equal(loop_child_add(f->loop, &child.child, pid, child_ended), -ESRCH);
}

static void test_a_child_that_another_reaped_is_told_without_a_code(void **state)
{
	struct fixture *f = *state;
	struct test_child child;
	int fd = child_start(f, &child, 5);

	close(fd);
	assert_int_equal(waitpid(child.child.pid, NULL, 0), child.child.pid);
	assert_true(wait_on_loop_count(f->loop, &child.n_ended, 1, WAIT_MS));
	assert_int_equal(child.info.si_pid, 0);
}

/* ---- signals ---- */

struct test_signals {
	struct loop_signals signals;
	unsigned n_told;
	int seen[8];
};

static void signal_told(struct loop_signals *signals, int signal)
{
	struct test_signals *self = container_of(signals, struct test_signals, signals);

	self->seen[self->n_told++ % 8] = signal;
}

static void test_signals_arrive_in_the_loop(void **state)
{
	struct fixture *f = *state;
	struct test_signals signals = {};
	sigset_t mask, old;

	sigprocmask(SIG_SETMASK, NULL, &old);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGUSR2);
	assert_int_equal(loop_signals_add(f->loop, &signals.signals, &mask, signal_told), 0);
	raise(SIGUSR1);
	raise(SIGUSR2);
	assert_true(wait_on_loop_count(f->loop, &signals.n_told, 2, WAIT_MS));
	assert_int_equal(signals.seen[0] + signals.seen[1], SIGUSR1 + SIGUSR2);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(signals.n_told, 2);
	loop_signals_remove(&signals.signals);
	loop_signals_remove(&signals.signals);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

/* ---- mail ---- */

enum { N_POSTERS = 4, N_LETTERS = 20000 };

struct letter {
	struct loop_mail_item item;
	unsigned poster, number;
};

struct test_mail {
	struct loop_mail mail;
	unsigned n_letters, n_wrong;
	unsigned next[N_POSTERS];
	unsigned remove_after;
};

struct poster {
	pthread_t thread;
	struct loop_mail *mail;
	struct letter *letters;
	unsigned number;
};

static void letter_arrived(struct loop_mail *mail, struct loop_mail_item *item)
{
	struct test_mail *self = container_of(mail, struct test_mail, mail);
	struct letter *letter = container_of(item, struct letter, item);

	self->n_letters++;
	if (letter->number != self->next[letter->poster]++)
		self->n_wrong++;
	if (self->n_letters == self->remove_after)
		loop_mail_remove(mail);
}

static void *post_letters(void *userdata)
{
	struct poster *poster = userdata;

	for (unsigned i = 0; i < N_LETTERS; i++) {
		poster->letters[i].poster = poster->number;
		poster->letters[i].number = i;
		loop_mail_post(poster->mail, &poster->letters[i].item);
	}
	return NULL;
}

static void test_mail_of_many_threads_arrives_in_order_and_once(void **state)
{
	static struct letter letters[N_POSTERS][N_LETTERS];
	struct poster posters[N_POSTERS];
	struct fixture *f = *state;
	struct test_mail mail = {};

	assert_int_equal(loop_mail_add(f->loop, &mail.mail, letter_arrived), 0);
	for (unsigned i = 0; i < N_POSTERS; i++) {
		posters[i] =
			(struct poster){.mail = &mail.mail, .letters = letters[i], .number = i};
		assert_int_equal(
			pthread_create(&posters[i].thread, NULL, post_letters, &posters[i]), 0);
	}
	assert_true(wait_on_loop_count(f->loop, &mail.n_letters, N_POSTERS * N_LETTERS, WAIT_MS));
	for (unsigned i = 0; i < N_POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(mail.n_letters, N_POSTERS * N_LETTERS);
	assert_int_equal(mail.n_wrong, 0);
	loop_mail_remove(&mail.mail);
	loop_mail_remove(&mail.mail);
}

static void test_mail_may_be_removed_from_its_callback(void **state)
{
	struct letter letters[5] = {};
	struct fixture *f = *state;
	struct test_mail mail = {.remove_after = 2};
	unsigned n_left = 0;

	assert_int_equal(loop_mail_add(f->loop, &mail.mail, letter_arrived), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(letters); i++) {
		letters[i].number = i;
		loop_mail_post(&mail.mail, &letters[i].item);
	}
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(mail.n_letters, 2);
	for (struct loop_mail_item *item = mail.mail.first; item; item = item->next)
		n_left++;
	assert_int_equal(n_left, 3);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(mail.n_letters, 2);
}

static void test_much_mail_leaves_room_for_other_sources(void **state)
{
	static struct letter letters[1000];
	struct fixture *f = *state;
	struct test_mail mail = {};
	struct pipe_source source;

	assert_int_equal(loop_mail_add(f->loop, &mail.mail, letter_arrived), 0);
	pipe_open(f, &source);
	assert_int_equal(write(source.writer, "x", 1), 1);
	for (unsigned i = 0; i < ARRAY_SIZE(letters); i++) {
		letters[i] = (struct letter){.number = i};
		loop_mail_post(&mail.mail, &letters[i].item);
	}
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(source.n_calls, 1);
	assert_true(mail.n_letters > 0 && mail.n_letters < ARRAY_SIZE(letters));
	assert_true(wait_on_loop_count(f->loop, &mail.n_letters, ARRAY_SIZE(letters), WAIT_MS));
	assert_int_equal(mail.n_wrong, 0);
	pipe_close(&source);
	loop_mail_remove(&mail.mail);
}

static void letter_comes_back(struct loop_mail *mail, struct loop_mail_item *item)
{
	struct test_mail *self = container_of(mail, struct test_mail, mail);

	if (++self->n_letters < self->remove_after)
		loop_mail_post(mail, item);
}

static void test_what_is_posted_again_comes_in_the_next_round(void **state)
{
	struct fixture *f = *state;
	struct test_mail mail = {.remove_after = 5};
	struct letter first = {}, second = {};

	assert_int_equal(loop_mail_add(f->loop, &mail.mail, letter_comes_back), 0);
	loop_mail_post(&mail.mail, &first.item);
	loop_mail_post(&mail.mail, &second.item);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(mail.n_letters, 2);
	assert_int_equal(loop_turn(f->loop, -1), 0);
	assert_int_equal(mail.n_letters, 4);
	assert_true(wait_on_loop_count(f->loop, &mail.n_letters, 6, WAIT_MS));
	loop_mail_remove(&mail.mail);
}

static void test_a_source_that_was_never_added_is_removed_harmlessly(void **state)
{
	struct loop_child child = {};
	struct loop_signals signals = {};
	struct loop_mail mail = {};
	struct loop_timer timer = {};

	(void)state;
	loop_child_remove(&child);
	loop_signals_remove(&signals);
	loop_mail_remove(&mail);
	loop_timer_cancel(&timer);
	/* Their descriptors are 0, which is not theirs. */
	assert_true(fcntl(STDIN_FILENO, F_GETFD) >= 0);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

TEST_MAIN(TEST(test_a_ready_file_is_dispatched_until_it_is_read),
	  TEST(test_a_source_removed_in_its_round_is_not_called),
	  TEST(test_a_source_that_turned_quiet_in_its_round_is_not_called),
	  TEST(test_sources_may_free_themselves), TEST(test_a_bad_descriptor_is_refused),
	  TEST(test_run_returns_what_stop_was_given_and_runs_again),
	  TEST(test_after_turn_comes_only_after_something_was_dispatched),
	  TEST(test_timers_fire_in_the_order_of_their_times),
	  TEST(test_a_timer_does_not_fire_before_its_time),
	  TEST(test_a_timer_armed_in_the_past_fires_once_each_round),
	  TEST(test_a_timer_cancelled_in_its_round_does_not_fire),
	  TEST(test_an_idle_loop_never_wakes), TEST(test_freeing_the_loop_disarms_its_timers),
	  TEST(test_a_child_is_reaped_once_with_its_code),
	  TEST(test_a_killed_child_names_its_signal),
	  TEST(test_a_child_that_was_removed_is_left_to_its_parent),
	  TEST(test_a_child_that_is_dead_already_is_reaped_too),
	  TEST(test_a_child_that_another_reaped_is_told_without_a_code),
	  TEST(test_signals_arrive_in_the_loop),
	  TEST(test_mail_of_many_threads_arrives_in_order_and_once),
	  TEST(test_mail_may_be_removed_from_its_callback),
	  TEST(test_much_mail_leaves_room_for_other_sources),
	  TEST(test_what_is_posted_again_comes_in_the_next_round),
	  TEST(test_a_source_that_was_never_added_is_removed_harmlessly))
