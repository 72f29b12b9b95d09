#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A store on a raw block device (a loop device): what is refused, its size, a node on it that is killed,
# restarted and checked. Skipped where loop devices are not permitted.

cd "$(dirname "$0")/../.." || exit 1
. tests/system/cluster.sh
loop='' small='' node_pid=''

cleanup_more() {
	local device
	[[ -n $node_pid ]] && kill "$node_pid" 2>/dev/null && wait "$node_pid"
	mountpoint -q "$dir/mnt" && umount "$dir/mnt"
	for device in $loop $small; do
		losetup -d "$device"
	done
}
attach() { # FILE SIZE: prints the device
	truncate -s "$2" "$1" && losetup --show -f "$1" 2>&1
}
mkdir -p "$dir/mnt"
loop=$(attach "$dir/disk" 256M) || { echo "skipped: $loop"; loop=; exit 77; }

t_refused() { # too small, mounted, foreign data: nothing is changed
	small=$(attach "$dir/small" 1M) &&
		says 2 "a store needs at least 67108864" hf store format "$small" || return 1
	mkfs.ext4 -q "$loop" && mount "$loop" "$dir/mnt" || { echo "mount is not permitted"; return 77; }
	echo kept >"$dir/mnt/file" && sync -f "$dir/mnt/file"
	says 4 "is in use: it is mounted" hf store format "$loop" --force --yes &&
		says 4 "is in use: it is mounted" hf store format "$loop" || return 1
	umount "$dir/mnt" || return 1
	says 4 "it holds an ext2, ext3 or ext4 filesystem" hf store format "$loop" &&
		says 2 "Repeat the command with --yes" hf store format "$loop" --force || return 1
	mount "$loop" "$dir/mnt" && [[ $(<"$dir/mnt/file") == kept ]] && umount "$dir/mnt"
}
t_format() { # the whole device, without being told its size
	hf store format "$loop" --force --yes && hf store check "$loop" || return 1
	hf store dump "$loop" | grep -q '^root' && says 4 "it holds a Holdfast store" hf store format "$loop"
}
node_start() {
	"$bin/holdfastd" node --dir "$dir/c" --name raw --store "$loop" --host raw 2>>"$dir/raw.log" &
	node_pid=$!
	poll 15 node_online "$node_pid" || { tail "$dir/raw.log"; return 1; }
}
node_online() { # PID
	hf node list -o json | jq -e --argjson pid "$1" \
		'.items[] | select(.name == "raw" and .state == "online" and .pid == $pid)'
}
t_node() { # its size is found, clients write to it
	local capacity
	hf up --nodes 2 --size 256Mi && node_start || return 1
	capacity=$(hf store list -o json | jq --arg path "$loop" '.items[] | select(.path == $path).capacity')
	((capacity > 200 << 20 && capacity <= 256 << 20)) || { echo "capacity $capacity"; return 1; }
	hf volume create db --size 64Mi --replicas 3 && uri=$(hf volume export db 2>/dev/null) && poll 20 live db &&
		(cd "$dir" && fio --name=v --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --iodepth=16 \
			--size=24M --verify=crc32c --verify_fatal=1 --verify_state_save=0)
}
t_in_use() { # by a node: neither formatted nor checked nor mounted
	says 4 "is in use" hf store format "$loop" --force --yes && says 4 "is locked by another process" hf store check "$loop" || return 1
	! mount "$loop" "$dir/mnt"
}
t_killed() { # and started at once: it waits for the device, and has everything
	nbdsh -u "$uri" -c 'h.pwrite(b"raw!" * 1024, 8 << 20)' || return 1
	kill -9 "$node_pid" && node_start || return 1
	nbdsh -u "$uri" -c 'assert h.pread(4096, 8 << 20) == b"raw!" * 1024' && poll 30 live db && hf replica verify db
}
t_stopped() {
	kill "$node_pid" && wait "$node_pid" || { tail "$dir/raw.log"; return 1; }
	node_pid=
	hf store check --deep "$loop" && node_start && poll 30 live db && hf replica verify db
}

check "a device that cannot be a store is refused" t_refused
check "a device is formatted whole" t_format
check "a node on a device" t_node
check "a device in use" t_in_use
check "the node is killed and started at once" t_killed
check "a stopped node's device is checked, and used again" t_stopped
cluster_end
