/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Supervision: a parent that does nothing but wait for its child and start it again.
 *
 * S1  The parent forks before any thread exists and holds nothing that the child needs: each child
 *     opens the state anew, under its own lock (daemon.h).
 * S2  A child that ended on purpose (code 0) or cannot work as configured (code 2) is not started
 *     again. Anything else is, with a delay that grows while it keeps dying early.
 * S3  Signals are waited for, never handled: nothing runs in a handler, none is lost.
 */
#include "volmgr/daemon.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

#define DELAY_MIN_MS 100
#define DELAY_MAX_MS 2000
#define GOOD_LIFE_MS 10000

uint64_t supervise_delay_ms(uint32_t failures)
{
	uint64_t delay_ms = DELAY_MIN_MS;
	for (uint32_t i = 1; i < failures && delay_ms < DELAY_MAX_MS; i++)
		delay_ms *= 2;
	return MIN(delay_ms, (uint64_t)DELAY_MAX_MS);
}

static uint64_t clock_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct supervisor {
	sigset_t signals;
	pid_t child;
	bool stop_wanted;
};

/* Waits for the next signal, at most timeout_ms; 0 when none came. */
static int signal_wait(struct supervisor *supervisor, uint64_t timeout_ms)
{
	const struct timespec timeout = {.tv_sec = (time_t)(timeout_ms / 1000),
					 .tv_nsec = (long)(timeout_ms % 1000) * 1000000};
	int signo = sigtimedwait(&supervisor->signals, NULL, &timeout);
	if (signo == SIGTERM || signo == SIGINT)
		supervisor->stop_wanted = true;
	return signo < 0 ? 0 : signo;
}

/* Until the child is gone; its wait status. */
static int child_wait(struct supervisor *supervisor)
{
	int status = 0;
	while (waitpid(supervisor->child, &status, WNOHANG) != supervisor->child) {
		int signo = signal_wait(supervisor, 1000);
		if (signo == SIGTERM || signo == SIGINT)
			(void)kill(supervisor->child, signo); /* gone: the next waitpid says so */
	}
	supervisor->child = -1;
	return status;
}

static bool child_is_over(int status, int *ret_code)
{
	if (!WIFEXITED(status))
		return false;
	*ret_code = WEXITSTATUS(status);
	return *ret_code == DAEMON_EXIT_OK || *ret_code == DAEMON_EXIT_USAGE;
}

static void delay_wait(struct supervisor *supervisor, uint64_t delay_ms)
{
	uint64_t until_ms = clock_ms() + delay_ms;
	while (!supervisor->stop_wanted && clock_ms() < until_ms)
		signal_wait(supervisor, until_ms - MIN(until_ms, clock_ms()));
}

bool daemon_supervise(const struct daemon_options *options, int *ret_code)
{
	struct supervisor supervisor = {.child = -1};
	struct err err = {0};
	int lock_fd = daemon_lock(options, "supervisor", &err);
	if (lock_fd < 0) {
		log_event(LOG_ERROR, "supervisor", "start_failed", "error=%s",
			  LOG_Q(err_text(&err)));
		*ret_code = lock_fd == -EINVAL ? DAEMON_EXIT_USAGE : DAEMON_EXIT_FAILED;
		return false;
	}
	sigset_t before;
	sigemptyset(&supervisor.signals);
	sigaddset(&supervisor.signals, SIGTERM);
	sigaddset(&supervisor.signals, SIGINT);
	sigaddset(&supervisor.signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &supervisor.signals, &before);
	for (uint32_t failures = 0;;) {
		uint64_t start_ms = clock_ms();
		supervisor.child = fork();
		if (supervisor.child == 0) {
			sigprocmask(SIG_SETMASK, &before, NULL);
			close(lock_fd);
			return true;
		}
		int status =
			supervisor.child < 0 ? DAEMON_EXIT_FAILED << 8 : child_wait(&supervisor);
		*ret_code = DAEMON_EXIT_FAILED;
		if (child_is_over(status, ret_code) || supervisor.stop_wanted)
			break;
		failures = clock_ms() - start_ms >= GOOD_LIFE_MS ? 1 : failures + 1;
		uint64_t delay_ms = supervise_delay_ms(failures);
		log_event(LOG_WARN, "supervisor", "child_died",
			  "name=%s signal=%d code=%d restart_in_ms=%lu", options->name,
			  WIFSIGNALED(status) ? WTERMSIG(status) : 0,
			  WIFEXITED(status) ? WEXITSTATUS(status) : 0, (unsigned long)delay_ms);
		delay_wait(&supervisor, delay_ms);
		if (supervisor.stop_wanted)
			break;
	}
	close(lock_fd);
	return false;
}
