"""Vhost-user front ends that connect, set their queue up as a guest's driver would, and then do nothing."""

import array
import contextlib
import mmap
import os
import socket
import struct

GET_FEATURES, SET_FEATURES, SET_OWNER = 1, 2, 3
SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = 5, 8, 9, 10
SET_VRING_KICK, SET_VRING_CALL = 12, 13
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 15, 16, 18

VERSION = 1
F_PROTOCOL_FEATURES = 30
VIRTIO_F_VERSION_1 = 32
PROTOCOL_MQ = 1 << 0
PROTOCOL_CONFIG = 1 << 9
HEADER = struct.Struct("<III")

MEMORY_BYTES = 1 << 20
QUEUE_SIZE = 128
DESCRIPTORS, AVAILABLE, USED = 0, 0x10000, 0x20000


class IdleFrontEnd(contextlib.ExitStack):
    """One connected front end with one enabled queue; leaving it disconnects."""

    def __init__(self, path):
        super().__init__()
        self.socket = self.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self.socket.settimeout(10)
        self.socket.connect(path)
        memfd = os.memfd_create("guest")
        self.callback(os.close, memfd)
        os.ftruncate(memfd, MEMORY_BYTES)
        self.memory = self.enter_context(contextlib.closing(mmap.mmap(memfd, MEMORY_BYTES)))
        self.address = 0x10_0000_0000  # any: only differences matter to the back end
        self.set_up(memfd)

    def send(self, request, payload=b"", descriptors=()):
        ancillary = []
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        self.socket.sendmsg([HEADER.pack(request, VERSION, len(payload)) + payload], ancillary)

    def ask(self, request):
        self.send(request)
        answer = b""
        while len(answer) < HEADER.size + 8:
            part = self.socket.recv(HEADER.size + 8 - len(answer))
            if not part:
                raise ConnectionError("the back end closed the connection")
            answer += part
        return struct.unpack_from("<Q", answer, HEADER.size)[0]

    def event(self):
        descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.callback(os.close, descriptor)
        return descriptor

    def set_up(self, memfd):
        self.send(SET_OWNER)
        offered = self.ask(GET_FEATURES)
        protocol = self.ask(GET_PROTOCOL_FEATURES)
        self.send(SET_PROTOCOL_FEATURES, struct.pack("<Q", protocol & (PROTOCOL_MQ | PROTOCOL_CONFIG)))
        wanted = 1 << F_PROTOCOL_FEATURES | 1 << VIRTIO_F_VERSION_1
        self.send(SET_FEATURES, struct.pack("<Q", offered & wanted))
        region = struct.pack("<QQQQ", 0, MEMORY_BYTES, self.address, 0)
        self.send(SET_MEM_TABLE, struct.pack("<II", 1, 0) + region, [memfd])
        self.send(SET_VRING_NUM, struct.pack("<II", 0, QUEUE_SIZE))
        self.send(SET_VRING_BASE, struct.pack("<II", 0, 0))
        rings = [self.address + offset for offset in (DESCRIPTORS, USED, AVAILABLE)]
        self.send(SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, *rings, 0))
        self.send(SET_VRING_CALL, struct.pack("<Q", 0), [self.event()])
        self.send(SET_VRING_KICK, struct.pack("<Q", 0), [self.event()])
        self.send(SET_VRING_ENABLE, struct.pack("<II", 0, 1))
        self.ask(GET_FEATURES)  # answered after all of the above
