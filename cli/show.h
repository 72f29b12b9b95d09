/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the admin services as JSON, and the long forms for people.
 * The field names here are what scripts rely on. Sizes are bytes, times Unix milliseconds.
 */
#ifndef HF_CLI_SHOW_H
#define HF_CLI_SHOW_H

#include "cli/cli.h"
#include "volmgr/holdfast.pb-c.h"

/* New references; never NULL but when memory is out. */
json_t *volume_json(const Holdfast__V1__VolumeInfo *volume);
json_t *replica_json(const Holdfast__V1__ReplicaInfo *replica);
json_t *export_json(const Holdfast__V1__ExportInfo *export);
json_t *process_json(const Holdfast__V1__ProcessInfo *process);
json_t *store_json(const Holdfast__V1__StoreInfo *store, const char *node);
/* For a node of the local cluster that does not run, pid and state say so at once. */
json_t *node_json(const struct cli *cli, const Holdfast__V1__NodeInfo *node);
void volume_show(FILE *out, json_t *volume);

extern const struct cli_column columns_node[];
extern const struct cli_column columns_store[];
extern const struct cli_column columns_replica[];

/* Prints the whole status; `cli->format` decides how. */
int status_print(struct cli *cli, const Holdfast__V1__StatusReply *status);

#endif
