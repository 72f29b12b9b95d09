/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The production loop: turns, timers, posting, signals, randomness.
 *
 * One turn: start the gathered sends; the engine submits everything, sleeps until something
 * happens, and delivers a batch; then posted messages, due timers, deferred
 * work. Nothing runs periodically: an idle loop sleeps in one system call.
 *
 * R1 Callbacks run only from loop_turn(), never from a call of env_* (E2).
 * R2 Every list is taken as it stands when its part of the turn begins. What callbacks add waits
 *    for the next turn, whose sleep is then zero. So no kind of work starves another.
 * R3 posted is a stack that any thread pushes to by compare-and-swap. Who pushes on an empty
 *    stack writes the eventfd; the loop empties the whole stack at once. So a message that is
 *    pushed on a non-empty stack is covered by the write of the one below it.
 * R4 Timers and the alarm that wakes the loop for them count CLOCK_BOOTTIME. The alarm is one kernel
 *    timer; it is moved when a deadline comes before it and left alone when the deadlines move away, as
 *    most do before they are reached: a sleep with a time-out would set and cancel a hardware
 *    timer each time, which in a virtual machine costs more than the request that is waited for.
 * R5 All turns of one loop run on one thread (the first one; io_uring insists). Creating and
 *    opening things on another thread before the first turn is fine.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop_int.h"

void loop_die(const char *what, int code)
{
	log_event(LOG_ERROR, "loop", "kernel_broke_its_word", "call=%s error=%s", what,
		  err_name(code));
	abort();
}

/* ---- clock, randomness ---- */

static uint64_t loop_now_ns(struct env *env)
{
	(void)env;
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t loop_wall_ms(struct env *env)
{
	(void)env;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static uint64_t loop_random(struct env *env)
{
	struct loop *loop = loop_of(env);
	if (loop->random_left == 0) {
		size_t want = sizeof(loop->random_words); /* <= 256 bytes: never short */
		if (getrandom(loop->random_words, want, 0) != (ssize_t)want)
			loop_die("getrandom", -errno);
		loop->random_left = RANDOM_WORDS;
	}
	uint64_t *word = &loop->random_words[--loop->random_left];
	uint64_t value = *word;
	*word = 0; /* used once; not left lying in memory */
	return value;
}

/* ---- timers ---- */

static void loop_timer_set(struct env *env, struct env_timer *timer, uint64_t deadline_ns)
{
	assert(timer->fire);
	timer_heap_set(&loop_of(env)->timers, timer, deadline_ns);
}

static void loop_timer_cancel(struct env *env, struct env_timer *timer)
{
	timer_heap_cancel(&loop_of(env)->timers, timer);
}

static void loop_run_timers(struct loop *loop)
{
	if (!timer_heap_first(&loop->timers))
		return;
	uint64_t order_limit = loop->timers.next_order;
	uint64_t now_ns = loop_now_ns(&loop->env);
	struct env_timer *timer;
	while ((timer = timer_heap_pop_due(&loop->timers, now_ns, order_limit)))
		timer->fire(timer);
}

/* ---- the alarm (R4) ---- */

/* The loop will wake at deadline_ns or earlier. */
static void loop_alarm_set(struct loop *loop, uint64_t deadline_ns)
{
	if (loop->alarm_ns != 0 && loop->alarm_ns <= deadline_ns)
		return;
	struct itimerspec when = {.it_value = {.tv_sec = (time_t)(deadline_ns / 1000000000),
					       .tv_nsec = (long)(deadline_ns % 1000000000)}};
	if (timerfd_settime(loop->alarm_file.fd, TFD_TIMER_ABSTIME, &when, NULL) < 0)
		loop_die("timerfd_settime", -errno);
	loop->alarm_ns = deadline_ns;
}

static void loop_alarmed(struct net_op *op, int result)
{
	struct loop *loop = CONTAINER_OF(op, struct loop, alarm_op);
	if (result == -ECANCELED)
		return;
	uint64_t count;
	/* EAGAIN: it was moved after it had gone off, and is still to come. */
	if (read(loop->alarm_file.fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
		loop->alarm_ns = 0;
	net_op_submit(loop, op);
}

/* ---- messages from other threads ---- */

void loop_post(struct loop *loop, struct loop_msg *msg)
{
	struct loop_msg *head = atomic_load_explicit(&loop->posted, memory_order_relaxed);
	do {
		msg->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
		&loop->posted, &head, msg, memory_order_release, memory_order_relaxed));
	if (head)
		return; /* R3 */
	static const uint64_t one = 1;
	while (write(loop->wake_file.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void loop_run_posted(struct loop *loop)
{
	if (!atomic_load_explicit(&loop->posted, memory_order_relaxed))
		return;
	struct loop_msg *stack =
		atomic_exchange_explicit(&loop->posted, NULL, memory_order_acquire);
	struct loop_msg *queue = NULL;
	while (stack) {
		struct loop_msg *next = stack->next;
		stack->next = queue;
		queue = stack;
		stack = next;
	}
	while (queue) {
		struct loop_msg *msg = queue;
		queue = msg->next; /* run() may post msg again, or free it */
		msg->run(msg);
	}
}

static void loop_woken(struct net_op *op, int result)
{
	struct loop *loop = CONTAINER_OF(op, struct loop, wake_op);
	if (result == -ECANCELED)
		return;
	uint64_t count;
	ssize_t n = read(loop->wake_file.fd, &count, sizeof(count));
	(void)n; /* EAGAIN when it was spurious; the messages are in posted, not here */
	net_op_submit(loop, op);
}

/* ---- signals ---- */

static void loop_signalled(struct net_op *op, int result)
{
	struct loop *loop = CONTAINER_OF(op, struct loop, signal_op);
	if (result == -ECANCELED)
		return;
	struct signalfd_siginfo info;
	while (read(loop->signal_file.fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		loop->on_signal(loop->signal_ctx, (int)info.ssi_signo);
	net_op_submit(loop, op);
}

int loop_signals(struct loop *loop, void (*on_signal)(void *ctx, int signo), void *ctx,
		 struct err *err)
{
	assert(loop->signal_file.fd < 0);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "signalfd: %s", strerror(errno));
	struct net_file file = {.fd = fd};
	loop->signal_file = file;
	int rc = loop->engine_ops->file_add(loop, &loop->signal_file);
	if (rc < 0) {
		close(fd);
		loop->signal_file.fd = -1;
		return err_set(err, rc, "signalfd: %s", strerror(-rc));
	}
	rc = pthread_sigmask(SIG_BLOCK, &set, NULL);
	assert(rc == 0);
	loop->on_signal = on_signal;
	loop->signal_ctx = ctx;
	loop->signal_op = (struct net_op){
		.kind = NET_POLL_IN, .file = &loop->signal_file, .done = loop_signalled};
	net_op_submit(loop, &loop->signal_op);
	return 0;
}

/* ---- turns ---- */

static void loop_run_deferred(struct loop *loop)
{
	struct list now = LIST_INIT(now);
	list_splice_back(&now, &loop->deferred);
	struct list *node;
	while ((node = list_pop_front(&now))) {
		struct defer *defer = CONTAINER_OF(node, struct defer, link);
		defer->run(defer);
	}
}

/* Whether the turn may sleep; then the alarm is set for the earliest deadline, deadline_ns (0: none)
 * included. */
static bool loop_may_sleep(struct loop *loop, uint64_t deadline_ns)
{
	if (!list_empty(&loop->deferred) || !list_empty(&loop->sends) ||
	    atomic_load_explicit(&loop->posted, memory_order_relaxed))
		return false;
	struct env_timer *timer = timer_heap_first(&loop->timers);
	if (timer && (deadline_ns == 0 || timer->deadline_ns < deadline_ns))
		deadline_ns = MAX(timer->deadline_ns, 1);
	if (deadline_ns == 0)
		return true;
	if (deadline_ns <= loop_now_ns(&loop->env))
		return false;
	loop_alarm_set(loop, deadline_ns);
	return true;
}

static void loop_turn(struct loop *loop, uint64_t deadline_ns)
{
	conns_flush(loop);
	bool may_sleep = loop_may_sleep(loop, deadline_ns);
	loop->engine_ops->turn(loop, may_sleep);
	if (may_sleep && loop->awake.is_on)
		loop_awake_count(loop);
	loop_run_posted(loop);
	loop_run_timers(loop);
	loop_run_deferred(loop);
}

void loop_run(struct loop *loop)
{
	while (!loop->stop)
		loop_turn(loop, 0);
	loop->stop = false;
}

int loop_run_until(struct loop *loop, const bool *flag, uint64_t deadline_ns)
{
	while (!*(const volatile bool *)flag) {
		if (deadline_ns != 0 && loop_now_ns(&loop->env) >= deadline_ns)
			return -ETIMEDOUT;
		loop_turn(loop, deadline_ns);
	}
	return 0;
}

void loop_stop(struct loop *loop)
{
	loop->stop = true;
}

/* ---- life ---- */

static const struct env_ops loop_env_ops_uring, loop_env_ops_aio;

int loop_engine_parse(const char *text, enum loop_engine *ret, struct err *err)
{
	static const char *const names[] = {"auto", "io_uring", "libaio"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (strcmp(text, names[i]) == 0) {
			*ret = (enum loop_engine)i;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "engine '%s' is not one of auto, io_uring, libaio", text);
}

static void loop_free(struct loop *loop)
{
	loop_awake_free(loop);
	if (loop->engine)
		loop->engine_ops->destroy(loop);
	if (loop->wake_file.fd >= 0)
		close(loop->wake_file.fd);
	if (loop->alarm_file.fd >= 0)
		close(loop->alarm_file.fd);
	if (loop->signal_file.fd >= 0)
		close(loop->signal_file.fd);
	timer_heap_free(&loop->timers);
	free(loop);
}

static int loop_create_with(const struct engine_ops *engine_ops, struct loop **ret, struct err *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	if (!loop)
		return err_set(err, -ENOMEM, "out of memory for a loop");
	loop->wake_file.fd = -1;
	loop->alarm_file.fd = -1;
	loop->signal_file.fd = -1;
	loop->awake.fd = -1;
	loop->engine_ops = engine_ops;
	loop->env.ops = engine_ops == &engine_uring ? &loop_env_ops_uring : &loop_env_ops_aio;
	list_init(&loop->deferred);
	list_init(&loop->sends);
	list_init(&loop->listeners);
	int rc = timer_heap_init(&loop->timers);
	if (rc == 0) {
		loop->wake_file.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		rc = loop->wake_file.fd < 0 ? -errno : 0;
	}
	if (rc == 0) {
		loop->alarm_file.fd = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
		rc = loop->alarm_file.fd < 0 ? -errno : 0;
	}
	if (rc < 0) {
		loop_free(loop);
		return err_set(err, rc, "loop: %s", strerror(-rc));
	}
	rc = engine_ops->create(loop, err);
	if (rc == 0) {
		rc = engine_ops->file_add(loop, &loop->wake_file);
		if (rc == 0)
			rc = engine_ops->file_add(loop, &loop->alarm_file);
		if (rc < 0)
			err_set(err, rc, "eventfd or timerfd: %s", strerror(-rc));
	}
	if (rc < 0) {
		loop_free(loop);
		return rc;
	}
	loop->wake_op =
		(struct net_op){.kind = NET_POLL_IN, .file = &loop->wake_file, .done = loop_woken};
	net_op_submit(loop, &loop->wake_op);
	loop->alarm_op = (struct net_op){
		.kind = NET_POLL_IN, .file = &loop->alarm_file, .done = loop_alarmed};
	net_op_submit(loop, &loop->alarm_op);
	*ret = loop;
	return 0;
}

int loop_create(enum loop_engine engine, struct loop **ret, struct err *err)
{
	if (engine == LOOP_ENGINE_AIO)
		return loop_create_with(&engine_aio, ret, err);
	struct err refused = {0};
	int rc = loop_create_with(&engine_uring, ret, &refused);
	if (rc == 0)
		return 0;
	if (engine == LOOP_ENGINE_URING)
		return err_set(err, rc, "%s", err_text(&refused));
	rc = loop_create_with(&engine_aio, ret, err);
	if (rc == 0)
		log_event(LOG_WARN, "loop", "io_uring_refused", "engine=libaio reason=%s",
			  LOG_Q(err_text(&refused)));
	return rc;
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	assert(loop->disk_count == 0);
	assert(loop->conn_count == 0);
	assert(!atomic_load(&loop->posted));
	listeners_free(loop);
	loop_free(loop);
}

struct env *loop_env(struct loop *loop)
{
	return &loop->env;
}

const char *loop_engine_name(const struct loop *loop)
{
	return loop->engine_ops->name;
}

#define LOOP_ENV_OPS(engine_name)                                                                  \
	{                                                                                          \
		.name = engine_name, .now_ns = loop_now_ns, .wall_ms = loop_wall_ms,               \
		.random = loop_random, .timer_set = loop_timer_set,                                \
		.timer_cancel = loop_timer_cancel, .disk_open = disk_open, .disk_info = disk_info, \
		.disk_submit = disk_submit, .disk_close = disk_close, .listen = net_listen,        \
		.listener_close = net_listener_close, .connect = net_connect,                      \
		.connect_cancel = net_connect_cancel, .conn_recv = conn_recv,                      \
		.conn_send = conn_send, .conn_close = conn_close, .buf_alloc = loop_buf_alloc,     \
		.buf_free = loop_buf_free,                                                         \
	}

static const struct env_ops loop_env_ops_uring = LOOP_ENV_OPS("io_uring");
static const struct env_ops loop_env_ops_aio = LOOP_ENV_OPS("libaio");
