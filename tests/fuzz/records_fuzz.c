/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of the metadata store, and class parameters. The first byte chooses the decoder. What is
 * accepted must encode, and decode again to the same record: encoding is canonical.
 */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "volmgr/records.h"

#define ROUND_TRIP(kind)                                                                   \
	static void try_##kind(const void *text, size_t bytes)                             \
	{                                                                                  \
		static struct kind##_record record, again;                                 \
		char *first = NULL, *second = NULL;                                        \
		struct err err = {0};                                                      \
		if (kind##_record_decode(text, bytes, &record, &err) < 0) {                \
			FUZZ_CHECK(err.text[0] != '\0');                                   \
			return;                                                            \
		}                                                                          \
		FUZZ_CHECK(kind##_record_encode(&record, &first, &err) == 0);              \
		FUZZ_CHECK(kind##_record_decode(first, strlen(first), &again, &err) == 0); \
		FUZZ_CHECK(kind##_record_encode(&again, &second, &err) == 0);              \
		FUZZ_CHECK(strcmp(first, second) == 0);                                    \
		free(first);                                                               \
		free(second);                                                              \
	}

ROUND_TRIP(volume)
ROUND_TRIP(node)
ROUND_TRIP(export)
ROUND_TRIP(event)

/* "key=value" lines, as a StorageClass would bring them. */
static void try_class(const char *text, size_t bytes)
{
	struct record_param params[VOLUME_PARAMS_MAX] = {0};
	uint32_t count = 0;
	const char *end = text + bytes;
	while (text < end && count < VOLUME_PARAMS_MAX) {
		const char *line_end = memchr(text, '\n', (size_t)(end - text));
		line_end = line_end ? line_end : end;
		const char *equals = memchr(text, '=', (size_t)(line_end - text));
		const char *key_end = equals ? equals : line_end;
		const char *value = equals ? equals + 1 : line_end;
		snprintf(params[count].key, sizeof(params[count].key), "%.*s",
			 (int)(key_end - text), text);
		snprintf(params[count].value, sizeof(params[count].value), "%.*s",
			 (int)(line_end - value), value);
		count++;
		text = line_end + 1;
	}
	struct class_settings settings;
	struct err err = {0};
	if (class_params_parse(params, count, &settings, &err) < 0)
		FUZZ_CHECK(err.text[0] != '\0');
	else
		FUZZ_CHECK(settings.rf >= 1 && settings.rf <= VOLUME_RF_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes == 0)
		return 0;
	switch (data[0]) {
	case 'v':
		try_volume(data + 1, bytes - 1);
		break;
	case 'n':
		try_node(data + 1, bytes - 1);
		break;
	case 'x':
		try_export(data + 1, bytes - 1);
		break;
	case 'e':
		try_event(data + 1, bytes - 1);
		break;
	default:
		try_class((const char *)data + 1, bytes - 1);
	}
	return 0;
}
