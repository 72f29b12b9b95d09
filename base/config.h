/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration of a role: one table of options is the file's keys, the command line's flags, the
 * defaults and the help text.
 *
 * A file is a flat YAML mapping. A flag is `--name value` or `--name=value`; a bool is `--name` or
 * `--no-name`. Flags win over the file, the file over defaults. `--config FILE` names the file.
 * Unknown names are refused with the nearest known one; errors name file and line, or the flag.
 *
 * Numbers: `12`; sizes: bytes, or with Ki, Mi, Gi, Ti; durations: with ns, us, ms, s, m, h.
 * Start-up only, any thread.
 */
#ifndef HF_BASE_CONFIG_H
#define HF_BASE_CONFIG_H

#include <stdio.h>

#include "base/err.h"

#define CONFIG_OPTIONS_MAX    64
#define CONFIG_LIST_MAX       64
#define CONFIG_FILE_BYTES_MAX ((size_t)1 << 20)

enum config_type {
	CONFIG_STRING, /* char *, owned by the struct; NULL when there is neither value nor default */
	CONFIG_STRINGS,  /* struct config_strings; a YAML sequence, a repeated flag */
	CONFIG_BOOL,     /* bool: true, false, yes, no, on, off */
	CONFIG_UINT,     /* uint64_t */
	CONFIG_SIZE,     /* uint64_t, bytes */
	CONFIG_DURATION, /* uint64_t, ns */
};

struct config_strings {
	char *items[CONFIG_LIST_MAX];
	uint32_t count;
};

struct config_option {
	const char *name; /* "cache-size": the file's key, and --cache-size */
	enum config_type type;
	size_t offset;       /* of the field in the role's struct */
	const char *initial; /* the default, as text; NULL: zero, empty */
	uint64_t min;        /* numbers */
	uint64_t max;        /* numbers (0: no limit); strings: bytes (0: 4095) */
	bool is_required;    /* must be given and not empty */
	const char *metavar; /* "BYTES", for the help text; NULL: by type */
	const char *help;    /* one sentence without a stop at its end */
};

struct config_table {
	const char *usage; /* "holdfastd node [FLAGS]" */
	const struct config_option *options;
	size_t option_count;
	/* Looks at the whole once it is read: 0, or -errno with a sentence. NULL: nothing to look
	 * at. */
	int (*check)(const void *config, struct err *err);
};

/* What config_load() returns besides 0 and -errno. */
#define CONFIG_HELP    1 /* --help was given */
#define CONFIG_VERSION 2 /* --version was given */

/*
 * Fills *config (of the table's shape; overwritten): defaults, the file that --config names, flags.
 * argv[0] is skipped; anything that is not a flag is refused. 0, CONFIG_HELP, CONFIG_VERSION, or
 * -errno with a sentence. Whatever it returns, config_free() is due.
 */
int config_load(const struct config_table *table, int argc, char *const argv[], void *config,
		struct err *err);
/* The same without a command line: defaults and this text as a file called `file_name`. */
int config_load_text(const struct config_table *table, const char *file_name, const char *text,
		     void *config, struct err *err);
/* Frees strings; the struct is then as if zeroed. */
void config_free(const struct config_table *table, void *config);
/* The text of --help. */
void config_help(const struct config_table *table, FILE *out);

/* 0 or -EINVAL (not a number of that form), -ERANGE (does not fit). */
int config_parse_number(enum config_type type, const char *text, uint64_t *ret);
/* Shortest exact form, "16Mi", "1500ms", for messages and status. Returns buf. */
const char *config_format_number(enum config_type type, uint64_t value, char buf[32]);

#endif
