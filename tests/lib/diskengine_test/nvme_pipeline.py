"""An NVMe/TCP host with many commands in flight, over the namespaces of one subsystem of ours."""

import struct

from .nvme_tcp import (
    C2H_DATA,
    C2H_SUCCESS,
    CAPSULE_CMD,
    CAPSULE_RESP,
    FLUSH,
    IN_CAPSULE_SGL,
    QUEUE_ENTRIES,
    READ,
    TRANSPORT_SGL,
    WRITE,
    WRITE_ZEROES,
    Namespace,
    Queue,
)

HOST_NQN = "nqn.2024-01.io.diskengine:tests"
IN_CAPSULE_BYTES_MAX = 8192  # what our target takes with the command
QUEUE_ID = 2  # the first one is the Namespace's


class TargetGone(Exception):
    """The target has closed the connection."""


class _Pipeline(Queue):
    def send(self, command_id, opcode, nsid, dwords, data, expect):
        sgl = struct.pack("<QI3xB", 0, len(data) or expect, IN_CAPSULE_SGL if data else TRANSPORT_SGL)
        entry = struct.pack("<BBHI16x", opcode, 0x40, command_id, nsid) + sgl + dwords
        header = struct.pack("<BBBBI", CAPSULE_CMD, 0, 72, 72 if data else 0, 72 + len(data))
        self.socket.sendall(header + entry + data)

    def receive(self):
        return self._receive()


class NvmePipeline:
    """write(nsid, ...) and the like start a command and return its id; wait() returns the next one that has ended.
    Lengths are in bytes. Raises TargetGone when the target goes away. One thread at a time."""

    DEPTH_MAX = QUEUE_ENTRIES - 2

    def __init__(self, port, nqn):
        self.first = Namespace(port, nqn, host_nqn=HOST_NQN)
        self.block_size = self.first.block_size
        self._queue = _Pipeline(port, nqn, HOST_NQN, QUEUE_ID, self.first.admin.controller_id)
        self._free = list(range(self.DEPTH_MAX))
        self._data = {}

    def _start(self, opcode, nsid, dwords=bytes(24), data=b"", expect=0):
        command_id = self._free.pop()
        try:
            self._queue.send(command_id, opcode, nsid, dwords, data, expect)
        except ConnectionError as error:
            raise TargetGone(str(error)) from error
        return command_id

    def _range(self, lba, length):
        return struct.pack("<QI12x", lba, length // self.block_size - 1)

    def write(self, nsid, lba, data):
        """At most IN_CAPSULE_BYTES_MAX."""
        return self._start(WRITE, nsid, self._range(lba, len(data)), data)

    def read(self, nsid, lba, length):
        return self._start(READ, nsid, self._range(lba, length), expect=length)

    def write_zeroes(self, nsid, lba, length):
        return self._start(WRITE_ZEROES, nsid, self._range(lba, length))

    def flush(self, nsid):
        return self._start(FLUSH, nsid)

    def wait(self):
        """(command id, status, data read)."""
        while True:
            try:
                kind, flags, body = self._queue.receive()
            except (EOFError, ConnectionError) as error:
                raise TargetGone(str(error)) from error
            if kind == C2H_DATA:
                command_id, offset = struct.unpack_from("<H2xI", body)
                data = self._data.setdefault(command_id, bytearray())
                assert offset == len(data), "data out of order"
                data += body[16:]
                if flags & C2H_SUCCESS:
                    return self._ended(command_id, 0)
            elif kind == CAPSULE_RESP:
                command_id, status = struct.unpack("<12xHH", body)
                return self._ended(command_id, status >> 1 & 0x7FF)
            else:
                raise ConnectionError(f"PDU of type {kind} came from the target")

    def _ended(self, command_id, status):
        self._free.append(command_id)
        return command_id, status, bytes(self._data.pop(command_id, b""))

    def read_all(self, nsid, lba, length, step=1 << 16):
        """Reads and waits; with nothing else in flight."""
        pieces = []
        while length:
            now = min(step, length)
            self.read(nsid, lba, now)
            _, status, piece = self.wait()
            if status or len(piece) != now:
                raise ConnectionError(f"read of {now} bytes at block {lba}: status {status:#x}, {len(piece)} bytes")
            pieces.append(piece)
            lba += now // self.block_size
            length -= now
        return b"".join(pieces)

    def close(self):
        self._queue.close()
        self.first.close()
