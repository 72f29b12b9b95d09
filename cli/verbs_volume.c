/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of volumes: each is one call of the manager and a print-out. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "cli/show.h"
#include "base/config.h"
#include "volmgr/holdfast.pb-c.h"
#include "volmgr/records.h"

static const struct cli_column columns_volume[] = {
	{"NAME", "name", COLUMN_TEXT, false},
	{"SIZE", "size", COLUMN_SIZE, false},
	{"REPLICAS", "replicas", COLUMN_NUMBER, false},
	{"STATE", "state", COLUMN_TEXT, false},
	{"GATEWAY", "gateway", COLUMN_TEXT, false},
	{"EPOCH", "epoch", COLUMN_NUMBER, true},
	{"CREATED", "created_ms", COLUMN_TIME, true},
	{"UUID", "uuid", COLUMN_TEXT, true},
	{"CONDITIONS", "conditions", COLUMN_LIST, false},
	{0},
};

static int name_argument(struct cli *cli, struct err *err)
{
	return name_check("volume name", cli->arguments[0], err);
}

/* Calls a method that takes VolumeName. */
static int call_by_name(struct cli *cli, const char *method, ProtobufCMessage **ret,
			struct err *err)
{
	Holdfast__V1__VolumeName request = HOLDFAST__V1__VOLUME_NAME__INIT;
	int rc = name_argument(cli, err);

	if (rc < 0)
		return rc;
	request.name = (char *)cli->arguments[0];
	return cli_call(cli, method, &request.base, ret, err);
}

static int volume_print(struct cli *cli, ProtobufCMessage *message)
{
	json_t *volume = volume_json((Holdfast__V1__VolumeInfo *)message);

	rpc_message_free(message);
	if (cli->format == CLI_JSON)
		return cli_print_json(volume);
	volume_show(stdout, volume);
	json_decref(volume);
	return CLI_OK;
}

/* ---- create ---- */

/* key=value texts into params[]; the texts are cut in place in `texts`. */
static int params_parse(const struct cli *cli, char texts[][160], Holdfast__V1__Param *params,
			uint32_t *count, struct err *err)
{
	const char *text;

	for (uint32_t i = 0; (text = cli_value_at(cli, "param", i)); i++) {
		char *equals;
		if (i == VOLUME_PARAMS_MAX)
			return err_set(err, -EINVAL, "more than %d times --param",
				       VOLUME_PARAMS_MAX);
		if (strlen(text) >= sizeof(texts[i]))
			return err_set(err, -EINVAL, "--param is longer than 159 bytes: %s", text);
		strcpy(texts[i], text);
		equals = strchr(texts[i], '=');
		if (!equals || equals == texts[i])
			return err_set(err, -EINVAL, "--param is '%s', not key=value", text);
		*equals = 0;
		holdfast__v1__param__init(&params[i]);
		params[i].key = texts[i];
		params[i].value = equals + 1;
		*count = i + 1;
	}
	return 0;
}

static int create_request(const struct cli *cli, Holdfast__V1__VolumeCreateRequest *request,
			  struct err *err)
{
	uint64_t replicas = 0, size_bytes = 0;
	int rc = name_check("volume name", cli->arguments[0], err);

	if (rc == 0)
		rc = cli_size(cli, "size", 0, &size_bytes, err);
	if (rc == 0 && !cli_value(cli, "size"))
		rc = err_set(err, -EINVAL,
			     "--size is missing: holdfast volume create %s --size 1Gi",
			     cli->arguments[0]);
	if (rc == 0)
		rc = cli_number(cli, "replicas", VOLUME_RF_MAX, &replicas, err);
	if (rc == 0 && cli_value(cli, "replicas") && replicas == 0)
		rc = err_set(err, -EINVAL, "--replicas is 0, not 1 to %d", VOLUME_RF_MAX);
	if (rc == 0)
		rc = volume_size_check(size_bytes, err);
	request->name = (char *)cli->arguments[0];
	request->size_bytes = size_bytes;
	request->replicas = (uint32_t)replicas;
	return rc;
}

int verb_volume_create(struct cli *cli)
{
	Holdfast__V1__VolumeCreateRequest request = HOLDFAST__V1__VOLUME_CREATE_REQUEST__INIT;
	Holdfast__V1__Param params[VOLUME_PARAMS_MAX];
	Holdfast__V1__Param *pointers[VOLUME_PARAMS_MAX];
	char texts[VOLUME_PARAMS_MAX][160];
	ProtobufCMessage *reply;
	uint32_t count = 0;
	struct err err = {0};

	if (create_request(cli, &request, &err) < 0 ||
	    params_parse(cli, texts, params, &count, &err) < 0)
		return cli_fail_err(&err, NULL);
	for (uint32_t i = 0; i < count; i++)
		pointers[i] = &params[i];
	request.params = pointers;
	request.n_params = count;
	if (cli_call(cli, "VolumeCreate", &request.base, &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	return volume_print(cli, reply);
}

/* ---- the others ---- */

int verb_volume_list(struct cli *cli)
{
	Holdfast__V1__Empty request = HOLDFAST__V1__EMPTY__INIT;
	ProtobufCMessage *reply;
	struct err err = {0};
	json_t *items = json_array();

	if (cli_call(cli, "VolumeList", &request.base, &reply, &err) < 0) {
		json_decref(items);
		return cli_call_failed(cli, &err);
	}
	const Holdfast__V1__VolumeListReply *list = (void *)reply;
	for (size_t i = 0; i < list->n_volumes; i++)
		json_array_append_new(items, volume_json(list->volumes[i]));
	rpc_message_free(reply);
	return cli_print_items(cli, columns_volume, items);
}

int verb_volume_show(struct cli *cli)
{
	ProtobufCMessage *reply;
	struct err err = {0};

	if (call_by_name(cli, "VolumeGet", &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	return volume_print(cli, reply);
}

int verb_volume_resize(struct cli *cli)
{
	Holdfast__V1__VolumeResizeRequest request = HOLDFAST__V1__VOLUME_RESIZE_REQUEST__INIT;
	ProtobufCMessage *reply;
	struct err err = {0};

	request.name = (char *)cli->arguments[0];
	if (name_argument(cli, &err) < 0 ||
	    cli_size(cli, "size", 0, &request.size_bytes, &err) < 0 ||
	    (!cli_value(cli, "size") && err_set(&err, -EINVAL, "--size is missing")) ||
	    volume_size_check(request.size_bytes, &err) < 0)
		return cli_fail_err(&err, NULL);
	if (cli_call(cli, "VolumeResize", &request.base, &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	return volume_print(cli, reply);
}

int verb_volume_delete(struct cli *cli)
{
	ProtobufCMessage *reply;
	struct err err = {0};
	char what[160];

	if (name_argument(cli, &err) < 0)
		return cli_fail_err(&err, NULL);
	snprintf(what, sizeof(what), "delete the volume '%s' and its data", cli->arguments[0]);
	if (!cli_confirmed(cli, what))
		return CLI_USAGE;
	if (call_by_name(cli, "VolumeDelete", &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	rpc_message_free(reply);
	return CLI_OK;
}

int verb_volume_unexport(struct cli *cli)
{
	Holdfast__V1__VolumeUnexportRequest request = HOLDFAST__V1__VOLUME_UNEXPORT_REQUEST__INIT;
	ProtobufCMessage *reply;
	struct err err = {0};
	char what[192];

	if (name_argument(cli, &err) < 0)
		return cli_fail_err(&err, NULL);
	snprintf(what, sizeof(what),
		 "take the volume '%s' from its gateway, whose clients lose it even if they still "
		 "write",
		 cli->arguments[0]);
	request.name = (char *)cli->arguments[0];
	request.force = cli_value(cli, "force") != NULL;
	if (request.force && !cli_confirmed(cli, what))
		return CLI_USAGE;
	if (cli_call(cli, "VolumeUnexport", &request.base, &reply, &err) < 0) {
		if (err.code != -EBUSY || request.force)
			return cli_call_failed(cli, &err);
		return cli_fail_err(
			&err,
			"When its gateway is gone for good, --force takes the volume from it.");
	}
	rpc_message_free(reply);
	return CLI_OK;
}

/* Why a volume does not open, as far as the manager knows. */
static void conditions_hint(struct cli *cli)
{
	ProtobufCMessage *reply;
	struct err err = {0};

	if (call_by_name(cli, "VolumeGet", &reply, &err) < 0)
		return; /* the error that brought us here is the one to tell */
	const Holdfast__V1__VolumeInfo *info = (const Holdfast__V1__VolumeInfo *)reply;
	for (size_t i = 0; i < info->n_conditions; i++)
		fprintf(stderr, "holdfast: volume '%s': %s\n", info->name, info->conditions[i]);
	rpc_message_free(reply);
}

int verb_volume_export(struct cli *cli)
{
	Holdfast__V1__VolumeExportRequest request = HOLDFAST__V1__VOLUME_EXPORT_REQUEST__INIT;
	const char *listen = cli_value(cli, "listen");
	const char *gateway = cli_value(cli, "gateway");
	ProtobufCMessage *reply;
	struct err err = {0};

	if (name_argument(cli, &err) < 0)
		return cli_fail_err(&err, NULL);
	request.name = (char *)cli->arguments[0];
	request.listen = (char *)(listen ? listen : "");
	request.gateway = (char *)(gateway ? gateway : "");
	request.read_only = cli_value(cli, "read-only") != NULL;
	if (cli_call(cli, "VolumeExport", &request.base, &reply, &err) < 0) {
		if (err.code == -ETIMEDOUT)
			conditions_hint(cli);
		return cli_call_failed(cli, &err);
	}
	const Holdfast__V1__ExportInfo *info = (void *)reply;
	if (cli->format == CLI_JSON) {
		(void)cli_print_json(export_json(info));
	} else {
		printf("%s\n", info->uri);
		fflush(stdout);
		fprintf(stderr,
			"Try: nbdinfo '%s'\n     qemu-img info '%s'\n"
			"     holdfast --dir %s volume unexport %s   (ends it)\n",
			info->uri, info->uri, cli->dir, cli->arguments[0]);
	}
	rpc_message_free(reply);
	return CLI_OK;
}
