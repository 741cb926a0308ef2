"""A small NVMe/TCP host of the tests' own: reads and writes one namespace of any target, one command at a time."""

import socket
import struct

from .deadline import scaled

IC_REQ, IC_RESP, CAPSULE_CMD, CAPSULE_RESP, H2C_DATA, C2H_DATA, R2T = 0, 1, 4, 5, 6, 7, 9
C2H_SUCCESS = 8
LAST_PDU = 4
TRANSPORT_SGL, IN_CAPSULE_SGL = 0x5A, 0x01
FLUSH, WRITE, READ, WRITE_ZEROES, DATASET_MANAGEMENT, IDENTIFY, FABRICS = 0x00, 0x01, 0x02, 0x08, 0x09, 0x06, 0x7F
PROPERTY_SET, CONNECT, PROPERTY_GET = 0x00, 0x01, 0x04
REGISTER_CC, REGISTER_CSTS = 0x14, 0x1C
CC_ENABLED = 1 | 6 << 16 | 4 << 20
DEALLOCATE = 4
TRANSFER_BYTES = 64 * 1024  # of one command; every target takes it
QUEUE_ENTRIES = 16
TIMEOUT_S = 30


class NvmeError(Exception):
    """A command ended with an error status: status code type << 8 | status code."""

    def __init__(self, what, status):
        self.status = status
        super().__init__(f"{what}: status {status:#x}")


class Queue:
    """One connection with one queue pair."""

    def __init__(self, port, nqn, host_nqn, queue_id, controller_id):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=scaled(TIMEOUT_S))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(struct.pack("<BBBBI", IC_REQ, 0, 128, 0, 128) + bytes(120))
        kind, _, body = self._receive()
        if kind != IC_RESP:
            raise ConnectionError(f"PDU type {kind} came instead of ICResp")
        self.data_bytes = struct.unpack_from("<I", body, 4)[0]  # of one H2CData PDU
        where = bytes(16) + struct.pack("<H238x", controller_id)
        data = where + nqn.encode().ljust(256, b"\0") + host_nqn.encode().ljust(512, b"\0")
        dwords = struct.pack("<HHHBxI12x", 0, queue_id, QUEUE_ENTRIES - 1, 0, 0)
        self.controller_id = self.command(FABRICS, dwords, data, fabrics=CONNECT, in_capsule=True)[0] & 0xFFFF

    def close(self):
        self.socket.close()

    def command(self, opcode, dwords=bytes(24), data=b"", expect=0, nsid=0, fabrics=0, in_capsule=False):
        """Sends one command and waits for its end: (first result dwords, `expect` bytes of data)."""
        sgl = struct.pack("<QI3xB", 0, len(data) or expect, IN_CAPSULE_SGL if in_capsule else TRANSPORT_SGL)
        second = struct.pack("<B3x", fabrics) if opcode == FABRICS else struct.pack("<I", nsid)
        entry = struct.pack("<BBH", opcode, 0x40, 0) + second + bytes(16) + sgl + dwords
        capsule = entry + data if in_capsule else entry
        header = struct.pack("<BBBBI", CAPSULE_CMD, 0, 72, 72 if in_capsule else 0, 8 + len(capsule))
        self.socket.sendall(header + capsule)
        got = bytearray(expect)
        while True:
            kind, flags, body = self._receive()
            if kind == R2T:
                self._send_data(data, *struct.unpack_from("<HHII", body))
            elif kind == C2H_DATA:
                _, offset, length = struct.unpack_from("<H2xII", body)
                got[offset : offset + length] = body[16 : 16 + length]
                if flags & C2H_SUCCESS:
                    return 0, bytes(got)
            elif kind == CAPSULE_RESP:
                result, status = struct.unpack_from("<Q6xH", body)
                if status >> 1 & 0x7FF:
                    raise NvmeError(f"command {opcode:#x}", status >> 1 & 0x7FF)
                return result, bytes(got)
            else:
                raise ConnectionError(f"PDU of type {kind} came in answer to command {opcode:#x}")

    def _send_data(self, data, command_id, tag, offset, length):
        end = offset + length
        while offset < end:
            piece = data[offset : min(end, offset + self.data_bytes)]
            last = LAST_PDU if offset + len(piece) == end else 0
            header = struct.pack("<BBBBI", H2C_DATA, last, 24, 24, 24 + len(piece))
            self.socket.sendall(header + struct.pack("<HHII4x", command_id, tag, offset, len(piece)) + piece)
            offset += len(piece)

    def _receive(self):
        kind, flags, _, _, total = struct.unpack("<BBBBI", self._exactly(8))
        return kind, flags, self._exactly(total - 8)

    def _exactly(self, count):
        data = bytearray()
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError("the target closed the connection")
            data += piece
        return bytes(data)


class Namespace:
    """Namespace `nsid` of a subsystem that 127.0.0.1:`port` serves. Offsets and lengths are in bytes, and multiples of
    the block size."""

    def __init__(self, port, nqn, nsid=1, host_nqn="nqn.2024-01.io.diskengine:tests"):
        self.nsid = nsid
        self.admin = Queue(port, nqn, host_nqn, 0, 0xFFFF)
        self.admin.command(FABRICS, struct.pack("<B3xIQ8x", 0, REGISTER_CC, CC_ENABLED), fabrics=PROPERTY_SET)
        ready = 0
        while not ready & 1:
            ready = self.admin.command(FABRICS, struct.pack("<B3xI16x", 0, REGISTER_CSTS), fabrics=PROPERTY_GET)[0]
        self.io = Queue(port, nqn, host_nqn, 1, self.admin.controller_id)
        identity = self.admin.command(IDENTIFY, bytes(24), expect=4096, nsid=nsid)[1]
        self.blocks = struct.unpack_from("<Q", identity)[0]
        self.block_size = 1 << identity[128 + 2 + 4 * (identity[26] & 0xF)]

    def close(self):
        self.io.close()
        self.admin.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def read(self, offset, length):
        pieces = []
        for at in range(offset, offset + length, TRANSFER_BYTES):
            size = min(TRANSFER_BYTES, offset + length - at)
            pieces.append(self.io.command(READ, self._range(at, size), expect=size, nsid=self.nsid)[1])
        return b"".join(pieces)

    def write(self, offset, data):
        for at in range(0, len(data), TRANSFER_BYTES):
            piece = data[at : at + TRANSFER_BYTES]
            self.io.command(WRITE, self._range(offset + at, len(piece)), piece, nsid=self.nsid)

    def flush(self):
        self.io.command(FLUSH, nsid=self.nsid)

    def write_zeroes(self, offset, length):
        self.io.command(WRITE_ZEROES, self._range(offset, length), nsid=self.nsid)

    def unmap(self, offset, length):
        ranges = struct.pack("<IIQ", 0, length // self.block_size, offset // self.block_size)
        self.io.command(DATASET_MANAGEMENT, struct.pack("<II16x", 0, DEALLOCATE), ranges, nsid=self.nsid)

    def _range(self, offset, length):
        return struct.pack("<QI12x", offset // self.block_size, length // self.block_size - 1)
