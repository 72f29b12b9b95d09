#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The kill ring: while a client writes with verification, each node in turn gets SIGKILL with entries in
# flight, stays away over checkpoints of the others, and comes back. I/O never errors and never pauses
# noticeably; resync moves what changed and not the volume; then all replicas are equal.
#
#	tests/system/kill_ring_test.sh [LAPS]	2; make check-long does more through KILL_RING_LAPS

cd "$(dirname "$0")/../.." || exit 1
. tests/system/cluster.sh
laps=${1:-${KILL_RING_LAPS:-2}}
volume_bytes=$((128 << 20))
rate=2500		# writes a second
gap_limit_ms=3000	# generous: other work shares the machine; 20 to 200 are usual
writer_pid=

cleanup_more() {
	[[ -n $writer_pid ]] && kill "$writer_pid" 2>/dev/null
}

t_start() { # small rings, so that checkpoints come often
	local node
	for node in n1 n2 n3; do
		mkdir -p "$dir/c/$node" && hf store format "$dir/c/$node/store0.img" --size 512Mi \
			--ring-size 16Mi || return 1
	done
	hf up --nodes 3 --size 512Mi && hf volume create ring --size $volume_bytes --replicas 3 &&
		uri=$(hf volume export ring 2>/dev/null) && [[ -n $uri ]]
}
writer_start() {
	export RING_URI=$uri RING_LOG=$dir/ring.log RING_STOP=$dir/stop RING_RATE=$rate
	NBDSH_LIMIT_S=$((laps * 120 + 60)) nbdsh -c 'exec(open("tests/system/kill_ring_writer.py").read())' \
		>"$dir/writer" 2>&1 &
	writer_pid=$!
	poll 10 test -s "$dir/ring.log"
}
writes_upto() { # TIME_MS: writes completed by then
	awk -v until="$1" '$1 <= until {n = $2} END {print n + 0}' "$dir/ring.log"
}
longest_gap() { # FROM_MS
	awk -v from="$1" '$1 >= from && $3 > max {max = $3} END {printf "%d\n", max}' "$dir/ring.log"
}
checkpoints() { # NODE
	hf store list -o json | jq --arg node "$1" '[.items[] | select(.node == $node).counters.checkpoints] | add'
}
resynced() { # NODE: bytes moved by its last resync
	hf replica list ring -o json | jq --arg node "$1" '.items[] | select(.node == $node).resync_bytes'
}
checkpointed() { # NODE COUNT: it made more checkpoints than that
	(($(checkpoints "$1") > $2))
}

ring_round() { # NODE OTHER
	local node=$1 other=$2 began_ms before_count moved written gap
	kill -0 "$writer_pid" || { cat "$dir/writer"; return 1; }
	poll 30 live ring || { hf replica list ring; return 1; }
	before_count=$(checkpoints "$other")
	began_ms=$(now_ms)
	kill -9 "$(cat "$dir/c/$node/pid")" || return 1
	poll 30 checkpointed "$other" $((before_count + 1)) || { echo "no checkpoints while $node was away"; return 1; }
	hf node start "$node" && poll 60 live ring || { hf replica list ring; return 1; }
	sleep 0.2 # the log's next line
	written=$(((($(writes_upto "$(now_ms)") - $(writes_upto "$began_ms"))) * 4096))
	moved=$(resynced "$node")
	hf replica verify ring || return 1
	gap=$(longest_gap "$began_ms")
	kill -0 "$writer_pid" || { cat "$dir/writer"; return 1; }
	echo "note: $((written >> 10)) KiB written from the kill to the return, $((moved >> 10)) KiB moved," \
		"longest pause $gap ms"
	((moved > 0)) || { echo "resync says that it moved nothing"; return 1; }
	((moved < volume_bytes / 2 && moved < 2 * written + (4 << 20))) ||
		{ echo "resync moved $moved bytes, $written were written"; return 1; }
	((gap < gap_limit_ms)) || { echo "I/O paused for $gap ms"; return 1; }
}
t_end() { # what was acknowledged is there
	touch "$dir/stop"
	wait "$writer_pid" || { cat "$dir/writer"; return 1; }
	writer_pid=
	echo "note: $(cat "$dir/writer")"
	hf replica verify ring
}

check "three nodes with small rings" t_start
check "a client writes and verifies" writer_start
for ((lap = 1; lap <= laps && failed == 0; lap++)); do
	check "lap $lap: n1 killed and back" ring_round n1 n2
	check "lap $lap: n2 killed and back" ring_round n2 n3
	check "lap $lap: n3 killed and back" ring_round n3 n1
done
check "every write is there, all replicas are equal" t_end
cluster_end
