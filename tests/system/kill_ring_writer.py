# SPDX-License-Identifier: Apache-2.0
#
# Writes 4096-byte blocks at random places over NBD, several in flight, until the file STOP exists; keeps
# what each block must hold, reads some back on the way and everything at the end.
#
#	nbdsh -c 'exec(open("kill_ring_writer.py").read())'   with, in the environment:
#	RING_URI, RING_LOG, RING_STOP, RING_RATE (writes a second)
#
# Every 100 ms a line goes to RING_LOG: Unix time in ms, writes completed so far, the longest time in ms
# without a completion in that interval (of those during which requests were out). Any error ends it with
# a message and exit status 1.

import os, random, struct, sys, time

BLOCK, DEPTH = 4096, 16
h.connect_uri(os.environ["RING_URI"])
blocks = h.get_size() // BLOCK
rate = float(os.environ["RING_RATE"])
random.seed(9)
serial = 0
holds = {}      # block -> number of the write that it must hold
out = {}        # cookie -> (block, number, buffer, is_read)
busy = set()    # blocks with a request out: one at a time each, so that what must be there is known
done_count = 0


def fill(block, number):
    return struct.pack("<QQ", block, number) * (BLOCK // 16)


def start():
    global serial
    block = random.randrange(blocks)
    if block in busy:
        return
    busy.add(block)
    if random.random() < 0.1:
        buf = nbd.Buffer(BLOCK)
        out[h.aio_pread(buf, block * BLOCK)] = (block, holds.get(block), buf, True)
        return
    serial += 1
    buf = nbd.Buffer.from_bytearray(bytearray(fill(block, serial)))
    out[h.aio_pwrite(buf, block * BLOCK)] = (block, serial, buf, False)


def reap():
    global done_count
    came = 0
    for cookie in list(out):
        if not h.aio_command_completed(cookie):  # raises for a request that failed
            continue
        block, number, buf, is_read = out.pop(cookie)
        busy.discard(block)
        came += 1
        if is_read:
            want = bytes(BLOCK) if number is None else fill(block, number)
            assert buf.to_bytearray() == want, "block %d does not hold write %s" % (block, number)
        else:
            holds[block] = number
            done_count += 1
    return came


log = open(os.environ["RING_LOG"], "w", buffering=1)
began = last = line_at = time.monotonic()
gap = 0.0
while not os.path.exists(os.environ["RING_STOP"]):
    now = time.monotonic()
    while len(out) < DEPTH and serial < (now - began) * rate:
        if not out:
            last = time.monotonic() # nothing was asked: no gap
        start()
    if out:
        h.poll(20)
    else:
        time.sleep(0.001)
    now = time.monotonic()
    if reap():
        gap = max(gap, now - last)
        last = now
    elif out:
        gap = max(gap, now - last)
    if serial + DEPTH < (now - began) * rate:   # behind: not to be made up for
        began = now - serial / rate
    if now - line_at >= 0.1:
        log.write("%d %d %.1f\n" % (time.time() * 1000, done_count, gap * 1000))
        line_at, gap = now, 0.0
while out:
    h.poll(1000)
    reap()
h.flush()
for block, number in holds.items():
    assert h.pread(BLOCK, block * BLOCK) == fill(block, number), "block %d at the end" % block
h.shutdown()
print("%d writes, %d blocks verified" % (done_count, len(holds)))
