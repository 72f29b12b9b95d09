# SPDX-License-Identifier: Apache-2.0
#
# usage: bad_peer.py UNIX-SOCKET nbd|replica|admin
#
# Opens connections that send garbage, huge lengths, or half a message and stop; says "held" when all have
# sent, keeps those open that the server leaves open, and at end of its input says how many bytes came back.

import os, random, socket, struct, sys

random.seed(5)
U64_MAX = (1 << 64) - 1
noise = random.randbytes(70000)

NBD_OPTION = b"IHAVEOPT"
nbd_flags = struct.pack(">I", 3)
nbd_go = nbd_flags + NBD_OPTION + struct.pack(">II", 7, 4 + 2 + 2) + struct.pack(">IH", 2, 0) + b"db" + b"\0\0"
messages = {
    "nbd": [
        noise,                                                       # garbage for flags
        nbd_flags + noise,                                           # garbage for options
        nbd_flags + NBD_OPTION + struct.pack(">II", 7, 0xffffffff),  # a huge option
        nbd_flags + NBD_OPTION + struct.pack(">II", 7, 6) + struct.pack(">I", 0xffffffff) + b"\0\0",
        nbd_flags[:2],                                               # half of the flags
        nbd_flags + NBD_OPTION[:5],                                  # half an option
        nbd_go[:-3],
        nbd_go + noise,                                              # garbage for requests
        nbd_go + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 0xffffffff),        # a huge read..
        nbd_go + struct.pack(">IHHQQI", 0x25609513, 0, 0, 2, U64_MAX - 4095, 4096), # ..beyond the end
        nbd_go + struct.pack(">IHHQQI", 0x25609513, 0, 1, 3, 0, 1 << 20) + b"half", # half a write
        nbd_go + struct.pack(">IHHQ", 0x25609513, 0, 1, 4),                         # half a request
    ],
    "replica": [
        noise,
        b"\xff" * 65536,
        b"\0" * 4096,
        struct.pack("<I", 0x52464848),
        noise[:40],
    ],
    "admin": [
        noise,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,        # a frame of 16 MiB
        b"PRI * HTTP/2.0\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
}[sys.argv[2]]

conns = []
for message in messages:
    conn = socket.socket(socket.AF_UNIX)
    conn.settimeout(3)
    conn.connect(sys.argv[1])
    try:
        if sys.argv[2] == "nbd":
            conn.recv(18)
        conn.sendall(message)
    except OSError:
        pass            # cut off already: as good
    conns.append(conn)
print("held", len(conns), flush=True)
sys.stdin.read()
came = 0
for conn in conns:
    conn.setblocking(False)
    try:
        came += len(conn.recv(1 << 20))
    except OSError:
        pass
    conn.close()
print("came", came)
