"""A target keeps the epoch of those who may write with the lvol, and refuses earlier ones, whoever asks."""

import threading
import time

from diskengine_test import LvolCase, Namespace, NvmeError, RpcError, wait_until

NQN = "nqn.2026-01.io.diskengine:replica-1"
CONFLICT = -116


def host(epoch, mapping=7):
    return f"nqn.2026-01.io.diskengine:host:{mapping}:{epoch}"


class TargetEpoch(LvolCase):
    def setUp(self):
        super().setUp()
        self.store()
        self.lvol_bdev = self.create("v", 8)
        self.export()

    def export(self):
        self.rpc.nvmf_create_subsystem(nqn=NQN)
        self.rpc.nvmf_subsystem_add_ns(nqn=NQN, namespace={"bdev_name": self.lvol_bdev})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port)}
        self.rpc.nvmf_subsystem_add_listener(nqn=NQN, listen_address=address)

    def set_epoch(self, epoch):
        self.rpc.diskengine_nvmf_subsystem_set_epoch(nqn=NQN, epoch=epoch)

    def admit(self, epoch):
        self.rpc.nvmf_subsystem_add_host(nqn=NQN, host=host(epoch))

    def connect(self, epoch):
        return Namespace(self.port, NQN, host_nqn=host(epoch))

    def epoch(self):
        return self.rpc.nvmf_get_subsystems(nqn=NQN)[0].get("epoch", 0)

    def refused(self, code, call, *arguments):
        with self.assertRaises(RpcError) as caught:
            call(*arguments)
        self.assertEqual(caught.exception.code, code, caught.exception.message)

    def test_a_host_of_an_earlier_epoch_is_cut_off_and_never_let_in_again(self):
        self.set_epoch(1)
        self.admit(1)
        old = self.connect(1)
        old.write(0, bytes(4096))
        self.set_epoch(2)
        wait_until(lambda: self.rpc.nvmf_subsystem_get_controllers(nqn=NQN) == [], 10, "the old host to be gone")
        with self.assertRaises((NvmeError, OSError, EOFError)):
            old.write(0, bytes(4096))
        old.close()
        with self.assertRaises((NvmeError, OSError, EOFError)):
            self.connect(1)  # although it is still on the list
        self.rpc.nvmf_subsystem_remove_host(nqn=NQN, host=host(1))
        self.refused(-32603, self.admit, 1)
        self.refused(CONFLICT, self.set_epoch, 1)
        self.admit(2)
        with self.connect(2) as namespace:
            namespace.write(0, bytes(4096))

    def test_the_epoch_is_kept_with_the_lvol_through_a_crash(self):
        self.set_epoch(5)
        self.crash()
        self.begin()
        self.disk()
        wait_until(lambda: self.rpc.bdev_lvol_get_lvols(), 10, "the store to be loaded")
        self.export()
        self.assertEqual(self.epoch(), 5)
        self.refused(CONFLICT, self.set_epoch, 4)
        self.refused(-32603, self.admit, 4)
        self.set_epoch(5)
        self.sound()

    def test_any_host_is_not_every_epoch(self):
        self.rpc.nvmf_subsystem_allow_any_host(nqn=NQN, allow_any_host=True)
        self.set_epoch(3)
        for epoch in (2, 4):
            with self.assertRaises((NvmeError, OSError, EOFError)):
                self.connect(epoch)
        with self.assertRaises((NvmeError, OSError, EOFError)):
            Namespace(self.port, NQN, host_nqn="nqn.2024-01.io.diskengine:nobody")
        self.connect(3).close()

    def test_a_connection_is_let_in_when_nothing_of_the_one_before_is_left(self):
        """A lost connection's write is still at the disk when its host connects anew: had the host's next write
        overtaken it, the old one would land on top."""
        self.rpc.nvmf_delete_subsystem(nqn=NQN)
        self.rpc.bdev_delay_create(base_bdev_name=self.lvol_bdev, name="slow", avg_read_latency=0, p99_read_latency=0,
                                   avg_write_latency=1500000, p99_write_latency=1500000)
        self.lvol_bdev = "slow"
        self.export()
        self.set_epoch(1)
        self.admit(1)
        first = self.connect(1)
        began = time.monotonic()

        def write():
            try:
                first.write(0, bytes(4096))
            except (NvmeError, OSError, EOFError):
                pass  # its connection is lost, which is what is meant

        writing = threading.Thread(target=write)
        writing.start()
        time.sleep(0.3)  # the write is at the disk
        second = wait_until(self.try_to_connect, 10, "the second connection to be let in")
        self.assertGreater(time.monotonic() - began, 1.4, "not before the first one's write came back")
        second.close()
        writing.join()
        first.close()

    def try_to_connect(self):
        try:
            return self.connect(1)
        except (NvmeError, OSError, EOFError):
            return None
