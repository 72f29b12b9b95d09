/* SPDX-License-Identifier: Apache-2.0 */
/*
 * StorageClass parameters: one table of every key, with what this version does about it.
 *
 * P1  A parameter that is accepted has its effect. A key whose feature is not built is refused by
 *     name, except with the value that turns the feature off.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "volmgr/records.h"

struct class_key {
	const char *key;
	const char *allowed; /* for sentences */
	/* 0, or -EINVAL when the value is not allowed. NULL: only `off` is supported. */
	int (*parse)(const char *value, struct class_settings *settings);
	const char *off; /* the value that asks for nothing, or NULL */
};

int duration_parse(const char *text, uint64_t *ret_ms)
{
	static const struct {
		const char *unit;
		uint64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
	uint64_t number = 0;
	size_t digits = 0;
	for (; text[digits] >= '0' && text[digits] <= '9' && digits < 10; digits++)
		number = number * 10 + (uint64_t)(text[digits] - '0');
	if (digits == 0 || digits == 10)
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (strcmp(text + digits, units[i].unit) == 0) {
			*ret_ms = number * units[i].ms;
			return 0;
		}
	}
	return -EINVAL;
}

bool label_is_valid(const char *value)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
	size_t bytes = strlen(value);
	return bytes > 0 && bytes < LABEL_BYTES && strspn(value, allowed) == bytes;
}

static int parse_type(const char *value, struct class_settings *settings)
{
	if (!label_is_valid(value))
		return -EINVAL;
	snprintf(settings->type, sizeof(settings->type), "%s", value);
	return 0;
}

static int parse_rf(const char *value, struct class_settings *settings)
{
	if (value[0] < '1' || value[0] > '0' + VOLUME_RF_MAX || value[1] != 0)
		return -EINVAL;
	settings->rf = (uint32_t)(value[0] - '0');
	return 0;
}

static int parse_on_no_quorum(const char *value, struct class_settings *settings)
{
	settings->fail_on_no_quorum = strcmp(value, "fail") == 0;
	return settings->fail_on_no_quorum || strcmp(value, "hold") == 0 ? 0 : -EINVAL;
}

static int parse_no_quorum_timeout(const char *value, struct class_settings *settings)
{
	uint64_t ms = 0;
	if (duration_parse(value, &ms) < 0 || ms < 100 || ms > 24ull * 3600 * 1000)
		return -EINVAL;
	settings->no_quorum_timeout_ms = ms;
	return 0;
}

static const struct class_key class_keys[] = {
	{"type", "1 to 63 of letters, digits, '-', '_' and '.'", parse_type, NULL},
	{"replicationFactor", "1 to 5", parse_rf, NULL},
	{"readLease", "on", NULL, "on"},
	{"onNoQuorum", "hold or fail", parse_on_no_quorum, NULL},
	{"noQuorumTimeout", "100ms to 24h, such as 500ms, 60s, 5m", parse_no_quorum_timeout, NULL},
	{"replicationMode", "synchronous", NULL, "synchronous"},
	{"consistencyLevel", "strong", NULL, "strong"},
	{"checksumAlgorithm", "crc32c", NULL, "crc32c"},
	{"encryption", "none", NULL, "none"},
	{"deduplication", "false", NULL, "false"},
	{"compression", "none", NULL, "none"},
	{"qosClass", "besteffort", NULL, "besteffort"},
	{"iops", NULL, NULL, NULL},
	{"throughput", NULL, NULL, NULL},
	{"minIOPS", NULL, NULL, NULL},
	{"maxIOPS", NULL, NULL, NULL},
	{"burstDuration", NULL, NULL, NULL},
	{"snapshotSchedule", NULL, NULL, NULL},
	{"snapshotRetainCount", NULL, NULL, NULL},
	{"snapshotRetainAge", NULL, NULL, NULL},
	{"snapshotTimeZone", NULL, NULL, NULL},
};

static int unknown_key(const struct record_param *param, struct err *err)
{
	char known[320];
	size_t at = 0;
	for (size_t i = 0; i < ARRAY_LEN(class_keys) && at < sizeof(known); i++)
		at += (size_t)snprintf(known + at, sizeof(known) - at, "%s%s", i ? ", " : "",
				       class_keys[i].key);
	return err_set(err, -EINVAL, "class parameter '%s' (value '%s') is unknown; known are %s",
		       param->key, param->value, known);
}

static int param_parse(const struct record_param *param, struct class_settings *settings,
		       struct err *err)
{
	const struct class_key *key = NULL;
	for (size_t i = 0; i < ARRAY_LEN(class_keys); i++)
		if (strcmp(class_keys[i].key, param->key) == 0)
			key = &class_keys[i];
	if (key == NULL)
		return unknown_key(param, err);
	if (key->parse && key->parse(param->value, settings) == 0)
		return 0;
	if (key->off && strcmp(key->off, param->value) == 0)
		return 0;
	if (key->parse)
		return err_set(err, -EINVAL, "class parameter '%s' has the value '%s'; allowed: %s",
			       key->key, param->value, key->allowed);
	if (key->off)
		return err_set(err, -EINVAL,
			       "class parameter '%s' with the value '%s' is not supported by this "
			       "version; allowed: %s",
			       key->key, param->value, key->allowed);
	return err_set(err, -EINVAL,
		       "class parameter '%s' (value '%s') is not supported by this version; leave "
		       "it out",
		       key->key, param->value);
}

int class_params_parse(const struct record_param *params, uint32_t param_count,
		       struct class_settings *ret, struct err *err)
{
	struct class_settings settings = {.rf = 3};
	bool has_timeout = false;
	if (param_count > VOLUME_PARAMS_MAX)
		return err_set(err, -EINVAL, "%u class parameters, at most %d are allowed",
			       param_count, VOLUME_PARAMS_MAX);
	for (uint32_t i = 0; i < param_count; i++) {
		for (uint32_t k = 0; k < i; k++)
			if (strcmp(params[i].key, params[k].key) == 0)
				return err_set(
					err, -EINVAL,
					"class parameter '%s' is given twice ('%s' and '%s')",
					params[i].key, params[k].value, params[i].value);
		int rc = param_parse(&params[i], &settings, err);
		if (rc < 0)
			return rc;
		has_timeout |= strcmp(params[i].key, "noQuorumTimeout") == 0;
	}
	if (has_timeout && !settings.fail_on_no_quorum)
		return err_set(err, -EINVAL,
			       "class parameter 'noQuorumTimeout' needs 'onNoQuorum' to be 'fail'");
	if (settings.fail_on_no_quorum && !has_timeout)
		settings.no_quorum_timeout_ms = 60000;
	*ret = settings;
	return 0;
}
