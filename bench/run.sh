#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Volumes against the raw file and against peers, alternately in one run, as ratios.
#
#   bench/run.sh [--quick] [--dir DIR] [--rounds N] [--runtime SECONDS] [--peers "nbdkit qemu-nbd"]
#
# Full mode overwrites the volumes twice and leaves the stores about 70 % full before it measures, with at
# least 60 s per figure; --quick skips both and says so. Every acknowledged write of a volume is durable on a quorum;
# the raw figures are shown without and with durability (O_DSYNC). Absolute figures move with the
# machine: only the ratios, taken alternately, mean anything.

set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/build
quick=0 rounds=3 runtime=60 peers="nbdkit qemu-nbd" work=
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
size_mib=$([ $quick = 1 ] && echo 1024 || echo 2800)
store=$([ $quick = 1 ] && echo 4Gi || echo 8Gi)
pids=()

cleanup() {
	"$bin/holdfast" --dir "$work/cluster" down >/dev/null 2>&1 || true
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
	rm -rf "$work"
}
trap cleanup EXIT

# fio NAME ENGINE-ARGS... -> "iops p50_us p99_us"
fio_one() {
	local rw=$1 depth=$2
	shift 2
	fio --name=b --rw="$rw" --bs=4k --iodepth="$depth" --size="${size_mib}m" --direct=1 \
		--time_based --runtime="$runtime" --ramp_time=1 --randrepeat=0 --norandommap \
		--output-format=json "$@" 2>/dev/null | sed -n '/^{/,$p' |
		jq -r '.jobs[0] as $j | (if $j.read.total_ios > 0 then $j.read else $j.write end) |
			"\(.iops|floor) \(.clat_ns.percentile["50.000000"]/1000|floor) \(.clat_ns.percentile["99.000000"]/1000|floor)"'
}

raw=$work/raw.img
prepare() {
	fio --name=fill --rw=write --bs=1m --size="${size_mib}m" --filename="$raw" --direct=1 \
		--ioengine=libaio --iodepth=8 --output-format=terse >/dev/null
	"$bin/holdfast" --dir "$work/cluster" up --nodes 3 --size "$store" >/dev/null
	for rf in 1 3; do
		"$bin/holdfast" --dir "$work/cluster" volume create "rf$rf" --size "${size_mib}Mi" --replicas $rf >/dev/null
		"$bin/holdfast" --dir "$work/cluster" volume export "rf$rf" 2>/dev/null >"$work/rf$rf.uri"
	done
	local passes=$([ $quick = 1 ] && echo 1 || echo 2)
	for rf in 1 3; do
		for _ in $(seq "$passes"); do
			fio --name=fill --rw=randwrite --bs=64k --size="${size_mib}m" --ioengine=nbd \
				--uri="$(cat "$work/rf$rf.uri")" --iodepth=8 --output-format=terse >/dev/null
		done
	done
	for p in $peers; do
		case $p in
		nbdkit) cp --sparse=never "$raw" "$work/nbdkit.img"
			nbdkit -f -U "$work/nbdkit.sock" file "$work/nbdkit.img" & pids+=($!) ;;
		qemu-nbd) cp --sparse=never "$raw" "$work/qemu.img"
			qemu-nbd -f raw --cache=none --aio=io_uring -t -k "$work/qemu.sock" "$work/qemu.img" & pids+=($!) ;;
		esac
	done
	sleep 1 # the peers' own start; measured runs begin with a ramp
}

target_args() { # -> arguments of fio for a target
	case $1 in
	raw) echo "--ioengine=io_uring --filename=$raw" ;;
	raw-dsync) echo "--ioengine=io_uring --sync=dsync --filename=$raw" ;;
	rf1 | rf3) echo "--ioengine=nbd --uri=$(cat "$work/$1.uri")" ;;
	nbdkit) echo "--ioengine=nbd --uri=nbd+unix:///?socket=$work/nbdkit.sock" ;;
	qemu-nbd) echo "--ioengine=nbd --uri=nbd+unix:///?socket=$work/qemu.sock" ;;
	esac
}

durable() {
	case $1 in raw | nbdkit | qemu-nbd) echo no ;; *) echo yes ;; esac
}

median() { sort -n | awk '{a[NR]=$1} END {print a[int((NR+1)/2)]}'; }

measure() { # LABEL RW DEPTH
	local label=$1 rw=$2 depth=$3 t
	local targets="raw"
	[ "$rw" = randwrite ] && targets="raw raw-dsync"
	targets="$targets rf1 rf3 $peers"
	rm -f "$work"/m.*
	for _ in $(seq "$rounds"); do
		for t in $targets; do
			# shellcheck disable=SC2046
			fio_one "$rw" "$depth" $(target_args "$t") >>"$work/m.$t"
		done
	done
	local raw_iops dsync_iops=
	raw_iops=$(cut -d' ' -f1 "$work/m.raw" | median)
	[ -f "$work/m.raw-dsync" ] && dsync_iops=$(cut -d' ' -f1 "$work/m.raw-dsync" | median)
	for t in $targets; do
		local iops p50 p99
		iops=$(cut -d' ' -f1 "$work/m.$t" | median)
		p50=$(cut -d' ' -f2 "$work/m.$t" | median)
		p99=$(cut -d' ' -f3 "$work/m.$t" | median)
		printf '%-22s %-10s %-8s %10s %8s %8s %8s %10s\n' "$label" "$t" "$(durable "$t")" "$iops" "$p50" "$p99" \
			"$(awk "BEGIN{printf \"%.2f\", $iops/$raw_iops}")" \
			"$([ -n "$dsync_iops" ] && awk "BEGIN{printf \"%.2f\", $iops/$dsync_iops}" || echo -)"
	done
}

prepare
engine=$("$bin/holdfast" --dir "$work/cluster" status -o json | jq -r '[.nodes[].io_engine] | unique | join(",")' 2>/dev/null || echo unknown)
echo "mode: $([ $quick = 1 ] && echo 'QUICK (not filled, short)' || echo 'full (overwritten twice, stores about 70 % full)')"
echo "engine: $engine   build: $("$bin/holdfastd" --version 2>/dev/null || echo unknown)   kernel: $(uname -r)   cpus: $(nproc)"
echo "rounds: $rounds x $runtime s, alternating, medians; volumes: ${size_mib} MiB"
printf '%-22s %-10s %-8s %10s %8s %8s %8s %10s\n' workload target durable iops p50_us p99_us vs_raw vs_rawdsync
measure "4k randwrite QD32" randwrite 32
measure "4k randwrite QD1" randwrite 1
measure "4k randread QD32" randread 32
measure "4k randread QD1" randread 1
