/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of processors, pinning, and what is read from /sys and /proc, over trees built for it. */
#include "tests/unit/test.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cpu.h"

/* ---- lists ---- */

static const char *formatted(const char *text)
{
	static char buf[128];
	struct cpu_list list;
	struct err err = {0};
	CHECK(cpu_list_parse(text, &list, &err) == 0, "%s", err_text(&err));
	return cpu_list_format(&list, buf, sizeof(buf));
}

TEST(cpu_list, has_what_was_named_and_nothing_else)
{
	struct cpu_list list;
	CHECK_EQ(cpu_list_parse("0-3,8,64-65,1023", &list, NULL), 0);
	CHECK_EQ(list.count, 8);
	for (uint32_t cpu = 0; cpu <= 2 * CPU_NUMBER_MAX; cpu++)
		CHECK_EQ(cpu_list_has(&list, cpu),
			 cpu <= 3 || cpu == 8 || cpu == 64 || cpu == 65 || cpu == 1023);
}

TEST(cpu_list, a_processor_counts_once)
{
	struct cpu_list list;
	CHECK_EQ(cpu_list_parse("2,1-3,2", &list, NULL), 0);
	CHECK_EQ(list.count, 3);
	cpu_list_add(&list, 3);
	CHECK_EQ(list.count, 3);
	cpu_list_add(&list, 5);
	CHECK_EQ(list.count, 4);
	cpu_list_add(&list, CPU_NUMBER_MAX + 1);
	CHECK_EQ(list.count, 4);
}

TEST(cpu_list, is_shown_in_its_short_form)
{
	CHECK_STR(formatted("0"), "0");
	CHECK_STR(formatted("0-3,8"), "0-3,8");
	CHECK_STR(formatted("3,1,2,0"), "0-3");
	CHECK_STR(formatted("7,5-6,9,5"), "5-7,9");
	CHECK_STR(formatted("4-4"), "4");
	CHECK_STR(formatted("0010"), "10");
	CHECK_STR(formatted("62-65"), "62-65");
	CHECK_STR(formatted("0-1023"), "0-1023");
	CHECK_STR(formatted("1022,1023"), "1022-1023");
	struct cpu_list none = {0};
	char buf[8] = "left";
	CHECK_STR(cpu_list_format(&none, buf, sizeof(buf)), "");
}

TEST(cpu_list, what_is_none_is_refused_and_nothing_is_written)
{
	static const char *const bad[] = {"",     "3-1", "1,,2",  "x",      "1024",      "0-", "0,",
					  ",0",   "-1",  "0-1-2", "0-1024", "+1",        " 1", "1 ",
					  "1, 2", "1;2", "0x1",   "00001",  "4294967297"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct cpu_list list = {.count = 77};
		struct err err = {0};
		char want[160];
		CHECK(cpu_list_parse(bad[i], &list, &err) == -EINVAL, "'%s'", bad[i]);
		snprintf(want, sizeof(want),
			 "'%s' is no list of processors, such as 0 or 0-3,8; numbers go up to 1023",
			 bad[i]);
		CHECK_STR(err_text(&err), want);
		CHECK(list.count == 77 && list.bits[0] == 0, "'%s'", bad[i]);
	}
}

TEST(cpu_list, one_that_does_not_fit_is_cut_between_entries)
{
	static const struct {
		size_t bytes;
		const char *text;
	} want[] = {{1, ""},    {2, "0"},   {3, "0"},   {4, "0,2"},
		    {6, "0,2"}, {7, "0,2"}, {9, "0,2"}, {10, "0,2,10-13"}};
	struct cpu_list list;
	CHECK_EQ(cpu_list_parse("0,2,10-13", &list, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		char buf[16];
		memset(buf, '#', sizeof(buf));
		CHECK(cpu_list_format(&list, buf, want[i].bytes) == buf);
		CHECK(strcmp(buf, want[i].text) == 0, "%zu bytes: '%s'", want[i].bytes, buf);
		CHECK_EQ(buf[want[i].bytes], '#');
	}
}

/* ---- pinning ---- */

static void *count_allowed(void *ret)
{
	cpu_set_t set;
	CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
	*(int *)ret = CPU_COUNT(&set);
	return NULL;
}

static uint32_t last_allowed(void)
{
	cpu_set_t set;
	uint32_t last = CPU_SETSIZE;
	CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
	for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &set))
			last = cpu;
	CHECK(last < CPU_SETSIZE);
	return last;
}

TEST(cpu_pin, this_thread_and_later_ones_stay_there)
{
	struct cpu_list list = {0};
	struct err err = {0};
	pthread_t thread;
	int allowed = 0;
	uint32_t cpu = last_allowed();
	cpu_list_add(&list, cpu);
	CHECK(cpu_pin(&list, &err) == 0, "%s", err_text(&err));
	CHECK_EQ(sched_getcpu(), cpu);
	count_allowed(&allowed);
	CHECK_EQ(allowed, 1);
	allowed = 0;
	CHECK_EQ(pthread_create(&thread, NULL, count_allowed, &allowed), 0);
	pthread_join(thread, NULL);
	CHECK_EQ(allowed, 1);
}

TEST(cpu_pin, one_that_is_not_there_is_named_and_changes_nothing)
{
	struct cpu_list list = {0};
	struct err err = {0};
	int before = 0, after = 0;
	if (sysconf(_SC_NPROCESSORS_CONF) > CPU_NUMBER_MAX)
		return; /* every number is one */
	count_allowed(&before);
	cpu_list_add(&list, CPU_NUMBER_MAX);
	CHECK_EQ(cpu_pin(&list, &err), -EINVAL);
	CHECK_STR(err_text(&err), "run on processors 1023: none of them is there and allowed");
	count_allowed(&after);
	CHECK_EQ(after, before);
}

/* ---- the processor of a disk ---- */

#define CONTROLLER "/sys/devices/pci0000:00/0000:00:02.0"
#define DISK       CONTROLLER "/virtio1/block/vda"

/* A root with /sys and /proc, and a file on "its" disk. */
struct tree {
	char root[64];
	char file[80];
	char number[32]; /* of the file's device */
};

static const char *tree_path(const struct tree *t, const char *path)
{
	static char full[512];
	snprintf(full, sizeof(full), "%s%s", t->root, path);
	return full;
}

static void tree_dir(const struct tree *t, const char *path)
{
	char full[512];
	snprintf(full, sizeof(full), "%s", tree_path(t, path));
	for (char *slash = full + strlen(t->root); (slash = strchr(slash + 1, '/'));) {
		*slash = '\0';
		CHECK(mkdir(full, 0700) == 0 || errno == EEXIST, "%s", full);
		*slash = '/';
	}
	CHECK(mkdir(full, 0700) == 0 || errno == EEXIST, "%s", full);
}

static void tree_file(const struct tree *t, const char *path, const char *text)
{
	char dir[512];
	snprintf(dir, sizeof(dir), "%s", path);
	*strrchr(dir, '/') = '\0';
	if (dir[0] != '\0')
		tree_dir(t, dir);
	FILE *file = fopen(tree_path(t, path), "w");
	CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0, "%s", path);
}

/* /sys/dev/block/NUMBER leads to that directory. */
static void tree_device(const struct tree *t, const char *number, const char *dir)
{
	char link[128], to[256];
	tree_dir(t, "/sys/dev/block");
	tree_dir(t, dir);
	snprintf(link, sizeof(link), "/sys/dev/block/%s", number);
	snprintf(to, sizeof(to), "../../..%s", dir);
	unlink(tree_path(t, link));
	CHECK_EQ(symlink(to, tree_path(t, link)), 0);
}

/* One queue behind a virtio controller: interrupt 35 is for its configuration, 36 for the queue, on processor 1. Those
 * of another controller come more often. */
static void tree_open(struct tree *t)
{
	struct stat st;
	memset(t, 0, sizeof(*t));
	snprintf(t->root, sizeof(t->root), "/tmp/holdfast-test-XXXXXX");
	CHECK(mkdtemp(t->root) != NULL);
	snprintf(t->file, sizeof(t->file), "%s/store.img", t->root);
	tree_file(t, "/store.img", "");
	CHECK_EQ(stat(t->file, &st), 0);
	snprintf(t->number, sizeof(t->number), "%u:%u", major(st.st_dev), minor(st.st_dev));
	tree_device(t, t->number, DISK);
	tree_dir(t, DISK "/mq/0");
	tree_file(t, CONTROLLER "/irq", "0\n");
	tree_file(t, CONTROLLER "/msi_irqs/35", "msix\n");
	tree_file(t, CONTROLLER "/msi_irqs/36", "msix\n");
	tree_file(t, "/proc/interrupts",
		  "           CPU0       CPU1       \n"
		  "  3:     900000     900000   IO-APIC   6-edge      other\n"
		  " 35:          2          1 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config\n"
		  " 36:         10       4000 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n"
		  " 41:     900000          0 PCI-MSIX-0000:00:04.0   1-edge      virtio3-rx\n"
		  "NMI:          0          0   Non-maskable interrupts\n");
	tree_file(t, "/proc/irq/35/effective_affinity_list", "0\n");
	tree_file(t, "/proc/irq/36/effective_affinity_list", "1\n");
	tree_file(t, "/proc/irq/41/effective_affinity_list", "0\n");
}

static void tree_close(struct tree *t)
{
	char command[128];
	snprintf(command, sizeof(command), "rm -rf '%s'", t->root);
	CHECK_EQ(system(command), 0);
}

#define TREE_TEST(behaviour)                          \
	static void body_##behaviour(struct tree *t); \
	TEST(cpu_of_disk, behaviour)                  \
	{                                             \
		struct tree t;                        \
		tree_open(&t);                        \
		body_##behaviour(&t);                 \
		tree_close(&t);                       \
	}                                             \
	static void body_##behaviour(struct tree *t)

/* Its processor, or -errno; what is not found leaves *ret_cpu alone. */
static int found(const struct tree *t, const char *path)
{
	uint32_t cpu = 77;
	int rc = cpu_of_disk(t->root, path, &cpu);
	CHECK(rc == 0 || cpu == 77);
	return rc < 0 ? rc : (int)cpu;
}

TREE_TEST(takes_the_interrupt_that_comes_most)
{
	CHECK_EQ(found(t, t->file), 1);
	/* Not the one with the higher number, nor the one that processor 0 sees more of. */
	tree_file(t, "/proc/interrupts",
		  "           CPU0       CPU1       \n"
		  " 35:         10       4000 PCI-MSIX-0000:00:02.0   0-edge      virtio1-req.0\n"
		  " 36:         20          1 PCI-MSIX-0000:00:02.0   1-edge      virtio1-extra\n");
	CHECK_EQ(found(t, t->file), 0);
}

TREE_TEST(of_a_partition_is_that_of_the_disk)
{
	tree_device(t, t->number, DISK "/vda2");
	CHECK_EQ(found(t, t->file), -ENOENT); /* no queues of its own */
	tree_file(t, DISK "/vda2/partition", "2\n");
	CHECK_EQ(found(t, t->file), 1);
}

TREE_TEST(of_a_block_device_is_its_own_and_not_that_of_its_file)
{
	char node[80];
	snprintf(node, sizeof(node), "%s/vdb", t->root);
	if (mknod(node, S_IFBLK | 0600, makedev(231, 17)) < 0 && errno == EPERM)
		return; /* only root may */
	CHECK_EQ(found(t, node), -ENOENT);
	tree_device(t, "231:17", "/sys/devices/pci0000:00/0000:00:04.0/virtio3/block/vdb");
	tree_dir(t, "/sys/devices/pci0000:00/0000:00:04.0/virtio3/block/vdb/mq/0");
	tree_file(t, "/sys/devices/pci0000:00/0000:00:04.0/msi_irqs/41", "msix\n");
	CHECK_EQ(found(t, node), 0);
	CHECK_EQ(found(t, t->file), 1);
}

TREE_TEST(with_several_queues_is_none)
{
	tree_dir(t, DISK "/mq/1");
	CHECK_EQ(found(t, t->file), -ENOENT);
}

TREE_TEST(of_a_device_without_queues_is_none)
{
	tree_device(t, t->number, "/sys/devices/virtual/block/dm-0");
	CHECK_EQ(found(t, t->file), -ENOENT);
	tree_dir(t, "/sys/devices/virtual/block/dm-0/mq/0"); /* a loop device: nothing above it */
	CHECK_EQ(found(t, t->file), -ENOENT);
}

TREE_TEST(without_message_interrupts_is_none)
{
	unlink(tree_path(t, CONTROLLER "/msi_irqs/35"));
	unlink(tree_path(t, CONTROLLER "/msi_irqs/36"));
	CHECK_EQ(found(t, t->file), -ENOENT);
	CHECK_EQ(rmdir(tree_path(t, CONTROLLER "/msi_irqs")), 0);
	CHECK_EQ(found(t, t->file), -ENOENT);
	/* Those of the bridge that the controller is behind are not the disk's. */
	tree_file(t, "/sys/devices/pci0000:00/msi_irqs/41", "msix\n");
	CHECK_EQ(found(t, t->file), -ENOENT);
}

TREE_TEST(whose_interrupts_never_came_is_none)
{
	tree_file(t, "/proc/interrupts",
		  "           CPU0       CPU1       \n"
		  " 35:          0          0 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config\n"
		  " 36:          0          0 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\n");
	CHECK_EQ(found(t, t->file), -ENOENT);
	CHECK_EQ(unlink(tree_path(t, "/proc/interrupts")), 0);
	CHECK_EQ(found(t, t->file), -ENOENT);
}

TREE_TEST(served_by_two_processors_is_none)
{
	static const char *const lists[] = {"0-1\n", "0,1\n", "\n", "", "?\n"};
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		tree_file(t, "/proc/irq/36/effective_affinity_list", lists[i]);
		CHECK(found(t, t->file) == -ENOENT, "'%s'", lists[i]);
	}
	tree_file(t, "/proc/irq/36/effective_affinity_list", "1023\n");
	CHECK_EQ(found(t, t->file), 1023);
	CHECK_EQ(unlink(tree_path(t, "/proc/irq/36/effective_affinity_list")), 0);
	CHECK_EQ(found(t, t->file), -ENOENT);
}

TREE_TEST(that_is_not_there_or_that_the_kernel_does_not_name_is_none)
{
	char link[64];
	CHECK_EQ(found(t, tree_path(t, "/none")), -ENOENT);
	snprintf(link, sizeof(link), "/sys/dev/block/%s", t->number);
	CHECK_EQ(unlink(tree_path(t, link)), 0); /* as with a file system of several devices */
	CHECK_EQ(found(t, t->file), -ENOENT);
}

/* ---- how long a wake-up may take ---- */

TEST(cpu_latency, is_0_where_the_kernel_polls_instead_of_halting)
{
	struct tree t;
	tree_open(&t);
	CHECK_EQ(cpu_awake_latency_us(t.root), 2);
	tree_file(&t, "/sys/devices/system/cpu/cpuidle/current_driver", "intel_idle\n");
	CHECK_EQ(cpu_awake_latency_us(t.root), 2);
	tree_file(&t, "/sys/devices/system/cpu/cpuidle/current_driver", "none\n");
	CHECK_EQ(cpu_awake_latency_us(t.root), 2);
	tree_file(&t, "/sys/devices/system/cpu/cpuidle/current_driver", "haltpoll\n");
	CHECK_EQ(cpu_awake_latency_us(t.root), 0);
	tree_close(&t);
}
