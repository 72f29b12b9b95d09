#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Volumes against the raw file and against peers, alternately in one run, as ratios.
#
#   bench/run.sh [--quick] [--dir DIR] [--rounds N] [--runtime SECONDS] [--peers "nbdkit qemu-nbd"]
#
# Full mode writes each volume whole, overwrites it twice in random order, which leaves the stores about 70 % full,
# and measures each figure for 60 s in all; --quick fills once, half as full, and measures 10 s, and says so.
# rf1 is a cluster of one node, rf3 one of three nodes; all daemons are on this machine and share its disk.
# Every acknowledged write of a volume is durable on a quorum; the raw file is shown without and with durability
# (O_DSYNC), and once more as -awake: with idle processors kept polling, as our daemons do while they are busy
# (--cpu-latency). Absolute figures move with the machine: only ratios, taken alternately, mean anything.
#
# goal: what the project wants to reach. bound: what could be reached at most, computed from figures of this run:
#   CPU    processors / CPU time per request of client and daemons together, against raw
#   DISK   the store alone (durable, queue depth 32) divided by the copies that share this disk, against raw
#   HOPS   raw durable latency and two round trips to a sleeping process (bench/hop_bench), against raw durable

set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/build
quick=0 rounds=3 runtime=20 peers="nbdkit qemu-nbd" work=
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=1 rounds=2 runtime=5 ;;
	--dir) work=$2; shift ;;
	--rounds) rounds=$2; shift ;;
	--runtime) runtime=$2; shift ;;
	--peers) peers=$2; shift ;;
	*) echo "bench: unknown option '$1'; see the head of $0" >&2; exit 2 ;;
	esac
	shift
done
work=${work:-$PWD/build/bench-run}
mkdir -p "$work"
store=4Gi size_mib=$([ $quick = 1 ] && echo 1024 || echo 2688)
cpus=$(nproc)
pids=()

cluster() { # rf1 | rf3, verb...
	local which=$1
	shift
	"$bin/holdfast" --dir "$work/$which" "$@"
}
cleanup() {
	cluster rf1 down >/dev/null 2>&1 || true
	cluster rf3 down >/dev/null 2>&1 || true
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
	rm -rf "$work"
}
trap cleanup EXIT

# ---- targets ----

raw=$work/raw.img
target_args() { # TARGET -> arguments of fio
	case $1 in
	raw | raw-awake) echo "--ioengine=io_uring --filename=$raw" ;;
	raw-dsync*) echo "--ioengine=io_uring --sync=dsync --filename=$raw" ;;
	rf1 | rf3) echo "--ioengine=nbd --uri=$(cat "$work/$1.uri")" ;;
	*) echo "--ioengine=nbd --uri=nbd+unix:///?socket=$work/$1.sock" ;;
	esac
}
durable() {
	case $1 in raw-dsync* | rf1 | rf3) echo yes ;; *) echo no ;; esac
}
target_pids() {
	case $1 in
	rf1 | rf3) cat "$work/$1"/*/pid ;;
	raw*) true ;;
	*) cat "$work/$1.pid" ;;
	esac
}

peer_start() {
	cp --sparse=never "$raw" "$work/$1.img"
	case $1 in
	nbdkit) nbdkit -f -U "$work/nbdkit.sock" file "$work/nbdkit.img" & ;;
	qemu-nbd) qemu-nbd -f raw --cache=none --aio=io_uring -t -k "$work/qemu-nbd.sock" "$work/qemu-nbd.img" & ;;
	*) echo "bench: unknown peer '$1'" >&2; exit 2 ;;
	esac
	pids+=($!)
	echo $! >"$work/$1.pid"
	timeout 10 sh -c "until nbdinfo --size 'nbd+unix:///?socket=$work/$1.sock' >/dev/null 2>&1; do sleep 0.1; done"
}

prepare() {
	local rf fill
	fio --name=fill --rw=write --bs=1m --size="${size_mib}m" --filename="$raw" --direct=1 \
		--ioengine=libaio --iodepth=8 --output-format=terse >/dev/null
	for rf in 1 3; do
		cluster rf$rf up --nodes $rf --size $store >/dev/null
		cluster rf$rf volume create v --size "${size_mib}Mi" --replicas $rf >/dev/null
		cluster rf$rf volume export v 2>/dev/null >"$work/rf$rf.uri"
		for fill in "write --bs=1m" $([ $quick = 1 ] || echo again again); do
			[ "$fill" = again ] && fill="randwrite --bs=16k"
			# shellcheck disable=SC2086
			fio --name=fill --rw=$fill --size="${size_mib}m" --ioengine=nbd \
				--uri="$(cat "$work/rf$rf.uri")" --iodepth=16 --output-format=terse >/dev/null
		done
	done
	for p in $peers; do peer_start "$p"; done
}

# ---- measuring ----

cpu_ticks() { # PID...
	local p sum=0 line
	for p in "$@"; do
		line=$(sed 's/.*) //' "/proc/$p/stat")
		# shellcheck disable=SC2086
		set -- $line
		sum=$((sum + ${12} + ${13}))
	done
	echo $sum
}

# TARGET RW DEPTH -> "iops p50_us p99_us cpu_us": the last is CPU time per request of fio and the daemons
fio_one() {
	local target=$1 rw=$2 depth=$3 before after ramp_s=1
	# shellcheck disable=SC2046
	before=$(cpu_ticks $(target_pids "$target"))
	case $target in *-awake) exec 9>/dev/cpu_dma_latency && printf '\0\0\0\0' >&9 ;; esac
	# shellcheck disable=SC2046
	fio --name=b --rw="$rw" --bs=4k --iodepth="$depth" --size="${size_mib}m" --direct=1 \
		--time_based --runtime="$runtime" --ramp_time=$ramp_s --randrepeat=0 --norandommap \
		--output-format=json $(target_args "$target") 2>/dev/null | sed -n '/^{/,$p' >"$work/fio.json"
	exec 9>&-
	# shellcheck disable=SC2046
	after=$(cpu_ticks $(target_pids "$target"))
	jq -r --argjson daemons_us "$(((after - before) * 1000000 / $(getconf CLK_TCK)))" --argjson ramp $ramp_s '
		.jobs[0] as $j | (if $j.read.total_ios > 0 then $j.read else $j.write end) |
		"\(.iops | floor) \(.clat_ns.percentile["50.000000"] / 1000 | floor) " +
		"\(.clat_ns.percentile["99.000000"] / 1000 | floor) " +
		"\((($j.usr_cpu + $j.sys_cpu) * 10000 / .iops + $daemons_us / (.iops * (.runtime / 1000 + $ramp))) * 10 | floor / 10)"' \
		"$work/fio.json"
}

median() { sort -g | awk '{a[NR] = $1} END {print a[int((NR + 1) / 2)]}'; }
of() { cut -d' ' -f"$2" "$work/m.$1" | median; }
calc() { awk "BEGIN {printf \"%.2f\", $1}"; }

# LABEL RW DEPTH GOALS: one "TARGET:iops|latency:GOAL:BOUND" each, in shell words
measure() {
	local label=$1 rw=$2 depth=$3 t targets="raw"
	[ "$rw" = randwrite ] && targets="raw raw-dsync"
	[ -w /dev/cpu_dma_latency ] && targets="$targets ${targets// /-awake }-awake"
	targets="$targets rf1 rf3 $peers"
	rm -f "$work"/m.*
	for _ in $(seq "$rounds"); do
		for t in $targets; do fio_one "$t" "$rw" "$depth" >>"$work/m.$t"; done
	done
	for t in $targets; do
		printf '%-17s %-9s %-7s %8s %7s %7s %7s %7s %8s  %s\n' "$label" "$t" "$(durable "$t")" \
			"$(of "$t" 1)" "$(of "$t" 2)" "$(of "$t" 3)" "$(of "$t" 4)" \
			"$(calc "$(of "$t" 1) / $(of raw 1)")" \
			"$([ -f "$work/m.raw-dsync" ] && calc "$(of "$t" 1) / $(of raw-dsync 1)" || echo -)" \
			"$("goal_${rw}_$depth" "$t")"
	done
}
cpu_bound() { calc "$cpus * 1000000 / $(of "$1" 4) / $(of raw 1)"; }
disk_bound() { calc "$store_ratio / $2"; }
goal_randwrite_32() {
	case $1 in
	rf1) echo "raw x 0.6, raw-dsync x 1.2; bound: CPU $(cpu_bound rf1), DISK $(disk_bound rf1 1)" ;;
	rf3) echo "raw x 0.3; bound: CPU $(cpu_bound rf3), DISK $(disk_bound rf3 3)" ;;
	esac
}
goal_randread_32() {
	case $1 in rf1 | rf3) echo "raw x 0.6; bound: CPU $(cpu_bound "$1")" ;; esac
}
goal_randwrite_1() {
	local times
	case $1 in rf1 | rf3) times=$(calc "$(of "$1" 2) / $(of raw-dsync 2)") ;; esac
	case $1 in
	rf1) echo "p50 $times x raw-dsync; goal 1.6; bound: HOPS $(calc "1 + 2 * $hop_us / $(of raw-dsync 2)")" ;;
	rf3) echo "p50 $times x raw-dsync; goal 3; bound: HOPS $(calc "1 + 2 * $hop_us / $(of raw-dsync 2)")" ;;
	esac
}
goal_randread_1() { true; }

# ---- what runs when nothing happens, and how soon it runs ----

idle() { # every daemon of rf3 over 10 s
	local p name before after
	sleep 3 # what the measurements left to do
	declare -A before
	for p in $(target_pids rf3); do before[$p]=$(cpu_ticks "$p"); done
	sleep 10
	for name in manager g1 n1 n2 n3; do
		p=$(cat "$work/rf3/$name/pid")
		after=$(cpu_ticks "$p")
		printf 'idle    %-8s %5.2f %% of a core  %5.1f MiB resident\n' "$name" \
			"$(calc "(${after} - ${before[$p]}) * 10 / $(getconf CLK_TCK)")" \
			"$(awk '/^VmRSS/ {print $2 / 1024}' "/proc/$p/status")"
	done
}
first_write() {
	local began uri
	began=$(date +%s%N)
	cluster first up --nodes 3 --size 1Gi >/dev/null
	cluster first volume create v --size 256Mi --replicas 3 >/dev/null
	uri=$(cluster first volume export v 2>/dev/null)
	nbdcopy --synchronous - "$uri" < <(head -c 4096 /dev/zero | tr '\0' x)
	echo "first   $((($(date +%s%N) - began) / 1000000)) ms from 'up' of three new nodes to the first acknowledged write (goal 2000)"
	cluster first down >/dev/null
}

echo "mode:   $([ $quick = 1 ] && echo 'QUICK: filled once, short; not for publication' || echo 'full: overwritten twice')"
first_write
read -r store_ratio < <("$bin/bench/store_bench" "$work" 3 3 1024 | tee "$work/store.out" | awk '$1 == 32 {print $5}')
hop_us=$("$bin/bench/hop_bench")
prepare
echo "engine: $(cluster rf3 status -o json | jq -r '[.nodes[].io_engine] | unique | join(",")')   build: $("$bin/holdfastd" --version | tr '\n' ' ')"
echo "host:   kernel $(uname -r), $cpus processors; round trip to a sleeping process $hop_us us"
for rf in rf1 rf3; do
	echo "fill:   $rf $(cluster $rf node list -o json | jq -r '[.items[] | "\(.name) \(100 * .used / .capacity | floor) %"] | join(", ")')"
done
echo "runs:   $rounds x $runtime s of each, alternately, medians; volumes of $size_mib MiB"
echo
echo "The store alone, in one process (bench/store_bench); goal raw x 1.2:"
cat "$work/store.out"
echo
printf '%-17s %-9s %-7s %8s %7s %7s %7s %7s %8s  %s\n' workload target durable iops p50_us p99_us cpu_us vs_raw vs_dsync 'goal and bound'
measure "4k randwrite QD32" randwrite 32
measure "4k randwrite QD1" randwrite 1
measure "4k randread QD32" randread 32
measure "4k randread QD1" randread 1
echo
idle
