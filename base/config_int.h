/* SPDX-License-Identifier: Apache-2.0 */
/* Private to config*.c: one load in progress. */
#ifndef HF_BASE_CONFIG_INT_H
#define HF_BASE_CONFIG_INT_H

#include "base/config.h"

struct config_load {
	const struct config_table *table;
	void *config;
	/* Where each option was last given: NULL, or the file or "the command line". */
	const char *given[CONFIG_OPTIONS_MAX];
};

/* The option's index, or -1 with a sentence that suggests; prefix is "" or "--". */
int config_find(const struct config_table *table, const char *prefix, const char *name,
		struct err *err);
/* Stores text as the option's value; a STRINGS option gets one more item. */
int config_store(struct config_load *load, int index, const char *text, struct err *err);
/* Notes that `source` gives the option; forgets list items of an earlier source. */
void config_note(struct config_load *load, int index, const char *source);
/* Every document of the file: exactly one flat mapping, or nothing. */
int config_read_yaml(struct config_load *load, const char *file_name, const char *text,
		     size_t text_bytes, struct err *err);

#endif
