/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store accept-loss: gives up what rot took from one replica's log.
 *
 * Offline, on a store that no daemon has open: it is rare, it destroys, and it is about one disk;
 * so it is done where the disk is, by somebody who has stopped the node, and no message of the
 * protocol can ever do it by mistake. What would be given up is looked at first without writing
 * anything; the store then takes back exactly that range or refuses.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "cli/local.h"
#include "store/store.h"
#include "volmgr/holdfast.pb-c.h"

struct loss {
	const char *path;
	struct uuid volume;
	bool write;
	struct store_replica_info info; /* of the replica before */
	bool accepted;
	/* the operation */
	struct store_accept_loss accept;
	struct co *co;
	int status;
	bool is_done;
	bool is_waiting;
};

static void accept_done(struct store_op *op, int status)
{
	struct loss *loss = CONTAINER_OF(op, struct loss, accept.op);

	loss->status = status;
	loss->is_done = true;
	if (loss->is_waiting)
		co_resume(loss->co);
}

static int accept(struct co *co, struct loss *loss, struct store_replica *replica, struct err *err)
{
	loss->co = co;
	loss->accept = (struct store_accept_loss){.op.done = accept_done,
						  .suspect_after = loss->info.suspect_after,
						  .suspect_until = loss->info.suspect_until};
	store_accept_loss(replica, &loss->accept);
	while (!loss->is_done) {
		loss->is_waiting = true;
		co_suspend(co);
		loss->is_waiting = false;
	}
	if (loss->status < 0)
		return err_set(err, loss->status, "store '%s': the record cannot be written: %s",
			       loss->path, err_name(loss->status));
	loss->accepted = true;
	return 0;
}

static int loss_run(struct co *co, struct env *env, void *arg, struct err *err)
{
	struct loss *loss = arg;
	struct store_config config;
	struct store *store;
	char uuid[UUID_TEXT_BYTES];

	store_config_default(&config);
	config.read_only = !loss->write;
	int rc = store_open(co, env, loss->path, &config, &store, err);
	if (rc < 0)
		return rc;
	struct store_replica *replica = store_replica_find(store, &loss->volume, 0);
	uuid_format(&loss->volume, uuid);
	if (!replica) {
		rc = err_set(err, -ENOENT, "store '%s' has no replica of volume %s", loss->path,
			     uuid);
	} else {
		store_replica_info(replica, &loss->info);
		if (loss->info.map_damaged)
			rc = err_set(
				err, -EUCLEAN,
				"volume %s: the map of its replica in '%s' is damaged, not its "
				"log: only another copy helps",
				uuid, loss->path);
		else if (loss->write && loss->info.suspect)
			rc = accept(co, loss, replica, err);
	}
	store_close(co, store);
	return rc;
}

/* "entries 3 to 7", "entries 3 and all after it"; then what is known of the blocks. */
static const char *loss_text(const struct store_replica_info *info, char *text, size_t bytes)
{
	typedef unsigned long long ull;
	char range[80], blocks[160] = "";

	if (info->suspect_until == UINT64_MAX)
		snprintf(range, sizeof(range), "entry %llu and all after it",
			 (ull)info->suspect_after + 1);
	else
		snprintf(range, sizeof(range), "entries %llu to %llu", (ull)info->suspect_after + 1,
			 (ull)info->suspect_until);
	if (info->loss_end_block > info->loss_first_block)
		snprintf(blocks, sizeof(blocks), " (among them writes within bytes %llu to %llu)",
			 (ull)info->loss_first_block * BLOCK_BYTES,
			 (ull)info->loss_end_block * BLOCK_BYTES - 1);
	snprintf(text, bytes, "%s of its log%s", range, blocks);
	return text;
}

/* A uuid as `store dump` and `volume show` have it, or a name when the manager answers. */
static int volume_argument(struct cli *cli, const char *text, struct uuid *ret, struct err *err)
{
	Holdfast__V1__VolumeName request = HOLDFAST__V1__VOLUME_NAME__INIT;
	ProtobufCMessage *reply;

	if (uuid_parse(text, ret) == 0)
		return 0;
	request.name = (char *)text;
	int rc = cli_call(cli, "VolumeGet", &request.base, &reply, err);
	if (rc == -ENOTCONN)
		return err_set(err, -EINVAL,
			       "'%s' is no uuid, and no manager answers that knows it by name",
			       text);
	if (rc < 0)
		return rc;
	rc = uuid_parse(((Holdfast__V1__VolumeInfo *)reply)->uuid, ret);
	rpc_message_free(reply);
	return rc < 0 ? err_set(err, -EPROTO, "the manager tells no uuid of '%s'", text) : 0;
}

static int loss_print(const struct cli *cli, const struct loss *loss)
{
	const struct store_replica_info *info = &loss->info;
	char uuid[UUID_TEXT_BYTES], text[400];

	uuid_format(&loss->volume, uuid);
	if (cli->format == CLI_JSON)
		return cli_print_json(json_pack(
			"{ss ss sb sI sI sI}", "path", loss->path, "volume", uuid, "accepted",
			loss->accepted, "last_seq", (json_int_t)info->last_seq, "suspect_after",
			(json_int_t)info->suspect_after, "suspect_until",
			(json_int_t)MIN(info->suspect_until, (uint64_t)INT64_MAX)));
	if (!loss->accepted) {
		printf("volume %s: nothing is missing here\n", uuid);
		return CLI_OK;
	}
	printf("volume %s: gave up %s; it ends at entry %llu now\n", uuid,
	       loss_text(info, text, sizeof(text)), (unsigned long long)info->last_seq);
	fprintf(stderr,
		"Start the node. If the volume is exported, unexport it and export it again: a\n"
		"client must not see its disk go back.\n");
	return CLI_OK;
}

int verb_store_accept_loss(struct cli *cli)
{
	struct loss loss = {.path = cli->arguments[0]};
	struct err err = {0};
	char uuid[UUID_TEXT_BYTES], text[400], what[600];

	log_level_set(LOG_WARN); /* the story of a recovery is a daemon's to tell */
	if (volume_argument(cli, cli->arguments[1], &loss.volume, &err) < 0)
		return cli_fail_err(&err, NULL);
	uuid_format(&loss.volume, uuid);
	if (cli_job(loss_run, &loss, &err) < 0)
		return cli_fail_err(&err, err.code == -EBUSY ? "Stop its node first." : NULL);
	if (!loss.info.suspect)
		return loss_print(cli, &loss);
	snprintf(
		what, sizeof(what),
		"give up %s, for ever, from the copy of volume %s in %.200s; a copy elsewhere that "
		"still has them would bring them back instead",
		loss_text(&loss.info, text, sizeof(text)), uuid, loss.path);
	if (!cli_confirmed(cli, what))
		return CLI_USAGE;
	loss.write = true;
	if (cli_job(loss_run, &loss, &err) < 0)
		return cli_fail_err(&err, NULL);
	return loss_print(cli, &loss);
}
