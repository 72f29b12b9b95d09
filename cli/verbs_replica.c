/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of replicas. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/show.h"
#include "volmgr/records.h"

static int replicas_print(struct cli *cli, ProtobufCMessage *message)
{
	const Holdfast__V1__ReplicaListReply *reply = (void *)message;
	json_t *items = json_array();

	for (size_t i = 0; i < reply->n_replicas; i++)
		json_array_append_new(items, replica_json(reply->replicas[i]));
	rpc_message_free(message);
	return cli_print_items(cli, columns_replica, items);
}

int verb_replica_list(struct cli *cli)
{
	Holdfast__V1__VolumeName request = HOLDFAST__V1__VOLUME_NAME__INIT;
	ProtobufCMessage *reply;
	struct err err = {0};

	request.name = (char *)cli->arguments[0];
	if (name_check("volume name", request.name, &err) < 0)
		return cli_fail_err(&err, NULL);
	if (cli_call(cli, "ReplicaList", &request.base, &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	return replicas_print(cli, reply);
}

/* ---- verify, repair ---- */

struct verify {
	struct cli *cli;
	json_t *findings;
	uint64_t bytes_total;
	uint64_t repaired;
	bool is_repair;
	bool show_progress;
	bool finished;
	bool equal;
};

static void finding_take(struct verify *verify, const Holdfast__V1__VerifyFinding *finding)
{
	json_array_append_new(verify->findings,
			      json_pack("{ss ss ss sI ss}", "volume", finding->volume, "node",
					finding->node, "replica_uuid", finding->replica_uuid,
					"offset", (json_int_t)finding->offset_bytes, "what",
					finding->what));
	if (verify->cli->format != CLI_JSON)
		printf("volume %s node %s offset %llu: %s\n", finding->volume, finding->node,
		       (unsigned long long)finding->offset_bytes, finding->what);
}

static void progress_take(struct verify *verify, const Holdfast__V1__VerifyProgress *progress)
{
	char done[32], total[32];

	if (verify->show_progress)
		fprintf(stderr, "\r\033[K");
	for (size_t i = 0; i < progress->n_findings; i++)
		finding_take(verify, progress->findings[i]);
	if (progress->bytes_total)
		verify->bytes_total = progress->bytes_total;
	verify->finished = progress->finished;
	verify->equal = progress->finished && progress->equal;
	verify->repaired = progress->repaired;
	if (!verify->show_progress || progress->finished)
		return;
	if (progress->waiting[0])
		fprintf(stderr, "waiting for %s", progress->waiting);
	else
		fprintf(stderr, "compared %s of %s", size_format(progress->bytes_done, done),
			size_format(verify->bytes_total, total));
	fflush(stderr);
}

static int verify_open(struct verify *verify, struct rpc_stream **ret, struct err *err)
{
	Holdfast__V1__ReplicaVerifyRequest message = HOLDFAST__V1__REPLICA_VERIFY_REQUEST__INIT;
	Holdfast__V1__ReplicaRepairRequest repair = HOLDFAST__V1__REPLICA_REPAIR_REQUEST__INIT;
	const char *node = verify->is_repair ? cli_value(verify->cli, "node") : NULL;
	struct rpc_request request = {
		.service = &holdfast__v1__manager__descriptor,
		.method = verify->is_repair ? "ReplicaRepair" : "ReplicaVerify",
		.message = verify->is_repair ? &repair.base : &message.base,
	};
	int rc;

	message.volume = repair.volume = (char *)verify->cli->arguments[0];
	repair.node = (char *)(node ? node : "");
	rc = name_check("volume name", message.volume, err);
	if (rc == 0 && node)
		rc = name_check("node name", node, err);
	if (rc == 0)
		rc = cli_client(verify->cli, cli_manager(verify->cli), err);
	return rc == 0 ? rpc_stream_open(verify->cli->client, &request, ret, err) : rc;
}

static int verify_read(struct verify *verify, struct err *err)
{
	struct rpc_stream *stream = NULL;
	ProtobufCMessage *progress;
	int rc = verify_open(verify, &stream, err);

	while (rc == 0) {
		rc = rpc_stream_next(stream, &progress, err);
		if (rc <= 0)
			break;
		progress_take(verify, (void *)progress);
		rpc_message_free(progress);
		rc = 0;
	}
	rpc_stream_close(stream);
	if (rc == 0 && !verify->finished)
		rc = err_set(err, -EIO, "the %s ended before it was finished",
			     verify->is_repair ? "repair" : "comparison");
	return rc;
}

static int verify_said(struct verify *verify)
{
	const char *volume = verify->cli->arguments[0];
	size_t left = json_array_size(verify->findings) -
		      MIN(json_array_size(verify->findings), (size_t)verify->repaired);
	char total[32];

	if (verify->cli->format == CLI_JSON)
		return cli_print_json(
			json_pack("{ss sb sI sI so}", "volume", volume, "equal", verify->equal,
				  "bytes", (json_int_t)verify->bytes_total, "repaired",
				  (json_int_t)verify->repaired, "items", verify->findings));
	json_decref(verify->findings);
	if (verify->repaired)
		printf("volume %s: %llu bad cop%s rewritten\n", volume,
		       (unsigned long long)verify->repaired, verify->repaired == 1 ? "y" : "ies");
	if (verify->equal)
		printf("volume %s: all replicas are equal (%s)\n", volume,
		       size_format(verify->bytes_total, total));
	else
		printf("volume %s: %zu difference%s\n", volume, left, left == 1 ? "" : "s");
	return CLI_OK;
}

static int verify_run(struct verify *verify)
{
	struct cli *cli = verify->cli;
	struct err err = {0};

	verify->findings = json_array();
	if (verify_read(verify, &err) < 0) {
		if (verify->show_progress)
			fprintf(stderr, "\r\033[K");
		json_decref(verify->findings);
		return cli_call_failed(cli, &err);
	}
	if (verify_said(verify) != CLI_OK)
		return CLI_FAILED;
	return verify->equal ? CLI_OK : CLI_FAILED;
}

int verb_replica_verify(struct cli *cli)
{
	struct verify verify = {.cli = cli, .show_progress = isatty(2)};
	int code = verify_run(&verify);

	if (verify.finished && !verify.equal)
		fprintf(stderr, "Try: holdfast --dir %s replica repair %s\n", cli->dir,
			cli->arguments[0]);
	return code;
}

int verb_replica_repair(struct cli *cli)
{
	struct verify verify = {.cli = cli, .show_progress = isatty(2), .is_repair = true};

	return verify_run(&verify);
}
