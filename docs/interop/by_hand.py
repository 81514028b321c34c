#!/usr/bin/env python3
"""Each fault that `outboard check` finds in other people's back ends, once more by hand.

    python3 docs/interop/by_hand.py --peers target/outboard-cache/peers
    python3 docs/interop/by_hand.py --peers target/outboard-cache/peers virtiofsd dpdk-testpmd
    python3 docs/interop/by_hand.py virtiofsd --socket-path {socket} --sandbox none --shared-dir {directory}
    python3 docs/interop/by_hand.py --case double_owner --peers target/outboard-cache/peers
    python3 docs/interop/by_hand.py --list

With `--peers` it starts what `cargo xtask peers` fetched (all of them, or those named); otherwise the words are the
command of one peer, in which {socket}, {stem} (the socket's path without the number that vhost-device-rng adds),
{image} and {directory} are filled in. Whose command it is is told by the name of the program among its words.

It shares no code with Outboard: what follows is a raw front end (header, descriptors, memory, one split ring) and a
function for each cause, which starts a fresh peer, does the fewest steps and says what was wanted and what was seen.
The names of the checks that fail for that cause stand above each function. The last column of every result is
`shown` (the fault is there), `NOT SHOWN`, or `UNCLEAR` (the way there was blocked by something else); the exit
status is 0 only if everything was shown. Python 3.10 or later, Linux, standard library only.
"""

import argparse
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD = 1, 2, 3, 4, 5, 6, 7
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG, GET_INFLIGHT_FD = 21, 24, 25, 31
RESET_DEVICE, GET_MAX_MEM_SLOTS, ADD_MEM_REG, REM_MEM_REG = 34, 36, 37, 38
SET_STATUS, GET_STATUS, SET_DEVICE_STATE_FD = 39, 40, 42

VERSION, REPLY, NEED_REPLY = 1, 4, 8
MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG = 1 << 0, 1 << 1, 1 << 3, 1 << 5, 1 << 9
RESET, SLOTS, STATUS, DEVICE_STATE = 1 << 13, 1 << 15, 1 << 16, 1 << 19
LOG_ALL, INDIRECT_DESC, EVENT_IDX, PROTOCOL, VERSION_1 = 1 << 26, 1 << 28, 1 << 29, 1 << 30, 1 << 32
NEXT, WRITE, INDIRECT = 1, 2, 4
NO_FD = 0x100

GUEST, USER, SIZE = 0x4000_0000, 0x7000_4000_0000, 64 << 20
PATIENCE = 2.0


class Surprise(Exception):
    """Something on the way to the fault went otherwise than it should have."""


class Link:
    """A connection, as messages."""

    def __init__(self, stream):
        self.stream = stream
        self.acks = False
        stream.settimeout(PATIENCE)

    def send(self, request, payload=b"", fds=(), flags=VERSION, size=None):
        size = len(payload) if size is None else size
        self.send_bytes(struct.pack("=III", request, flags, size) + payload, fds)

    def send_bytes(self, data, fds=()):
        try:
            if fds:
                sent = socket.send_fds(self.stream, [data], list(fds))
                data = data[sent:]
            self.stream.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what is heard next tells

    def exactly(self, count):
        data = b""
        while len(data) < count:
            piece = self.stream.recv(count - len(data))
            if not piece:
                raise ConnectionResetError
            data += piece
        return data

    def hear(self):
        """The next message as (request, flags, payload); "closed" or "silence" if there is none."""
        try:
            request, flags, size = struct.unpack("=III", self.exactly(12))
            return request, flags, self.exactly(size)
        except (ConnectionResetError, BrokenPipeError):
            return "closed"
        except TimeoutError:
            return "silence"

    def ask(self, request, payload=b"", fds=(), flags=VERSION):
        """Sends, and hears the reply, whose id has to fit."""
        self.send(request, payload, fds, flags)
        heard = self.hear()
        if isinstance(heard, str):
            return heard
        return heard[2] if heard[0] == request else f"a message with id {heard[0]} instead of {request}"

    def number(self, request):
        answer = self.ask(request)
        if isinstance(answer, str) or len(answer) != 8:
            raise Surprise(f"request {request}: {answer!r}")
        return struct.unpack("=Q", answer)[0]

    def try_set(self, request, payload=b"", fds=()):
        """Sends what has no reply: "accepted", "refused (number)", "closed" or "silence"."""
        if not self.acks:
            self.send(request, payload, fds)
            answer = self.ask(GET_FEATURES)
            return answer if isinstance(answer, str) else "accepted"
        answer = self.ask(request, payload, fds, VERSION | NEED_REPLY)
        if isinstance(answer, str):
            return answer
        number = int.from_bytes(answer, sys.byteorder)
        return f"refused ({number:#x})" if number else "accepted"

    def set(self, request, payload=b"", fds=()):
        answer = self.try_set(request, payload, fds)
        if answer != "accepted":
            raise Surprise(f"request {request}: {answer}")

    def alive(self):
        answer = self.ask(GET_FEATURES)
        return answer if isinstance(answer, str) else "goes on"


def u64(number):
    return struct.pack("=Q", number)


def state(index, number):
    return struct.pack("=II", index, number)


def table(*regions):
    return struct.pack("=II", len(regions), 0) + b"".join(struct.pack("=QQQQ", *region) for region in regions)


def memfd(size):
    fd = os.memfd_create("by-hand")
    os.ftruncate(fd, size)
    return fd


def event():
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def count(fd):
    """The events counted so far."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


class Ring:
    """A split ring: descriptors, available and used ring on a page or more of their own each."""

    def __init__(self, guest, index, size=16, at=None):
        self.guest, self.index, self.size = guest, index, size
        pages = [-(-length // 4096) * 4096 for length in (16 * size, 6 + 2 * size, 6 + 8 * size)]
        start = guest.take(sum(pages)) if at is None else at
        self.desc, self.avail, self.used = start, start + pages[0], start + pages[0] + pages[1]
        self.kick, self.call, self.err = event(), event(), event()
        self.made = self.seen = 0

    def begin_at(self, made, seen=None):
        """The indexes in memory, as after so many requests."""
        self.made, self.seen = made, made if seen is None else seen
        self.guest.write(self.avail + 2, struct.pack("<H", self.made))
        self.guest.write(self.used + 2, struct.pack("<H", self.seen))

    def describe(self, place, address, length, flags=0, link=0, at=None):
        at = self.desc if at is None else at
        self.guest.write(at + 16 * place, struct.pack("<QIHH", address, length, flags, link))

    def chain(self, buffers, first=0, places=None):
        """Descriptors for (address, length, flags), one behind the other."""
        places = places or [(first + nth) % self.size for nth in range(len(buffers))]
        for nth, (address, length, flags) in enumerate(buffers):
            last = nth == len(buffers) - 1
            self.describe(places[nth], address, length, flags | (0 if last else NEXT), 0 if last else places[nth + 1])
        return places[0]

    def offer(self, head, kick=True):
        self.guest.write(self.avail + 4 + 2 * (self.made % self.size), struct.pack("<H", head))
        self.made = (self.made + 1) & 0xFFFF
        self.guest.write(self.avail + 2, struct.pack("<H", self.made))
        if kick:
            os.eventfd_write(self.kick, 1)

    def used_index(self):
        return struct.unpack("<H", self.guest.read(self.used + 2, 2))[0]

    def used_entry(self, nth):
        return struct.unpack("<II", self.guest.read(self.used + 4 + 8 * (nth % self.size), 8))

    def wait(self, want=1, patience=PATIENCE):
        """Waits until the used index is `want` further; says by how much it is."""
        end = time.monotonic() + patience
        while True:
            ahead = (self.used_index() - self.seen) & 0xFFFF
            if ahead >= want or time.monotonic() > end:
                self.seen = (self.seen + ahead) & 0xFFFF
                return ahead
            time.sleep(0.001)


class Guest:
    """Guest memory, one file, and a device in it whose protocol this script has negotiated."""

    def __init__(self, peer, link, size=SIZE):
        self.peer, self.link, self.size = peer, link, size
        self.fd = memfd(size)
        self.map = mmap.mmap(self.fd, size)
        self.next = GUEST + 4096
        self.rings = []
        self.features = self.protocol = 0

    def take(self, length):
        at = self.next
        self.next += -(-length // 4096) * 4096
        return at

    def write(self, at, data):
        self.map[at - GUEST : at - GUEST + len(data)] = data

    def read(self, at, length):
        return self.map[at - GUEST : at - GUEST + length]

    def negotiate(self, more=0, protocol=MQ | LOG_SHMFD | REPLY_ACK | CONFIG | RESET | SLOTS):
        link = self.link
        link.send(SET_OWNER)
        offered = link.number(GET_FEATURES)
        self.protocol = link.number(GET_PROTOCOL_FEATURES) & protocol
        link.send(SET_PROTOCOL_FEATURES, u64(self.protocol))
        link.acks = bool(self.protocol & REPLY_ACK)
        self.features = offered & (VERSION_1 | PROTOCOL | more)
        link.set(SET_FEATURES, u64(self.features))

    def region(self):
        return GUEST, self.size, USER, 0

    def share(self):
        self.link.set(SET_MEM_TABLE, table(self.region()), [self.fd])

    def addr(self, ring, flags=0, log=None):
        user = USER - GUEST
        places = ring.desc + user, ring.used + user, ring.avail + user, ring.used if log is None else log
        return struct.pack("=IIQQQQ", ring.index, flags, *places)

    def start(self, ring, base=0, enable=True, call=True):
        link, index = self.link, ring.index
        link.set(SET_VRING_NUM, state(index, ring.size))
        link.set(SET_VRING_BASE, state(index, base))
        link.set(SET_VRING_ADDR, self.addr(ring))
        link.set(SET_VRING_ERR, u64(index), [ring.err])
        if call:
            link.set(SET_VRING_CALL, u64(index), [ring.call])
        link.set(SET_VRING_KICK, u64(index), [ring.kick])
        if enable:
            link.set(SET_VRING_ENABLE, state(index, 1))
        os.eventfd_write(ring.kick, 1)

    def ready(self, more=0, size=16, start=True, protocol=MQ | LOG_SHMFD | REPLY_ACK | CONFIG | RESET | SLOTS):
        """Negotiated, memory shared, all rings before that of requests running, and that one, too."""
        self.negotiate(more, protocol)
        self.share()
        last = self.peer.device.queue
        self.rings = [Ring(self, index, size) for index in range(last + 1)]
        for ring in self.rings if start else self.rings[:-1]:
            self.start(ring)
        return self.rings[-1]

    def stop(self, ring):
        answer = self.link.ask(GET_VRING_BASE, state(ring.index, 0))
        if isinstance(answer, str):
            raise Surprise(f"GET_VRING_BASE: {answer}")
        return struct.unpack("=II", answer)[1]

    def buffers(self):
        """A harmless request of the device's type in fresh memory."""
        readable, writable = self.peer.device.request
        found = []
        for data in readable:
            at = self.take(len(data))
            self.write(at, data)
            found.append((at, len(data), 0))
        for length in writable:
            found.append((self.take(length), length, WRITE))
        return found

    def request(self, ring, kick=True, first=0):
        ring.offer(ring.chain(self.buffers(), first), kick)

    def served(self, ring, patience=PATIENCE):
        """Makes a request and tells how far the used index went."""
        self.request(ring)
        return ring.wait(1, patience)

    def must_serve(self, ring):
        ahead = self.served(ring)
        if ahead != 1:
            raise Surprise(f"a plain request: the used index went {ahead} further, not 1")


class Device:
    """A type of device: the queue that takes requests, and one harmless request."""

    def __init__(self, queue, readable, writable):
        self.queue, self.request = queue, (readable, writable)


FRAME = bytes.fromhex("020000 0000fe 020000 0000fd 88b5") + b"Z" * 46
FUSE_INIT = struct.pack("<IIQQIIII", 56, 26, 1, 0, 0, 0, 0, 0) + struct.pack("<IIII", 7, 31, 0x10000, 0)
REPORT_LUNS = bytes([1, 0, 0x40, 0, 0, 0, 0, 0]) + struct.pack("<Q", 1) + bytes(3)
REPORT_LUNS += bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0]) + bytes(20)
BLK = Device(0, [bytes(16)], [512, 1])
RNG = Device(0, [], [64])
NET = Device(1, [bytes(12), FRAME], [])
FS = Device(1, [FUSE_INIT], [80])
SCSI = Device(2, [REPORT_LUNS], [108, 64])
VSOCK = Device(1, [], [])

QSD, VRNG, VVSOCK, VSCSI = "qemu-storage-daemon", "vhost-device-rng", "vhost-device-vsock", "vhost-device-scsi"
VFS, TESTPMD = "virtiofsd", "dpdk-testpmd"
DEVICES = {QSD: BLK, VRNG: RNG, VVSOCK: VSOCK, VSCSI: SCSI, VFS: FS, TESTPMD: NET}
OPTIONS = {
    QSD: "--blockdev driver=file,node-name=disk,cache.direct=off,filename={image} --export "
    "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=4,addr.type=unix,addr.path={socket}",
    VRNG: "--socket-path {stem}",
    VVSOCK: "--guest-cid 3 --socket {socket} --uds-path {socket}.vsock",
    VSCSI: "--socket-path {socket} {image}",
    VFS: "--socket-path {socket} --sandbox none --shared-dir {directory}",
    TESTPMD: "-l 0,1 --no-huge -m 128 --no-pci --no-shconf --no-telemetry --vdev net_vhost0,iface={socket} -- "
    "--forward-mode=io --auto-start --stats-period=3600 --no-mlockall --total-num-mbufs=4096",
}


class Peer:
    """One run of a back end, in a directory of its own."""

    def __init__(self, name, command):
        self.name, self.command, self.device = name, command, DEVICES[name]
        self.begin()

    def begin(self):
        self.place = tempfile.TemporaryDirectory(prefix="by-hand-")
        place = Path(self.place.name)
        (place / "directory").mkdir()
        with open(place / "image", "wb") as image:
            image.truncate(16 << 20)
        self.socket = place / ("socket0" if self.name == VRNG else "socket")
        names = {"socket": self.socket, "stem": place / "socket", "image": place / "image"}
        names["directory"] = place / "directory"
        words = []
        for word in self.command:
            for key, path in names.items():
                word = word.replace("{%s}" % key, str(path))
            words.append(word)
        self.log = open(place / "log", "wb+")
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def link(self, patience=20):
        end = time.monotonic() + patience
        while True:
            stream = socket.socket(socket.AF_UNIX)
            try:
                stream.connect(str(self.socket))
                return Link(stream)
            except OSError as error:
                stream.close()
                if self.process.poll() is not None or time.monotonic() > end:
                    raise Surprise(f"does not listen ({error}); {self.ended()}; it said: {self.said()}") from None
                time.sleep(0.02)

    def guest(self):
        return Guest(self, self.link())

    def said(self):
        self.log.seek(0)
        return " / ".join(self.log.read().decode(errors="replace").split("\n")[-4:]).strip(" /")

    def ended(self, patience=0.0):
        """How it ended, or that it runs."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            return "runs"
        return f"ended with {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self):
        if self.process.poll() is not None:
            return 0
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        self.place.cleanup()

    def restart(self):
        """A fresh process in a fresh place."""
        self.close()
        self.begin()


CASES = []


THEIRS = "the back end is at fault"
SHOULD = "the back end departs from what it SHOULD do"
OPEN = "no text is broken"
OURS = "the check was at fault"


def case(who, wanted, spec, **peers):
    """Registers a function for the peers whose checks are named; `who` is the judgement."""
    named = {"qsd": QSD, "rng": VRNG, "vsock": VVSOCK, "scsi": VSCSI, "fs": VFS, "net": TESTPMD}

    def register(function):
        CASES.append((function, who, wanted, spec, {named[key]: checks.split() for key, checks in peers.items()}))
        return function

    return register


# Messages -----------------------------------------------------------------------------------------------------------


@case(
    THEIRS,
    "an answer to GET_FEATURES",
    "vhost-user, Communication: a stream socket, on which a message has no borders",
    net="framing.dribbled framing.dribbled-payload",
    rng="framing.dribbled-payload",
    vsock="framing.dribbled-payload",
    scsi="framing.dribbled-payload",
    fs="framing.dribbled-payload",
)
def pieces(peer):
    """The header, or the header and half of SET_MEM_TABLE, comes a moment before the rest."""
    link = peer.link()
    header = struct.pack("=III", GET_FEATURES, VERSION, 0)
    link.send_bytes(header[:5])
    time.sleep(0.05)
    link.send_bytes(header[5:])
    answer = link.hear()
    first = answer if isinstance(answer, str) else "answered"
    link.stream.close()
    if peer.ended(0.3) != "runs":
        peer.restart()
    guest = peer.guest()
    guest.negotiate()
    body = table(guest.region())
    message = struct.pack("=III", SET_MEM_TABLE, VERSION, len(body)) + body
    guest.link.send_bytes(message[:20], [guest.fd])
    time.sleep(0.05)
    guest.link.send_bytes(message[20:])
    second = guest.link.alive()
    return f"a header in two pieces: {first}; a payload in two pieces: {second}", "closed" in (first, second)


@case(OPEN, "one recv gets a whole reply", "none: in use, DPDK, SPDK and alioth read with one recv", qsd="framing.reply-whole")
def reply_in_pieces(peer):
    """GET_FEATURES, 300 times; each answer read with one recv of 64 bytes."""
    link = peer.link()
    short = 0
    for _ in range(300):
        link.send(GET_FEATURES)
        select.select([link.stream], [], [], PATIENCE)
        got = len(link.stream.recv(64))
        short += got != 20
        if got != 20:
            link.exactly(20 - got)
    return f"of 300 replies of 20 bytes {short} came in pieces (two sends: 12 bytes, then 8)", short > 0


@case(
    THEIRS,
    "GET_FEATURES is what is answered",
    "vhost-user, REPLY_ACK: need_reply is for 'with this protocol extension negotiated'",
    qsd="framing.no-ack-before-agreement negotiation.per-connection",
    net="framing.no-ack-before-agreement negotiation.per-connection",
)
def ack_before_agreement(peer):
    """SET_OWNER with NEED_REPLY as the first message, then GET_FEATURES."""
    link = peer.link()
    link.send(SET_OWNER, flags=VERSION | NEED_REPLY)
    answer = link.ask(GET_FEATURES)
    return f"GET_FEATURES is answered with {answer!r:.60}", answer == f"a message with id {SET_OWNER} instead of 1"


@case(THEIRS, "flags 0x5", "vhost-user, Header: version, and the reply flag on a reply", qsd="framing.one-reply")
def flags_copied(peer):
    """GET_FEATURES with NEED_REPLY, REPLY_ACK agreed on."""
    guest = peer.guest()
    guest.negotiate()
    guest.link.send(GET_FEATURES, flags=VERSION | NEED_REPLY)
    heard = guest.link.hear()
    return f"flags {heard[1]:#x}", heard[1] != VERSION | REPLY


@case(
    THEIRS,
    "a number other than 0, and the connection goes on",
    "vhost-user, REPLY_ACK: 'MUST respond ... indicating success or failure'",
    qsd="framing.unknown-nack",
    vsock="framing.unknown-nack",
    fs="framing.unknown-nack",
)
def unknown_request(peer):
    """Request 4711 with NEED_REPLY, REPLY_ACK agreed on."""
    guest = peer.guest()
    guest.negotiate()
    answer = guest.link.try_set(4711)
    return answer, not answer.startswith("refused")


@case(
    THEIRS,
    "refused: half of the number is missing",
    "vhost-user, A single 64-bit integer; REPLY_ACK: zero is for success",
    qsd="framing.short-payload",
    net="framing.short-payload",
)
def short_payload(peer):
    """SET_FEATURES with 4 bytes."""
    guest = peer.guest()
    guest.negotiate()
    answer = guest.link.try_set(SET_FEATURES, bytes(4))
    return answer, answer == "accepted"


@case(
    OPEN,
    "answered, and the descriptors closed",
    "no section says what to do with them; QEMU and libblkio send some. Kept for good, they run out",
    qsd="framing.stray-fds framing.many-fds",
    net="framing.stray-fds",
    rng="framing.stray-fds",
    vsock="framing.stray-fds",
    scsi="framing.stray-fds",
    fs="framing.stray-fds memory.slots-stray-descriptor setup.libblkio",
)
def stray_descriptors(peer):
    """GET_FEATURES with two descriptors, four times."""
    link = peer.link()
    link.number(GET_FEATURES)
    before = peer.descriptors()
    fd = event()
    for _ in range(4):
        answer = link.ask(GET_FEATURES, fds=[fd, fd])
        if isinstance(answer, str):
            return f"{answer} on GET_FEATURES with two descriptors", True
    kept = peer.descriptors() - before
    return f"answered; of 8 descriptors {kept} stay open", kept > 0


@case(
    THEIRS,
    "an answer, or the end of the connection",
    "vhost-user, Communication: GET_FEATURES has a reply",
    rng="framing.many-fds",
    vsock="framing.many-fds",
    scsi="framing.many-fds",
    fs="framing.many-fds",
)
def many_descriptors(peer):
    """GET_FEATURES with 253 descriptors, which is what the kernel passes at most."""
    link = peer.link()
    fd = event()
    answer = link.ask(GET_FEATURES, fds=[fd] * 253)
    first = answer if isinstance(answer, str) else "answered"
    after = link.alive()
    return f"{first}; GET_FEATURES after that: {after}", first == "silence"


@case(
    OURS,
    "an acknowledgement",
    "vhost-user, REPLY_ACK, GET_PROTOCOL_FEATURES",
    vsock="framing.ack-of-agreement",
    fs="framing.ack-of-agreement",
)
def ack_of_agreement(peer):
    """SET_PROTOCOL_FEATURES with REPLY_ACK and NEED_REPLY, after GET_FEATURES and, in the second try, without it."""
    answers = []
    for ask in (True, False):
        link = peer.link()
        link.send(SET_OWNER)
        if ask:
            link.number(GET_FEATURES)
        answers.append(link.ask(SET_PROTOCOL_FEATURES, u64(REPLY_ACK), flags=VERSION | NEED_REPLY))
        peer.restart()
    seen = f"{answers[0]!r}; without the question: {answers[1]!r}. No fault: the check had not asked for the offer"
    return seen, answers == [bytes(8), "silence"]


# Negotiation --------------------------------------------------------------------------------------------------------


@case(
    OPEN,
    "accepted",
    "vhost-user, SET_OWNER: 'can be used as a session start flag'; nothing forbids a second one, DPDK and libkrun send it",
    rng="negotiation.owner-twice negotiation.features-before-protocol setup.dpdk setup.dpdk-reset-owner setup.libkrun",
    vsock="negotiation.owner-twice negotiation.features-before-protocol framing.ack-form framing.no-ack-unasked",
    scsi="negotiation.owner-twice negotiation.features-before-protocol setup.dpdk setup.dpdk-reset-owner",
    fs="negotiation.owner-twice negotiation.features-before-protocol framing.ack-form framing.no-ack-unasked "
    "setup.dpdk setup.dpdk-reset-owner setup.libkrun state.reset-keeps-agreement",
)
def double_owner(peer):
    """SET_OWNER, the agreement, SET_OWNER."""
    guest = peer.guest()
    guest.negotiate()
    answer = guest.link.try_set(SET_OWNER)
    return f"{answer}; afterwards: {guest.link.alive()}", answer != "accepted"


@case(
    OURS,
    "SET_FEATURES, then GET_ and SET_PROTOCOL_FEATURES are accepted",
    "vhost-user, GET_PROTOCOL_FEATURES: possible before SET_FEATURES, not only then",
    rng="negotiation.features-before-protocol",
    vsock="negotiation.features-before-protocol",
    scsi="negotiation.features-before-protocol",
    fs="negotiation.features-before-protocol",
)
def features_first(peer):
    """The same order as in the check, without the second SET_OWNER that the check used to end with: no fault."""
    link = peer.link()
    link.send(SET_OWNER)
    offered = link.number(GET_FEATURES)
    link.set(SET_FEATURES, u64(offered & (VERSION_1 | PROTOCOL)))
    agreed = link.number(GET_PROTOCOL_FEATURES) & (MQ | REPLY_ACK)
    link.send(SET_PROTOCOL_FEATURES, u64(agreed))
    answer = link.alive()
    return f"{answer}: the failure of the check was that of double_owner", answer == "goes on"


@case(
    THEIRS,
    "refused: there is no such feature",
    "vhost-user, REPLY_ACK: zero is for success; a feature that was not set is none. The text names no duty to look",
    qsd="negotiation.unoffered-protocol-feature negotiation.unoffered-feature",
    vsock="negotiation.unoffered-protocol-feature",
    fs="negotiation.unoffered-protocol-feature",
)
def unoffered(peer):
    """SET_PROTOCOL_FEATURES with bit 63, and SET_FEATURES with bit 23."""
    guest = peer.guest()
    guest.negotiate()
    protocol = guest.link.try_set(SET_PROTOCOL_FEATURES, u64(guest.protocol | 1 << 63))
    features = guest.link.try_set(SET_FEATURES, u64(guest.features | 1 << 23))
    return f"protocol feature 63: {protocol}; feature 23: {features}", "accepted" in (protocol, features)


@case(
    THEIRS,
    "a number: MQ was offered, and the offer was asked for",
    "vhost-user, GET_QUEUE_NUM: 'only when MQ is set in queried protocol features by GET_PROTOCOL_FEATURES'",
    rng="negotiation.queue-num-unagreed",
    vsock="negotiation.queue-num-unagreed",
    scsi="negotiation.queue-num-unagreed",
    fs="negotiation.queue-num-unagreed",
)
def queue_count_unagreed(peer):
    """GET_PROTOCOL_FEATURES (which has MQ), then GET_QUEUE_NUM without SET_PROTOCOL_FEATURES."""
    link = peer.link()
    link.send(SET_OWNER)
    link.number(GET_FEATURES)
    offered = link.number(GET_PROTOCOL_FEATURES)
    answer = link.ask(GET_QUEUE_NUM)
    return f"MQ on offer: {bool(offered & MQ)}; {answer!r}", offered & MQ and answer == "closed"


@case(
    THEIRS,
    "refused",
    "vhost-user, SET_BACKEND_REQ_FD: 'with REPLY_ACK must respond with zero for success, non-zero otherwise'",
    qsd="negotiation.back-channel-without-fd",
)
def back_channel_without_descriptor(peer):
    """SET_BACKEND_REQ_FD without a descriptor."""
    guest = peer.guest()
    guest.negotiate(protocol=REPLY_ACK | BACKEND_REQ)
    answer = guest.link.try_set(SET_BACKEND_REQ_FD)
    return answer, answer == "accepted"


@case(
    OURS,
    "nothing comes to harm",
    "vhost-user, SET_VRING_ENABLE: 'only when VHOST_USER_F_PROTOCOL_FEATURES has been negotiated'. QEMU's network card "
    "does it before SET_FEATURES all the same; no other device of QEMU's does",
    rng="setup.qemu-per-pair",
    scsi="setup.qemu-per-pair",
    fs="setup.qemu-per-pair",
)
def enable_before_features(peer):
    """SET_VRING_ENABLE before SET_FEATURES: it is we who are early."""
    link = peer.link()
    link.send(SET_OWNER)
    link.number(GET_FEATURES)
    agreed = link.number(GET_PROTOCOL_FEATURES) & (MQ | REPLY_ACK)
    link.send(SET_PROTOCOL_FEATURES, u64(agreed))
    link.send(SET_VRING_ENABLE, state(0, 1))
    answer = link.alive()
    return answer, answer == "closed"


# Memory -------------------------------------------------------------------------------------------------------------


@case(
    THEIRS,
    "accepted: no order of regions is asked for",
    "vhost-user, Multiple memory regions description; Memory access",
    rng="memory.eight-regions memory.table-replaced",
    scsi="memory.eight-regions memory.table-replaced",
    vsock="memory.eight-regions",
    fs="memory.eight-regions memory.table-replaced",
)
def regions_out_of_order(peer):
    """SET_MEM_TABLE with two regions, once by rising guest addresses, once the other way round."""
    guest = peer.guest()
    guest.negotiate()
    low, high = (GUEST, 1 << 20, USER, 0), (GUEST + (2 << 20), 1 << 20, USER + (2 << 20), 0)
    files = [memfd(1 << 20), memfd(1 << 20)]
    rising = guest.link.try_set(SET_MEM_TABLE, table(low, high), files)
    falling = guest.link.try_set(SET_MEM_TABLE, table(high, low), files)
    return f"rising: {rising}; falling: {falling}", rising == "accepted" and falling != "accepted"


@case(
    THEIRS,
    "the request is served",
    "vhost-user, Memory access: each address maps to the region that has it; a guest knows nothing of regions",
    fs="memory.buffer-across-regions",
)
def buffer_across_regions(peer):
    """Memory in two regions side by side; the buffer that the device writes lies half in each."""
    guest = peer.guest()
    guest.negotiate()
    half = SIZE // 2
    regions = (GUEST, half, USER, 0), (GUEST + half, half, USER + half, half)
    guest.link.set(SET_MEM_TABLE, table(*regions), [guest.fd, guest.fd])
    rings = [Ring(guest, index) for index in range(peer.device.queue + 1)]
    for ring in rings:
        guest.start(ring)
    ring = rings[-1]
    buffers = guest.buffers()
    readable = [buffer for buffer in buffers if not buffer[2]]
    _, length, flags = buffers[-1]
    ring.offer(ring.chain(readable + [(GUEST + half - 8, length, flags)]))
    ahead = ring.wait()
    return f"used index {ahead} further; {peer.ended(0.3)}", ahead != 1


@case(
    OPEN,
    "the process lives",
    "none: robustness. One file that is shorter than told, or becomes shorter, ends all that the process serves",
    qsd="memory.beyond-file memory.file-truncated",
    rng="memory.file-truncated",
    scsi="memory.file-truncated",
    fs="memory.beyond-file memory.file-truncated",
    net="memory.beyond-file memory.file-truncated",
)
def file_cut(peer):
    """The file of the memory is cut while the ring runs, and the ring is kicked."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    os.ftruncate(guest.fd, 0)
    os.eventfd_write(ring.kick, 1)
    guest.link.alive()
    how = peer.ended(0.5)
    return how, how == "ended with SIGBUS"


@case(
    OPEN,
    "SET_MEM_TABLE refused, or the region not touched",
    "none: robustness",
    qsd="memory.beyond-file",
    fs="memory.beyond-file",
    net="memory.beyond-file",
)
def region_beyond_file(peer):
    """A region of 64 MiB on a file of 1 MiB; the device's buffer is in what is not there."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    start = GUEST + (1 << 30)
    regions = table(guest.region(), (start, 64 << 20, USER + (1 << 30), 0))
    answer = guest.link.try_set(SET_MEM_TABLE, regions, [guest.fd, memfd(1 << 20)])
    buffers = guest.buffers()
    writable = [buffer for buffer in buffers if buffer[2]]
    at = start + (32 << 20)
    moved = [(at, length, flags) if flags or not writable else (address, length, flags) for address, length, flags in buffers]
    ring.offer(ring.chain(moved))
    ring.wait(1, 0.5)
    guest.link.alive()
    how = peer.ended(0.5)
    return f"SET_MEM_TABLE: {answer}; {how}", how == "ended with SIGBUS"


def refused_tables(peer):
    """Tables that cannot be: name, payload, descriptors."""
    start, user, one = GUEST + (1 << 30), USER + (1 << 30), 1 << 20
    first, second = (start, one, user, 0), (start + 2 * one, one, user + 2 * one, 0)
    files = [memfd(one), memfd(one)]
    pipe = os.pipe()[0]
    return {
        "too few descriptors": (table(first, second), files[:1]),
        "too many descriptors": (table(first), files),
        "a region of size 0": (table(first, (second[0], 0, second[2], 0)), files),
        "addresses beyond 2^64": (table((2**64 - 4096, one, user, 0)), files[:1]),
        "an overlap": (table(first, (start + 4096, one, second[2], 0)), files),
        "half of the last region": (table(first, second)[:-16], files),
        "a pipe": (table(first, second), [files[0], pipe]),
    }


@case(
    THEIRS,
    "each refused, and the old table stays in force",
    "vhost-user, SET_MEM_TABLE ('the size and ordering of the fds matches'), REPLY_ACK (zero is for success)",
    qsd="memory.too-few-descriptors memory.too-many-descriptors memory.empty-region memory.address-overflow "
    "memory.overlap memory.overlapping-slot memory.truncated-table memory.unmappable-descriptor",
    net="memory.empty-region memory.address-overflow memory.overlap memory.truncated-table memory.unmappable-descriptor",
)
@case(
    OPEN,
    "each refused, and the old table stays in force",
    "vhost-user, Communication: a back end may close the connection, 'in exceptional circumstances'; the NACK came before",
    fs="memory.too-few-descriptors memory.too-many-descriptors memory.empty-region memory.address-overflow "
    "memory.overlap memory.overlapping-slot memory.truncated-table memory.count-beyond-payload "
    "memory.unmappable-descriptor memory.slots-unknown-removal",
)
def impossible_tables(peer):
    """A ring runs; then one of these tables comes, and a request is made."""
    seen, wrong = [], False
    for name in refused_tables(peer):
        body, fds = refused_tables(peer)[name]
        guest = peer.guest()
        ring = guest.ready()
        guest.must_serve(ring)
        answer = guest.link.try_set(SET_MEM_TABLE, body, fds)
        after = ""
        if answer.startswith("refused"):
            alive = guest.link.alive()
            after = ", then closed" if alive == "closed" else "" if guest.served(ring, 0.5) == 1 else ", then no service"
            if (how := peer.ended(0.3)) != "runs" and after != ", then closed":
                after += f", {how}"
        seen.append(f"{name}: {answer}{after}")
        wrong |= answer == "accepted" or bool(after)
        peer.restart()
    return "; ".join(seen), wrong


@case(
    THEIRS,
    "refused, or the end of the connection",
    "vhost-user, Multiple memory regions description",
    qsd="memory.count-beyond-payload hostile.messages",
)
def count_beyond_payload(peer):
    """SET_MEM_TABLE that announces many regions and carries one; then a new front end."""
    seen, wrong = [], False
    for announced in (9, 0x800_0001, 2**32 - 1):
        guest = peer.guest()
        guest.ready()
        body = struct.pack("=II", announced, 0) + table((GUEST + (1 << 30), 1 << 20, USER + (1 << 30), 0))[8:]
        answer = guest.link.try_set(SET_MEM_TABLE, body, [memfd(1 << 20)])
        guest.link.stream.close()
        try:
            after = peer.link(2).alive()
        except Surprise:
            after = "nobody listens"
        how = peer.ended(0.3)
        seen.append(f"{announced}: {answer}; the next front end: {after}; {how}")
        wrong |= how != "runs" or after != "goes on"
        peer.restart()
    return "; ".join(seen), wrong


@case(
    THEIRS,
    "REM_MEM_REG refused",
    "vhost-user, REM_MEM_REG, REPLY_ACK: zero is for success; nothing was removed",
    qsd="memory.slots-unknown-removal",
)
def unknown_removal(peer):
    """REM_MEM_REG of a region that there never was."""
    guest = peer.guest()
    guest.ready()
    region = struct.pack("=QQQQQ", 0, GUEST + (1 << 32), 1 << 20, USER + (1 << 32), 0)
    answer = guest.link.try_set(REM_MEM_REG, region)
    return answer, answer == "accepted"


@case(
    THEIRS,
    "what is one too many is refused, and the ring runs on",
    "vhost-user, GET_MAX_MEM_SLOTS; REPLY_ACK: zero is for success",
    qsd="memory.slots-full",
)
def all_slots(peer):
    """ADD_MEM_REG of the ring's memory; the ring runs; ADD_MEM_REG of pages, one more than there are slots."""
    guest = peer.guest()
    guest.negotiate()
    slots = guest.link.number(GET_MAX_MEM_SLOTS)
    half = SIZE // 2
    guest.link.set(ADD_MEM_REG, struct.pack("=QQQQQ", 0, GUEST, half, USER, 0), [guest.fd])
    ring = Ring(guest, 0)
    guest.start(ring)
    guest.must_serve(ring)
    answers = []
    for offset in range(half, half + slots * 4096, 4096):
        region = struct.pack("=QQQQQ", 0, GUEST + offset, 4096, USER + offset, offset)
        answers.append(guest.link.try_set(ADD_MEM_REG, region, [guest.fd]))
    ahead = guest.served(ring)
    alive = guest.link.alive()
    return f"region {slots + 1} of {slots}: {answers[-1]}; a request: used index {ahead} further; then {alive}", ahead != 1


@case(
    OPEN,
    "the region works, or is refused",
    "vhost-user, Memory region description (mmap offset: any 64-bit offset)",
    qsd="memory.mmap-offset-unaligned",
)
def unaligned_offset(peer):
    """A region whose mmap offset is 512; then SET_VRING_NUM."""
    guest = peer.guest()
    guest.negotiate()
    regions = table((GUEST, 4096 * 4 + 512, USER, 0), (GUEST + 4096 * 4 + 512, 1 << 20, USER + 4096 * 4 + 512, 4096 * 4 + 512))
    answer = guest.link.try_set(SET_MEM_TABLE, regions, [guest.fd, guest.fd])
    after = guest.link.try_set(SET_VRING_NUM, state(0, 16))
    return f"SET_MEM_TABLE: {answer}; SET_VRING_NUM: {after}; {peer.said()}", answer == "accepted" and after == "closed"


# Setting up ---------------------------------------------------------------------------------------------------------


@case(
    THEIRS,
    "the ring starts when the rest has come",
    "vhost-user, Ring states: a kick starts a ring; no order is given (alioth sends the kick descriptors first)",
    rng="hostile.kick-before-setup",
    scsi="hostile.kick-before-setup",
    fs="setup.kick-first hostile.kick-before-setup",
)
def kick_first(peer):
    """SET_VRING_KICK with a kick in it and ENABLE, then NUM, BASE, ADDR, CALL; another kick, and a request."""
    guest = peer.guest()
    ring = guest.ready(start=False)
    before = peer.threads()
    index = ring.index
    os.eventfd_write(ring.kick, 1)
    guest.link.set(SET_VRING_KICK, u64(index), [ring.kick])
    guest.link.set(SET_VRING_ENABLE, state(index, 1))
    os.eventfd_write(ring.kick, 1)
    time.sleep(0.1)
    guest.link.set(SET_VRING_NUM, state(index, ring.size))
    guest.link.set(SET_VRING_BASE, state(index, 0))
    guest.link.set(SET_VRING_ADDR, guest.addr(ring))
    guest.link.set(SET_VRING_CALL, u64(index), [ring.call])
    ahead = guest.served(ring)
    return f"used index {ahead} further; threads: {before}, then {peer.threads()}; {peer.ended()}", ahead != 1


@case(
    THEIRS,
    "a kick on a ring that is disabled starts it, and what it was for is done when it is enabled",
    "vhost-user, Ring states: 'upon receiving a kick' a ring starts, enabled or not; the two are independent",
    rng="setup.cloud-hypervisor setup.cloud-hypervisor-pause setup.crosvm setup.libkrun setup.dpdk "
    "ring.disabled-keeps-requests lifecycle.rings-start-fresh",
    scsi="setup.cloud-hypervisor setup.cloud-hypervisor-pause setup.crosvm setup.libkrun setup.dpdk "
    "ring.disabled-keeps-requests lifecycle.rings-start-fresh",
)
def kick_while_disabled(peer):
    """The ring is disabled, a request is made and kicked, 100 ms later the ring is enabled; then a second kick."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    guest.link.set(SET_VRING_ENABLE, state(ring.index, 0))
    guest.request(ring)
    time.sleep(0.1)
    guest.link.set(SET_VRING_ENABLE, state(ring.index, 1))
    enabled = ring.wait()
    os.eventfd_write(ring.kick, 1)
    return f"enabled: used index {enabled} further; kicked again: {ring.wait()} further", enabled == 0


@case(
    OURS,
    "the request is served",
    "VIRTIO, 2.1.2: 'The device MUST NOT consume buffers ... before DRIVER_OK'",
    net="setup.rust-vmm setup.qemu-per-pair setup.dpdk setup.dpdk-reset-owner state.status-late",
)
def before_driver_ok(peer):
    """STATUS is agreed on; rings run and a request is made while the status is 0; then SET_STATUS 0xf. No fault."""
    guest = peer.guest()
    ring = guest.ready(protocol=MQ | REPLY_ACK | STATUS)
    before = guest.served(ring)
    guest.link.set(SET_STATUS, u64(0xF))
    after = ring.wait()
    seen = f"status 0: used index {before} further; status 0xf: {after} further. The checks had not set the status"
    return seen, (before, after) == (0, 1)


@case(
    THEIRS,
    "accepted: writing 0 resets the device",
    "vhost-user, SET_STATUS; VIRTIO, 2.1: the driver resets the device by writing 0",
    net="state.status-zero",
)
def status_zero(peer):
    """STATUS is agreed on; a ring runs; SET_STATUS 0; SET_FEATURES with EVENT_IDX, too; a request on the old ring."""
    guest = peer.guest()
    ring = guest.ready(protocol=MQ | REPLY_ACK | STATUS)
    guest.link.set(SET_STATUS, u64(0xF))
    guest.must_serve(ring)
    guest.link.set(SET_STATUS, u64(0))
    answer = guest.link.try_set(SET_FEATURES, u64(guest.features | EVENT_IDX))
    return f"SET_FEATURES: {answer}; a request: used index {guest.served(ring)} further", answer != "accepted"


# Configuration space ------------------------------------------------------------------------------------------------


def config(offset, size, data=None):
    return struct.pack("=III", offset, size, 0) + (bytes(size) if data is None else data)


@case(
    THEIRS,
    "an answer; a zero length of payload is the way to say no",
    "vhost-user, GET_CONFIG: 'payload size MUST match the request', 'zero length of payload to indicate an error'",
    qsd="config.beyond-end config.overflow setup.spdk config.windows",
    vsock="config.beyond-end config.behind-end config.overflow",
    scsi="config.beyond-end config.behind-end config.overflow",
)
def config_windows(peer):
    """GET_CONFIG: 8 bytes at 0, 2 at 4, 256 at 0, 4 at 128, 4 at 0xffffffff; closed connections are made anew."""
    seen, answers = [], {}
    whole = None
    for offset, size in ((0, 8), (4, 2), (0, 256), (128, 4), (2**32 - 1, 4)):
        guest = peer.guest()
        guest.negotiate()
        answer = guest.link.ask(GET_CONFIG, config(offset, size))
        data = answer if isinstance(answer, str) else answer[12:]
        whole = whole or data
        answers[offset, size] = data
        shown = data if isinstance(data, str) else data.hex() if len(data) <= 8 else f"{len(data)} bytes"
        seen.append(f"{size} at {offset}: {shown or 'zero length'}")
        peer.restart()
    differs = answers[4, 2] != whole[4:6]
    wraps = answers[2**32 - 1, 4] not in (b"", "closed")
    closed = "closed" in answers.values()
    return "; ".join(seen), differs or wraps or closed or answers[0, 256] == b""


@case(
    THEIRS,
    "refused, and the capacity stays",
    "vhost-user, SET_CONFIG: 'MUST NOT accept SET_CONFIG for read-only fields unless the live migration bit is set'",
    qsd="config.write-read-only config.write-beyond-end",
)
def config_writes(peer):
    """SET_CONFIG of 8 bytes at 0, the capacity; then of 64 bytes at 58, beyond the end of 60."""
    guest = peer.guest()
    guest.negotiate()
    first = guest.link.try_set(SET_CONFIG, config(0, 8, b"\xff" * 8))
    after = guest.link.ask(GET_CONFIG, config(0, 8))
    reads = after if isinstance(after, str) else after[12:].hex()
    second = guest.link.try_set(SET_CONFIG, config(58, 64, b"\xff" * 64))
    third = guest.link.alive()
    seen = f"the capacity: {first}, then: {reads}; beyond the end: {second}, then {third}; {peer.ended()}; {peer.said()}"
    return seen, first == "accepted"


# Disks --------------------------------------------------------------------------------------------------------------


FLUSH, CONFIG_WCE = 1 << 9, 1 << 11
WRITEBACK = 32


def config_bytes(guest, offset, size):
    answer = guest.link.ask(GET_CONFIG, config(0, offset + size))
    if isinstance(answer, str):
        raise Surprise(f"GET_CONFIG: {answer}")
    return answer[12 + offset :]


@case(
    THEIRS,
    "1, the status, or no more than was written",
    "VIRTIO, 2.7.8.2: 'The device MUST write at least len bytes to descriptor'",
    qsd="blk.failed-length",
)
def failed_read_counted(peer):
    """A read of the sector behind the last one; the buffer is filled with 0xee before."""
    guest = peer.guest()
    ring = guest.ready()
    capacity = struct.unpack("<Q", config_bytes(guest, 0, 8))[0]
    header, data, status = guest.take(16), guest.take(512), guest.take(1)
    guest.write(header, struct.pack("<IIQ", 0, 0, capacity))
    guest.write(data, b"\xee" * 512)
    guest.write(status, b"\xee")
    ring.offer(ring.chain([(header, 16, 0), (data, 512, WRITE), (status, 1, WRITE)]))
    ahead = ring.wait(1)
    length = ring.used_entry(0)[1]
    kept = guest.read(data, 512) == b"\xee" * 512
    seen = f"used index {ahead} further; status {guest.read(status, 1)[0]}, length {length}, "
    return seen + ("nothing was written" if kept else "data was written"), kept and length > 1


@case(
    OPEN,
    "refused, or 0 or 1 afterwards",
    "VIRTIO, 5.2.5: '0 corresponds to a writethrough cache, 1 to a writeback cache'; a driver writes nothing else",
    qsd="blk.writeback-values",
)
def writeback_of_two(peer):
    """SET_CONFIG of writeback, the byte at 32, to 2."""
    guest = peer.guest()
    guest.negotiate(CONFIG_WCE | FLUSH)
    answer = guest.link.try_set(SET_CONFIG, config(WRITEBACK, 1, b"\x02"))
    now = config_bytes(guest, WRITEBACK, 1)[0]
    return f"{answer}; writeback: {now}", now > 1


# Migration ----------------------------------------------------------------------------------------------------------


def log_base(guest, fd, size, offset=0):
    return guest.link.ask(SET_LOG_BASE, struct.pack("=QQ", size, offset), [fd])


@case(
    THEIRS,
    "no answer",
    "vhost-user, Communication: SET_LOG_BASE has a reply 'if VHOST_USER_PROTOCOL_F_LOG_SHMFD', and there is none else. "
    "QEMU sends it so, and is out of step from then on",
    qsd="log.without-descriptors",
)
@case(
    OPEN,
    "no answer",
    "vhost-user, Communication: a back end may close the connection, in exceptional circumstances",
    net="log.without-descriptors",
    rng="log.without-descriptors",
    vsock="log.without-descriptors",
    scsi="log.without-descriptors",
    fs="log.without-descriptors",
)
def log_without_agreement(peer):
    """SET_LOG_BASE without LOG_SHMFD and without a descriptor, with 8 bytes and with 16, then GET_FEATURES."""
    seen = []
    for payload in (bytes(8), struct.pack("=QQ", 0x8000, 0)):
        guest = peer.guest()
        guest.negotiate(protocol=MQ | REPLY_ACK)
        guest.link.send(SET_LOG_BASE, payload)
        seen.append(guest.link.alive())
        peer.restart()
    return f"8 bytes: {seen[0]}; 16 bytes: {seen[1]}", seen != ["goes on"] * 2


@case(
    OPEN,
    "accepted or passed over",
    "vhost-user, SET_LOG_FD: 'an optional message' (for the front end; QEMU never sends it). REPLY_ACK: MUST respond",
    fs="log.notifier",
)
def log_notifier(peer):
    """SET_LOG_FD with an eventfd and NEED_REPLY."""
    guest = peer.guest()
    guest.negotiate()
    answer = guest.link.try_set(SET_LOG_FD, b"", [event()])
    return answer, answer == "closed"


@case(
    THEIRS,
    "the bit of page log_guest_addr / 4096",
    "vhost-user, Migration: for the used ring 'log_guest_addr should be used to calculate the log offset'",
    fs="log.used-ring",
)
def log_used_ring(peer):
    """A log; LOG_ALL; SET_VRING_ADDR with VHOST_VRING_F_LOG and a log address in unused memory; a request."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    size = (GUEST + SIZE) // 4096 // 8
    log = memfd(size)
    log_base(guest, log, size)
    guest.link.set(SET_FEATURES, u64(guest.features | LOG_ALL))
    told = GUEST + (48 << 20)
    guest.link.set(SET_VRING_ADDR, guest.addr(ring, 1, told))
    guest.must_serve(ring)
    time.sleep(0.1)
    with mmap.mmap(log, size) as bits:
        marked = [GUEST + page * 4096 for page in range(SIZE // 4096) if bits[(GUEST // 4096 + page) // 8] >> page % 8 & 1]
    places = {told: "log_guest_addr", ring.used: "the used ring's own page", ring.used & ~4095: "the used ring's own page"}
    names = [places.get(page, "a buffer") for page in marked]
    return f"marked: {', '.join(names) or 'nothing'}", told not in marked


@case(
    OURS,
    "used as far as it goes",
    "vhost-user, Log description; 'should be large enough to cover all known guest addresses': ours is not",
    fs="log.size-unaligned log.too-short",
)
def log_short(peer):
    """SET_LOG_BASE with a log that ends within the guest's memory."""
    guest = peer.guest()
    guest.ready()
    size = (GUEST + SIZE // 2) // 4096 // 8 + 8
    answer = log_base(guest, memfd(size), size)
    return f"{answer!r:.40}", answer == "closed"


@case(OPEN, "the process lives", "none: robustness", qsd="log.too-short")
def log_too_short(peer):
    """A log of one page, LOG_ALL, a used ring that is logged far behind its end, a request."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    log_base(guest, memfd(8192), 4096)
    guest.link.set(SET_FEATURES, u64(guest.features | LOG_ALL))
    guest.link.set(SET_VRING_ADDR, guest.addr(ring, 1, 0xFFFF_FFFF_F000))
    ahead = guest.served(ring)
    return f"used index {ahead} further; {peer.ended(0.5)}; {peer.said()[:90]}", peer.ended() != "runs"


@case(OPEN, "the process lives", "none: robustness", qsd="log.wrong")
def log_of_a_pipe(peer):
    """SET_LOG_BASE with a pipe for the log, LOG_ALL, a request."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    answer = log_base(guest, os.pipe()[1], 0x8800)
    guest.link.try_set(SET_FEATURES, u64(guest.features | LOG_ALL))
    ahead = guest.served(ring)
    return f"SET_LOG_BASE: {answer!r:.40}; used index {ahead} further; {peer.ended(0.5)}", peer.ended() != "runs"


@case(
    OPEN,
    "an answer with an error in bits 0 to 7, or the end of the connection",
    "vhost-user, SET_DEVICE_STATE_FD: 'Bits 0-7 are 0 on success, and non-zero on error'; but a back end may close the "
    "connection",
    fs="state.wrong-direction",
)
def wrong_direction(peer):
    """SET_DEVICE_STATE_FD with direction 2, of which there are 0 and 1."""
    guest = peer.guest()
    guest.negotiate(protocol=MQ | REPLY_ACK | DEVICE_STATE)
    answer = guest.link.ask(SET_DEVICE_STATE_FD, state(2, 0), [os.pipe()[1]])
    return f"{answer!r}", answer == "closed"


# Rings --------------------------------------------------------------------------------------------------------------


@case(
    THEIRS,
    "the used index goes on from what is in memory: 1",
    "vhost-user, Vring descriptor indices for split virtqueues: the base is that of the available ring; a fresh used "
    "ring begins at 0 (VIRTIO, 2.7.8)",
    rng="memory.survives-stop setup.qemu-restart setup.firmware-then-kernel setup.openvmm setup.spdk ring.restart-other "
    "ring.base-midway ring.used-index-kept",
    scsi="memory.survives-stop setup.qemu-restart setup.firmware-then-kernel setup.openvmm setup.spdk "
    "ring.restart-other ring.base-midway ring.used-index-kept",
)
def used_index_remembered(peer):
    """Two requests, GET_VRING_BASE, a fresh ring at base 0, a request; and a ring that starts at 10, used index 7."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    guest.must_serve(ring)
    guest.stop(ring)
    fresh = Ring(guest, ring.index)
    guest.start(fresh)
    guest.served(fresh)
    peer.restart()
    guest = peer.guest()
    midway = guest.ready(start=False)
    midway.begin_at(10, 7)
    guest.start(midway, 10)
    guest.served(midway)
    seen = f"fresh: used index {fresh.used_index()}; from base 10, used index 7: used index {midway.used_index()}"
    return seen, fresh.used_index() != 1 or midway.used_index() != 8


@case(
    OPEN,
    "one more request, one more used: the base is that of the available ring",
    "vhost-user, Vring descriptor indices for split virtqueues; Inflight I/O tracking lets a device that works in order "
    "find what is in flight between the used index and the available one",
    net="ring.used-index-kept",
)
def base_ignored(peer):
    """The rings start at base 10 with used index 7, as after a crash; a request."""
    guest = peer.guest()
    guest.negotiate()
    guest.share()
    rings = [Ring(guest, index) for index in (0, 1)]
    for ring in rings:
        ring.begin_at(10, 7)
        guest.start(ring, 10)
    ahead = guest.served(rings[1])
    return f"used index {ahead} further: it begins at 7 and takes those three again", ahead == 4


@case(
    SHOULD,
    "no call, or hardly any",
    "VIRTIO, 2.7.7.2: with VIRTQ_AVAIL_F_NO_INTERRUPT 'the device SHOULD NOT send a notification'",
    rng="ring.call-suppressed",
    scsi="ring.call-suppressed",
    fs="ring.call-suppressed",
)
def calls_unwanted(peer):
    """VIRTQ_AVAIL_F_NO_INTERRUPT in the available ring's flags; 16 requests, one after the other."""
    guest = peer.guest()
    ring = guest.ready()
    guest.write(ring.avail, struct.pack("<H", 1))
    guest.must_serve(ring)
    time.sleep(0.1)
    count(ring.call)
    for _ in range(16):
        guest.must_serve(ring)
    time.sleep(0.1)
    calls = count(ring.call)
    return f"{calls} calls for 16 requests", calls > 8


@case(
    SHOULD,
    "one call at most: at the request that one was asked for",
    "VIRTIO, 2.7.7.2: with EVENT_IDX the device SHOULD NOT notify before used_event",
    rng="ring.call-at-event",
    scsi="ring.call-at-event",
)
def calls_before_event(peer):
    """EVENT_IDX agreed on; used_event is 100; 8 requests, one after the other."""
    guest = peer.guest()
    ring = guest.ready(EVENT_IDX)
    guest.write(ring.avail + 4 + 2 * ring.size, struct.pack("<H", 100))
    guest.must_serve(ring)
    time.sleep(0.1)
    count(ring.call)
    for _ in range(8):
        guest.must_serve(ring)
    time.sleep(0.1)
    calls = count(ring.call)
    return f"{calls} calls for 8 requests", calls > 1


@case(
    THEIRS,
    "the ring is polled, or the message refused",
    "vhost-user, SET_VRING_KICK: 'This signals that polling should be used instead of waiting for the kick'",
    qsd="ring.without-kick-fd",
    rng="ring.without-kick-fd",
    scsi="ring.without-kick-fd",
    fs="ring.without-kick-fd",
)
def no_kick_descriptor(peer):
    """SET_VRING_KICK with bit 8 and no descriptor; a request."""
    guest = peer.guest()
    ring = guest.ready(start=False)
    index = ring.index
    guest.link.set(SET_VRING_NUM, state(index, ring.size))
    guest.link.set(SET_VRING_BASE, state(index, 0))
    guest.link.set(SET_VRING_ADDR, guest.addr(ring))
    guest.link.set(SET_VRING_CALL, u64(index), [ring.call])
    answer = guest.link.try_set(SET_VRING_KICK, u64(index | NO_FD))
    guest.link.try_set(SET_VRING_ENABLE, state(index, 1))
    ahead = guest.served(ring)
    return f"SET_VRING_KICK: {answer}; used index {ahead} further", answer == "accepted" and ahead == 0


@case(
    THEIRS,
    "two requests are served",
    "vhost-user, SET_VRING_CALL: bit 8 'signals that polling will be used instead of waiting for the call'",
    qsd="ring.without-call-fd",
)
def no_call_descriptor(peer):
    """A ring runs; SET_VRING_CALL with bit 8 and no descriptor; two requests."""
    guest = peer.guest()
    ring = guest.ready()
    guest.link.set(SET_VRING_CALL, u64(ring.index | NO_FD))
    first, second = guest.served(ring), guest.served(ring)
    seen = f"used index {first} further, then {second}; the connection: {guest.link.alive()}; {peer.said()}"
    return seen, second != 1


@case(
    THEIRS,
    "a ring of 0 entries refused",
    "VIRTIO, 2.7: the queue size is a power of 2, up to 32768; vhost-user, REPLY_ACK: zero is for success",
    qsd="ring.bad-sizes",
)
def ring_of_zero(peer):
    """SET_VRING_NUM with 0, and all the rest of a start."""
    guest = peer.guest()
    ring = guest.ready(start=False)
    answers = [guest.link.try_set(SET_VRING_NUM, state(0, number)) for number in (0, 3, 65536)]
    started = guest.link.try_set(SET_VRING_BASE, state(0, 0)), guest.link.try_set(SET_VRING_ADDR, guest.addr(ring))
    return f"0: {answers[0]}; 3: {answers[1]}; 65536: {answers[2]}; BASE and ADDR: {started}", answers[0] == "accepted"


@case(
    OURS,
    "all are served",
    "VIRTIO, 2.7: the largest queue has 32768 entries; SET_VRING_NUM of that was acknowledged",
    qsd="ring.largest",
)
def ring_filled(peer):
    """A ring of 32768 entries, filled with 10922 requests of three descriptors each, one kick. No fault, but slow."""
    guest = Guest(peer, peer.link(), 128 << 20)
    ring = guest.ready(size=32768)
    buffers = guest.buffers()
    for nth in range(10922):
        ring.offer(ring.chain(buffers, 3 * nth), kick=False)
    os.eventfd_write(ring.kick, 1)
    start = time.monotonic()
    first = ring.wait(1, 60)
    until = time.monotonic() - start
    rest = ring.wait(10922 - first, 60)
    seconds = time.monotonic() - start
    return f"the first after {until:.1f} s, {first + rest} of 10922 after {seconds:.1f} s", first + rest == 10922


@case(
    THEIRS,
    "the request is served",
    "VIRTIO, 2.7.4.1, Message Framing: the device makes no assumptions on the arrangement of descriptors (MUST NOT)",
    rng="ring.small-pieces ring.full-chain ring.any-order ring.indirect ring.indirect-longer-than-ring "
    "ring.indirect-behind-direct rng.several-buffers",
)
def two_buffers(peer):
    """A request of two buffers of 32 bytes each; then one of one buffer."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    before = peer.threads()
    ring.offer(ring.chain([(guest.take(32), 32, WRITE), (guest.take(32), 32, WRITE)]))
    first = ring.wait()
    second = guest.served(ring)
    seen = f"used index {first} further, then {second}; threads: {before}, then {peer.threads()}; {guest.link.alive()}"
    return seen, first != 1


@case(
    THEIRS,
    "the request is served",
    "VIRTIO, 2.7.5.3.2: 'The device MUST handle the case of zero or more normal chained descriptors followed by a single "
    "descriptor with VIRTQ_DESC_F_INDIRECT'",
    qsd="ring.indirect-behind-direct",
)
def indirect_behind_direct(peer):
    """The header in a descriptor of the ring, the other two buffers in an indirect table that it links to."""
    guest = peer.guest()
    ring = guest.ready(INDIRECT_DESC)
    guest.must_serve(ring)
    header, data, status = guest.buffers()
    place = guest.take(32)
    ring.describe(0, data[0], data[1], WRITE | NEXT, 1, at=place)
    ring.describe(1, status[0], status[1], WRITE, 0, at=place)
    ring.describe(0, header[0], header[1], NEXT, 1)
    ring.describe(1, place, 32, INDIRECT)
    ring.offer(0)
    ahead = ring.wait()
    return f"used index {ahead} further; the connection: {guest.link.alive()}; {peer.said()}", ahead != 1


@case(
    OURS,
    "the size is accepted, or refused by a NACK, and the connection goes on",
    "vhost-user, SET_VRING_NUM sets the size; how large it may be is not told. 128 is theirs, 256 was ours",
    scsi="memory.ring-parts-apart ring.long-run ring.small-pieces",
)
def ring_of_256(peer):
    """SET_VRING_NUM with 128 and with 256. No fault of the kind that the checks are about."""
    guest = peer.guest()
    guest.ready()
    small = guest.link.try_set(SET_VRING_NUM, state(2, 128))
    large = guest.link.try_set(SET_VRING_NUM, state(2, 256))
    return f"128: {small}; 256: {large}", (small, large) == ("accepted", "closed")


@case(
    THEIRS,
    "bytes that count as written are written",
    "VIRTIO, 2.7.8.2: 'The device MUST write at least len bytes ..., beginning at the first device-writable buffer'",
    scsi="ring.used-length",
)
def length_unwritten(peer):
    """REPORT LUNS into buffers full of 0xee, then of 0x11: which bytes within the length never change?"""
    guest = peer.guest()
    ring = guest.ready()
    kept = None
    for fill in (0xEE, 0x11):
        buffers = guest.buffers()
        for at, length, flags in buffers:
            if flags:
                guest.write(at, bytes([fill]) * length)
        ring.offer(ring.chain(buffers))
        ring.wait()
        length = ring.used_entry(ring.seen - 1)[1]
        data = b"".join(guest.read(at, size) for at, size, flags in buffers if flags)[:length]
        here = {place for place, byte in enumerate(data) if byte == fill}
        kept = here if kept is None else kept & here
    return f"length {length}; not written: {len(kept)} bytes, the first at {min(kept, default='-')}", bool(kept)


# Malformed requests -------------------------------------------------------------------------------------------------

NOWHERE = 1 << 60


def head(guest, ring):
    ring.offer(16)


def link(guest, ring):
    ring.describe(0, guest.take(16), 16, NEXT, 16)
    ring.offer(0)


def loop(guest, ring):
    ring.describe(0, guest.take(16), 16, NEXT, 0)
    ring.offer(0)


def jump(guest, ring):
    at = guest.take(16)
    for place in range(16):
        ring.describe(place, at, 16)
    guest.write(ring.avail + 2, struct.pack("<H", 17))
    os.eventfd_write(ring.kick, 1)


def backwards(guest, ring):
    for _ in range(5):
        guest.must_serve(ring)
    guest.write(ring.avail + 2, struct.pack("<H", 4))
    os.eventfd_write(ring.kick, 1)


def order(guest, ring):
    at = guest.take(4096)
    ring.offer(ring.chain([(at, 16, 0), (at + 1024, 512, WRITE), (at, 16, 0), (at + 2048, 1, WRITE)]))


def one_buffer(address, length, flags=WRITE):
    def attack(guest, ring):
        ring.describe(0, guest.take(16) if address is None else address, length, flags)
        ring.offer(0)

    return attack


def indirect(entries=None, length=None, address=None, flags=0, features=INDIRECT_DESC):
    """A descriptor that refers to a table; what is in the table: (address, length, flags, link)."""

    def attack(guest, ring):
        at = guest.take(4096)
        for place, entry in enumerate(entries or [(at + 1024, 16, WRITE, 0)]):
            ring.describe(place, entry[0] or at + 1024, *entry[1:], at=at)
        size = 16 * len(entries or [0]) if length is None else length
        ring.describe(0, at if address is None else address, size, INDIRECT | flags, 1)
        ring.describe(1, at + 2048, 16, WRITE)
        ring.offer(0)

    attack.features = features
    return attack


def ring_elsewhere(guest, ring):
    guest.stop(ring)
    addresses = list(struct.unpack("=IIQQQQ", guest.addr(ring)))
    addresses[4] = USER + SIZE - 2
    if guest.link.try_set(SET_VRING_ADDR, struct.pack("=IIQQQQ", *addresses)) == "accepted":
        guest.link.try_set(SET_VRING_KICK, u64(ring.index), [ring.kick])
        os.eventfd_write(ring.kick, 1)


def garbage(guest, ring):
    guest.stop(ring)
    bad = Ring(guest, ring.index)
    rolled = 1
    for at in range(bad.desc, bad.used + 4096, 8):
        rolled = (rolled * 6364136223846793005 + 1442695040888963407) % 2**64
        guest.write(at, struct.pack("<Q", rolled))
    guest.start(bad)


def memory_gone(guest, ring):
    """Another table, a request, the old table again, and the rings before this one set up again."""
    guest.must_serve(ring)
    other = (0x9000_0000, 1 << 20, 0x7A00_0000_0000, 0)
    if guest.link.try_set(SET_MEM_TABLE, table(other), [memfd(1 << 20)]) == "accepted":
        guest.request(ring)
        time.sleep(0.1)
        guest.link.try_set(SET_MEM_TABLE, table(guest.region()), [guest.fd])
    for index in range(ring.index):
        guest.stop(guest.rings[index])
        guest.start(Ring(guest, index))


ATTACKS = {
    "head-out-of-range": head,
    "link-out-of-range": link,
    "chain-loop": loop,
    "avail-jump": jump,
    "avail-backwards": backwards,
    "readable-after-writable": order,
    "buffer-unmapped": one_buffer(NOWHERE, 512),
    "buffer-overflow": one_buffer(2**64 - 8, 512),
    "buffer-straddles-end": one_buffer(GUEST + SIZE - 256, 512),
    "buffer-null": one_buffer(0, 512),
    "length-max": one_buffer(None, 2**32 - 1),
    "empty-buffers": one_buffer(None, 0),
    "short-request": one_buffer(None, 8, 0),
    "indirect-unagreed": indirect(features=0),
    "indirect-nested": indirect([(0, 16, INDIRECT, 0)]),
    "indirect-next": indirect(flags=NEXT),
    "indirect-length": indirect(length=0),
    "indirect-unmapped": indirect(address=NOWHERE),
    "indirect-loop": indirect([(0, 16, NEXT, 1), (0, 16, NEXT, 0)]),
    "indirect-bad-entry": indirect([(NOWHERE, 16, WRITE, 0)]),
    "ring-unmapped": ring_elsewhere,
    "ring-garbage": garbage,
    "memory-removed": memory_gone,
}
HARMED = " ".join(f"hostile.{name}" for name in ATTACKS) + " hostile.ring-changing hostile.no-error-fd"


@case(
    OPEN,
    "the process lives; the ring works again after a stop and a fresh start, or its error descriptor or the end of the "
    "connection tells",
    "VIRTIO forbids a driver each of these and says nothing of what a device does then; vhost-user, SET_VRING_ERR: 'to "
    "signal when error occurs'. Robustness: a guest must not take the others of the process along",
    rng=HARMED,
    scsi=HARMED,
    fs=HARMED + " hostile.error-told",
    net="hostile.avail-jump",
)
@case(
    OURS,
    "the process lives; the connection may end",
    "none. The check lost the connection in the middle of setting the ring up, and did not allow for it",
    qsd="hostile.ring-garbage",
)
def malformed(peer):
    """One malformed thing (see ATTACKS) on a running ring; then GET_VRING_BASE, a fresh ring, a request."""
    seen, harmed = {}, False
    for name, attack in ATTACKS.items():
        guest = peer.guest()
        ring = guest.ready(getattr(attack, "features", 0))
        threads = peer.threads()
        try:
            attack(guest, ring)
        except Surprise:
            pass  # the connection may end in the middle of it
        time.sleep(0.15)
        how = peer.ended()
        if how == "runs" and guest.link.alive() == "closed":
            how = "connection closed"
        elif how == "runs":
            lost = peer.threads() < threads
            told = count(ring.err)
            try:
                guest.stop(ring)
                fresh = Ring(guest, ring.index)
                guest.start(fresh)
                ahead = guest.served(fresh, 0.5)
            except Surprise as surprise:
                ahead, lost = str(surprise), True
            if ahead == 1:
                guest.link.stream.close()
                how = "works again"
                if peer.name == TESTPMD:
                    try:
                        peer.guest().ready()
                    except Surprise:
                        how = f"works again, but at the next front end the process {peer.ended(1)}"
            elif lost and ahead == 0:
                how = f"its worker thread is gone{', told' if told else ' in silence'}"
            elif ahead == 0:
                how = "no service"
            else:
                how = f"the fresh ring has used index {ahead}" if isinstance(ahead, int) else ahead
        harmed |= how not in ("works again", "connection closed")
        seen.setdefault(how, []).append(name)
        peer.restart()
    return "; ".join(f"{how}: {', '.join(names)}" for how, names in seen.items()), harmed or peer.name == QSD


@case(
    THEIRS,
    "told by the error descriptor, an answer, or the end of the connection; or the ring goes on",
    "vhost-user, SET_VRING_ERR: 'to signal when error occurs'",
    rng="hostile.error-told",
    net="hostile.error-told",
)
def error_untold(peer):
    """A request whose two buffers lie where no memory is; then a plain request."""
    guest = peer.guest()
    ring = guest.ready()
    guest.must_serve(ring)
    ring.offer(ring.chain([(NOWHERE, 16, 0), (NOWHERE, 64, WRITE)]))
    first = ring.wait(1, 1)
    told = count(ring.err)
    guest.request(ring, first=2)
    second = ring.wait()
    seen = f"used index {first} further, error descriptor {told}; a plain request: {second} further; {guest.link.alive()}"
    return seen, (first, told, second) == (0, 0, 0)


# Descriptors for calls and kicks ------------------------------------------------------------------------------------


@case(
    OPEN,
    "the process lives, and the ring works again after a stop",
    "none: robustness. The front end is to give an eventfd that can be written",
    rng="hostile.call-closed-pipe hostile.call-full hostile.call-full-blocking",
    scsi="hostile.call-closed-pipe hostile.call-full hostile.call-full-blocking",
    fs="hostile.call-closed-pipe hostile.call-full hostile.call-full-blocking",
    net="hostile.call-closed-pipe hostile.call-full-blocking",
)
def calls_nowhere(peer):
    """SET_VRING_CALL with a pipe that nobody reads, a full eventfd, a full eventfd that blocks; requests; a stop."""
    seen, harmed = [], False
    for name in ("a pipe without reader", "a full eventfd", "a full eventfd that blocks"):
        guest = peer.guest()
        ring = guest.ready(EVENT_IDX if peer.name == TESTPMD else 0)
        threads = peer.threads()
        if name.startswith("a pipe"):
            reader, fd = os.pipe()
            os.close(reader)
        else:
            fd = os.eventfd(0, os.EFD_CLOEXEC | (0 if name.endswith("blocks") else os.EFD_NONBLOCK))
            os.eventfd_write(fd, 2**64 - 2)
        guest.link.set(SET_VRING_CALL, u64(ring.index), [fd])
        for _ in range(3):
            guest.write(ring.avail + 4 + 2 * ring.size, struct.pack("<H", ring.seen))
            guest.request(ring)
            ring.wait(1, 0.3)
        how = peer.ended(0.2)
        if how == "runs":
            try:
                guest.stop(ring)
                fresh = Ring(guest, ring.index)
                guest.start(fresh)
                ahead = guest.served(fresh, 0.5)
                how = "works again" if ahead == 1 else f"used index {ahead} further, {peer.threads() - threads} threads"
            except Surprise as surprise:
                how = str(surprise)
        seen.append(f"{name}: {how}")
        harmed |= how != "works again"
        peer.restart()
    return "; ".join(seen), harmed


@case(
    OPEN,
    "refused, or the process lives and the ring works again after a stop",
    "vhost-user, Support for platforms other than Linux: a pipe may stand for an eventfd, by 8 bytes. What is not 8 "
    "bytes is the front end's fault: robustness",
    rng="hostile.kick-pipe",
    scsi="hostile.kick-pipe",
    fs="hostile.kick-pipe",
)
def kick_by_pipe(peer):
    """A pipe for the kick descriptor; 8 bytes, then 1 byte, then its end; a stop, a fresh ring, a request."""
    guest = peer.guest()
    ring = guest.ready(start=False)
    threads = peer.threads()
    reader, writer = os.pipe()
    ring.kick, plain = reader, ring.kick
    guest.link.set(SET_VRING_NUM, state(ring.index, ring.size))
    guest.link.set(SET_VRING_BASE, state(ring.index, 0))
    guest.link.set(SET_VRING_ADDR, guest.addr(ring))
    answer = guest.link.try_set(SET_VRING_KICK, u64(ring.index), [reader])
    guest.link.try_set(SET_VRING_ENABLE, state(ring.index, 1))
    guest.request(ring, kick=False)
    os.write(writer, struct.pack("=Q", 1))
    served = ring.wait()
    os.write(writer, b"\x01")
    os.close(writer)
    ring.kick = plain
    try:
        guest.stop(ring)
        fresh = Ring(guest, ring.index)
        guest.start(fresh)
        ahead = guest.served(fresh, 0.5)
        how = "works again" if ahead == 1 else f"used index {ahead} further, {peer.threads() - threads} threads"
    except Surprise as surprise:
        how = f"{surprise}; the process {peer.ended(0.5)}"
    return f"SET_VRING_KICK: {answer}; by 8 bytes: used index {served} further; then: {how}", how != "works again"


# Connections and the program ----------------------------------------------------------------------------------------


@case(
    OPEN,
    "the second is served",
    "none: reconnection is optional. The socket is unlinked and made anew for each connection, and whoever waits in the "
    "old one's queue is dropped",
    rng="lifecycle.quick-connects lifecycle.gone-at-each-step lifecycle.gone-unheard framing.ack-form "
    "framing.request-zero framing.oversized framing.cut-header negotiation.dependencies",
    vsock="lifecycle.quick-connects lifecycle.gone-unheard setup.call-first log.data blk.range-beyond-capacity",
)
def next_at_once(peer):
    """30 times: a connection that is closed without a word, and at once another, which asks GET_FEATURES."""
    peer.link().alive()
    answers = {}
    for _ in range(30):
        peer.link().stream.close()
        answer = peer.link().alive()
        answers[answer] = answers.get(answer, 0) + 1
    return ", ".join(f"{answer}: {number}" for answer, number in answers.items()), "closed" in answers


@case(
    OPEN,
    "the end, 'as quickly and cleanly as possible'",
    "vhost-user, Back-end program conventions. Which status, it does not say: to be ended by the signal is quick, and "
    "service managers take it for success; virtiofsd's status 1 they do not",
    rng="program.sigterm program.sigterm-connected",
    vsock="program.sigterm program.sigterm-connected",
    scsi="program.sigterm program.sigterm-connected",
    fs="program.sigterm program.sigterm-connected",
)
def sigterm(peer):
    """SIGTERM to an idle process."""
    end = time.monotonic() + 5
    while not peer.socket.exists() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)
    peer.process.terminate()
    how = peer.ended(5)
    left = "the socket stays" if peer.socket.exists() else "the socket is gone"
    return f"{how}; {left}", how != "ended with exit status 0"


# dpdk-testpmd -------------------------------------------------------------------------------------------------------


@case(
    OPEN,
    "an answer, or the end of the connection",
    "vhost-user, GET_INFLIGHT_FD: when INFLIGHT_SHMFD has been negotiated. Robustness: the front end is not trusted",
    net="hostile.messages",
)
def inflight_garbage(peer):
    """GET_INFLIGHT_FD, not agreed on, for 65535 queues of 65535 entries, sizes of garbage; then GET_FEATURES."""
    guest = peer.guest()
    guest.negotiate()
    payload = struct.pack("=QQHHI", 2**63, 2**62, 0xFFFF, 0xFFFF, 0)
    guest.link.send(GET_INFLIGHT_FD, payload, flags=VERSION | NEED_REPLY)
    first = guest.link.hear()
    first = first if isinstance(first, str) else f"id {first[0]}, {len(first[2])} bytes"
    after = guest.link.alive()
    return f"{first}; GET_FEATURES: {after}; the process {peer.ended()}", after == "silence"


@case(
    OURS,
    "the frame is sent, the descriptors come back",
    "VIRTIO, 2.7.5.3.1, on indirect tables: 'A driver MUST NOT create a descriptor chain longer than the Queue Size'. "
    "Linux guests make such all the same, and QEMU serves them",
    net="ring.indirect-longer-than-ring",
)
def table_longer_than_ring(peer):
    """A ring of 4 entries; a frame in an indirect table of 16."""
    guest = peer.guest()
    ring = guest.ready(INDIRECT_DESC, 4)
    guest.must_serve(ring)
    frame = bytes(12) + FRAME
    cuts = [len(frame) * nth // 16 for nth in range(17)]
    at, place = guest.take(4096), guest.take(256)
    guest.write(at, frame)
    for nth, (start, end) in enumerate(zip(cuts, cuts[1:])):
        ring.describe(nth, at + start, end - start, NEXT if nth < 15 else 0, nth + 1 if nth < 15 else 0, at=place)
    ring.describe(0, place, 256, INDIRECT)
    ring.offer(0)
    ahead = ring.wait()
    return f"used index {ahead} further", ahead == 0


@case(
    THEIRS,
    "length 0: the device has written nothing",
    "VIRTIO, 2.8.3: WRITE in a used descriptor says that data has been written, and how much (without WRITE the length is "
    "reserved). 2.7.5.3.2: WRITE in a descriptor that refers to a table is to be ignored",
    net="ring.indirect-write-flag",
)
def packed_length(peer):
    """A packed ring; a frame in an indirect table of two entries, the descriptor without and with WRITE."""
    packed = 1 << 34
    lengths = []
    for flag in (0, WRITE):
        guest = peer.guest()
        guest.negotiate(INDIRECT_DESC | packed)
        guest.share()
        rings = [Ring(guest, index) for index in (0, 1)]
        for ring in rings:
            guest.start(ring, 0x80008000)
        ring = rings[1]
        at, place = guest.take(4096), guest.take(32)
        guest.write(at + 16, FRAME)
        guest.write(place, struct.pack("<QIHH", at, 12, 0, 0) + struct.pack("<QIHH", at + 16, len(FRAME), 0, 0))
        avail = 1 << 7
        guest.write(ring.desc, struct.pack("<QIHH", place, 32, 0, INDIRECT | flag | avail))
        os.eventfd_write(ring.kick, 1)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            _, length, _, flags = struct.unpack("<QIHH", guest.read(ring.desc, 16))
            if flags & 1 << 15:
                break
            time.sleep(0.01)
        written = length if flags & WRITE else 0
        lengths.append(f"used, written {written} (length {length}, flags {flags:#x})")
        peer.restart()
    return f"available without WRITE: {lengths[0]}; with: {lengths[1]}", "written 0" not in lengths[1]


def program(name, peers):
    """The words that start a peer of the cache that `cargo xtask peers` fills."""
    directory = Path(peers)
    prefix = directory / name
    if name == QSD:
        prefix = next((place for place in (directory.parent / "qemu-11", directory / "qemu-11") if place.is_dir()), prefix)
        words = [prefix / "usr/bin/qemu-storage-daemon"]
    elif name == TESTPMD:
        words = [prefix / "usr/bin/dpdk-testpmd"]
    else:
        words = [prefix / "bin" / name]
    if not words[0].is_file():
        sys.exit(f"by_hand.py: no {words[0]}: run `cargo xtask peers`, or name the directory that it fills")
    if name in (QSD, TESTPMD):
        found = sorted(prefix.glob("usr/lib/*/ld-linux-*.so.*"))
        if not found:
            sys.exit(f"by_hand.py: no dynamic linker under {prefix}")
        library = found[0].parent
        loader = [found[0], "--library-path", library]
        if name == TESTPMD:
            drivers = [library / f"librte_{driver}.so.25" for driver in ("bus_vdev", "mempool_ring", "net_vhost")]
            loader += ["--preload", " ".join(map(str, drivers))]
        words = loader + words
    return [str(word) for word in words] + OPTIONS[name].split(" ")


class Rows:
    """A table in Markdown: a row for each function and judgement, with all peers in it."""

    def __init__(self):
        self.rows = {}

    def add(self, function, who, spec, name, checks, seen):
        row = self.rows.setdefault((function, who), {"spec": spec, "checks": {}, "seen": {}})
        row["checks"].update(dict.fromkeys(checks))
        row["seen"].setdefault(seen, []).append(name)

    def show(self):
        print("| back end | checks | by hand | who is right, and why | function |")
        print("|---|---|---|---|---|")
        order = [function for function, *_ in CASES]
        for (function, who), row in sorted(self.rows.items(), key=lambda item: order.index(item[0][0])):
            peers = [name for names in row["seen"].values() for name in names]
            checks = " ".join(f"`{check}`" for check in row["checks"])
            if len(row["checks"]) > 12:
                checks = " ".join(f"`{check}`" for check in list(row["checks"])[:3]) + f" and {len(row['checks']) - 3} more"
            seen = "; ".join(
                f"{text}" if len(row["seen"]) == 1 else f"{', '.join(names)}: {text}" for text, names in row["seen"].items()
            )
            done = " ".join(function.__doc__.split())
            cells = ", ".join(peers), checks, f"{done} *Seen:* {seen}", f"**{who}**: {row['spec']}", f"`{function.__name__}`"
            print(f"| {' | '.join(cell.replace('|', ' ') for cell in cells)} |", flush=True)


def run(name, command, only, rows):
    """Runs the cases of a peer; how many were not shown."""
    missing = 0
    for function, who, wanted, spec, peers in CASES:
        if name not in peers or (only and function.__name__ not in only):
            continue
        peer = Peer(name, command)
        try:
            seen, fault = function(peer)
            verdict = "shown" if fault else "NOT SHOWN"
        except Surprise as surprise:
            seen, verdict = str(surprise), "UNCLEAR"
        finally:
            peer.close()
        missing += verdict != "shown"
        done = " ".join(function.__doc__.split())
        if rows is not None:
            if verdict != "shown":
                seen = f"**{verdict}** {seen}"
            rows.add(function, who, spec, name, peers[name], seen)
            continue
        print(f"{name}  {function.__name__}  [{' '.join(peers[name])}]")
        print(f"    done    {done}")
        print(f"    wanted  {wanted}")
        print(f"    seen    {seen}")
        print(f"    judged  {who}: {spec}")
        print(f"    {verdict}", flush=True)
    return missing


def whose(command):
    """The peer that a command starts, by the names of the programs among its words."""
    for word in command:
        name = Path(word).name
        if name in DEVICES:
            return name
    sys.exit(f"by_hand.py: none of the words is a program that is known here: {', '.join(DEVICES)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", help="the directory that `cargo xtask peers` fills")
    parser.add_argument("--case", action="append", default=[], help="only this function; may be repeated")
    parser.add_argument("--table", action="store_true", help="print rows of a table in Markdown")
    parser.add_argument("--list", action="store_true", help="say which function is about which checks, and end")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="names of peers with --peers, else a command")
    options = parser.parse_args()
    if options.list:
        for function, _, _, _, peers in CASES:
            for name, checks in peers.items():
                print(f"{function.__name__}  {name}  {' '.join(checks)}")
        return 0
    unknown = set(options.case) - {function.__name__ for function, *_ in CASES}
    if unknown:
        sys.exit(f"by_hand.py: no such function: {', '.join(sorted(unknown))}")
    if options.peers:
        names = options.words or list(DEVICES)
        for name in names:
            if name not in DEVICES:
                sys.exit(f"by_hand.py: {name} is none of {', '.join(DEVICES)}")
        started = [(name, program(name, options.peers)) for name in names]
    elif options.words:
        started = [(whose(options.words), options.words)]
    else:
        parser.error("name a command, or --peers DIRECTORY")
    rows = Rows() if options.table else None
    missing = sum(run(name, command, options.case, rows) for name, command in started)
    if rows:
        rows.show()
    print(f"{missing} not shown" if missing else "all shown", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
