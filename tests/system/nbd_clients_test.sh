#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Real NBD clients against the NBD server over a device in memory: on a unix socket with the
# first engine, on TCP with libaio.

set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/system/clients.sh
tool=${OUT:-build}/tests/system/nbd_serve_tool
dir=$(mktemp -d "${TMPDIR:-/tmp}/holdfast-clients-XXXXXX") || exit 1
server=
passed=0 failed=0 skipped=0

stop() {
	[[ -n $server ]] && kill "$server" 2>/dev/null && wait "$server"
	local status=$?
	server=
	return $status
}
trap 'stop; rm -rf "$dir"' EXIT

serve() { # ADDRESS [key=value]...
	"$tool" "$1" $((512 << 20)) "${@:2}" >"$dir/out" 2>"$dir/err" &
	server=$!
	for _ in $(seq 200); do
		grep -q '^READY' "$dir/out" && return 0
		kill -0 "$server" 2>/dev/null || break
		sleep 0.05
	done
	cat "$dir/err"
	return 1
}

round() { # URI [CASE]...
	clients_run "$1" "$dir/work" "${@:2}"
	passed=$((passed + clients_passed)) failed=$((failed + clients_failed))
	skipped=$((skipped + clients_skipped))
	# The server outlived all of it and ends cleanly.
	if stop; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL the server's end"
		tail -n 20 "$dir/err"
	fi
}

if serve "unix:$dir/nbd"; then
	round "nbd+unix:///mem?socket=$dir/nbd"
else
	failed=$((failed + 1))
fi
if serve tcp:127.0.0.1:0 engine=libaio; then
	port=$(sed -n 's/^READY tcp:127.0.0.1://p' "$dir/out")
	round "nbd://127.0.0.1:$port/mem" info map nbdcopy qemu_io block_status multi_conn structured fio
else
	failed=$((failed + 1))
fi
line="$passed passed, $failed failed"
((skipped > 0)) && line+=", $skipped skipped"
echo "$line"
((failed == 0))
