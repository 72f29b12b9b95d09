/* SPDX-License-Identifier: Apache-2.0 */
/* Properties of placement: deterministic, fair, stable, and over distinct failure domains. */
#include <errno.h>

#include "replication/placement.h"
#include "tests/unit/test.h"

#define STORES  12
#define VOLUMES 4000
#define TIB     (1ull << 40)

struct cluster {
	struct placement_store stores[STORES];
	char nodes[STORES][16];
	uint32_t count;
};

/* One store per node; `zones` of them by turns, 0: no labels. */
static void cluster_make(struct cluster *c, uint32_t count, uint32_t zones)
{
	static const char *const names[] = {"a", "b", "c", "d"};
	*c = (struct cluster){.count = count};
	for (uint32_t i = 0; i < count; i++) {
		snprintf(c->nodes[i], sizeof(c->nodes[i]), "n%u", i);
		c->stores[i] = (struct placement_store){
			.store_uuid = {{(uint8_t)(i + 1), 0x55}},
			.node = c->nodes[i],
			.zone = zones ? names[i % zones] : "",
			.rack = "",
			.host = "",
			.type = "",
			.capacity_bytes = TIB,
		};
	}
}

static struct placement_request request_make(uint32_t volume, uint32_t rf)
{
	struct placement_request r = {.rf = rf};
	memcpy(r.volume_uuid.bytes, &volume, sizeof(volume));
	return r;
}

static void choose(struct cluster *c, uint32_t volume, uint32_t rf, uint32_t *ret)
{
	struct placement_request r = request_make(volume, rf);
	struct err err = {0};
	CHECK(placement_choose(&r, c->stores, c->count, ret, &err) == 0, "%s", err_text(&err));
}

TEST(placement, does_not_depend_on_the_order_of_stores)
{
	struct cluster a, b;
	cluster_make(&a, 9, 3);
	cluster_make(&b, 9, 3);
	for (uint32_t i = 0; i < 9; i++)
		b.stores[i] = a.stores[8 - i];
	for (uint32_t v = 0; v < 500; v++) {
		uint32_t x[3], y[3];
		choose(&a, v, 3, x);
		choose(&b, v, 3, y);
		for (int i = 0; i < 3; i++)
			CHECK_EQ(x[i], 8 - y[i]);
	}
}

/* A change of the function would move data in every cluster: these are for ever. */
TEST(placement, golden_choices)
{
	static const uint32_t want[4][3] = {{0, 5, 8}, {1, 0, 3}, {6, 5, 7}, {7, 0, 5}};
	struct cluster c;
	cluster_make(&c, 9, 0);
	for (uint32_t v = 0; v < 4; v++) {
		uint32_t got[3];
		choose(&c, v, 3, got);
		for (int i = 0; i < 3; i++)
			CHECK(got[i] == want[v][i], "volume %u: %u %u %u", v, got[0], got[1],
			      got[2]);
	}
}

TEST(placement, weights_are_respected)
{
	struct cluster c;
	uint32_t hits[STORES] = {0};
	cluster_make(&c, 6, 0);
	c.stores[0].capacity_bytes = 4 * TIB; /* of 9: 44.4 % of single replicas */
	for (uint32_t v = 0; v < VOLUMES; v++) {
		uint32_t got;
		choose(&c, v, 1, &got);
		hits[got]++;
	}
	CHECK(hits[0] > VOLUMES * 0.41 && hits[0] < VOLUMES * 0.48, "%u", hits[0]);
	for (int i = 1; i < 6; i++)
		CHECK(hits[i] > VOLUMES * 0.09 && hits[i] < VOLUMES * 0.135, "%u", hits[i]);
}

/* How many of the replicas of `before` are not in `after`. */
static uint32_t moved(const uint32_t *before, const uint32_t *after, uint32_t rf)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < rf; i++) {
		bool kept = false;
		for (uint32_t k = 0; k < rf; k++)
			kept |= before[i] == after[k];
		n += !kept;
	}
	return n;
}

TEST(placement, a_new_node_takes_its_fair_share_and_nothing_else_moves)
{
	struct cluster c;
	uint32_t total = 0, elsewhere = 0;
	cluster_make(&c, 10, 0);
	for (uint32_t v = 0; v < VOLUMES; v++) {
		uint32_t before[3], after[3];
		c.count = 9;
		choose(&c, v, 3, before);
		c.count = 10;
		choose(&c, v, 3, after);
		bool took = after[0] == 9 || after[1] == 9 || after[2] == 9;
		total += moved(before, after, 3);
		elsewhere += moved(before, after, 3) - took;
	}
	CHECK_EQ(elsewhere, 0);
	CHECK(total > VOLUMES * 0.27 && total < VOLUMES * 0.33, "%u of %u", total, VOLUMES * 3);
}

TEST(placement, a_lost_node_gives_up_only_what_it_had)
{
	struct cluster c;
	cluster_make(&c, 9, 3);
	uint32_t elsewhere = 0, total = 0;
	for (uint32_t v = 0; v < VOLUMES; v++) {
		uint32_t before[3], after[3];
		c.stores[4].node_is_offline = false;
		choose(&c, v, 3, before);
		c.stores[4].node_is_offline = true;
		choose(&c, v, 3, after);
		bool had = before[0] == 4 || before[1] == 4 || before[2] == 4;
		total += had;
		elsewhere += moved(before, after, 3) - had;
	}
	CHECK(total > VOLUMES * 0.29 && total < VOLUMES * 0.38, "%u", total);
	CHECK_EQ(elsewhere, 0);
}

TEST(placement, zones_then_racks_then_hosts_are_distinct)
{
	struct cluster c;
	static const char *const racks[] = {"r1", "r2"};
	cluster_make(&c, 12, 3);
	for (uint32_t i = 0; i < 12; i++)
		c.stores[i].rack = racks[i / 3 % 2];
	for (uint32_t v = 0; v < 500; v++) {
		uint32_t got[5], per_zone[3] = {0};
		choose(&c, v, 3, got);
		for (int i = 0; i < 3; i++)
			per_zone[got[i] % 3]++;
		CHECK(per_zone[0] == 1 && per_zone[1] == 1 && per_zone[2] == 1);
		choose(&c, v, 5, got);
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < i; k++)
				CHECK(got[i] % 3 != got[k] % 3 ||
					      c.stores[got[i]].rack != c.stores[got[k]].rack,
				      "two of one zone are in different racks");
	}
}

TEST(placement, nodes_of_one_host_never_share_a_shard)
{
	struct cluster c;
	cluster_make(&c, 6, 0);
	for (uint32_t i = 0; i < 6; i++)
		c.stores[i].host = i < 3 ? "h1" : i < 5 ? "h2" : "h3";
	for (uint32_t v = 0; v < 200; v++) {
		uint32_t got[3];
		choose(&c, v, 3, got);
		for (int i = 0; i < 3; i++)
			for (int k = 0; k < i; k++)
				CHECK(c.stores[got[i]].host != c.stores[got[k]].host);
	}
	struct placement_request r = request_make(1, 4);
	struct err err = {0};
	uint32_t got[4];
	CHECK_EQ(placement_choose(&r, c.stores, 6, got, &err), -ENOSPC);
	CHECK(strstr(err_text(&err), "factor 4") && strstr(err_text(&err), "6 nodes in 3 hosts"),
	      "%s", err_text(&err));
}

TEST(placement, excluded_stores_say_why)
{
	struct cluster c;
	char why[128];
	cluster_make(&c, 8, 0);
	struct uuid existing = c.stores[7].store_uuid;
	struct placement_request r = request_make(1, 1);
	r.need_bytes = 1 << 20;
	r.type = "nvme";
	r.existing = &existing;
	r.existing_count = 1;
	for (uint32_t i = 0; i < 8; i++)
		c.stores[i].type = i == 5 ? "hdd" : "nvme";
	c.stores[0].node_is_offline = true;
	c.stores[1].node_is_cordoned = true;
	c.stores[2].is_failed = true;
	c.stores[3].is_draining = true;
	c.stores[4].used_bytes = TIB - 4096;
	uint32_t got;
	CHECK_EQ(placement_choose(&r, c.stores, 8, &got, NULL), 0);
	CHECK_EQ(got, 6);
	static const char *const want[] = {
		"node n0 is offline",
		"node n1 is cordoned",
		"the store has failed",
		"the store is being drained",
		"4096 bytes are free, 1048576 are needed",
		"the store's type is 'hdd', wanted is 'nvme'",
		"chosen",
		"holds a replica already",
	};
	for (int i = 0; i < 8; i++)
		CHECK_STR(placement_why(&r, &c.stores[i], why, sizeof(why)), want[i]);
	r.rf = 2;
	struct err err = {0};
	uint32_t two[2];
	CHECK_EQ(placement_choose(&r, c.stores, 8, two, &err), -ENOSPC);
	CHECK(strstr(err_text(&err), "1 on cordoned nodes"), "%s", err_text(&err));
	CHECK(strstr(err_text(&err), "7 of 8 stores have the type 'nvme'"), "%s", err_text(&err));
}

TEST(placement, factor_out_of_range_or_no_stores_is_refused)
{
	uint32_t got[1];
	struct placement_request r = request_make(1, 0);
	CHECK_EQ(placement_choose(&r, NULL, 0, got, NULL), -EINVAL);
	r.rf = PLACEMENT_REPLICAS_MAX + 1;
	CHECK_EQ(placement_choose(&r, NULL, 0, got, NULL), -EINVAL);
	r.rf = 1;
	CHECK_EQ(placement_choose(&r, NULL, 0, got, NULL), -ENOSPC);
}
