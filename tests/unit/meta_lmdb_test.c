/* SPDX-License-Identifier: Apache-2.0 */
/* The embedded metadata store: the common behaviour, and its directory. */
#define META_SUBJECT meta_lmdb
#include "tests/unit/meta_conform.h"

#include <fcntl.h>
#include <lmdb.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/loop.h"

static char backend_path[64];
static struct meta_lmdb_config backend_config;

static struct meta *backend_open(struct env *env)
{
	struct meta *meta = NULL;
	struct err err = {0};
	if (backend_path[0] == 0) {
		char base[] = "/tmp/hf-meta-XXXXXX";
		CHECK(mkdtemp(base) != NULL);
		snprintf(backend_path, sizeof(backend_path), "%s/meta", base);
	}
	backend_config.path = backend_path;
	CHECK_EQ(meta_lmdb_open(env, &backend_config, &meta, &err), 0);
	return meta;
}

static void backend_free(void)
{
	char path[128];
	static const char *const names[] = {"data.mdb", "lock.mdb"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", backend_path, names[i]);
		(void)unlink(path); /* may never have been made */
	}
	CHECK_EQ(rmdir(backend_path), 0);
	*strrchr(backend_path, '/') = 0;
	CHECK_EQ(rmdir(backend_path), 0);
	backend_path[0] = 0;
}

/* Writes the format key by LMDB itself. */
static void format_set(const char *text)
{
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	MDB_val key = {7, "Cformat"}, value = {strlen(text), (void *)(uintptr_t)text};
	CHECK_EQ(mdb_env_create(&env), 0);
	CHECK_EQ(mdb_env_open(env, backend_path, 0, 0600), 0);
	CHECK_EQ(mdb_txn_begin(env, NULL, 0, &txn), 0);
	CHECK_EQ(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
	CHECK_EQ(mdb_put(txn, dbi, &key, &value, 0), 0);
	CHECK_EQ(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
}

static void data_path(char path[128])
{
	snprintf(path, 128, "%s/data.mdb", backend_path);
}

static void data_read(char *buf, size_t bytes, struct stat *st)
{
	char path[128];
	data_path(path);
	int fd = open(path, O_RDONLY);
	CHECK(fd >= 0);
	CHECK_EQ(fstat(fd, st), 0);
	CHECK(read(fd, buf, bytes) > 0);
	close(fd);
}

TEST(meta_lmdb_dir, is_private_and_holds_only_lmdb_files)
{
	struct fixture f;
	struct stat st;
	setup(&f);
	CHECK_EQ(stat(backend_path, &st), 0);
	CHECK_EQ(st.st_mode & 0777, 0700);
	teardown(&f); /* rmdir would fail on anything else */
}

TEST(meta_lmdb_dir, newer_version_is_refused_by_name_and_unchanged)
{
	struct fixture f;
	static char before[65536], after[65536];
	struct stat st_before, st_after;
	struct err err = {0};
	struct meta *meta = NULL;
	setup(&f);
	put(&f, "/a", "x", 0);
	fixture_close(&f);
	format_set("holdfast-metadata 2");
	data_read(before, sizeof(before), &st_before);
	CHECK_EQ(meta_lmdb_open(&f.fake.env, &backend_config, &meta, &err), -ENOTSUP);
	CHECK(strstr(err_text(&err), backend_path) && strstr(err_text(&err), "version 2"), "%s",
	      err_text(&err));
	data_read(after, sizeof(after), &st_after);
	CHECK(memcmp(before, after, sizeof(before)) == 0);
	CHECK_EQ(st_before.st_size, st_after.st_size);
	CHECK_EQ(st_before.st_mtim.tv_nsec, st_after.st_mtim.tv_nsec);
	format_set("holdfast-metadata 1");
	f.meta = backend_open(&f.fake.env);
	teardown(&f);
}

TEST(meta_lmdb_dir, foreign_data_is_refused)
{
	struct fixture f;
	struct err err = {0};
	struct meta *meta = NULL;
	char path[128];
	setup(&f);
	fixture_close(&f);
	format_set("someone else");
	CHECK_EQ(meta_lmdb_open(&f.fake.env, &backend_config, &meta, &err), -EBADMSG);
	data_path(path);
	int fd = open(path, O_WRONLY | O_TRUNC);
	CHECK(write(fd, "not a database, but long enough to be read as one", 49) == 49);
	close(fd);
	CHECK_EQ(meta_lmdb_open(&f.fake.env, &backend_config, &meta, &err), -EBADMSG);
	CHECK(strstr(err_text(&err), "data.mdb"), "%s", err_text(&err));
	CHECK_EQ(truncate(path, 0), 0); /* as a crash at creation leaves it */
	f.meta = backend_open(&f.fake.env);
	teardown(&f);
}

TEST(meta_lmdb_dir, second_opener_is_refused_and_told_who_has_it)
{
	struct fixture f;
	struct err err = {0};
	struct meta *meta = NULL;
	setup(&f);
	CHECK_EQ(meta_lmdb_open(&f.fake.env, &backend_config, &meta, &err), -EBUSY);
	CHECK(strstr(err_text(&err), "is in use by"), "%s", err_text(&err));
	teardown(&f);
}

TEST(meta_lmdb_dir, map_grows_by_itself_up_to_its_bound)
{
	struct fixture f;
	char key[32];
	backend_config =
		(struct meta_lmdb_config){.map_bytes = 256 << 10, .map_bytes_max = 16 << 20};
	setup(&f);
	char *big = calloc(1, 500000);
	int status = 0, stored = 0;
	for (; stored < 100 && status == 0; stored += status == 0) {
		snprintf(key, sizeof(key), "/big/%03d", stored);
		struct meta_do op = meta_do_put(key, big, 500000, 0);
		status = status_of(&f, &op, 1);
	}
	CHECK_EQ(status, -ENOSPC);
	CHECK(stored > 8, "%d", stored);
	/* full is not broken: small changes, and deletes, go on */
	struct copy c;
	CHECK(get(&f, "/big/000", &c));
	struct meta_do all = {.action = META_DELETE_PREFIX, .key = "/big/"};
	CHECK_EQ(status_of(&f, &all, 1), 0);
	put(&f, "/small", "x", 0);
	free(big);
	teardown(&f);
}

/* A child commits in a loop and is killed; every change it reported must be there. */
TEST(meta_lmdb_dir, what_was_reported_survives_a_kill)
{
	struct fixture f;
	int fds[2];
	char key[32];
	struct copy c;
	setup(&f);
	fixture_close(&f);
	CHECK_EQ(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0) {
		f.meta = backend_open(&f.fake.env);
		for (uint32_t i = 0;; i++) {
			snprintf(key, sizeof(key), "/k/%06u", i);
			put(&f, key, key, 0);
			if (write(fds[1], &i, sizeof(i)) != sizeof(i))
				_exit(1);
		}
	}
	close(fds[1]);
	uint32_t last = 0;
	for (int i = 0; i < 50; i++)
		CHECK_EQ(read(fds[0], &last, sizeof(last)), sizeof(last));
	kill(pid, SIGKILL);
	while (read(fds[0], &last, sizeof(last)) == sizeof(last))
		;
	close(fds[0]);
	waitpid(pid, NULL, 0);
	f.meta = backend_open(&f.fake.env);
	for (uint32_t i = 0; i <= last; i++) {
		snprintf(key, sizeof(key), "/k/%06u", i);
		CHECK(get(&f, key, &c), "%s of %u is missing", key, last);
	}
	teardown(&f);
}

/* The same on the production loop, where done() must come from a turn of it. */
TEST(meta_lmdb_loop, commits_and_closes_on_a_real_loop)
{
	struct loop *loop = NULL;
	struct err err = {0};
	struct meta_do op = meta_do_put("/a", "x", 1, 0);
	struct wait_txn w = {.op = {.success = &op, .success_count = 1, .done = wait_txn_done}};
	struct wait_close c = {.close.done = wait_close_done};
	CHECK(loop_create(LOOP_ENGINE_AUTO, &loop, &err) == 0, "%s", err_text(&err));
	struct meta *meta = backend_open(loop_env(loop));
	uint64_t deadline_ns = env_now_ns(loop_env(loop)) + 10 * SECOND_NS;
	meta_txn(meta, &w.op);
	CHECK(!w.is_done);
	CHECK_EQ(loop_run_until(loop, &w.is_done, deadline_ns), 0);
	CHECK_EQ(w.status, 0);
	CHECK_EQ(w.op.revision, 2);
	meta_close(meta, &c.close);
	CHECK_EQ(loop_run_until(loop, &c.is_done, deadline_ns), 0);
	loop_destroy(loop);
	backend_free();
}
