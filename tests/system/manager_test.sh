#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The daemons manager and node, as processes: registration, create, refusals, a node that is away,
# a manager that is killed, supervision, locks, a clean end.
set -u
cd "$(dirname "$0")/../.."
OUT=${OUT:-build}
HOLDFASTD=$OUT/holdfastd
TOOL=$OUT/tests/system/manager_tool
[ -x "$HOLDFASTD" ] && [ -x "$TOOL" ] && [ -x "$OUT/holdfast" ] || { echo "not built: $HOLDFASTD, $TOOL"; exit 77; }

DIR=$(mktemp -d)
ADMIN=unix:$DIR/manager/admin.sock
declare -A PID

end() {
	local code=$? name
	for name in "${!PID[@]}"; do kill -CONT "${PID[$name]}" 2>/dev/null; kill -9 "${PID[$name]}" 2>/dev/null; done
	[ -f "$DIR/g9/pid" ] && kill -9 "$(cat "$DIR/g9/pid")" 2>/dev/null
	wait 2>/dev/null
	[ $code -eq 0 ] || tail -n 15 "$DIR"/*.log
	rm -rf "$DIR"
	exit $code
}
trap end EXIT

fail() { echo "FAILED: $*"; exit 1; }
start_manager() { "$HOLDFASTD" manager --dir "$DIR" 2>>"$DIR/manager.log" & PID[manager]=$!; }
start_node() { # n3's store is of another type
	local type=nvme-ssd
	[ "$1" = n3 ] && type=hdd
	"$HOLDFASTD" node --dir "$DIR" --name "$1" --store "$DIR/$1/store.img,type=$type" 2>>"$DIR/$1.log" &
	PID[$1]=$!
}
tool() { "$TOOL" "$ADMIN" "$@" 2>&1; }
# wait_for SECONDS COMMAND...: polls until the command succeeds.
wait_for() {
	local until=$((SECONDS + $1)); shift
	until "$@"; do
		[ $SECONDS -lt $until ] || fail "timed out: $*"
		sleep 0.1
	done
}
nodes_are() { [ "$(tool nodes | grep -c "state=$1")" = "$2" ]; }
replicas_are() { [ "$(tool nodes | grep -c "replicas=$1")" = "$2" ]; }
is_gone() { tool get "$1" | grep -q 'does not exist'; }
refused() { # CODE TEXT VERB...
	local code=$1 text=$2 said rc; shift 2
	said=$(tool "$@"); rc=$?
	while [[ $said == *"resume is under way"* ]]; do sleep 0.1; said=$(tool "$@"); rc=$?; done
	[ $rc = "$code" ] || fail "$*: code $rc, not $code: $said"
	[[ $said == *"$text"* ]] || fail "$*: no '$text' in: $said"
}

for n in n1 n2 n3; do
	mkdir -p "$DIR/$n"
	"$TOOL" format "$DIR/$n/store.img" 134217728 || fail "format $n"
done
start_manager
for n in n1 n2 n3; do start_node $n; done
wait_for 10 nodes_are online 3

echo "create, again, and what is refused"
tool create db1 67108864 3 | grep -q 'state=available' || fail "create db1"
tool create db1 67108864 3 | grep -q 'state=available' || fail "create db1 again"
refused 6 "size 67108864, not 134217728" create db1 134217728 3
refused 6 "3 replicas, not 2" create db1 67108864 2
refused 3 "RFC 1123" create Not_A_Label 67108864 3
refused 3 "size 0" create z 0 3
refused 3 "size 5000000" create z 5000000 3
refused 3 "replicas 9: must be between 1 and 5" create z 67108864 9
refused 8 "replication factor 5" create z 67108864 5
refused 9 "no gateway is online" export db1
refused 3 "cannot shrink" resize db1 33554432
refused 5 "'nope' does not exist" get nope
tool resize db1 134217728 | grep -q 'size=134217728' || fail "resize"

echo "a class can ask for a type of store"
hf() { "$OUT/holdfast" --dir "$DIR" "$@" 2>&1; }
hf node show n3 -o json | jq -e '.stores[0].type == "hdd"' >/dev/null || fail "type in node show"
hf node show n1 | grep -q 'TYPE' || fail "no type in the table"
hf volume create fast --size 64Mi --replicas 2 --param type=nvme-ssd >/dev/null || fail "create by type"
[ "$(hf volume show fast -o json | jq -r '[.replica[].node] | sort | join(" ")')" = "n1 n2" ] || fail "placed elsewhere"
[ "$(hf volume show fast -o json | jq -r .params.type)" = nvme-ssd ] || fail "the type is not in the record"
said=$(hf volume create faster --size 64Mi --replicas 3 --param type=nvme-ssd) && fail "three of two"
[[ $said == *"2 of 3 stores have the type 'nvme-ssd'"* ]] || fail "$said"
hf volume delete fast --yes || fail "delete"
cat >"$DIR/node.yaml" <<END
store:
  - $DIR/n1/store.img,type=nvme-ssd
END
hf config check "$DIR/node.yaml" --role node >/dev/null || fail "config check"
echo "  - $DIR/n2/store.img,colour=red" >>"$DIR/node.yaml"
hf config check "$DIR/node.yaml" --role node | grep -q 'colour=red' || fail "config check took an unknown label"

echo "a second process on the same directory is refused and names the first"
"$HOLDFASTD" manager --dir "$DIR" 2>"$DIR/second.log" && fail "a second manager started"
grep -q "held by pid ${PID[manager]}" "$DIR/second.log" || fail "$(cat "$DIR/second.log")"
"$HOLDFASTD" node --dir "$DIR" --name n9 --store "$DIR/none.img" 2>"$DIR/second.log" && fail "no store"
"$HOLDFASTD" node --dir "$DIR" 2>"$DIR/second.log"; [ $? = 2 ] || fail "no --store: not a usage error"

echo "the manager is killed: what was there is there"
kill -9 "${PID[manager]}"; wait "${PID[manager]}" 2>/dev/null
start_manager
wait_for 10 nodes_are online 3
tool get db1 | grep -q 'state=available size=134217728' || fail "db1 after the manager's death"
[ "$(tool get db1 | grep -c 'state=idle')" = 3 ] || fail "replicas: $(tool get db1)"

echo "a node is killed; a volume that it has is deleted, and cleaned up when it is back"
kill -9 "${PID[n2]}"; wait "${PID[n2]}" 2>/dev/null
wait_for 10 nodes_are offline 1
tool get db1 | grep -q 'replica n2 state=offline' || fail "replica of a dead node"
tool get db1 | grep -q 'condition Degraded' || fail "no condition"
refused 8 "replication factor 3" create db2 67108864 3
tool delete db1 || fail "delete with a node away"
tool get db1 | grep -q 'state=deleted' || fail "not deleted"
refused 9 "exists and is deleted" create db1 134217728 3
start_node n2
wait_for 15 is_gone db1
wait_for 5 replicas_are 0 3
tool create db1 67108864 3 | grep -q 'state=available' || fail "the name is free again"

echo "a node hangs during a create: refused, and nothing is left"
kill -STOP "${PID[n3]}"
refused 10 "node 'n3'" create db3 67108864 3
kill -CONT "${PID[n3]}"
wait_for 20 is_gone db3
wait_for 10 replicas_are 1 3

echo "a supervised process comes back"
mkdir -p "$DIR/g9"
"$TOOL" format "$DIR/g9/store.img" 134217728
"$HOLDFASTD" node --supervise --dir "$DIR" --name g9 --store "$DIR/g9/store.img" 2>>"$DIR/g9.log" &
PID[g9]=$!
wait_for 10 nodes_are online 4
first=$(cat "$DIR/g9/pid")
[ "$first" != "${PID[g9]}" ] || fail "the worker is not a child"
kill -9 "$first"
is_back() { [ "$(cat "$DIR/g9/pid")" != "$first" ] && grep -c ready "$DIR/g9.log" | grep -q 2; }
wait_for 10 is_back
kill -TERM "${PID[g9]}"; wait "${PID[g9]}" || fail "the supervisor's end: $?"
unset "PID[g9]"

echo "the end is clean"
for n in n1 n2 n3 manager; do
	kill -TERM "${PID[$n]}"
	wait "${PID[$n]}" || fail "$n ended with $?"
	unset "PID[$n]"
	grep -q "stopped name=$n" "$DIR/$n.log" || fail "$n did not stop in order"
done
[ -e "$DIR/manager/admin.sock" ] && fail "the socket was left behind"
echo "all well"
