#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Two gateways and what takes a volume from one of them: a gateway that the manager cannot reach and
# that goes on writing, one that stands still and wakes up later, one that is dead for good. Ends with
# `N passed, N failed`.

cd "$(dirname "$0")/../.." || exit 1
. tests/system/cluster.sh
hf_dir=$dir
declare -A pids

cleanup_more() {
	local pid
	for pid in "${pids[@]}"; do
		kill -CONT "$pid" 2>/dev/null
		kill -9 "$pid" 2>/dev/null
	done
	wait 2>/dev/null
}

start() { # NAME ROLE FLAGS...
	local name=$1
	shift
	"$bin/holdfastd" "$@" --dir "$dir" --name "$name" 2>>"$dir/$name.log" &
	pids[$name]=$!
}
stop() { # NAME: at once
	kill -9 "${pids[$1]}" && wait "${pids[$1]}" 2>/dev/null
	unset "pids[$1]"
}
step() { # NAME COMMAND...: each needs the one before it
	check "$@"
	((failed == 0)) && return
	tail -n 5 "$dir"/{manager,g1,g2}.log
	cluster_end
	exit 1
}
gateway_is() { # NAME STATE
	hf status -o json | jq -e --arg n "$1" --arg s "$2" 'any(.processes[]; .name == $n and .state == $s)'
}
volume_is() { # NAME STATE
	[[ $(hf volume show "$1" -o json | jq -r .state) == "$2" ]]
}
nodes_online() {
	hf node list -o json | jq -e --argjson n "$1" '[.items[] | select(.state == "online")] | length == $n'
}
# Numbers into block 0, one after the other, until a write fails; each that was acknowledged goes to FILE.
writer() { # URI FILE
	nbdsh -u "$1" -c '
import sys
n = 0
with open("'"$2"'", "w") as log:
    while True:
        n += 1
        h.pwrite(n.to_bytes(8, "little") * 512, 0)
        log.write("%d\n" % n)
        log.flush()
' >/dev/null 2>&1
}
writes_go_on() { # FILE
	local before
	before=$(wc -l <"$1")
	poll 5 eval "[ \$(wc -l <$1) -gt $before ]"
}
# Every acknowledged number is there, and at most the one that was under way when the gateway lost it.
holds_what_was_acknowledged() { # URI FILE
	local last
	last=$(tail -n 1 "$2")
	nbdsh -u "$1" -c "
b = h.pread(4096, 0)
n = int.from_bytes(b[:8], 'little')
assert b == b[:8] * 512 and n in ($last, $last + 1), 'holds %d, acknowledged $last' % n"
}

t_start() {
	local n
	start manager manager
	for n in n1 n2 n3; do
		mkdir -p "$dir/$n"
		"$bin/holdfast" store format "$dir/$n/store.img" --size 256Mi || return 1
		start $n node --store "$dir/$n/store.img"
	done
	poll 10 test -S "$dir/manager/admin.sock" || return 1
	ln -s "$dir/manager/admin.sock" "$dir/way" # removed, it parts g1 from the manager
	start g1 gateway --manager "unix:$dir/way"
	start g2 gateway
	poll 10 nodes_online 3 && poll 10 gateway_is g1 running && poll 10 gateway_is g2 running &&
		hf volume create v --size 64Mi
}
t_choose() { # the gateway that is asked for, or a refusal
	local uri
	exits 3 hf volume export v --gateway g9 || return 1
	uri=$(hf volume export v --gateway g2 2>/dev/null) && [[ $uri == *"/g2/nbd.sock" ]] &&
		exits 4 hf volume export v --gateway g1 && hf volume unexport v &&
		hf volume unexport v && exits 3 hf volume unexport none
}
t_parted() { # g1 lives, writes, and hears nothing
	local uri writer
	uri=$(hf volume export v --gateway g1 2>/dev/null) || return 1
	writer "$uri" "$dir/acked" &
	writer=$!
	poll 5 test -s "$dir/acked" && rm "$dir/way" && stop manager || return 1
	start manager manager
	poll 10 nodes_online 3 && poll 10 gateway_is g2 running || return 1
	# stuck without force
	exits 4 hf volume unexport v && volume_is v releasing && exits 4 hf volume delete v --yes || return 1
	exits 2 hf volume unexport v --force && volume_is v releasing || return 1
	hf volume unexport v --force --yes && volume_is v available &&
		hf volume unexport v --force --yes || return 1
	writes_go_on "$dir/acked" || { echo "g1 stopped before it was fenced"; return 1; }
	uri=$(hf volume export v 2>/dev/null) && [[ $uri == *"/g2/nbd.sock" ]] || return 1
	poll 10 eval "! kill -0 $writer" || { echo "g1 still writes"; return 1; }
	wait "$writer" && { echo "the writer saw no error"; return 1; }
	holds_what_was_acknowledged "$uri" "$dir/acked"
}
t_heals() { # g1 hears again: it has nothing, and can have the volume anew
	ln -s "$dir/manager/admin.sock" "$dir/way"
	poll 15 gateway_is g1 running && volume_is v bound || return 1
	nbdinfo --size "nbd+unix:///v?socket=$dir/g1/nbd.sock" && { echo "g1 still serves"; return 1; }
	return 0
}
t_stands_still() { # g2 stops and wakes up when g1 has the volume
	local writer uri
	writer "nbd+unix:///v?socket=$dir/g2/nbd.sock" "$dir/acked" &
	writer=$!
	poll 5 test "$(wc -l <"$dir/acked")" -gt 3 || return 1
	kill -STOP "${pids[g2]}"
	hf volume unexport v --force --yes && uri=$(hf volume export v 2>/dev/null) &&
		[[ $uri == *"/g1/nbd.sock" ]] || return 1
	nbdsh -u "$uri" -c 'h.pwrite(b"1" * 4096, 4096)'
	kill -CONT "${pids[g2]}"
	poll 10 eval "! kill -0 $writer" || { echo "g2 still writes"; return 1; }
	wait "$writer" && { echo "the writer saw no error"; return 1; }
	holds_what_was_acknowledged "$uri" "$dir/acked" &&
		nbdsh -u "$uri" -c 'assert h.pread(4096, 4096) == b"1" * 4096' &&
		poll 10 gateway_is g2 running && hf replica verify v
}
t_dead() { # nobody ever answers: the volume can be freed at once, and deleted
	stop g1
	hf volume unexport v --force --yes && volume_is v available && hf volume delete v --yes &&
		exits 3 hf volume show v &&
		poll 10 eval "hf node list -o json | jq -e 'all(.items[].stores[]; .replica_count == 0)'"
}

step "a manager, three nodes, two gateways" t_start
step "an export goes to the gateway that is asked for" t_choose
step "a gateway without manager is fenced when another takes the volume by force" t_parted
step "it comes back without the volume" t_heals
step "a gateway that stood still cannot write when it wakes up" t_stands_still
step "a volume of a gateway that is dead can be freed and deleted" t_dead
cluster_end
