/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration tables: defaults, file, flags, and how each mistake is named. */
#include "tests/unit/test.h"

#include <errno.h>
#include <unistd.h>

#include "base/config.h"

struct demo {
	char *name;
	struct config_strings disks;
	bool is_fast;
	uint64_t depth;
	uint64_t cache_bytes;
	uint64_t lease_ns;
};

static const struct config_option options[] = {
	{"name", CONFIG_STRING, offsetof(struct demo, name), NULL, 0, 8, true, NULL, "its name"},
	{"disk", CONFIG_STRINGS, offsetof(struct demo, disks), NULL, 0, 0, false, "PATH", "a disk"},
	{"fast", CONFIG_BOOL, offsetof(struct demo, is_fast), "true", 0, 0, false, NULL, "be fast"},
	{"depth", CONFIG_UINT, offsetof(struct demo, depth), "64", 1, 128, false, NULL, "queue"},
	{"cache-size", CONFIG_SIZE, offsetof(struct demo, cache_bytes), "64Mi", 4096, 8ull << 30,
	 false, NULL, "memory"},
	{"lease", CONFIG_DURATION, offsetof(struct demo, lease_ns), "1500ms", 1000000, 0, false,
	 NULL, "how long"},
};
static const struct config_table table = {
	.usage = "demo [FLAGS]", .options = options, .option_count = ARRAY_LEN(options)};

static int load_text(const char *text, struct demo *demo, struct err *err)
{
	*err = (struct err){0};
	return config_load_text(&table, "f.yaml", text, demo, err);
}

TEST(config, defaults_hold_where_nothing_is_said)
{
	struct demo demo;
	struct err err;
	CHECK_EQ(load_text("name: n1\n", &demo, &err), 0);
	CHECK_STR(demo.name, "n1");
	CHECK(demo.is_fast && demo.disks.count == 0);
	CHECK_EQ(demo.depth, 64);
	CHECK_EQ(demo.cache_bytes, 64 << 20);
	CHECK_EQ(demo.lease_ns, 1500000000);
	config_free(&table, &demo);
	CHECK(demo.name == NULL);
}

TEST(config, file_values_of_every_type)
{
	struct demo demo;
	struct err err;
	CHECK_EQ(load_text("---\n# note\nname: \"n 2\"\ndisk: [/dev/a, /dev/b]\nfast: no\n"
			   "depth: 7\ncache-size: 1Gi\nlease: 2m\n",
			   &demo, &err),
		 0);
	CHECK_STR(demo.name, "n 2");
	CHECK_EQ(demo.disks.count, 2);
	CHECK_STR(demo.disks.items[1], "/dev/b");
	CHECK(!demo.is_fast);
	CHECK_EQ(demo.depth, 7);
	CHECK_EQ(demo.cache_bytes, 1 << 30);
	CHECK_EQ(demo.lease_ns, 120000000000ll);
	config_free(&table, &demo);
}

TEST(config, mistakes_in_a_file_are_named_with_their_line)
{
	static const char *const bad[][2] = {
		{"name: a\ncache-sise: 1\n",
		 "f.yaml:2: unknown key 'cache-sise'; did you mean 'cache-size'?"},
		{"zzzzzzzz: 1\n", "f.yaml:1: unknown key 'zzzzzzzz'"},
		{"name: a\n\ndepth: 129\n", "f.yaml:3: depth 129 is above the limit of 128"},
		{"depth: 0\n", "f.yaml:1: depth 0 is below the limit of 1"},
		{"depth: x\n", "f.yaml:1: depth 'x' is not a number"},
		{"cache-size: 9Gi\n", "f.yaml:1: cache-size 9Gi is above the limit of 8Gi"},
		{"cache-size: 99999999999999999999\n",
		 "f.yaml:1: cache-size 99999999999999999999 is above the limit of 8Gi"},
		{"cache-size: 1GB\n",
		 "f.yaml:1: cache-size '1GB' is not a number of bytes, alone or "
		 "with Ki, Mi, Gi or Ti"},
		{"lease: 5\n", "f.yaml:1: lease '5' is not a number with ns, us, ms, s, m or h"},
		{"lease: 1us\n", "f.yaml:1: lease 1us is below the limit of 1ms"},
		{"fast: maybe\n", "f.yaml:1: fast 'maybe' is not true or false"},
		{"name: 123456789\n", "f.yaml:1: name has 9 bytes, the limit is 8"},
		{"depth: 1\ndepth: 2\n", "f.yaml:2: depth is given twice"},
		{"depth: 1\n",
		 "name is missing: give --name, or the key 'name' in the config file"},
		{"name: ''\n",
		 "name is missing: give --name, or the key 'name' in the config file"},
		{"name:\n", "f.yaml:1: name has no value"},
		{"name: [a]\n",
		 "f.yaml:1: name takes plain text, not a mapping, a list or an alias"},
		{"- a\n", "f.yaml:1: the file is not a list of 'key: value' lines"},
		{"? [a]\n: b\n", "f.yaml:1: a key is not plain text"},
		{"name: a\n---\nname: b\n", "f.yaml:2: a second document begins"},
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct demo demo;
		struct err err;
		CHECK(load_text(bad[i][0], &demo, &err) < 0, "%s", bad[i][0]);
		CHECK_STR(err_text(&err), bad[i][1]);
		config_free(&table, &demo);
	}
}

TEST(config, broken_yaml_is_refused_with_its_line)
{
	static const char *const bad[] = {
		"name: a\n\tx: y\n", "name: 'a\n",       "a: b: c\n", "\xff\xfe\xfd",
		"name: *a\n",        "%YAML 9.9\n---\n", "]"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct demo demo;
		struct err err;
		CHECK(load_text(bad[i], &demo, &err) < 0, "%s", bad[i]);
		CHECK(strncmp(err_text(&err), "f.yaml:", 7) == 0, "%s", err_text(&err));
		config_free(&table, &demo);
	}
}

static int load_args(struct demo *demo, struct err *err, int argc, char *const argv[])
{
	*err = (struct err){0};
	return config_load(&table, argc, argv, demo, err);
}
#define ARGS(...)                                             \
	(int)ARRAY_LEN(((char *[]){__VA_ARGS__})), (char *[]) \
	{                                                     \
		__VA_ARGS__                                   \
	}

TEST(config, flags_win_over_the_file)
{
	char path[] = "/tmp/holdfast-test-XXXXXX";
	int fd = mkstemp(path);
	const char text[] = "name: file\ndisk: [/a, /b]\ndepth: 9\n";
	CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	struct demo demo;
	struct err err;
	int rc = load_args(
		&demo, &err,
		ARGS("demo", "--name=flag", "--disk", "/c", "--no-fast", "--config", path));
	CHECK(rc == 0, "%s", err_text(&err));
	unlink(path);
	CHECK_STR(demo.name, "flag");
	CHECK_EQ(demo.disks.count, 1);
	CHECK_STR(demo.disks.items[0], "/c");
	CHECK(!demo.is_fast);
	CHECK_EQ(demo.depth, 9);
	config_free(&table, &demo);
}

static void refuse_args(const char *want, int argc, char *const argv[])
{
	struct demo demo;
	struct err err;
	CHECK(load_args(&demo, &err, argc, argv) < 0, "%s", want);
	CHECK_STR(err_text(&err), want);
	config_free(&table, &demo);
}

TEST(config, mistakes_in_flags_are_named)
{
	refuse_args("unknown flag '--nme'; did you mean '--name'?", ARGS("d", "--nme", "x"));
	refuse_args("argument 'x' is not a flag (--name value)", ARGS("d", "x"));
	refuse_args("flag --name needs a value", ARGS("d", "--name"));
	refuse_args("flag --name is given twice", ARGS("d", "--name=a", "--name=b"));
	refuse_args("flag --depth: depth '1k' is not a number", ARGS("d", "--depth=1k"));
	refuse_args("flag --no-fast takes no value", ARGS("d", "--no-fast=1"));
	refuse_args("config file '/none/x': No such file or directory",
		    ARGS("d", "--config=/none/x"));
	refuse_args("name is missing: give --name, or the key 'name' in the config file",
		    ARGS("d"));
}

static int depth_is_even(const void *config, struct err *err)
{
	const struct demo *demo = config;
	return demo->depth % 2 ? err_set(err, -EINVAL, "depth is odd") : 0;
}

TEST(config, a_table_can_look_at_the_whole)
{
	struct config_table checked = table;
	struct demo demo;
	struct err err = {0};
	checked.check = depth_is_even;
	CHECK_EQ(config_load_text(&checked, "f.yaml", "name: n1\ndepth: 8\n", &demo, &err), 0);
	config_free(&checked, &demo);
	CHECK_EQ(config_load_text(&checked, "f.yaml", "name: n1\ndepth: 7\n", &demo, &err),
		 -EINVAL);
	CHECK(strstr(err_text(&err), "odd"));
	config_free(&checked, &demo);
}

TEST(config, help_and_version_are_asked_for)
{
	struct demo demo;
	struct err err;
	CHECK_EQ(load_args(&demo, &err, ARGS("d", "--depth", "1", "--help")), CONFIG_HELP);
	config_free(&table, &demo);
	CHECK_EQ(load_args(&demo, &err, ARGS("d", "--version")), CONFIG_VERSION);
	config_free(&table, &demo);
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);
	config_help(&table, out);
	fclose(out);
	CHECK(strstr(text, "--[no-]fast\n        be fast (default: true)") != NULL);
	CHECK(strstr(text, "--cache-size SIZE\n        memory (default: 64Mi)") != NULL);
	CHECK(strstr(text, "--name TEXT\n        its name (required)") != NULL);
	CHECK(strstr(text, "--disk PATH\n        a disk; may be repeated") != NULL);
	free(text);
}

TEST(config, numbers_parse_and_format_back)
{
	char buf[32];
	uint64_t value = 5;
	CHECK_EQ(config_parse_number(CONFIG_SIZE, "16777216Ti", &value), -ERANGE);
	CHECK_EQ(config_parse_number(CONFIG_SIZE, "", &value), -EINVAL);
	CHECK_EQ(config_parse_number(CONFIG_SIZE, "-1", &value), -EINVAL);
	CHECK_EQ(config_parse_number(CONFIG_UINT, "1Ki", &value), -EINVAL);
	CHECK_EQ(value, 5);
	CHECK_EQ(config_parse_number(CONFIG_DURATION, "0", &value), 0);
	CHECK_EQ(value, 0);
	CHECK_STR(config_format_number(CONFIG_SIZE, 1536, buf), "1536");
	CHECK_STR(config_format_number(CONFIG_SIZE, 3 << 20, buf), "3Mi");
	CHECK_STR(config_format_number(CONFIG_DURATION, 90000000000ull, buf), "90s");
	CHECK_STR(config_format_number(CONFIG_DURATION, 0, buf), "0");
}
