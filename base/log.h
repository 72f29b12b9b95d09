/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines: `2026-02-03T04:05:06.789012Z info repl peer_lost vol=db1 peer=n3 reason='timed out'`.
 *
 * error: someone must act. warn: we carried on, and the line says how. info: transitions.
 * debug: per module, switched at run time. Nothing per I/O is logged. Any thread may call.
 */
#ifndef HF_BASE_LOG_H
#define HF_BASE_LOG_H

#include "base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/*
 * One line to standard error (or to the sink). `event` is a stable snake_case word; `format`
 * gives "key=value key=value"; quote a value that may hold blanks with LOG_Q / log_quote().
 */
void log_event(enum log_level level, const char *module, const char *event, const char *format, ...)
	PRINTF_LIKE(4, 5);
/* Quotes text for a value: 'it\'s'; control characters become \xNN. Returns buf. */
const char *log_quote(const char *text, char *buf, size_t buf_bytes);
void log_level_set(enum log_level level);
/* "error" | "warn" | "info" | "debug"; 0 or -EINVAL. */
int log_level_parse(const char *text, enum log_level *ret);
/* Sends lines elsewhere (tests, the simulator); NULL restores standard error. */
void log_sink_set(void (*sink)(void *ctx, enum log_level level, const char *line), void *ctx);

#define LOG_Q(text) log_quote((text), (char[512]){0}, 512)

#endif
