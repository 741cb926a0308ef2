"""What the tests of lvol stores share: disks in files, the reading and writing of lvols, errors as SPDK gives them."""

import os
import random

from .case import TestCase
from .nvme_tcp import Namespace
from .rpc import RpcError

MIB = 1 << 20
EXISTS, NO_DEVICE, INVALID, NOT_PERMITTED = "File exists", "No such device", "Invalid argument", "Operation not permitted"
NO_SPACE = "No space left on device"
BEGUN, DELETING = -32602, -32603  # codes of what fails after SPDK's first checks


def pattern(seed, length):
    """Bytes that only this seed gives."""
    return random.Random(seed).randbytes(length)


class LvolCase(TestCase):
    """A diskengine-io with disks in files; each lvol can be read and written over NVMe/TCP."""

    def setUp(self):
        super().setUp()
        self.port = self.free_port()
        self.begin()

    def begin(self):
        """Starts the process; again after it has ended."""
        self.io = self.start_io()
        self.rpc = self.io.rpc
        self.rpc.nvmf_create_transport(trtype="TCP")

    def stop(self):
        self.io.rpc.close()
        self.io.terminate()

    def crash(self):
        self.io.rpc.close()
        self.io.kill()

    def disk(self, name="disk", mib=64, block_size=512):
        """A bdev in a file of the test's directory, which is made if it is not there."""
        path = self.path(name)
        if not os.path.exists(path):
            self.make_file(name, mib * MIB)
        return self.rpc.bdev_aio_create(name=name, filename=path, block_size=block_size)

    def store(self, name="lvs", disk="disk", cluster=MIB, **more):
        self.disk(disk, **more)
        return self.rpc.bdev_lvol_create_lvstore(bdev_name=disk, lvs_name=name, cluster_sz=cluster)

    def store_info(self, name="lvs"):
        return self.rpc.bdev_lvol_get_lvstores(lvs_name=name)[0]

    def create(self, name, mib, store="lvs", thin=True, **more):
        return self.rpc.bdev_lvol_create(lvs_name=store, lvol_name=name, size_in_mib=mib, thin_provision=thin, **more)

    def lvol(self, name, store="lvs"):
        """Its entry in bdev_lvol_get_lvols, or None."""
        found = [one for one in self.rpc.bdev_lvol_get_lvols(lvs_name=store) if one["name"] == name]
        return found[0] if found else None

    def names(self, store="lvs"):
        return sorted(one["name"] for one in self.rpc.bdev_lvol_get_lvols(lvs_name=store))

    def specific(self, name):
        return self.rpc.bdev_get_bdevs(name=name)[0]["driver_specific"]["lvol"]

    def sound(self, store="lvs"):
        """The store's metadata agrees with itself and with memory."""
        report = self.rpc.diskengine_lvol_check(store=store)
        self.assertEqual(report["findings"], [])
        self.assertTrue(report["sound"])
        return report

    def fails(self, code, opening, method, **params):
        """The call fails with this code and a message that opens so; returns the message."""
        with self.assertRaises(RpcError) as caught:
            self.rpc.call(method, **params)
        error = caught.exception
        self.assertEqual(error.code, code, error.message)
        self.assertTrue(error.message.startswith(opening), f"{error.message!r} does not open with {opening!r}")
        return error.message

    def exported(self, bdev):
        """A Namespace for use in `with`: the bdev is exported meanwhile."""
        return Exported(self.rpc, self.port, bdev)

    def write(self, bdev, offset, data):
        with self.exported(bdev) as namespace:
            namespace.write(offset, data)
            namespace.flush()

    def read(self, bdev, offset=0, length=None):
        with self.exported(bdev) as namespace:
            return namespace.read(offset, namespace.blocks * namespace.block_size if length is None else length)


class Exported:
    def __init__(self, rpc, port, bdev):
        self.rpc = rpc
        self.port = port
        self.nqn = f"nqn.2024-01.io.diskengine:{bdev.replace('/', '.')}"
        self.bdev = bdev

    def __enter__(self):
        self.rpc.nvmf_create_subsystem(nqn=self.nqn, allow_any_host=True)
        self.rpc.nvmf_subsystem_add_ns(nqn=self.nqn, namespace={"bdev_name": self.bdev})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port)}
        self.rpc.nvmf_subsystem_add_listener(nqn=self.nqn, listen_address=address)
        self.namespace = Namespace(self.port, self.nqn)
        return self.namespace

    def __exit__(self, *exc):
        self.namespace.close()
        self.rpc.nvmf_delete_subsystem(nqn=self.nqn)
