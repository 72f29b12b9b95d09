/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line: one table of verbs, one parser, one printer.
 *
 * A verb is a row of a table: its words, synopsis, help, options and handler. The parser resolves
 * the words, checks options against the row (and the global ones) and refuses what is unknown with
 * the nearest known name. Handlers get a struct cli, build JSON, and let the printer show it as a
 * table or as is. One thread; everything is freed by cli_free().
 */
#ifndef HF_CLI_CLI_H
#define HF_CLI_CLI_H

#include <jansson.h>
#include <stdio.h>

#include "base/err.h"
#include "base/rpc/rpc.h"

enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_NOT_FOUND = 3,
	CLI_CONFLICT = 4,
	CLI_TIMEOUT = 5,
};

enum cli_option_kind { CLI_FLAG, CLI_TEXT, CLI_TEXTS };

struct cli_option {
	const char *name; /* "size": --size TEXT or --size=TEXT */
	char letter;      /* 'o': -o TEXT; 0: none */
	enum cli_option_kind kind;
	const char *metavar; /* "SIZE"; NULL for flags */
	const char *help;
};

struct cli;

struct cli_verb {
	const char *words;                /* "volume create" */
	const char *arguments;            /* "NAME"; "" when none */
	const char *help;                 /* one line */
	const char *more;                 /* further lines of --help; may be NULL */
	const struct cli_option *options; /* ended by a NULL name; may be NULL */
	uint32_t arguments_min;
	uint32_t arguments_max;
	int (*run)(struct cli *cli); /* an enum cli_exit */
};

/* Ended by a row without words. */
extern const struct cli_verb cli_verbs[];

enum cli_format { CLI_TABLE, CLI_WIDE, CLI_JSON };

#define CLI_VALUES_MAX    64
#define CLI_ARGUMENTS_MAX 8
#define CLI_PATH_BYTES    96
#define CLI_DIR_BYTES_MAX 80 /* of --dir: sockets live below it, and their paths are short */

struct cli {
	const struct cli_verb *verb; /* NULL: none was named */
	struct {
		const struct cli_option *option;
		const char *text; /* "" for a flag */
	} values[CLI_VALUES_MAX];
	uint32_t value_count;
	const char *arguments[CLI_ARGUMENTS_MAX];
	uint32_t argument_count;
	bool want_help;
	bool want_version;
	/* of the global options */
	enum cli_format format;
	char dir[CLI_PATH_BYTES];
	const char *manager; /* address, or NULL: the one of the local cluster */
	uint32_t timeout_ms;
	/* of the calls made */
	struct rpc_client *client;
	char client_address[RPC_ADDRESS_BYTES_MAX];
};

/*
 * Fills *cli from the command line; 0, or -EINVAL with a sentence. The texts of argv must outlive
 * *cli. `group`, set when only a group ("volume") was named, limits the help to it.
 */
int cli_parse(int argc, char *const argv[], struct cli *cli, const char **ret_group,
	      struct err *err);
void cli_free(struct cli *cli);
/* argv of main() in, exit code of the process out. */
int cli_main(int argc, char *const argv[]);

/* The last value of an option; NULL when it was not given ("" for a flag that was). */
const char *cli_value(const struct cli *cli, const char *name);
/* The index-th value of an option that may be repeated, NULL after the last. */
const char *cli_value_at(const struct cli *cli, const char *name, uint32_t index);
/* Sizes and numbers of options, checked: `fallback` when absent. 0 or -EINVAL with a sentence. */
int cli_size(const struct cli *cli, const char *name, uint64_t fallback, uint64_t *ret,
	     struct err *err);
int cli_number(const struct cli *cli, const char *name, uint64_t max, uint64_t *ret,
	       struct err *err);
/* The candidate nearest to text, or NULL when none is near. Candidates end with NULL. */
const char *cli_nearest(const char *text, const char *const *candidates);
/* Prints the sentence and what to do next ("" or NULL: nothing) to standard error. */
int cli_fail(enum cli_exit code, const char *next, const char *format, ...) PRINTF_LIKE(3, 4);
/* The same for an error, with the exit code that belongs to its errno. */
int cli_fail_err(const struct err *err, const char *next);
enum cli_exit cli_exit_of(int error);
void cli_help(FILE *out, const char *group);
void cli_help_verb(FILE *out, const struct cli_verb *verb);
/* True when --yes was given; else says what would be destroyed and how to go on. */
bool cli_confirmed(const struct cli *cli, const char *what);

/* ---- output (output.c) ---- */

enum cli_column_kind {
	COLUMN_TEXT,
	COLUMN_NUMBER,
	COLUMN_SIZE, /* bytes, shown with a binary unit */
	COLUMN_TIME, /* Unix milliseconds */
	COLUMN_LIST, /* array of texts */
};
struct cli_column {
	const char *title;
	const char *key;
	enum cli_column_kind kind;
	bool is_wide; /* with -o wide only */
};
/* "12.5 GiB", three digits. Returns buf. */
const char *size_format(uint64_t bytes, char buf[32]);
/* Aligned columns; columns end with a NULL title. */
void table_print(FILE *out, const struct cli_column *columns, json_t *items, bool is_wide);
/* Prints {"items": items} or the table; takes the reference. */
int cli_print_items(struct cli *cli, const struct cli_column *columns, json_t *items);
/* Prints any object as JSON with sorted layout of insertion; takes the reference. */
int cli_print_json(json_t *object);

/* ---- calls (client.c) ---- */

/*
 * A unary call of a service at an address; NULL is the manager of the cluster. 0 and *ret, or
 * -errno; the client of the last address is kept.
 */
int cli_call_at(struct cli *cli, const char *address, const ProtobufCServiceDescriptor *service,
		const char *method, const ProtobufCMessage *message, ProtobufCMessage **ret,
		struct err *err);
/* A method of the Manager service. */
int cli_call(struct cli *cli, const char *method, const ProtobufCMessage *message,
	     ProtobufCMessage **ret, struct err *err);
int cli_client(struct cli *cli, const char *address, struct err *err);
/* The address of the manager in use; valid while cli lives. */
const char *cli_manager(struct cli *cli);
/* Says an error of a call, with a hint how to reach the manager when it was not reached. */
int cli_call_failed(struct cli *cli, const struct err *err);

/* ---- verbs ---- */

int verb_up(struct cli *cli);
int verb_down(struct cli *cli);
int verb_status(struct cli *cli);
int verb_doctor(struct cli *cli);
int verb_node_list(struct cli *cli);
int verb_node_show(struct cli *cli);
int verb_node_start(struct cli *cli);
int verb_node_stop(struct cli *cli);
int verb_volume_create(struct cli *cli);
int verb_volume_list(struct cli *cli);
int verb_volume_show(struct cli *cli);
int verb_volume_resize(struct cli *cli);
int verb_volume_delete(struct cli *cli);
int verb_volume_export(struct cli *cli);
int verb_volume_unexport(struct cli *cli);
int verb_replica_list(struct cli *cli);
int verb_replica_repair(struct cli *cli);
int verb_replica_verify(struct cli *cli);
int verb_store_format(struct cli *cli);
int verb_store_check(struct cli *cli);
int verb_store_dump(struct cli *cli);
int verb_store_accept_loss(struct cli *cli);
int verb_store_list(struct cli *cli);
int verb_events(struct cli *cli);
int verb_config_check(struct cli *cli);

#endif
