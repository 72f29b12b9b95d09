# SPDX-License-Identifier: Apache-2.0
#
# Real NBD clients against any export: a library of cases, each a function that takes a URI of an
# empty, writable export of at least 256 MiB whose holes are known (block status), and a directory
# for scratch files. A case returns 0, 77 (skipped; says why) or anything else (failed).
#
#	. tests/system/clients.sh
#	clients_run URI DIR	runs all cases; sets clients_passed, clients_failed, clients_skipped
#
# Cases leave the export trimmed where they wrote, so that each starts from holes.

clients_cases=(info map nbdcopy qemu_img qemu_io block_status multi_conn structured fio filesystem)

# nbdsh runs the first python3 of PATH; its module is the system's python3's.
nbdsh() {
	PATH=/usr/bin:$PATH command nbdsh "$@"
}

clients_clean() { # URI
	nbdsh -u "$1" -c '
size = h.get_size()
step = 64 << 20
for at in range(0, size, step):
    h.trim(min(step, size - at), at)
'
}

case_info() { # nbdinfo tells what the export can do
	local json
	json=$(nbdinfo --json "$1") || return 1
	jq -e '.protocol == "newstyle-fixed" and .structured and
		(.exports[0] | .can_flush and .can_fua and .can_trim and .can_zero and .can_df and
		.can_multi_conn and .can_cache and (.is_read_only | not) and
		.block_size_minimum == 1 and .block_size_preferred == 4096)' <<<"$json" >/dev/null &&
		nbdinfo --size "$1" >/dev/null && nbdinfo --list "$1" >/dev/null
}

case_map() { # nbdinfo --map shows data where it was written and holes elsewhere
	local size want got
	size=$(nbdinfo --size "$1") || return 1
	nbdsh -u "$1" -c 'h.pwrite(b"x" * 65536, 1 << 20)' || return 1
	want="0 1048576 3;1048576 65536 0;1114112 $((size - 1114112)) 3;"
	got=$(nbdinfo --map "$1" | awk '{printf "%s %s %s;", $1, $2, $3}')
	[[ $got == "$want" ]] || { echo "map is '$got', want '$want'"; return 1; }
}

case_nbdcopy() { # nbdcopy in and out, many connections
	head -c 50000000 /dev/urandom >"$2/in" && truncate -s 60000000 "$2/in" &&
		nbdcopy --connections=4 "$2/in" "$1" &&
		nbdcopy --connections=4 "$1" "$2/out" &&
		cmp -n 60000000 "$2/in" "$2/out"
}

case_qemu_img() { # qemu-img converts into the export and out of it, and compares
	local size
	size=$(nbdinfo --size "$1") || return 1
	head -c 20000000 /dev/urandom >"$2/image" && truncate -s "$size" "$2/image" &&
		qemu-img convert -n -f raw -O raw "$2/image" "$1" &&
		qemu-img compare -f raw -F raw "$2/image" "$1" &&
		qemu-img convert -f raw -O qcow2 "$1" "$2/image.qcow2" &&
		qemu-img compare -f raw -F qcow2 "$2/image" "$2/image.qcow2"
}

case_qemu_io() { # qemu-io: unaligned writes, zeroes, discard; each is read back
	local output
	output=$(qemu-io -f raw \
		-c 'write -P 17 1000 5000' -c 'read -P 17 1000 5000' -c 'read -P 0 0 1000' \
		-c 'write -P 34 4095 2' -c 'read -P 34 4095 2' -c 'read -P 17 4097 1903' \
		-c 'write -f -P 51 1M 1M' -c 'write -z 1049000 100000' -c 'read -P 0 1049000 100000' \
		-c 'read -P 51 1048576 424' -c 'read -P 51 1149000 4096' \
		-c 'write -z -u 1200000 70000' -c 'read -P 0 1200000 70000' \
		-c 'discard 0 2M' -c 'read -P 0 0 2M' -c 'flush' \
		-c 'aio_write -P 1 3M 1M' -c 'aio_write -P 2 4M 1M' -c 'aio_flush' \
		-c 'read -P 1 3M 1M' -c 'read -P 2 4M 1M' "$1" 2>&1)
	local status=$?
	if [[ $status != 0 || $output == *"verification failed"* || $output == *"rror"* ]]; then
		echo "$output"
		return 1
	fi
}

case_block_status() { # random writes, trims and zeroes: contents and block status follow a model
	nbdsh --base-allocation -u "$1" -c '
import random
random.seed(4711)
BLOCK, BLOCKS = 4096, 2048
data = bytearray(BLOCK * BLOCKS)
may_be_data = [False] * BLOCKS      # a block that is not must show as a hole or as zeroes
must_be_data = [False] * BLOCKS     # was written with nonzero bytes and not cleared since
for n in range(600):
    at = random.randrange(len(data))
    length = random.randint(1, min(len(data) - at, random.choice([100, 5000, 100000])))
    if random.random() < 0.5:
        at -= at % BLOCK
        length = min(-(-length // BLOCK) * BLOCK, len(data) - at)
    first, last = -(-at // BLOCK), (at + length) // BLOCK
    kind = random.choice(["write", "write", "trim", "zero", "zero_no_hole"])
    touched = range(at // BLOCK, -(-(at + length) // BLOCK))
    if kind == "write":
        fill = bytes([random.randint(1, 255)]) * length
        h.pwrite(fill, at, nbd.CMD_FLAG_FUA if random.random() < 0.1 else 0)
        data[at:at + length] = fill
        for b in touched:
            may_be_data[b] = must_be_data[b] = True
        continue
    if kind == "trim":
        h.trim(length, at)
        data[first * BLOCK:max(first, last) * BLOCK] = bytes(max(0, last - first) * BLOCK)
    else:
        h.zero(length, at, nbd.CMD_FLAG_NO_HOLE if kind == "zero_no_hole" else 0)
        data[at:at + length] = bytes(length)
        for b in touched:
            may_be_data[b] = True   # an edge may be kept as a block of data that is zero
    for b in range(first, last):
        may_be_data[b] = kind == "zero_no_hole"
    for b in touched:
        must_be_data[b] = any(data[b * BLOCK:(b + 1) * BLOCK])
assert h.pread(len(data), 0) == data, "contents differ"
flags = []
def extents(context, offset, entries, error):
    if context == "base:allocation":
        for i in range(0, len(entries), 2):
            flags.append((offset, entries[i], entries[i + 1]))
            offset += entries[i]
at = 0
while at < len(data):
    flags.clear()
    h.block_status(len(data) - at, at, extents)
    assert flags and flags[0][0] == at
    for offset, length, bits in flags:
        assert offset % BLOCK == 0
        for b in range(offset // BLOCK, min(-(-(offset + length) // BLOCK), BLOCKS)):
            zero = not any(data[b * BLOCK:(b + 1) * BLOCK])
            assert zero or not bits & 2, "block %d is not zero, status %d" % (b, bits)
            assert bits == 0 or not must_be_data[b], "block %d is data, status %d" % (b, bits)
            assert bits != 0 or may_be_data[b], "block %d was cleared, status %d" % (b, bits)
        at = offset + length
flags.clear()
h.block_status(len(data), 0, extents, nbd.CMD_FLAG_REQ_ONE)
assert len(flags) == 1 and flags[0][1] <= len(data), "REQ_ONE: %r" % flags
'
}

case_multi_conn() { # write on one connection, flush on another, read on a third
	nbdsh -c '
import sys, os
uri = os.environ["CLIENTS_URI"]
conns = [nbd.NBD() for i in range(3)]
for c in conns:
    c.connect_uri(uri)
assert all(c.can_multi_conn() for c in conns)
for n in range(200):
    fill = bytes([n % 255 + 1]) * (4096 + n)
    conns[n % 3].pwrite(fill, n * 5001)
    conns[(n + 1) % 3].flush()
    assert conns[(n + 2) % 3].pread(len(fill), n * 5001) == fill, "write %d is not seen" % n
for c in conns:
    c.shutdown()
'
}

case_structured() { # pread with and without DF, structured and simple replies, FUA, errors
	nbdsh -c '
import os, errno
uri = os.environ["CLIENTS_URI"]
for structured in (True, False):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.set_strict_mode(0)
    h.connect_uri(uri)
    assert h.get_structured_replies_negotiated() == structured
    size = h.get_size()
    h.pwrite(b"ab" * 5000, 12345, nbd.CMD_FLAG_FUA)
    chunks = []
    def chunk(data, offset, status, error):
        chunks.append((offset, len(data), status))
    if structured:
        want = bytes(12345 - 4096) + b"ab" * 5000 + bytes(8192)
        assert h.pread_structured(len(want), 4096, chunk) == want
        assert sum(c[1] for c in chunks) == len(want) and len(chunks) > 1
        assert any(c[2] == nbd.READ_HOLE for c in chunks)
        chunks.clear()
        assert h.pread_structured(len(want), 4096, chunk, nbd.CMD_FLAG_DF) == want
        assert len(chunks) == 1
    else:
        assert h.pread(10000, 12345) == b"ab" * 5000
    def fails(want, call, *args):
        try:
            call(*args)
        except nbd.Error as e:
            assert e.errnum == want, "%s instead of %s" % (e, errno.errorcode[want])
            return
        raise AssertionError("no error where %s should be" % errno.errorcode[want])
    fails(errno.EINVAL, h.pread, 1, size)
    fails(errno.ENOSPC, h.pwrite, b"x", size)
    fails(errno.ENOSPC, h.zero, 1, size)
    fails(errno.EINVAL, h.trim, 1, size)
    h.cache(65536, 0)
    h.flush()
    h.shutdown()
'
}

case_fio() { # fio writes randomly and verifies: whole blocks, sectors, mixed lengths
	local sizes
	for sizes in --bs=4k --bs=1536 --bsrange=1k-60k; do
		(cd "$2" && fio --name=verify --ioengine=nbd --uri="$1" --rw=randwrite "$sizes" \
			--bs_unaligned=1 --size=64M --iodepth=32 --verify=crc32c --do_verify=1 \
			--verify_fatal=1) >"$2/fio.log" 2>&1 || { tail -n 20 "$2/fio.log"; return 1; }
	done
}

# nbdfuse makes a file of the export; a loop device makes a block device of the file.
case_filesystem() {
	local dir=$2/fs fuse loop=
	[[ $EUID == 0 ]] || { echo "needs root"; return 77; }
	[[ -w /dev/fuse && -e /dev/loop-control ]] || { echo "needs /dev/fuse and loop devices"; return 77; }
	mkdir -p "$dir/fuse" "$dir/mnt"
	nbdfuse "$dir/fuse" "$1" >"$dir/log" 2>&1 &
	fuse=$!
	timeout 10 bash -c "until [ -e '$dir/fuse/nbd' ]; do sleep 0.05; done" &&
		loop=$(losetup --show -f "$dir/fuse/nbd") &&
		filesystem_steps "$loop" "$dir/mnt"
	local status=$?
	mountpoint -q "$dir/mnt" && umount "$dir/mnt"
	[[ -n $loop ]] && losetup -d "$loop"
	fusermount3 -u "$dir/fuse" 2>/dev/null || umount "$dir/fuse" 2>/dev/null
	wait "$fuse" 2>/dev/null
	return $status
}

filesystem_steps() { # DEVICE MOUNTPOINT
	local sum again
	mkfs.ext4 -q -F "$1" && mount "$1" "$2" || return 1
	for n in $(seq 100); do
		head -c $((n * 3001)) /dev/urandom >"$2/file$n" || return 1
	done
	rm "$2"/file*7 && sync -f "$2" || return 1
	sum=$(cat "$2"/file* | sha256sum)
	umount "$2" && e2fsck -fn "$1" >/dev/null 2>&1 && mount "$1" "$2" || return 1
	again=$(cat "$2"/file* | sha256sum)
	umount "$2" && e2fsck -fn "$1" >/dev/null 2>&1 && [[ $sum == "$again" ]]
}

clients_run() { # URI DIR [CASE]...
	local uri=$1 dir=$2 name status started
	shift 2
	clients_passed=0 clients_failed=0 clients_skipped=0
	export CLIENTS_URI=$uri
	for name in "${@:-${clients_cases[@]}}"; do
		mkdir -p "$dir/$name"
		started=$SECONDS
		(set +e; clients_clean "$uri" && "case_$name" "$uri" "$dir/$name") >"$dir/$name.log" 2>&1 </dev/null
		status=$?
		rm -rf "${dir:?}/$name"
		case $status in
		0) clients_passed=$((clients_passed + 1)); echo "ok   $name ($((SECONDS - started)) s)" ;;
		77) clients_skipped=$((clients_skipped + 1)); echo "skip $name: $(tail -n 1 "$dir/$name.log")" ;;
		*)
			clients_failed=$((clients_failed + 1))
			echo "FAIL $name (status $status)"
			sed 's/^/    | /' "$dir/$name.log" | tail -n 40
			;;
		esac
	done
}
