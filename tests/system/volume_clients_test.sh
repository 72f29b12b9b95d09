#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The real NBD clients of clients.sh against a replicated volume, and what only a cluster can show: trim
# lowers what the stores use, a flipped payload byte is found, named and repaired.

cd "$(dirname "$0")/../.." || exit 1
. tests/system/cluster.sh
. tests/system/clients.sh

used() { # bytes in use in all stores together
	hf status -o json | jq .used
}
t_start() {
	hf up --nodes 3 --size 2Gi && hf volume create db --size 512Mi --replicas 3 &&
		uri=$(hf volume export db 2>/dev/null) && [[ -n $uri ]]
}

used_below() { # BYTES
	(($(used) < $1))
}
t_trim() { # trim gives space back on every store
	local before full
	nbdsh -u "$uri" -c 'h.trim(32 << 20, 0)' && poll 20 used_below $((1 << 40)) || return 1
	before=$(used)
	head -c 33554432 /dev/urandom >"$dir/random" && nbdcopy "$dir/random" "$uri" || return 1
	poll 20 eval '(( $(used) > before + 80000000 ))' || { echo "used $(used), before $before"; return 1; }
	full=$(used)
	nbdsh -u "$uri" -c 'h.trim(32 << 20, 0)' || return 1
	# the blocks return at the checkpoint after the trim; a little writing brings one about
	local i
	for i in $(seq 60); do
		used_below $((full - 60000000)) && return 0
		nbdsh -u "$uri" -c "import os
for i in range(64): h.pwrite(os.urandom(1 << 20), (64 << 20) + (i << 20))" || return 1
		nbdsh -u "$uri" -c 'h.trim(64 << 20, 64 << 20)' || return 1
		sleep 0.5
	done
	echo "before $before, written $full, after trim $(used)"
	return 1
}

flip() { # NODE TEXT: in the stopped node's store, one byte of every copy of the block that begins with it
	local at mark
	at=$(grep -abo "$2" "$dir/c/$1/store0.img" | cut -d: -f1)
	[[ -n $at ]] || { echo "the payload is not in the file of $1"; return 1; }
	for mark in $at; do
		printf 'X' | dd of="$dir/c/$1/store0.img" bs=1 seek=$((mark + 999)) conv=notrunc status=none || return 1
	done
}
t_flip() { # one flipped payload byte in one store's file: verify fails and names the place
	nbdsh -u "$uri" -c 'h.pwrite(b"FLIP-ME!" + bytes(range(256)) * 15 + b"x" * 248, 100 << 20)' &&
		poll 20 live db || return 1
	hf node stop n2 && flip n2 'FLIP-ME!' && hf node start n2 && poll 30 live db || return 1
	exits 1 hf replica verify db >"$dir/verify" 2>&1 || { cat "$dir/verify"; return 1; }
	cat "$dir/verify"
	grep -q "^volume db node n2 offset $((100 << 20)): " "$dir/verify" || return 1
	exits 1 hf replica verify db -o json >"$dir/verify.json" 2>"$dir/verify" || return 1
	jq -e '(.equal | not) and (.items | length == 1) and .items[0].volume == "db" and
		.items[0].node == "n2" and .items[0].offset == 104857600' "$dir/verify.json"
}
t_repair() { # a repair rewrites it from a good copy, says so, and leaves the contents as they were
	exits 2 hf replica repair db --node 'N 2' && exits 3 hf replica repair db --node n9 &&
		exits 3 hf replica repair nothing || return 1
	hf replica repair db --node n1 || return 1 # nothing is bad there
	exits 1 hf replica verify db || return 1
	hf replica repair db >"$dir/repair" || { cat "$dir/repair"; return 1; }
	cat "$dir/repair"
	grep -q "^volume db node n2 offset $((100 << 20)): .*rewritten" "$dir/repair" || return 1
	hf replica verify db && hf replica repair db -o json | jq -e '.equal and .repaired == 0' &&
		nbdsh -u "$uri" -c 'assert h.pread(4096, 100 << 20) == b"FLIP-ME!" + bytes(range(256)) * 15 + b"x" * 248'
}
poll_busy() { # COMMAND...: again while the one before is still ending
	local said status
	for _ in $(seq 100); do
		said=$("$@" 2>&1)
		status=$?
		[[ $said == *"is under way"* ]] || break
		sleep 0.1
	done
	echo "$said"
	return $status
}
t_interrupted() { # with a node away a comparison ends by itself, and Ctrl-C ends it and a repair at once
	local verb
	hf node stop n3 || return 1
	for verb in verify repair; do
		exits 124 poll_busy timeout -s INT 1 "$bin/holdfast" --dir "$dir/c" replica $verb db || return 1
	done
	says 4 "not all replicas are live" poll_busy hf replica verify db || return 1
	hf node start n3 && hf replica repair db && hf replica verify db
}
t_end() { # an exported volume is not deleted; unexported it is, and its space comes back
	hf volume delete db --yes && return 1
	hf volume unexport db && hf volume delete db --yes && hf down
}

check up_create_export t_start
if [[ $failed == 0 ]]; then
	clients_run "$uri" "$dir/work"
	passed=$((passed + clients_passed)) failed=$((failed + clients_failed))
	skipped=$((skipped + clients_skipped))
	check trim_frees_space t_trim
	check flipped_byte_is_named t_flip
	check repair_rewrites_it t_repair
	check comparison_is_interrupted t_interrupted
	check delete_after_unexport t_end
fi
cluster_end
