#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A volume of one copy whose log has rot in what was acknowledged: it stays closed and says why, until a person
# gives up what is missing; then it is exactly its entries before the rot. Ends with `N passed, N failed`.

cd "$(dirname "$0")/../.." || exit 1
. tests/system/cluster.sh
image=$dir/c/n1/store0.img
entry=

uuid() {
	hf volume show one -o json | jq -r .uuid
}

t_written() {
	local uri
	hf up --nodes 1 --size 256Mi && hf volume create one --size 64Mi --replicas 1 &&
		uri=$(hf volume export one) && nbdsh -u "$uri" -c '
for i in range(1, 6):
    h.pwrite(bytes([i]) * 4096, i << 20)
'
}
node_kill() {
	local pid
	pid=$(cat "$dir/c/n1/pid") && kill -9 "$pid" && poll 10 hf store dump "$image"
}
rot() { # flips a bit of the proven descriptor of the third write; its seq is in $entry
	local place
	read -r place entry < <(hf store dump "$image" | awk '
		function field(name, i) { for (i = 1; i <= NF; i++) if (index($i, name "=") == 1) return substr($i, length(name) + 2) }
		/^batch / { place = /unproven/ ? "" : field("place") }
		/^record from=ring op=WRITE/ && / address_blocks=768 / && place { print place, field("seq") }')
	[[ -n $place ]] || { hf store dump "$image"; return 1; }
	python3 - "$image" "$place" <<-'END'
		import sys
		with open(sys.argv[1], "r+b") as f:
		    f.seek(int(sys.argv[2]) * 4096 + 200)
		    byte = f.read(1)[0]
		    f.seek(-1, 1)
		    f.write(bytes([byte ^ 4]))
	END
}
all_entries() {
	hf replica list one -o json | jq -e '.items[0].seq >= 5'
}
t_rotten() {
	poll 10 all_entries && node_kill && rot && hf node start n1
}
is_suspect() {
	hf replica list one -o json | jq -e --arg entry "$entry" '.items[0] | .state == "suspect" and
		(.note | test("entr(y|ies) \($entry) ")) and (.note | test("accept-loss"))'
}
has_condition() { # REGEX
	hf volume show one -o json | jq -e --arg what "$1" '.conditions | any(test($what))'
}
t_closed() { # while the gateway that had it is still there, and for one that takes it anew
	poll 20 is_suspect && poll 20 has_condition NoQuorum &&
		hf volume unexport one && poll 20 has_condition Closed && is_suspect &&
		exits 4 hf store accept-loss "$image" "$(uuid)" --yes
}
t_not_opened_by_export() {
	exits 5 hf --timeout 3s volume export one 2>"$dir/err" && grep -q Closed "$dir/err" &&
		poll 20 has_condition Closed && poll 20 is_suspect &&
		hf status -o json | jq -e '.volumes[0].conditions | any(test("Closed"))'
}
t_named_and_refused() {
	local volume
	volume=$(uuid) && hf node stop n1 || return 1
	exits 3 hf store accept-loss "$image" 00000000-0000-4000-8000-000000000001 --yes &&
		exits 2 hf store accept-loss "$image" "$volume" 2>"$dir/err" &&
		grep -q "give up entr.* $entry .*volume $volume" "$dir/err" && grep -q -- --yes "$dir/err" &&
		grep -q "within bytes" "$dir/err"
}
t_accepted() {
	exits 0 hf store accept-loss "$image" one --yes | grep -q "gave up entr.* $entry .*ends at entry $((entry - 1)) " &&
		exits 0 hf store accept-loss "$image" one --yes | grep -q "nothing is missing" &&
		hf store check "$image"
}
reads_prefix() {
	nbdsh -u "$(hf volume export one)" -c '
for i in range(1, 6):
    want = bytes([i if i <= 2 else 0]) * 4096
    assert h.pread(4096, i << 20) == want, i
h.pwrite(b"z" * 4096, 9 << 20)
assert h.pread(4096, 9 << 20) == b"z" * 4096
'
}
t_open_again() {
	hf node start n1 && poll 30 reads_prefix && poll 20 is_well
}
is_well() {
	hf volume show one -o json | jq -e '.conditions == [] and .replica[0].state == "primary"'
}
has_process() {
	[[ $(hf node list -o json | jq '.items[0].pid') -gt 0 ]]
}
t_lock() { # as of a process that was killed and is not gone yet
	local starter
	hf node stop n1 && exec 9<"$image" && flock -x 9 || return 1
	hf node start n1 9<&- &
	starter=$!
	poll 10 has_process
	exec 9<&-
	wait "$starter"
}
t_lost() { # both copies of both roots
	local ring place
	hf node stop n1 && ring=$(hf store dump "$image" | grep -o -m 1 'ring_blocks=[0-9]*') || return 1
	for place in 1 2 $((16 + ${ring#*=})) $((17 + ${ring#*=})); do
		dd if=/dev/zero of="$image" bs=4096 count=1 seek="$place" conv=notrunc status=none || return 1
	done
	exits 1 hf store check "$image" && exits 1 hf node start n1 2>"$dir/err" &&
		grep -q "the store is lost.*store format" "$dir/err"
}

check one_copy_is_written t_written
check rot_in_what_was_acknowledged t_rotten
check stays_closed_and_says_why t_closed
check an_export_does_not_open_it t_not_opened_by_export
check what_would_be_given_up_is_named t_named_and_refused
check is_given_up_once t_accepted
check is_its_entries_before_the_rot t_open_again
check a_node_waits_for_the_lock_of_its_predecessor t_lock
check a_lost_store_says_what_to_do t_lost
cluster_end
