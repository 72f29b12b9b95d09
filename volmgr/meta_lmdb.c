/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded metadata store: LMDB beneath the common engine.
 *
 * The directory holds LMDB's data.mdb and lock.mdb and nothing else, so LMDB's own tools work on
 * it (mdb_copy makes a backup of a running store). Everything is in the unnamed database: one
 * tree, so a small commit writes few pages and one meta page.
 *
 * B1  One process: an exclusive flock on the directory itself is held while it is open. Nothing
 *     has to be created for that, so a directory that is refused is left as it was.
 * B2  A commit is durable when it returns: LMDB's default mode flushes the data pages before it
 *     writes one of two alternating meta pages, itself synchronously; a crash at any point leaves
 *     the previous meta page. Names in the directory are made durable when it is created.
 * B3  An existing data file is looked at read-only, without a lock file, before it is opened for
 *     writing: a newer version's directory stays byte for byte the same.
 * B4  The map is plain (no MDB_WRITEMAP): a stray store in this process cannot damage the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/log.h"
#include "volmgr/meta_engine.h"

#define MAP_BYTES_DEFAULT     ((size_t)64 << 20)
#define MAP_BYTES_MAX_DEFAULT ((size_t)64 << 30)

struct lmdb_table {
	struct meta_table table;
	MDB_env *env;
	MDB_dbi dbi;
	MDB_txn *txn;
	MDB_cursor *cursor;
	size_t map_bytes;
	size_t map_bytes_max;
	int dir_fd;
};

static struct lmdb_table *lmdb_of(struct meta_table *table)
{
	return CONTAINER_OF(table, struct lmdb_table, table);
}

/* LMDB's codes as -errno. */
static int code_of(int rc)
{
	if (rc == 0)
		return 0;
	if (rc == MDB_NOTFOUND)
		return -ENOENT;
	if (rc == MDB_MAP_FULL)
		return -EXFULL;
	if (rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND || rc == MDB_INVALID ||
	    rc == MDB_VERSION_MISMATCH || rc == MDB_INCOMPATIBLE)
		return -EBADMSG;
	return rc > 0 ? -rc : -EIO;
}

/* ---- the table ---- */

static int lmdb_begin(struct meta_table *table, bool is_write)
{
	struct lmdb_table *t = lmdb_of(table);
	assert(t->txn == NULL);
	int rc = mdb_txn_begin(t->env, NULL, is_write ? 0 : MDB_RDONLY, &t->txn);
	if (rc == 0)
		rc = mdb_cursor_open(t->txn, t->dbi, &t->cursor);
	if (rc != 0 && t->txn) {
		mdb_txn_abort(t->txn);
		t->txn = NULL;
	}
	return code_of(rc);
}

static MDB_val val_of(struct meta_bytes bytes)
{
	return (MDB_val){bytes.bytes, (void *)(uintptr_t)bytes.data};
}

static int lmdb_get(struct meta_table *table, struct meta_bytes key, struct meta_bytes *ret)
{
	struct lmdb_table *t = lmdb_of(table);
	MDB_val k = val_of(key), v;
	int rc = mdb_get(t->txn, t->dbi, &k, &v);
	if (rc == 0)
		*ret = (struct meta_bytes){v.mv_data, v.mv_size};
	return code_of(rc);
}

static int lmdb_put(struct meta_table *table, struct meta_bytes key, struct meta_bytes value)
{
	struct lmdb_table *t = lmdb_of(table);
	MDB_val k = val_of(key), v = val_of(value);
	return code_of(mdb_put(t->txn, t->dbi, &k, &v, 0));
}

static int lmdb_del(struct meta_table *table, struct meta_bytes key)
{
	struct lmdb_table *t = lmdb_of(table);
	MDB_val k = val_of(key);
	return code_of(mdb_del(t->txn, t->dbi, &k, NULL));
}

static int lmdb_seek(struct meta_table *table, struct meta_bytes key, struct meta_bytes *ret_key,
		     struct meta_bytes *ret_value)
{
	struct lmdb_table *t = lmdb_of(table);
	MDB_val k = val_of(key), v;
	int rc = mdb_cursor_get(t->cursor, &k, &v, MDB_SET_RANGE);
	if (rc == 0) {
		*ret_key = (struct meta_bytes){k.mv_data, k.mv_size};
		*ret_value = (struct meta_bytes){v.mv_data, v.mv_size};
	}
	return code_of(rc);
}

static void lmdb_abort(struct meta_table *table)
{
	struct lmdb_table *t = lmdb_of(table);
	mdb_cursor_close(t->cursor);
	mdb_txn_abort(t->txn);
	t->txn = NULL;
}

static int lmdb_commit(struct meta_table *table)
{
	struct lmdb_table *t = lmdb_of(table);
	mdb_cursor_close(t->cursor);
	int rc = mdb_txn_commit(t->txn);
	t->txn = NULL;
	if (rc != ENOSPC && rc != ENOMEM)
		return code_of(rc);
	/* Data pages that do not fit leave the old meta page in force. A meta page that could not
	 * be written makes LMDB refuse every further transaction, and the outcome is unknown. */
	MDB_txn *probe = NULL;
	if (mdb_txn_begin(t->env, NULL, MDB_RDONLY, &probe) != 0)
		return -EIO;
	mdb_txn_abort(probe);
	return -rc;
}

static int lmdb_grow(struct meta_table *table)
{
	struct lmdb_table *t = lmdb_of(table);
	assert(t->txn == NULL);
	if (t->map_bytes >= t->map_bytes_max)
		return -ENOSPC;
	size_t map_bytes = MIN(t->map_bytes * 2, t->map_bytes_max);
	int rc = mdb_env_set_mapsize(t->env, map_bytes);
	if (rc != 0)
		return rc == ENOMEM ? -ENOMEM : -ENOSPC;
	log_event(LOG_INFO, "meta", "map_grown", "from_bytes=%zu to_bytes=%zu", t->map_bytes,
		  map_bytes);
	t->map_bytes = map_bytes;
	return 0;
}

static void lmdb_close(struct meta_table *table)
{
	struct lmdb_table *t = lmdb_of(table);
	if (t->env)
		mdb_env_close(t->env);
	if (t->dir_fd >= 0)
		close(t->dir_fd); /* and the lock with it */
	free(t);
}

static const struct meta_table_ops lmdb_table_ops = {
	.begin = lmdb_begin,
	.get = lmdb_get,
	.put = lmdb_put,
	.del = lmdb_del,
	.seek = lmdb_seek,
	.commit = lmdb_commit,
	.abort = lmdb_abort,
	.grow = lmdb_grow,
	.close = lmdb_close,
};

static const struct meta_ops lmdb_ops = {
	.submit = meta_client_submit,
	.watch_start = meta_client_watch_start,
	.watch_stop = meta_client_watch_stop,
	.close = meta_client_close,
};

/* ---- the directory ---- */

/* Makes a name in the directory above durable. */
static int parent_sync(const char *path)
{
	char parent[PATH_MAX + 4];
	snprintf(parent, sizeof(parent), "%s/..", path);
	int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int rc = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

/* Who holds the flock, from the kernel's table; 0 when it does not say. */
static long lock_holder(int fd)
{
	struct stat st;
	char line[256];
	long holder = 0;
	FILE *f = fopen("/proc/locks", "re");
	if (f == NULL || fstat(fd, &st) < 0)
		goto out;
	while (holder == 0 && fgets(line, sizeof(line), f)) {
		long pid;
		unsigned dev_major, dev_minor;
		unsigned long long inode;
		if (sscanf(line, "%*d: FLOCK %*s %*s %ld %x:%x:%llu", &pid, &dev_major, &dev_minor,
			   &inode) == 4 &&
		    inode == st.st_ino && makedev(dev_major, dev_minor) == st.st_dev)
			holder = pid;
	}
out:
	if (f)
		fclose(f);
	return holder;
}

static int dir_open(struct lmdb_table *t, const char *path, struct err *err)
{
	if (strlen(path) >= PATH_MAX - 16)
		return err_set(err, -ENAMETOOLONG, "the path is longer than %d bytes",
			       PATH_MAX - 17);
	bool made = mkdir(path, 0700) == 0;
	if (!made && errno != EEXIST)
		return err_set(err, -errno, "cannot be made: %s", strerror(errno));
	t->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->dir_fd < 0)
		return err_set(err, -errno, "cannot be opened: %s", strerror(errno));
	if (flock(t->dir_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return err_set(err, -errno, "cannot be locked: %s", strerror(errno));
		long pid = lock_holder(t->dir_fd);
		return pid > 0 ? err_set(err, -EBUSY, "is in use by process %ld", pid)
			       : err_set(err, -EBUSY, "is in use by another process");
	}
	int rc = made ? parent_sync(path) : 0;
	return rc < 0 ? err_set(err, rc, "cannot be made durable: %s", strerror(-rc)) : 0;
}

static int peek_format(MDB_env *env, struct err *err)
{
	MDB_txn *txn = NULL;
	MDB_dbi dbi;
	MDB_val key = {sizeof(meta_format_key), (void *)(uintptr_t)meta_format_key}, value;
	int rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
	if (rc != 0)
		return err_set(err, code_of(rc), "cannot be read: %s", mdb_strerror(rc));
	rc = mdb_dbi_open(txn, NULL, 0, &dbi);
	if (rc == 0)
		rc = mdb_get(txn, dbi, &key, &value);
	int code = code_of(rc);
	if (rc == 0)
		code = meta_format_check(value.mv_data, value.mv_size, err);
	else if (rc == MDB_NOTFOUND)
		code = 0; /* empty, or foreign: the engine tells which */
	else
		err_set(err, code, "cannot be read: %s", mdb_strerror(rc));
	mdb_txn_abort(txn);
	return code;
}

/* Looks at an existing data file without changing anything (B3). */
static int dir_peek(struct lmdb_table *t, const char *path, struct err *err)
{
	struct stat st;
	if (fstatat(t->dir_fd, "data.mdb", &st, 0) < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "data.mdb: %s", strerror(errno));
	if (st.st_size == 0)
		return 0; /* a crash while it was made */
	MDB_env *env = NULL;
	int rc = mdb_env_create(&env);
	if (rc == 0)
		rc = mdb_env_open(env, path, MDB_RDONLY | MDB_NOLOCK, 0600);
	int code = code_of(rc);
	if (rc == 0)
		code = peek_format(env, err);
	else
		err_set(err, code, "data.mdb is not a metadata file: %s", mdb_strerror(rc));
	mdb_env_close(env);
	return code;
}

static int lmdb_env_open(struct lmdb_table *t, const char *path, struct err *err)
{
	int rc = mdb_env_create(&t->env);
	if (rc == 0)
		rc = mdb_env_set_mapsize(t->env, t->map_bytes);
	if (rc == 0)
		rc = mdb_env_open(t->env, path, MDB_NOTLS, 0600);
	if (rc != 0)
		return err_set(err, code_of(rc), "cannot be opened: %s", mdb_strerror(rc));
	MDB_envinfo info;
	mdb_env_info(t->env, &info);
	t->map_bytes = info.me_mapsize; /* a larger store brings its own */
	t->map_bytes_max = MAX(t->map_bytes_max, t->map_bytes);
	MDB_txn *txn = NULL;
	rc = mdb_txn_begin(t->env, NULL, 0, &txn);
	if (rc == 0) {
		rc = mdb_dbi_open(txn, NULL, 0, &t->dbi);
		if (rc == 0)
			rc = mdb_txn_commit(txn);
		else
			mdb_txn_abort(txn);
	}
	if (rc != 0)
		return err_set(err, code_of(rc), "cannot be opened: %s", mdb_strerror(rc));
	if (fsync(t->dir_fd) < 0)
		return err_set(err, -errno, "cannot be made durable: %s", strerror(errno));
	return 0;
}

static int lmdb_table_open(const struct meta_lmdb_config *config, struct lmdb_table **ret,
			   struct err *err)
{
	struct lmdb_table *t = calloc(1, sizeof(*t));
	if (t == NULL)
		return err_set(err, -ENOMEM, "no memory");
	t->table.ops = &lmdb_table_ops;
	t->dir_fd = -1;
	t->map_bytes = config->map_bytes ? config->map_bytes : MAP_BYTES_DEFAULT;
	t->map_bytes_max = config->map_bytes_max ? config->map_bytes_max : MAP_BYTES_MAX_DEFAULT;
	int rc = dir_open(t, config->path, err);
	if (rc == 0)
		rc = dir_peek(t, config->path, err);
	if (rc == 0)
		rc = lmdb_env_open(t, config->path, err);
	if (rc < 0) {
		lmdb_close(&t->table);
		return rc;
	}
	*ret = t;
	return 0;
}

int meta_lmdb_open(struct env *env, const struct meta_lmdb_config *config, struct meta **ret,
		   struct err *err)
{
	struct lmdb_table *table = NULL;
	int rc = lmdb_table_open(config, &table, err);
	if (rc < 0)
		return err_wrap(err, rc, "metadata directory '%s'", config->path);
	struct meta_engine *engine = calloc(1, sizeof(*engine));
	if (engine == NULL) {
		lmdb_close(&table->table);
		return err_set(err, -ENOMEM, "metadata directory '%s': no memory", config->path);
	}
	engine->history_revisions_max = config->history_revisions_max;
	engine->history_bytes_max = config->history_bytes_max;
	rc = meta_engine_open(engine, env, &table->table, err);
	if (rc < 0) {
		lmdb_close(&table->table);
		free(engine);
		return err_wrap(err, rc, "metadata directory '%s'", config->path);
	}
	struct meta_client *client = meta_client_create(env, engine, &lmdb_ops);
	if (client == NULL) {
		meta_engine_close(engine);
		free(engine);
		return err_set(err, -ENOMEM, "metadata directory '%s': no memory", config->path);
	}
	client->owns_engine = true;
	*ret = &client->meta;
	return 0;
}
