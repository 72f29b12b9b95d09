/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it costs to ask another process: the round trip of a 4 KiB request and a 64 byte answer over a unix
 * socket, between two processes that sleep while nothing comes, with a pause before each, as when both
 * wait for a disk. A replicated write at queue depth 1 pays it twice (client - gateway, gateway - node)
 * on top of the disk, so it bounds from below what any server of two processes can reach.
 *
 *   build/bench/hop_bench [ROUNDS [PAUSE_US]]
 *
 * Prints the median in microseconds, alone.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_BYTES 4096
#define ANSWER_BYTES  64
#define ROUNDS_MAX    100000

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void echo(int fd)
{
	static char request[REQUEST_BYTES];
	while (recv(fd, request, sizeof(request), MSG_WAITALL) == REQUEST_BYTES)
		if (send(fd, request, ANSWER_BYTES, MSG_NOSIGNAL) != ANSWER_BYTES)
			return;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static int measure(int fd, long rounds, long pause_us)
{
	static uint64_t took_ns[ROUNDS_MAX];
	static char request[REQUEST_BYTES];
	const struct timespec pause = {0, pause_us * 1000};
	for (long i = 0; i < rounds; i++) {
		nanosleep(&pause, NULL);
		uint64_t start_ns = now_ns();
		if (send(fd, request, sizeof(request), MSG_NOSIGNAL) != REQUEST_BYTES ||
		    recv(fd, request, ANSWER_BYTES, MSG_WAITALL) != ANSWER_BYTES)
			return 1;
		took_ns[i] = now_ns() - start_ns;
	}
	qsort(took_ns, (size_t)rounds, sizeof(*took_ns), by_value);
	printf("%.1f\n", (double)took_ns[rounds / 2] / 1000);
	return 0;
}

int main(int argc, char **argv)
{
	long rounds = argc > 1 ? atol(argv[1]) : 5000;
	long pause_us = argc > 2 ? atol(argv[2]) : 100;
	int fds[2];
	if (rounds < 1 || rounds > ROUNDS_MAX || pause_us < 0 || pause_us > 999999) {
		fprintf(stderr, "usage: hop_bench [ROUNDS (1..%d) [PAUSE_US (0..999999)]]\n",
			ROUNDS_MAX);
		return 2;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) {
		perror("hop_bench: socketpair");
		return 1;
	}
	if (fork() == 0) {
		close(fds[0]);
		echo(fds[1]);
		_exit(0);
	}
	close(fds[1]);
	return measure(fds[0], rounds, pause_us); /* closing our end stops the echo */
}
