#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What every daemon owes whoever runs it: a configuration file whose keys are its flags, readiness told
# to the service manager, sockets for its owner alone, no TCP beyond this machine unless asked for and
# then shown, the processors it was given, metrics that parse, little memory and CPU when idle, a clean end on
# SIGTERM. Ends with `N passed, N failed`.

cd "$(dirname "$0")/../.." || exit 1
. tests/system/cluster.sh
hf_dir=$dir
cpu=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*\([0-9]*\).*/\1/p' /proc/self/status) # one that we may use
declare -A pids

cleanup_more() {
	local pid
	for pid in "${pids[@]}"; do
		kill -9 "$pid" 2>/dev/null
	done
	wait 2>/dev/null
}

# Runs a daemon as a service manager would and returns when it says READY=1.
start() { # NAME ROLE FLAGS...
	local name=$1 waiter
	shift
	/usr/bin/python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
s.settimeout(20)
while b"READY=1" not in s.recv(4096).split(b"\n"):
    pass
' "$dir/$name.notify" &
	waiter=$!
	poll 5 test -S "$dir/$name.notify" || return 1
	NOTIFY_SOCKET="$dir/$name.notify" "$bin/holdfastd" "$@" 2>>"$dir/$name.log" &
	pids[$name]=$!
	wait "$waiter" || { cat "$dir/$name.log"; return 1; }
}
rss_kib() {
	awk '/^VmRSS/ {print $2}' "/proc/$1/status"
}
cpu_ticks() {
	awk '{print $14 + $15}' "/proc/$1/stat"
}

t_config() { # all options from files; the CLI finds what a daemon would refuse
	mkdir -p "$dir/n1"
	hf store format "$dir/n1/store.img" --size 1Gi || return 1
	printf 'dir: %s\nname: manager\nlog-level: debug\n' "$dir" >"$dir/manager.yaml"
	printf 'dir: %s\nname: n1\nstore: [%s]\nio-engine: libaio\ncpus: "%s"\ncpu-latency: off\n' \
		"$dir" "$dir/n1/store.img" "$cpu" >"$dir/n1.yaml"
	printf 'dir: %s\nname: g1\ninsecure-tcp: true\n' "$dir" >"$dir/g1.yaml"
	hf config check "$dir/manager.yaml" --role manager && hf config check "$dir/n1.yaml" --role node &&
		hf config check "$dir/g1.yaml" --role gateway || return 1
	local line
	for line in 'io-engine: epoll' 'log-level: loud' 'listen: tcp:0.0.0.0:4711' 'colour: red'; do
		cp "$dir/n1.yaml" "$dir/bad.yaml"
		sed -i '/^io-engine/d' "$dir/bad.yaml"
		echo "$line" >>"$dir/bad.yaml"
		exits 1 hf config check "$dir/bad.yaml" --role node || return 1
		exits 2 "$bin/holdfastd" node --config "$dir/bad.yaml" || return 1
	done
	exits 3 hf config check "$dir/none.yaml"
}
t_bad_processors() { # said precisely, before anything starts; what only the kernel knows is said at the start
	local list="is no list of processors, such as 0 or 0-3,8; numbers go up to 1023"
	refused() { # LINE TEXT
		grep -v '^cpu' "$dir/n1.yaml" >"$dir/bad.yaml"
		echo "$1" >>"$dir/bad.yaml"
		says 1 "$2" hf config check "$dir/bad.yaml" --role node &&
			says 2 "$2" "$bin/holdfastd" node --config "$dir/bad.yaml"
	}
	refused 'cpus: 7-3' "cpus: '7-3' $list" && refused 'cpus: 0,,1' "cpus: '0,,1' $list" &&
		refused 'cpus: 1024' "cpus: '1024' $list" && refused 'cpus: all' "cpus: 'all' $list" &&
		refused 'cpu-latency: fast' "cpu-latency 'fast': must be auto, off, or 0 to 10000 microseconds" &&
		refused 'cpu-latency: 10001' "cpu-latency '10001': must be" &&
		refused 'cpu-latency: -1' "cpu-latency '-1': must be" || return 1
	(($(getconf _NPROCESSORS_CONF) > 1023)) ||
		says 2 "run on processors 1023: none of them is there and allowed" \
			"$bin/holdfastd" node --config "$dir/n1.yaml" --cpus 1023
}
t_ready() {
	start manager manager --config "$dir/manager.yaml" && start n1 node --config "$dir/n1.yaml" &&
		start g1 gateway --config "$dir/g1.yaml" && poll 10 eval "hf node list -o json |
			jq -e '.items[0] | .state == \"online\" and .io_engine == \"libaio\"'"
}
t_processors() { # every thread is where it was told; who was told nothing is where it likes
	local file
	for file in "/proc/${pids[n1]}/status" "/proc/${pids[n1]}"/task/*/status; do
		[[ $(awk '/^Cpus_allowed_list/ {print $2}' "$file") == "$cpu" ]] || { cat "$file"; return 1; }
	done
	hf node show n1 -o json | jq -e --arg cpu "$cpu" '.cpus == $cpu and .cpu_latency == "off"' &&
		hf node show n1 | grep -E "^cpus +$cpu\$" && hf node show n1 | grep -E '^cpu_latency +off$' &&
		hf status -o json | jq -e '[.manager, .gateway][] | .cpus == "any" and
			(.cpu_latency == "off" or .cpu_latency == "ready" or .cpu_latency == "held")' || return 1
	[[ $(awk '/^Cpus_allowed_list/ {print $2}' "/proc/${pids[g1]}/status") == \
		$(awk '/^Cpus_allowed_list/ {print $2}' /proc/self/status) ]]
}
t_private() { # sockets are their owner's; TCP is not there unless asked for, and then it is shown
	local mode
	for mode in $(stat -c %a "$dir"/*/*.sock); do
		[[ $mode == 600 ]] || { stat -c '%a %n' "$dir"/*/*.sock; return 1; }
	done
	/usr/bin/python3 -c '
import os, sys
listening = {f[9] for name in ("tcp", "tcp6") for line in open("/proc/net/" + name)
             if (f := line.split())[3] == "0A"}
for pid in sys.argv[1:]:
    for fd in os.listdir("/proc/%s/fd" % pid):
        try:
            to = os.readlink("/proc/%s/fd/%s" % (pid, fd))
        except FileNotFoundError:
            continue
        assert not (to.startswith("socket:[") and to[8:-1] in listening), "%s listens on TCP" % pid
' "${pids[@]}" || return 1
	hf status | grep "warning: gateway 'g1' runs with --insecure-tcp" &&
		hf status -o json | jq -e '.gateway.insecure_tcp and (.manager.insecure_tcp | not)'
}
t_refused_export() { # an address that cannot be used leaves nothing behind
	hf volume create v --size 256Mi --replicas 1 || return 1
	/usr/bin/python3 -c '
import socket, sys, time
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
open(sys.argv[1], "w").write(str(s.getsockname()[1]))
time.sleep(20)
' "$dir/port" &
	pids[python]=$!
	poll 5 test -s "$dir/port" || return 1
	exits 4 hf volume export v --listen "tcp:127.0.0.1:$(cat "$dir/port")" || return 1
	kill "${pids[python]}"
	unset "pids[python]"
	hf volume show v -o json | jq -e '.state == "available" and .exports == []' &&
		hf volume export v --listen tcp:127.0.0.1:0 | grep '^nbd://127.0.0.1:' && hf volume unexport v
}
t_metrics() { # each line is a comment, or a known name with labels and a number; no name comes twice
	local name
	uri=$(hf volume export v 2>/dev/null) && nbdsh -u "$uri" -c 'h.pwrite(b"x" * 65536, 0)' || return 1
	for name in manager n1 g1; do
		curl -s --unix-socket "$dir/$name/metrics.sock" http://localhost/metrics >"$dir/metrics" || return 1
		/usr/bin/python3 -c '
import re, sys
typed, seen = {}, set()
for line in open(sys.argv[1]):
    line = line.rstrip("\n")
    if line.startswith("# TYPE "):
        name, kind = line.split()[2:]
        assert name not in typed and kind in ("counter", "gauge", "histogram"), line
        assert kind != "counter" or name.endswith("_total"), line
        typed[name] = kind
    elif not line.startswith("# HELP "):
        m = re.fullmatch(r"([a-z_:]+)(\{([a-z_]+=\"([^\"\\\\]|\\\\.)*\",?)*\})? (\S+)", line)
        assert m, line
        float(m.group(5))
        base = re.sub(r"_(bucket|sum|count)$", "", m.group(1))
        assert m.group(1) in typed or typed.get(base) == "histogram", line
        assert line.rsplit(" ", 1)[0] not in seen, line
        seen.add(line.rsplit(" ", 1)[0])
assert "holdfast_start_time_seconds" in typed and len(typed) > 3
' "$dir/metrics" || return 1
	done
	grep 'volume="v"' "$dir/metrics" && poll 5 eval "curl -s --unix-socket '$dir/g1/metrics.sock' \
		http://localhost/metrics | grep -q 'holdfast_gateway_exports 1'"
}
small() {
	local name
	for name in manager n1 g1; do
		(($(rss_kib "${pids[$name]}") < 65536)) || return 1
	done
}
t_idle() { # after use: below 64 MiB resident and 1 % of a core
	local name bs
	for bs in 4k 256k; do
		(cd "$dir" && fio --name=v --ioengine=nbd --uri="$uri" --rw=randrw --bs=$bs --iodepth=32 \
			--size=200M --io_size=300M) || return 1
	done
	for name in manager n1 g1; do
		echo "$name: $(rss_kib "${pids[$name]}") KiB after use"
	done
	poll 20 small || return 1
	declare -A before
	for name in manager n1 g1; do
		before[$name]=$(cpu_ticks "${pids[$name]}")
	done
	sleep 3 # the stretch that is measured
	for name in manager n1 g1; do
		local ticks=$(($(cpu_ticks "${pids[$name]}") - before[$name]))
		echo "$name: $ticks ticks of 300 when idle"
		((ticks <= 3)) || return 1
	done
}
t_end() {
	local name
	for name in g1 n1 manager; do
		kill -TERM "${pids[$name]}" && wait "${pids[$name]}" || { echo "$name: $?"; return 1; }
		unset "pids[$name]"
		grep -q "stopped name=$name" "$dir/$name.log" || return 1
	done
	! compgen -G "$dir/*/*.sock" && hf store check "$dir/n1/store.img"
}

check "options come from a file, and bad ones are found" t_config
check "processors that are none, and latencies, are refused precisely" t_bad_processors
check "each daemon tells the service manager when it is ready" t_ready
check "a node runs where its file says" t_processors
check "sockets are private, and insecure TCP is shown" t_private
check "a refused export leaves nothing behind" t_refused_export
check "metrics parse" t_metrics
check "idle daemons are small and quiet" t_idle
check "SIGTERM ends each daemon in order" t_end
cluster_end
