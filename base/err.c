/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error sentences.
 *
 * R1 text is one line: control characters that came in with a value become '?'.
 * R2 a text that does not fit is cut at its end; wrapping keeps the prefix, which is the newest
 *    knowledge, and cuts the tail.
 * Any thread; a struct err belongs to its caller.
 */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static void err_flatten(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = '?';
}

int err_set(struct err *err, int code, const char *format, ...)
{
	assert(code < 0);
	if (!err)
		return code;
	/* The arguments may point into err->text. */
	char text[sizeof(err->text)];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	err_flatten(text);
	err->code = code;
	memcpy(err->text, text, strlen(text) + 1);
	return code;
}

int err_wrap(struct err *err, int code, const char *format, ...)
{
	assert(code < 0);
	if (!err)
		return code;
	char text[sizeof(err->text)];
	va_list args;
	va_start(args, format);
	int length = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (length >= 0 && (size_t)length < sizeof(text)) {
		const char *rest = err->code != 0 && err->text[0] ? err->text : strerror(-code);
		if ((size_t)snprintf(text + length, sizeof(text) - (size_t)length, ": %s", rest) >=
		    sizeof(text) - (size_t)length)
			text[sizeof(text) - 1] = 0; /* R2 */
	}
	err_flatten(text);
	err->code = code;
	memcpy(err->text, text, strlen(text) + 1);
	return code;
}

const char *err_text(const struct err *err)
{
	if (!err || err->code == 0)
		return "";
	return err->text[0] ? err->text : strerror(-err->code);
}

const char *err_name(int code)
{
	const char *name = strerrorname_np(code < 0 ? -code : code);
	return name ? name : "E?";
}
