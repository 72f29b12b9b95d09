/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors of the control plane: a negative errno and a sentence that names field, value and limit.
 *
 * A function that takes `struct err *err` accepts NULL. It returns the code it stored. Each layer
 * adds what only it knows with err_wrap(). Library code never logs an error that it returns.
 */
#ifndef HF_BASE_ERR_H
#define HF_BASE_ERR_H

#include "base/types.h"

struct err {
	int code;       /* 0 or -errno */
	char text[512]; /* one sentence, no newline; empty when code is 0 */
};

/* Stores code and text; returns code. code is negative. */
int err_set(struct err *err, int code, const char *format, ...) PRINTF_LIKE(3, 4);
/* Puts "<prefix>: " before the text that is there (or strerror(-code) when there is none). */
int err_wrap(struct err *err, int code, const char *format, ...) PRINTF_LIKE(3, 4);
/* The text; never NULL. */
const char *err_text(const struct err *err);
/* The name of an errno, "EINVAL"; "errno 999" style names are never returned, unknown is "E?". */
const char *err_name(int code);

#endif
