/* SPDX-License-Identifier: Apache-2.0 */
/* The simulation of tests/sim/replication_test.c over the real store and simulated disks. */
#define SIM_REAL_STORE    1
#define SIM_SEEDS_DEFAULT 5
#include "tests/sim/replication_test.c"
