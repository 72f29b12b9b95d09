/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of verbs.
 *
 * V1  Each row says everything about a verb that help, parser and shell need; nothing about a verb
 *     is spelled anywhere else.
 * V2  An option stands only where it does something.
 */
#include "cli/cli.h"

#define OPTION_YES                                                               \
	{                                                                        \
		"yes", 'y', CLI_FLAG, NULL,                                      \
			"do it; without it this verb only says what it would do" \
	}
#define OPTION_END \
	{          \
		0  \
	}

static const struct cli_option options_up[] = {
	{"nodes", 0, CLI_TEXT, "COUNT", "storage nodes, 1 to 9 (default: 3, or what is there)"},
	{"size", 0, CLI_TEXT, "SIZE", "of each node's store (default: 4Gi, or what is there)"},
	OPTION_END,
};
static const struct cli_option options_create[] = {
	{"size", 0, CLI_TEXT, "SIZE", "of the volume: 1Gi, 512Mi, or bytes"},
	{"replicas", 0, CLI_TEXT, "COUNT", "replicas, 1 to 5 (default: of the class, or 3)"},
	{"param", 0, CLI_TEXTS, "KEY=VALUE", "a class parameter; may be repeated"},
	OPTION_END,
};
static const struct cli_option options_resize[] = {
	{"size", 0, CLI_TEXT, "SIZE", "the new size; volumes only grow"},
	OPTION_END,
};
static const struct cli_option options_export[] = {
	{"listen", 0, CLI_TEXT, "ADDRESS",
	 "one more address: tcp:127.0.0.1:PORT or unix:/PATH (default: the gateway's socket)"},
	{"gateway", 0, CLI_TEXT, "NAME", "that serves it (default: any that is online)"},
	{"read-only", 0, CLI_FLAG, NULL, "refuse writes"},
	OPTION_END,
};
static const struct cli_option options_unexport[] = {
	{"force", 0, CLI_FLAG, NULL, "also when its gateway does not answer; with --yes"},
	OPTION_YES,
	OPTION_END,
};
static const struct cli_option options_yes[] = {OPTION_YES, OPTION_END};
static const struct cli_option options_repair[] = {
	{"node", 0, CLI_TEXT, "NAME", "only what is bad on this node"},
	OPTION_END,
};
static const struct cli_option options_format[] = {
	{"size", 0, CLI_TEXT, "SIZE", "of the file to make; a device is used as it is"},
	{"ring-size", 0, CLI_TEXT, "SIZE", "of the log ring (default: a sixteenth, 16Mi to 1Gi)"},
	{"force", 0, CLI_FLAG, NULL, "overwrite what is there; with --yes"},
	OPTION_YES,
	OPTION_END,
};
static const struct cli_option options_check[] = {
	{"deep", 0, CLI_FLAG, NULL, "read and check all data, too"},
	OPTION_END,
};
static const struct cli_option options_config[] = {
	{"role", 0, CLI_TEXT, "ROLE", "manager, node or gateway (default: good for any of them)"},
	OPTION_END,
};
static const struct cli_option options_events[] = {
	{"since", 0, CLI_TEXT, "SEQ", "only events after this number"},
	{"limit", 0, CLI_TEXT, "COUNT", "at most so many (default: 1000)"},
	OPTION_END,
};

const struct cli_verb cli_verbs[] = {
	{"up", "", "start a local cluster, or what is missing of it",
	 "One manager, nodes with a store each, and a gateway, as background processes with their\n"
	 "state, logs and pid files below --dir. Returns when all are ready. Repeating is "
	 "harmless. Options of all of them, such as io-engine, cpus or cpu-latency, are taken "
	 "from\n"
	 "daemons.yaml in --dir, if it is there, whenever one starts.",
	 options_up, 0, 0, verb_up},
	{"down", "", "stop the local cluster; nothing is lost", NULL, NULL, 0, 0, verb_down},
	{"status", "", "processes, nodes, volumes and exports", NULL, NULL, 0, 0, verb_status},
	{"doctor", "", "check this machine and the local cluster, and say what to do",
	 "Exits 0 when nothing is bad (warnings are not).", NULL, 0, 0, verb_doctor},
	{"node list", "", "storage nodes", NULL, NULL, 0, 0, verb_node_list},
	{"node show", "NAME", "one node and its stores", NULL, NULL, 1, 1, verb_node_show},
	{"node start", "NAME", "start a local node that was stopped or killed", NULL, NULL, 1, 1,
	 verb_node_start},
	{"node stop", "NAME", "stop a local node; its volumes go on without it", NULL, NULL, 1, 1,
	 verb_node_stop},
	{"volume create", "NAME", "create a replicated volume", NULL, options_create, 1, 1,
	 verb_volume_create},
	{"volume list", "", "volumes", NULL, NULL, 0, 0, verb_volume_list},
	{"volume show", "NAME", "one volume", NULL, NULL, 1, 1, verb_volume_show},
	{"volume resize", "NAME", "grow a volume, also while it is in use", NULL, options_resize, 1,
	 1, verb_volume_resize},
	{"volume delete", "NAME", "delete a volume and its data",
	 "Refused while the volume is exported.", options_yes, 1, 1, verb_volume_delete},
	{"volume export", "NAME", "serve a volume over NBD",
	 "Prints the NBD URI alone on standard output; the same one when repeated.", options_export,
	 1, 1, verb_volume_export},
	{"volume unexport", "NAME", "end a volume's export; clients are disconnected",
	 "With --force the volume is free even when its gateway cannot be reached, so that another "
	 "one\n"
	 "can export it. Should the old gateway still run, its clients may write until the next "
	 "export\n"
	 "or delete of the volume; from then on the replicas refuse it, and its clients get "
	 "errors.\n"
	 "Nothing that was acknowledged is lost.",
	 options_unexport, 1, 1, verb_volume_unexport},
	{"replica list", "VOLUME", "where a volume's replicas are and how far", NULL, NULL, 1, 1,
	 verb_replica_list},
	{"replica repair", "VOLUME", "read all replicas and rewrite what is bad from a good copy",
	 "Waits for replicas that catch up. Names each bad copy and what became of it; exits 0 "
	 "exactly\n"
	 "when all replicas are equal at the end. Ctrl-C ends it; what is rewritten stays so.",
	 options_repair, 1, 1, verb_replica_repair},
	{"replica verify", "VOLUME", "compare the contents of all replicas",
	 "Names volume, node and offset of each difference; exits 0 exactly when all are equal.",
	 NULL, 1, 1, verb_replica_verify},
	{"store format", "PATH", "make an empty store in a file or on a device",
	 "Refused when something else is there, unless --force.", options_format, 1, 1,
	 verb_store_format},
	{"store check", "PATH", "look for damage in a store that no daemon has open",
	 "Reads only. Names each finding; exits 0 exactly when there is none.", options_check, 1, 1,
	 verb_store_check},
	{"store dump", "PATH", "print what a store that no daemon has open holds, as text",
	 "Reads only: superblock, roots, volumes, uncommitted tail, ring records.", NULL, 1, 1,
	 verb_store_dump},
	{"store accept-loss", "PATH VOL", "give up what rot took from the last copy",
	 "On a store that no daemon has open. VOL is a uuid, or a name when the manager "
	 "answers.\n"
	 "Names what may be missing and does nothing more without --yes. Repeating is harmless.",
	 options_yes, 2, 2, verb_store_accept_loss},
	{"store list", "", "stores of all nodes", NULL, NULL, 0, 0, verb_store_list},
	{"events", "", "what happened, oldest first", NULL, options_events, 0, 0, verb_events},
	{"config check", "FILE", "check a daemon's configuration file", NULL, options_config, 1, 1,
	 verb_config_check},
	{0},
};
