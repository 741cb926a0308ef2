"""The NVMe/TCP target as a peer with a raw socket sees it: the protocol byte by byte, and what happens to those who break
it. And its RPC methods."""

import os
import socket
import struct

from diskengine_test import RpcError, TestCase, wait_until

NQN = "nqn.2024-01.io.diskengine:raw"
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
HOST_NQN = "nqn.2024-01.io.diskengine:raw-host"
BLOCK = 512
BLOCKS = 16384
IC_REQ, IC_RESP, H2C_TERM, C2H_TERM, CAPSULE_CMD, CAPSULE_RESP, H2C_DATA, C2H_DATA, R2T = 0, 1, 2, 3, 4, 5, 6, 7, 9
LAST, SUCCESS = 4, 8
IN_CAPSULE, TRANSPORT = 0x01, 0x5A
CONNECT_NO_FLOW_CONTROL = 4


def common(pdu, header_bytes, total, flags=0, offset=0):
    return struct.pack("<BBBBI", pdu, flags, header_bytes, offset, total)


def sqe(opcode, cid, nsid=0, length=0, sgl=TRANSPORT, dwords=(0, 0, 0, 0, 0, 0)):
    data = struct.pack("<QI3xB", 0, length, sgl)
    return struct.pack("<BBHI16x16s6I", opcode, 0x40, cid, nsid, data, *dwords)


def capsule(entry, data=b""):
    total = 72 + len(data)
    return common(CAPSULE_CMD, 72, total, offset=72 if data else 0) + entry + data


def connect_capsule(qid=0, cntlid=0xFFFF, nqn=NQN, entries=32, attributes=CONNECT_NO_FLOW_CONTROL):
    data = bytes(16) + struct.pack("<H238x", cntlid) + nqn.encode().ljust(256, b"\0") + HOST_NQN.encode().ljust(512, b"\0")
    sgl = struct.pack("<QI3xB", 0, 1024, IN_CAPSULE)
    entry = struct.pack("<BBHB19x16sHHHBxI12x", 0x7F, 0x40, 0, 1, sgl, 0, qid, entries - 1, attributes, 0)
    return capsule(entry, data)


class Raw:
    """One connection."""

    def __init__(self, port, init=True):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        if init:
            self.send(common(IC_REQ, 128, 128) + bytes(120))
            pdu, body = self.receive()
            assert pdu[0] == IC_RESP, pdu
            self.max_h2c = struct.unpack_from("<I", body, 4)[0]

    def send(self, data):
        self.socket.sendall(data)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def receive(self):
        """((type, flags, header bytes, data offset, length), what follows the common header)."""
        header = struct.unpack("<BBBBI", self.exactly(8))
        return header, self.exactly(header[4] - 8)

    def status(self):
        """The status code and type of the next response, and its first result dword."""
        header, body = self.receive()
        assert header[0] == CAPSULE_RESP, header
        result, status = struct.unpack("<I10xH", body)
        return (status >> 1) & 0x7FF, result

    def connect(self, **options):
        self.send(connect_capsule(**options))
        return self.status()

    def enable(self):
        entry = struct.pack("<BBHB35xB3xIQ8x", 0x7F, 0x40, 1, 0, 0, 0x14, 1 | 6 << 16 | 4 << 20)
        self.send(capsule(entry))
        assert self.status() == (0, 0)

    def ended_with(self):
        """Reads on to the end: (FES, FEI) of the termination request, None if there is none."""
        fatal = None
        try:
            while True:
                header, body = self.receive()
                if header[0] == C2H_TERM:
                    fatal = struct.unpack_from("<HI", body)
        except (EOFError, ConnectionResetError):
            return fatal

    def close(self):
        self.socket.close()


class Nvmf(TestCase):
    TEST_TIMEOUT_S = 60

    def setUp(self):
        super().setUp()
        self.io = self.start_io()
        self.port = self.free_port()
        self.address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port)}
        self.io.rpc.bdev_malloc_create(name="disk", num_blocks=BLOCKS, block_size=BLOCK)
        self.io.rpc.nvmf_create_transport(trtype="tcp")
        self.io.rpc.nvmf_create_subsystem(nqn=NQN, allow_any_host=True)
        self.io.rpc.nvmf_subsystem_add_ns(nqn=NQN, namespace={"bdev_name": "disk"})
        self.io.rpc.nvmf_subsystem_add_listener(nqn=NQN, listen_address=self.address)
        self.raws = []

    def raw(self, **options):
        made = Raw(self.port, **options)
        self.addCleanup(made.close)
        return made

    def host(self, entries=32):
        """An enabled controller's admin queue and an I/O queue."""
        admin = self.raw()
        code, cntlid = admin.connect()
        self.assertEqual(code, 0)
        admin.enable()
        io = self.raw()
        self.assertEqual(io.connect(qid=1, cntlid=cntlid, entries=entries)[0], 0)
        return admin, io

    def stat(self, name):
        return sum(t[name] for g in self.io.rpc.nvmf_get_stats()["poll_groups"] for t in g["transports"])

    def write(self, queue, cid, lba, data, in_capsule=True):
        dwords = (lba, 0, len(data) // BLOCK - 1, 0, 0, 0)
        if in_capsule:
            queue.send(capsule(sqe(1, cid, 1, len(data), IN_CAPSULE, dwords), data))
        else:
            queue.send(capsule(sqe(1, cid, 1, len(data), TRANSPORT, dwords)))

    def read(self, queue, cid, lba, length):
        queue.send(capsule(sqe(2, cid, 1, length, TRANSPORT, (lba, 0, length // BLOCK - 1, 0, 0, 0))))
        header, body = queue.receive()
        self.assertEqual(header[0], C2H_DATA)
        self.assertEqual(header[1], LAST | SUCCESS)
        return body[16:]

    def h2c(self, cid, tag, offset, data, last=True):
        fields = struct.pack("<HHIII", cid, tag, offset, len(data), 0)
        return common(H2C_DATA, 24, 24 + len(data), LAST if last else 0, 24) + fields + data

    def ready_to_transfer(self, queue, cid):
        header, body = queue.receive()
        self.assertEqual(header[0], R2T)
        got_cid, tag, offset, length = struct.unpack("<HHII4x", body)
        self.assertEqual((got_cid, offset), (cid, 0))
        return tag, length

    def test_data_goes_in_capsules_by_r2t_and_back(self):
        _, queue = self.host()
        small = os.urandom(8192)
        self.write(queue, 1, 8, small)
        self.assertEqual(queue.status(), (0, 0))
        self.assertEqual(self.read(queue, 2, 8, 8192), small)
        large = os.urandom(1 << 20)
        self.write(queue, 3, 100, large, in_capsule=False)
        tag, length = self.ready_to_transfer(queue, 3)
        self.assertEqual(length, len(large))
        pieces = [large[at : at + 300_000] for at in range(0, len(large), 300_000)]
        at = 0
        for piece in pieces:
            queue.send(self.h2c(3, tag, at, piece, last=at + len(piece) == len(large)))
            at += len(piece)
        self.assertEqual(queue.status(), (0, 0))
        self.assertEqual(self.read(queue, 4, 100, 1 << 20), large)

    def test_many_commands_at_once_are_all_answered(self):
        _, queue = self.host(entries=1024)
        for base in range(0, 1000, 500):
            blocks = [os.urandom(BLOCK) for _ in range(500)]
            queue.send(
                b"".join(
                    capsule(sqe(1, i, 1, BLOCK, IN_CAPSULE, (base + i, 0, 0, 0, 0, 0)), data)
                    for i, data in enumerate(blocks)
                )
            )
            for _ in blocks:
                self.assertEqual(queue.status(), (0, 0))
            self.assertEqual(self.read(queue, 7, base, 500 * BLOCK), b"".join(blocks))

    def test_a_peer_that_breaks_the_protocol_is_told_why_and_nobody_else_notices(self):
        _, bystander = self.host()
        good = capsule(sqe(0, 1))
        cases = {
            "a command before the ICReq": (False, good, (2, 0)),
            "a second ICReq": (True, common(IC_REQ, 128, 128) + bytes(120), (2, 0)),
            "an unknown type": (True, common(0x55, 8, 8), (1, 0)),
            "a PDU that only a controller sends": (True, common(C2H_DATA, 24, 24) + bytes(16), (1, 0)),
            "a wrong header length": (True, common(CAPSULE_CMD, 71, 72) + bytes(64), (1, 2)),
            "a total shorter than the header": (True, common(CAPSULE_CMD, 72, 70) + bytes(64), (1, 4)),
            "data inside the header": (True, common(CAPSULE_CMD, 72, 72 + 512, 0, 20) + bytes(576), (1, 3)),
            "too much data in a capsule": (True, common(CAPSULE_CMD, 72, 1 << 30, 0, 72) + bytes(64), (5, 0)),
            "a digest that was not agreed": (True, common(CAPSULE_CMD, 72, 76, 1) + bytes(68), (1, 1)),
            "data for no R2T": (True, self.h2c(1, 0, 0, bytes(512)), (2, 0)),
            "data for a tag that is not there": (True, self.h2c(1, 999, 0, bytes(512)), (1, 10)),
            "an unknown version": (False, common(IC_REQ, 128, 128) + b"\7\0" + bytes(118), (6, 8)),
            "an impossible alignment": (False, common(IC_REQ, 128, 128) + b"\0\0\x20" + bytes(117), (6, 10)),
        }
        for name, (init, data, fatal) in cases.items():
            with self.subTest(name):
                peer = self.raw(init=init)
                peer.send(data)
                self.assertEqual(peer.ended_with(), fatal)
        self.assertEqual(self.stat("protocol_errors"), len(cases))
        self.write(bystander, 1, 0, bytes(BLOCK))
        self.assertEqual(bystander.status(), (0, 0))

    def test_data_outside_of_its_r2t_ends_the_connection_and_leaves_the_disk_alone(self):
        before = os.urandom(16384)
        _, queue = self.host()
        self.write(queue, 1, 0, before[:8192])
        self.assertEqual(queue.status(), (0, 0))
        self.write(queue, 2, 16, before[8192:])
        self.assertEqual(queue.status(), (0, 0))
        for name, cid, offset, length in (
            ("past the end", 5, 0, 16384 + 512),
            ("out of order", 5, 4096, 4096),
            ("of another command", 6, 0, 16384),
        ):
            with self.subTest(name):
                _, peer = self.host()
                self.write(peer, 5, 0, bytes(16384), in_capsule=False)
                tag, _ = self.ready_to_transfer(peer, 5)
                peer.send(self.h2c(cid, tag, offset, bytes(length)))
                self.assertIsNotNone(peer.ended_with())
        self.assertEqual(self.read(queue, 3, 0, 16384), before)

    def test_a_host_that_overruns_its_queue_or_never_reads_is_cut_off(self):
        _, peer = self.host(entries=4)
        peer.socket.settimeout(5)
        try:
            for _ in range(2000):
                peer.send(b"".join(capsule(sqe(2, i, 1, 8192, TRANSPORT, (0, 0, 15, 0, 0, 0))) for i in range(64)))
        except OSError:
            pass
        wait_until(
            lambda: len(self.io.rpc.nvmf_subsystem_get_qpairs(nqn=NQN)) == 1, 10, "only the admin queue to be left"
        )

    def test_a_vanishing_host_leaves_nothing_behind(self):
        for _ in range(20):
            admin, queue = self.host()
            self.write(queue, 5, 0, bytes(65536), in_capsule=False)
            self.ready_to_transfer(queue, 5)
            queue.send(self.h2c(5, 0, 0, bytes(65536))[:5000])
            queue.close()
            admin.close()
        wait_until(lambda: self.io.rpc.nvmf_subsystem_get_controllers(nqn=NQN) == [], 10, "all controllers to go")
        groups = self.io.rpc.nvmf_get_stats()["poll_groups"]
        self.assertEqual([(g["current_admin_qpairs"], g["current_io_qpairs"]) for g in groups], [(0, 0)])

    def test_bad_commands_get_a_status(self):
        admin, queue = self.host()
        cases = (
            (sqe(2, 1, 1, BLOCK, TRANSPORT, (BLOCKS, 0, 0, 0, 0, 0)), 0x80),
            (sqe(2, 1, 9, BLOCK), 0x0B),
            (sqe(2, 1, 1, 2 * BLOCK), 0x0F),
            (sqe(2, 1, 1, 2 << 20), 0x02),
            (sqe(2, 1, 1, BLOCK, 0x22), 0x11),
            (sqe(2, 1, 1, BLOCK, IN_CAPSULE), 0x11),
            (sqe(1, 1, 1, BLOCK, IN_CAPSULE), 0x0F),
            (sqe(0x0D, 1, 1), 0x01),
            (sqe(0x15, 1, 1), 0x01),
            (sqe(0x99, 1, 1), 0x01),
        )
        for entry, status in cases:
            queue.send(capsule(entry))
            self.assertEqual(queue.status()[0], status, entry[:8])
        # Reservation acquire with preempt, by a host that holds no key.
        queue.send(capsule(sqe(0x11, 1, 1, 16, IN_CAPSULE, (1, 0, 0, 0, 0, 0)), bytes(16)))
        self.assertEqual(queue.status()[0], 0x01)
        admin.send(capsule(sqe(0x0C, 1)) * 2)
        self.assertEqual(admin.status()[0], 0x03)

    def test_a_connect_to_nothing_is_refused_with_the_field(self):
        peer = self.raw()
        self.assertEqual(peer.connect(nqn="nqn.2024-01.io.diskengine:nothing"), (0x182, 1 << 16 | 256))
        self.assertEqual(peer.connect(entries=1), (0x182, 44))
        self.assertEqual(peer.connect(nqn=DISCOVERY_NQN)[0], 0)

    def test_rpc_refuses_what_does_not_fit(self):
        rpc = self.io.rpc
        elsewhere = {**self.address, "trsvcid": "1"}
        busy = socket.socket()
        self.addCleanup(busy.close)
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = {**self.address, "trsvcid": str(busy.getsockname()[1])}
        cases = (
            (-32603, "nvmf_create_transport", {"trtype": "TCP"}),
            (-32602, "nvmf_create_transport", {"trtype": "RDMB"}),
            (-19, "nvmf_get_transports", {"trtype": "RDMA"}),
            (-32603, "nvmf_create_subsystem", {"nqn": NQN}),
            (-32603, "nvmf_create_subsystem", {"nqn": "not a name"}),
            (-32602, "nvmf_create_subsystem", {"nqn": NQN + "2", "min_cntlid": 9, "max_cntlid": 8}),
            (-32602, "nvmf_delete_subsystem", {"nqn": NQN + "2"}),
            (-32602, "nvmf_get_subsystems", {"nqn": NQN + "2"}),
            (-32602, "nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "none"}}),
            (-32602, "nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "disk"}}),
            (-32602, "nvmf_subsystem_add_ns", {"nqn": NQN, "namespace": {"bdev_name": "disk", "nguid": "zz" * 16}}),
            (-32602, "nvmf_subsystem_remove_ns", {"nqn": NQN, "nsid": 5}),
            (-32602, "nvmf_subsystem_add_listener", {"nqn": NQN, "listen_address": self.address}),
            (-32602, "nvmf_subsystem_add_listener", {"nqn": NQN, "listen_address": taken}),
            (-32602, "nvmf_subsystem_add_listener", {"nqn": NQN, "listen_address": {**elsewhere, "trtype": "RDMA"}}),
            (-32602, "nvmf_subsystem_add_listener", {"nqn": NQN, "listen_address": {**elsewhere, "traddr": "a.b"}}),
            (-32602, "nvmf_subsystem_remove_listener", {"nqn": NQN, "listen_address": elsewhere}),
            (-32603, "nvmf_subsystem_remove_host", {"nqn": NQN, "host": HOST_NQN}),
            (-32603, "nvmf_discovery_remove_referral", {"address": elsewhere}),
        )
        for code, method, params in cases:
            with self.subTest(method, params=params):
                with self.assertRaises(RpcError) as refused:
                    getattr(rpc, method)(**params)
                self.assertEqual(refused.exception.code, code)
        with self.assertRaises(RpcError):
            rpc.bdev_malloc_create(name="disk", num_blocks=8, block_size=BLOCK)

    def test_what_was_made_is_listed_and_deleted_again(self):
        rpc = self.io.rpc
        names = [s["nqn"] for s in rpc.nvmf_get_subsystems()]
        self.assertEqual(names, [DISCOVERY_NQN, NQN])
        listed = rpc.nvmf_get_subsystems(nqn=NQN)[0]
        self.assertEqual(listed["listen_addresses"], [self.address])
        self.assertEqual([n["bdev_name"] for n in listed["namespaces"]], ["disk"])
        rpc.nvmf_discovery_add_referral(address=self.address)
        self.assertEqual(rpc.nvmf_discovery_get_referrals()[0]["subnqn"], DISCOVERY_NQN)
        admin, queue = self.host()
        queues = rpc.nvmf_subsystem_get_qpairs(nqn=NQN)
        self.assertEqual(sorted(q["qid"] for q in queues), [0, 1])
        self.assertTrue(rpc.nvmf_delete_subsystem(nqn=NQN))
        self.assertIsNone(admin.ended_with())
        self.assertIsNone(queue.ended_with())
        self.assertTrue(rpc.bdev_malloc_delete(name="disk"))

    def test_deleting_the_device_takes_the_namespace(self):
        _, queue = self.host()
        self.assertTrue(self.io.rpc.bdev_malloc_delete(name="disk"))
        self.assertEqual(self.io.rpc.nvmf_get_subsystems(nqn=NQN)[0]["namespaces"], [])
        queue.send(capsule(sqe(2, 1, 1, BLOCK)))
        self.assertEqual(queue.status()[0], 0x0B)

    def test_it_stops_cleanly_with_hosts_connected(self):
        _, queue = self.host()
        self.write(queue, 1, 0, bytes(65536), in_capsule=False)
        self.ready_to_transfer(queue, 1)
        self.io.terminate()
        self.assertIsNone(queue.ended_with())
