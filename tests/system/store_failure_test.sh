#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A device that refuses writes for a while, under one of three nodes: I/O goes on, status says which store failed and
# why, and the node opens it again by itself. The device is a file served by nbdkit's error filter through
# nbdfuse. Ends with `N passed, N failed`; 77 without these tools.

cd "$(dirname "$0")/../.." || exit 1
[[ -w /dev/fuse ]] && command -v nbdfuse fio fusermount3 >/dev/null &&
	nbdkit --filter=error null --dump-plugin >/dev/null 2>&1 ||
	{ echo "needs /dev/fuse, nbdkit, nbdfuse, fusermount3 and fio"; exit 77; }
. tests/system/cluster.sh
image=$dir/c/n1/store0.img
kit= fuse= fio_pid=

cleanup_more() {
	[[ -n $fio_pid ]] && kill "$fio_pid" 2>/dev/null
	rm -f "$dir/refuse"
}
cleanup_last() {
	[[ -n $fuse ]] && { fusermount3 -u "$image" 2>/dev/null || umount "$image"; wait "$fuse"; }
	[[ -n $kit ]] && kill "$kit" 2>/dev/null
}

# The store of n1 moves to a device that obeys: while $dir/refuse exists, every write is EIO.
t_device() {
	hf up --nodes 3 --size 256Mi && hf volume create demo --size 64Mi --replicas 3 && hf node stop n1 &&
		mv "$image" "$dir/backing" && : >"$image" || return 1
	nbdkit -f -U "$dir/kit" --filter=error file "$dir/backing" error-pwrite=EIO \
		error-pwrite-rate=100% error-pwrite-file="$dir/refuse" >"$dir/kit.log" 2>&1 &
	kit=$!
	poll 10 test -S "$dir/kit" || return 1
	nbdfuse "$image" --unix "$dir/kit" >"$dir/fuse.log" 2>&1 &
	fuse=$!
	poll 10 test -s "$image" && hf node start n1 && poll 20 all_live
}
all_live() {
	[[ -n $(hf volume export demo 2>/dev/null) ]] && hf replica list demo -o json |
		jq -e '[.items[] | select(.state == "primary" or .state == "secondary")] | length == 3'
}
store_is() { # STATE REASON
	hf store list -o json | jq -e --arg state "$1" --arg reason "$2" \
		'.items[] | select(.node == "n1") | .state == $state and (.reason | test($reason))'
}
t_io_under_way() {
	local uri
	uri=$(hf volume export demo) || return 1
	fio --name=v --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --iodepth=4 --size=32m --time_based \
		--runtime=20 --verify=crc32c --verify_backlog=64 --rate_iops=400 >"$dir/fio" 2>&1 &
	fio_pid=$!
	poll 10 entries_above 100
}
entries_above() {
	hf replica list demo -o json | jq -e --argjson seq "$1" '[.items[].seq] | max > $seq'
}
warned() {
	hf status -o json | jq -e '.warnings | any(test("n1.*store.*failed.*opened again|n1.*now"))'
}
t_fails_and_says_so() {
	: >"$dir/refuse"
	poll 20 store_is failed 'EIO|cannot|disk' && poll 10 warned && [[ -d /proc/$fio_pid ]]
}
t_comes_back() {
	local pid
	pid=$(cat "$dir/c/n1/pid") && rm "$dir/refuse" && poll 40 store_is ok '^$' && poll 30 all_live &&
		[[ $(cat "$dir/c/n1/pid") == "$pid" ]] &&
		hf events -o json | jq -e '[.items[] | .kind] | (index("StoreFailed") != null) and (index("StoreBack") != null)'
}
t_nothing_lost() {
	wait "$fio_pid"
	local rc=$?
	fio_pid=
	[[ $rc == 0 ]] || { tail -n 20 "$dir/fio"; return 1; }
	hf replica verify demo
}

check store_is_on_a_device_that_obeys t_device
check io_is_under_way t_io_under_way
check the_store_fails_io_goes_on_status_says_why t_fails_and_says_so
check the_node_opens_it_again_by_itself t_comes_back
check nothing_acknowledged_is_lost t_nothing_lost
cluster_end
