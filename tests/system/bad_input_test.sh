#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What bad input gets: a precise error that names field, value and limit, the exit code that belongs to it, and
# nothing changed; others are not affected. Names, sizes, parameters, devices, addresses, damaged stores, a
# metadata directory of a newer version, peers that send garbage and hang.

cd "$(dirname "$0")/../.." || exit 1
. tests/system/cluster.sh
held_pid=

cleanup_more() {
	[[ -n $held_pid ]] && kill "$held_pid" 2>/dev/null
	[[ -n ${peer_pid:-} ]] && kill "$peer_pid" 2>/dev/null
}

t_start() {
	hf up --nodes 3 --size 256Mi && hf volume create db --size 32Mi &&
		uri=$(hf volume export db 2>/dev/null) && nbdsh -u "$uri" -c 'h.pwrite(b"db" * 2048, 0)'
}
others_work() { # the volume is there, unchanged, and the only one
	nbdsh -u "$uri" -c 'assert h.pread(4096, 0) == b"db" * 2048; h.pwrite(b"x" * 4096, 4096)' &&
		[[ $(hf volume list -o json | jq -c '[.items[].name]') == '["db"]' ]]
}

t_sizes() {
	says 2 "size 0 bytes is not between 1048576" hf volume create x --size 0 &&
		says 2 "size 4097 bytes" hf volume create x --size 4097 &&
		says 2 "size 1048577 bytes is no multiple of 4096" hf volume create x --size 1048577 &&
		says 2 "70368744177664" hf volume create x --size 65Ti &&
		says 2 "'99999999999999999999'" hf volume create x --size 99999999999999999999 &&
		says 2 "'-1'" hf volume create x --size -1 && says 2 "'much'" hf volume create x --size much &&
		says 2 "--size" hf volume create x &&
		says 2 "cannot shrink" hf volume resize db --size 16Mi &&
		says 2 "no multiple of 4096" hf volume resize db --size 33554433 &&
		[[ $(hf volume show db -o json | jq .size) == 33554432 ]]
}
t_names() {
	local name
	for name in a- A a_b a.b a/b ../a 'a b' ü; do
		says 2 "'$name' is no RFC 1123 label" hf volume create "$name" --size 16Mi || return 1
		says 2 "'$name' is no RFC 1123 label" hf volume show "$name" || return 1
	done
	says 2 "longer than 63" hf volume create "$(printf 'a%.0s' {1..64})" --size 16Mi &&
		says 2 "is empty" hf volume create '' --size 16Mi
}
t_parameters() {
	says 2 "class parameter 'color' (value 'red') is unknown" hf volume create x --size 16Mi --param color=red &&
		says 2 "class parameter 'onNoQuorum' has the value 'maybe'" \
			hf volume create x --size 16Mi --param onNoQuorum=maybe &&
		says 2 "not key=value" hf volume create x --size 16Mi --param color &&
		says 2 "'9'" hf volume create x --size 16Mi --replicas 9 &&
		says 2 "is 0, not 1 to 5" hf volume create x --size 16Mi --replicas 0 &&
		says 1 "replication factor 5 needs as many different hosts" hf volume create x --size 16Mi --replicas 5
}
t_domains() { # four nodes, but on three hosts
	hf store format "$dir/n9.img" --size 128Mi || return 1
	"$bin/holdfastd" node --dir "$dir/c" --name n9 --store "$dir/n9.img" --host n3 2>"$dir/n9.log" &
	peer_pid=$!
	poll 10 eval '[[ $(hf node list -o json | jq ".items | length") == 4 ]]' || { cat "$dir/n9.log"; return 1; }
	says 1 "in 3 hosts" hf volume create x --size 16Mi --replicas 4
	local status=$?
	kill "$peer_pid" && wait "$peer_pid"
	peer_pid=
	return $status
}

t_devices() { # too small, in use, foreign data, no device at all
	local before
	truncate -s 1M "$dir/small" && truncate -s 128M "$dir/fs" && mkfs.ext4 -q "$dir/fs" || return 1
	before=$(sha256sum <"$dir/fs")
	says 2 "a store needs at least 67108864" hf store format "$dir/small" &&
		says 2 "a store needs at least 67108864" hf store format "$dir/new" --size 1Mi &&
		says 2 "multiple of 4096" hf store format "$dir/new" --size 100000001 &&
		[[ ! -e $dir/new ]] || return 1
	says 4 "it holds an ext2, ext3 or ext4 filesystem" hf store format "$dir/fs" &&
		says 2 "Repeat the command with --yes" hf store format "$dir/fs" --force &&
		[[ $(sha256sum <"$dir/fs") == "$before" ]] &&
		hf store format "$dir/fs" --force --yes && hf store check "$dir/fs" &&
		says 4 "it holds a Holdfast store" hf store format "$dir/fs" || return 1
	says 4 "is locked by another process" hf store format "$dir/c/n1/store0.img" --force --yes &&
		says 2 "neither a block device nor a regular file" hf store format "$dir" &&
		says 3 "No such file" hf store check "$dir/nothing"
}

hold_port() { # prints the number of a TCP port that is taken from now on
	python3 -c 'import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); print(s.getsockname()[1], flush=True); time.sleep(60)' >"$dir/port" &
	held_pid=$!
	poll 5 test -s "$dir/port"
}
t_ports() {
	local port address
	hold_port && port=$(cat "$dir/port") && hf volume create p --size 16Mi || return 1
	address=tcp:127.0.0.1:$port
	says 4 "$address" hf volume export p --listen "$address" &&
		[[ $(hf volume show p -o json | jq -c .exports) == '[]' ]] || { hf volume show p; return 1; }
	says 2 "only unix sockets and loopback" hf volume export p --listen tcp:192.0.2.1:7000 &&
		says 2 "listen" hf volume export p --listen nonsense &&
		says 2 "listen" hf volume export p --listen tcp:127.0.0.1:99999 &&
		hf volume export p && hf volume unexport p && hf volume delete p --yes || return 1
	"$bin/holdfast" store format "$dir/m.img" --size 128Mi || return 1
	says 1 "$address" timeout 20 "$bin/holdfastd" node --dir "$dir/c" --name n8 --store "$dir/m.img" \
		--metrics "$address" && says 2 "loopback" timeout 20 "$bin/holdfastd" node --dir "$dir/c" \
		--name n8 --store "$dir/m.img" --metrics tcp:192.0.2.1:7000 || return 1
	kill "$held_pid"
	held_pid=
}

patch() { # FILE OFFSET BYTES(printf)
	printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
node_refuses() { # NODE TEXT: it does not start and says that; volume and other nodes are not affected
	says 1 "$2" hf node start "$1" && others_work && hf status >/dev/null
}
t_damaged_stores() {
	local store=$dir/c/n2/store0.img copy=$dir/store.copy at
	hf node stop n2 && cp --sparse=always "$store" "$copy" || return 1
	truncate -s 200M "$store" && node_refuses n2 "the device only" || return 1
	truncate -s 0 "$store" && node_refuses n2 "less than one block" || return 1
	rm "$store" && node_refuses n2 "No such file" || return 1
	cp --sparse=always "$copy" "$store"
	for at in 0 4096 8192; do # superblock and both roots, first copies: healed from the second
		patch "$store" $((at + 100)) '\377\377\377' || return 1
	done
	hf node start n2 && poll 30 live db && hf node stop n2 || return 1
	head -c $((64 << 20)) /dev/urandom | dd of="$store" bs=1M conv=notrunc status=none
	node_refuses n2 "not a store" || return 1
	cp --sparse=always "$copy" "$store" # replaced: it comes back, and catches up
	hf node start n2 && poll 30 live db && hf replica verify db
}
t_newer_metadata() { # refused before anything is changed; nodes, gateway and I/O go on without the manager
	local data=$dir/c/manager/meta/data.mdb at before
	kill -9 "$(cat "$dir/c/manager/supervisor")" "$(cat "$dir/c/manager/pid")" || return 1
	poll 5 eval '! hf status' || return 1
	cp "$data" "$dir/data.copy"
	for at in $(grep -abo 'holdfast-metadata 1' "$data" | cut -d: -f1); do
		patch "$data" $((at + 18)) 9 || return 1
	done
	before=$(sha256sum <"$data")
	says 1 "its format is version 9, this program knows up to version 1" hf up &&
		[[ $(sha256sum <"$data") == "$before" ]] &&
		nbdsh -u "$uri" -c 'assert h.pread(4096, 0) == b"db" * 2048'
	local status=$?
	cp "$dir/data.copy" "$data" && hf up && others_work && return $status
}

t_bad_peers() { # SOCKET KIND: while they hang there, others work; afterwards all is as before
	local pids
	pids=$(cat "$dir"/c/*/pid)
	rm -f "$dir/peer.in" "$dir/peer"
	mkfifo "$dir/peer.in" && python3 tests/system/bad_peer.py "$1" "$2" <"$dir/peer.in" >"$dir/peer" 2>&1 &
	peer_pid=$!
	poll 5 test -p "$dir/peer.in" && exec 8>"$dir/peer.in" || return 1
	poll 30 grep -q held "$dir/peer" || { cat "$dir/peer"; return 1; }
	others_work && hf status >/dev/null && poll 10 live db && hf replica verify db
	local status=$?
	exec 8>&-
	wait "$peer_pid" || { cat "$dir/peer"; status=1; }
	peer_pid=
	[[ $(cat "$dir"/c/*/pid) == "$pids" ]] || { echo "a process died"; return 1; }
	return $status
}

check "three nodes and a volume" t_start
check "sizes" t_sizes
check "names" t_names
check "class parameters and replication factors" t_parameters
check "devices that cannot be a store" t_devices
check "addresses that cannot be used" t_ports
check "damaged stores" t_damaged_stores
check "metadata of a newer version" t_newer_metadata
check "NBD peers that send garbage and hang" t_bad_peers "$dir/c/g1/nbd.sock" nbd
check "replica peers that send garbage and hang" t_bad_peers "$dir/c/n1/replica.sock" replica
check "admin peers that send garbage and hang" t_bad_peers "$dir/c/manager/admin.sock" admin
check "failure domains" t_domains # late: its node goes away, and nothing must be placed there
check "nothing has changed" others_work
cluster_end
