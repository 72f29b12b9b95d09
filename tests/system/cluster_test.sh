#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A whole cluster on this machine, as a newcomer starts it: up, a volume, clients, and what must not
# matter (a node, the gateway, the manager, everything killed). Ends with `N passed, N failed`.

cd "$(dirname "$0")/../.." || exit 1
. tests/system/cluster.sh
uri=
fio_pid=

cleanup_more() {
	[[ -n $fio_pid ]] && kill "$fio_pid" 2>/dev/null
}

t_up() {
	hf up --nodes 3 --size 1Gi && hf status -o json |
		jq -e '.manager.pid > 0 and .gateway.pid > 0 and (.nodes | length == 3)' &&
		hf node list -o json | jq -e '[.items[] | select(.state == "online" and .pid > 0)] | length == 3'
}
t_up_again() {
	local before
	before=$(role_pid manager)
	hf up --nodes 5 --size 2Gi 2>&1 | grep -q 'kept' && [[ $(role_pid manager) == "$before" ]]
}
t_create() {
	hf volume create demo --size 256Mi --replicas 3 &&
		hf volume show demo -o json | jq -e '.size == 268435456 and .replicas == 3'
}
t_refused() { # what is wrong has its exit code
	exits 2 hf volume create Bad_Name --size 1Gi && exits 2 hf volume create x --size 0 &&
		exits 2 hf volume create x --size 1000 && exits 3 hf volume show nothing &&
		exits 2 hf volume creat x && exits 3 hf node show n9 &&
		exits 4 hf volume create demo --size 512Mi --replicas 3
}
t_export() {
	uri=$(hf volume export demo 2>"$dir/hints") && [[ $uri == nbd+unix:///demo\?socket=* ]] &&
		[[ $(hf volume export demo 2>/dev/null) == "$uri" ]] && nbdinfo "$uri" &&
		exits 4 hf volume delete demo --yes
}
fio_run() { # SIZE
	(cd "$dir" && timeout 120 fio --name=v --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k \
		--iodepth=16 --size="$1" --verify=crc32c --verify_fatal=1 --verify_state_save=0)
}
t_node_killed() { # during I/O: no error, and the node comes back by delta
	local pid
	fio_run 96M >"$dir/fio" 2>&1 &
	fio_pid=$!
	poll 10 grep -q . <(hf replica list demo -o json | jq '.items[] | select(.seq > 500)')
	pid=$(pid_of n2)
	kill -9 "$pid" || return 1
	poll 5 test "$(pid_of n2)" = 0
	sleep 1 # a stretch of writes that n2 misses
	hf node start n2 || return 1
	wait "$fio_pid" || { cat "$dir/fio"; return 1; }
	fio_pid=
	poll 30 live demo || { hf replica list demo; grep -hE 'n2|resync' "$dir/c/g1/log"; return 1; }
}
t_verify() {
	poll 30 live demo || { hf replica list demo; return 1; }
	hf replica verify demo
}
t_gateway_killed() {
	nbdsh -u "$uri" -c 'h.pwrite(b"g" * 4096, 4096)' || return 1
	local began
	began=$(now_ms)
	kill -9 "$(role_pid gateway)" || return 1
	poll 10 nbdinfo --size "$uri" || return 1
	local took=$(($(now_ms) - began))
	echo "note: back after $took ms"
	nbdsh -u "$uri" -c 'assert h.pread(4096, 4096) == b"g" * 4096' && ((took < 3000))
}
t_manager_killed() {
	kill -9 "$(role_pid manager)" || return 1
	nbdsh -u "$uri" -c 'h.pwrite(b"m" * 4096, 8192); assert h.pread(4, 8192) == b"mmmm"' || return 1
	poll 10 hf status
}
t_all_killed() {
	kill_all
	hf up && poll 10 nbdinfo --size "$uri" &&
		nbdsh -u "$uri" -c 'assert h.pread(4, 8192) == b"mmmm" and h.pread(4, 4096) == b"gggg"'
}
t_start_after_kill() { # a killed process still holds things for a moment
	local before round
	for round in 1 2 3 4 5; do
		before=$(cat "$dir/c/n1/pid")
		kill -9 "$before" && hf node start n1 || return 1
		[[ $(cat "$dir/c/n1/pid") != "$before" ]] && kill -0 "$(cat "$dir/c/n1/pid")" ||
			{ echo "round $round: the killed process was taken for a running one"; return 1; }
		kill_all
		hf up || return 1
	done
	poll 30 live demo
}
hold() { # PATH SECONDS: listens on a socket, locks any other file
	rm -f "$dir/held"
	python3 -c '
import fcntl, os, socket, sys, time
if sys.argv[1].endswith(".sock"):
    held = socket.socket(socket.AF_UNIX); held.bind(sys.argv[1]); held.listen(1)
else:
    held = open(sys.argv[1], "rb"); fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(sys.argv[2]))' "$@" >"$dir/held" &
	holder=$!
	poll 5 grep -q held "$dir/held"
}
t_start_waits() { # what the killed one holds (here: others, for a second) is waited for, with a bound
	local what holder
	for what in pid store0.img replica.sock; do
		hf node stop n3 && hold "$dir/c/n3/$what" 1 && hf node start n3 || return 1
		wait "$holder"
		grep -q "waits .*$what" "$dir/c/n3/log" || { echo "did not wait for $what"; return 1; }
	done
	hf node stop n3 && hold "$dir/c/n3/store0.img" 60 || return 1
	says 1 "is locked by another process" hf node start n3 || return 1
	kill "$holder"
	hf node start n3 && poll 30 live demo
}
t_resize() {
	hf volume resize demo --size 512Mi && [[ $(nbdinfo --size "$uri") == 536870912 ]] &&
		nbdsh -u "$uri" -c 'h.pwrite(b"r" * 4096, 500 << 20)'
}
t_delete() {
	hf volume unexport demo && exits 2 hf volume delete demo && hf volume delete demo --yes &&
		exits 3 hf volume show demo
}
fails_in_time() { # URI CALL: it connects, and the call ends with EIO
	NBDSH_LIMIT_S=20 nbdsh -u "$1" -c "
try:
    $2
except nbd.Error as error:
    assert error.errno == 'EIO', error
else:
    raise SystemExit('it did not fail')"
}
gateway_is_not() { # PID
	[[ $(role_pid gateway) =~ ^[1-9] && $(role_pid gateway) != "$1" ]]
}
t_no_quorum() { # two of three away: held by default, refused in time when the class asks for it
	local fails holds gateway
	hf volume create fails --size 16Mi --param onNoQuorum=fail --param noQuorumTimeout=500ms &&
		hf volume create holds --size 16Mi && fails=$(hf volume export fails 2>/dev/null) &&
		holds=$(hf volume export holds 2>/dev/null) &&
		nbdsh -u "$fails" -c 'h.pwrite(b"1" * 4096, 0)' &&
		nbdsh -u "$holds" -c 'h.pwrite(b"1" * 4096, 0)' &&
		hf node stop n2 && hf node stop n3 || return 1
	fails_in_time "$fails" 'h.pwrite(b"2" * 4096, 0)' && fails_in_time "$fails" 'h.pread(4096, 0)' || return 1
	gateway=$(role_pid gateway)
	kill -9 "$gateway" && poll 20 gateway_is_not "$gateway" && poll 20 nbdinfo "$fails" || return 1
	fails_in_time "$fails" 'h.pread(4096, 0)' || return 1 # it cannot be opened
	nbdsh -u "$holds" -c 'h.pwrite(b"2" * 4096, 0)' &
	local writer=$!
	hf node start n2 && hf node start n3 && wait "$writer" &&
		nbdsh -u "$holds" -c 'assert h.pread(4096, 0) == b"2" * 4096'
}
t_store_offline() { # check and dump work on a store that nobody has open, and refuse one in use
	exits 4 hf store check "$dir/c/n1/store0.img" || exits 1 hf store check "$dir/c/n1/store0.img" || return 1
	hf down && hf store check "$dir/c/n1/store0.img" &&
		hf store dump "$dir/c/n1/store0.img" | grep -q '^root' && hf up
}
t_down() {
	hf down && hf down && exits 1 hf status && ! compgen -G "$dir/c/*/admin.sock" >/dev/null
}

t_daemons_yaml() { # options for every daemon of the local cluster
	printf 'io-engine: libaio\ncpu-latency: off\n' >"$dir/c/daemons.yaml"
	hf up || return 1
	hf status -o json | jq -e '[(.processes + .nodes)[] | select(.io_engine != "libaio" or .cpu_latency != "off")] == []' || return 1
	hf down || return 1
	printf 'io-engine: epoll\n' >"$dir/c/daemons.yaml"
	hf up && return 1
	hf up 2>&1 | grep -q "engine 'epoll'"
	local rc=$?
	hf down
	rm "$dir/c/daemons.yaml"
	return $rc
}

check "up starts manager, gateway and three nodes" t_up
check "up again keeps what exists" t_up_again
check "volume create" t_create
check "bad requests are refused with their exit codes" t_refused
check "volume export prints the same URI each time" t_export
check "fio verifies" fio_run 16M
check "a node killed during I/O is not noticed and comes back" t_node_killed
check "replicas are equal" t_verify
check "the gateway killed is back on its socket" t_gateway_killed
check "the manager killed disturbs no I/O" t_manager_killed
check "everything killed comes back with every acknowledged write" t_all_killed
check "replicas are equal after all that" t_verify
check "a start right after a kill" t_start_after_kill
check "a start waits for what a killed process still holds" t_start_waits
check "volume resize while exported" t_resize
check "volume unexport and delete" t_delete
check "without quorum writes are held, or fail when the class says so" t_no_quorum
check "a stopped store can be checked and dumped" t_store_offline
check "down stops everything" t_down
check "daemons.yaml has options for all" t_daemons_yaml
cluster_end
