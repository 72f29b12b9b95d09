/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to a manager or another daemon; one client is kept for the address used last. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/local.h"
#include "volmgr/holdfast.pb-c.h"

const char *cli_manager(struct cli *cli)
{
	if (!cli->manager && !cli->client_address[0])
		local_admin_address(cli, LOCAL_MANAGER, cli->client_address);
	return cli->manager ? cli->manager : cli->client_address;
}

int cli_client(struct cli *cli, const char *address, struct err *err)
{
	struct rpc_client_config config = {.address = address};

	rpc_client_destroy(cli->client);
	cli->client = NULL;
	return rpc_client_create(&config, &cli->client, err);
}

int cli_call_at(struct cli *cli, const char *address, const ProtobufCServiceDescriptor *service,
		const char *method, const ProtobufCMessage *message, ProtobufCMessage **ret,
		struct err *err)
{
	struct rpc_request request = {
		.service = service,
		.method = method,
		.message = message,
		.timeout_ms = cli->timeout_ms,
	};
	int rc = cli_client(cli, address, err);

	if (rc < 0)
		return rc;
	return rpc_client_call(cli->client, &request, ret, err);
}

int cli_call(struct cli *cli, const char *method, const ProtobufCMessage *message,
	     ProtobufCMessage **ret, struct err *err)
{
	return cli_call_at(cli, cli_manager(cli), &holdfast__v1__manager__descriptor, method,
			   message, ret, err);
}

int cli_call_failed(struct cli *cli, const struct err *err)
{
	char next[400] = "";

	if (err->code == -ENOTCONN && cli->manager)
		snprintf(next, sizeof(next), "Is a manager running at %s?", cli->manager);
	else if (err->code == -ENOTCONN)
		snprintf(next, sizeof(next),
			 "No manager answers in %s: start it with 'holdfast --dir %s up', or ask "
			 "'holdfast --dir %s doctor'.",
			 cli->dir, cli->dir, cli->dir);
	else if (err->code == -ETIMEDOUT)
		snprintf(next, sizeof(next),
			 "It may still have been done: look with 'holdfast --dir %s status'.",
			 cli->dir);
	return cli_fail_err(err, next);
}
