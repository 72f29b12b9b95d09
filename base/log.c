/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines.
 *
 * R1 one event is one line is one write(2): lines of several threads and processes do not mix.
 * R2 a line never holds a control character; values that may hold blanks come through log_quote().
 * R3 a line longer than the buffer is cut and ends in "...".
 * R4 losing standard error loses log lines and nothing else.
 *
 * The level and the sink are the process's only mutable globals here. The mutex guards the sink,
 * so that log_sink_set() returns only when the old sink is not in use any more.
 */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 2048

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static _Atomic int level_max = LOG_INFO;
static pthread_mutex_t sink_mutex = PTHREAD_MUTEX_INITIALIZER;
static void (*sink_fn)(void *ctx, enum log_level level, const char *line);
static void *sink_ctx;

void log_level_set(enum log_level level)
{
	atomic_store_explicit(&level_max, (int)level, memory_order_relaxed);
}

int log_level_parse(const char *text, enum log_level *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
		if (strcmp(text, level_names[i]) == 0) {
			*ret = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

void log_sink_set(void (*sink)(void *ctx, enum log_level level, const char *line), void *ctx)
{
	pthread_mutex_lock(&sink_mutex);
	sink_fn = sink;
	sink_ctx = ctx;
	pthread_mutex_unlock(&sink_mutex);
}

static void log_emit(enum log_level level, char *line, size_t length)
{
	pthread_mutex_lock(&sink_mutex);
	if (sink_fn) {
		sink_fn(sink_ctx, level, line);
	} else {
		line[length] = '\n';
		ssize_t wrote = write(STDERR_FILENO, line, length + 1);
		(void)wrote; /* R4 */
	}
	pthread_mutex_unlock(&sink_mutex);
}

static size_t log_head(char *line, enum log_level level, const char *module, const char *event)
{
	struct timespec now;
	struct tm tm;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	int n = snprintf(line, LINE_BYTES / 2, "%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ %s %s %s",
			 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
			 tm.tm_sec, now.tv_nsec / 1000, level_names[level], module, event);
	return MIN((size_t)n, (size_t)LINE_BYTES / 2 - 1);
}

void log_event(enum log_level level, const char *module, const char *event, const char *format, ...)
{
	if ((int)level > atomic_load_explicit(&level_max, memory_order_relaxed))
		return;
	int saved_errno = errno;
	char line[LINE_BYTES + 2]; /* and a newline and a zero */
	size_t length = log_head(line, level, module, event);
	if (format[0]) {
		line[length++] = ' ';
		va_list args;
		va_start(args, format);
		int n = vsnprintf(line + length, LINE_BYTES - length, format, args);
		va_end(args);
		size_t room = LINE_BYTES - length;
		bool cut = n >= 0 && (size_t)n >= room;
		length += n < 0 ? 0 : cut ? room - 1 : (size_t)n;
		if (cut)
			memcpy(line + length - 3, "...", 3);
	}
	line[length] = 0;
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	log_emit(level, line, length);
	errno = saved_errno;
}

const char *log_quote(const char *text, char *buf, size_t buf_bytes)
{
	static const char digits[] = "0123456789abcdef";
	assert(buf_bytes >= 8);
	char *out = buf;
	char *end = buf + buf_bytes - 6; /* room for one escape, the quote and the zero */
	*out++ = '\'';
	for (const unsigned char *p = (const unsigned char *)text; *p && out < end; p++) {
		if (*p == '\'' || *p == '\\') {
			*out++ = '\\';
			*out++ = (char)*p;
		} else if (*p < 0x20 || *p == 0x7f) {
			*out++ = '\\';
			*out++ = 'x';
			*out++ = digits[*p >> 4];
			*out++ = digits[*p & 15];
		} else {
			*out++ = (char)*p;
		}
	}
	*out++ = '\'';
	*out = 0;
	return buf;
}
