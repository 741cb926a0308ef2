"""NVMe/RDMA over soft-RoCE in a guest: our target with Linux's host, and what the data plane says where no RDMA is."""

import re

from diskengine_test import RpcError, TestCase, rdma, wait_until

NQN = "nqn.2024-01.io.diskengine:rdma"
DISK_BLOCKS = 64 * 2048
# Linux drops a namespace that comes back with another identity.
NAMESPACE_UUID = "6a2c4b7e-5e0d-4c37-9a55-3f5b2f0c9d12"
FIO = "/bin/fio --name=verify --ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1"
LISTENER = {"trtype": "RDMA", "adrfam": "IPv4", "traddr": rdma.ADDRESS, "trsvcid": str(rdma.NVME_PORT)}


def export(io, disk_bytes=DISK_BLOCKS * 512):
    """The data plane exports a RAM disk over RDMA."""
    io.rpc.bdev_malloc_create(name="disk", num_blocks=disk_bytes // 512, block_size=512)
    io.rpc.nvmf_create_transport(trtype="RDMA")
    io.rpc.nvmf_create_subsystem(nqn=NQN, allow_any_host=True, serial_number="DE01")
    io.rpc.nvmf_subsystem_add_ns(nqn=NQN, namespace={"bdev_name": "disk", "uuid": NAMESPACE_UUID})
    io.rpc.nvmf_subsystem_add_listener(nqn=NQN, listen_address=LISTENER)


class Rdma(TestCase):
    TEST_TIMEOUT_S = 240

    def test_linux_host_on_our_target(self):
        port = self.free_port()
        guest = rdma.make_rdma_guest(self, [port], rdma.HOST_MODULES, ["nvme", "fio"]).start()
        io = rdma.GuestDataPlane(self, guest, "io", port)
        with self.assertRaises(RpcError) as without_device:
            io.rpc.nvmf_create_transport(trtype="RDMA")
        self.assertEqual(without_device.exception.code, -19)
        rdma.start_rdma(guest)
        export(io)
        where = f"-t rdma -a {rdma.ADDRESS} -s {rdma.NVME_PORT}"
        self.assertIn(NQN, guest.run(f"/bin/nvme discover {where}"))
        guest.run(f"/bin/nvme connect {where} -n {NQN} -i 2 -k 20")
        guest.run("for i in $(seq 40); do [ -b /dev/nvme0n1 ] && exit 0; sleep 0.25; done; exit 1")
        disk = "--filename=/dev/nvme0n1"
        written = guest.run(f"{FIO} {disk} --rw=randwrite --bs=4k --size=8M --iodepth=16", 120)
        self.assertIn("err= 0", written)
        print(f"booted in {guest.boot_s:.1f} s; 4 KiB at depth 16:", *re.findall(r"(?:read|write): IOPS=\S+", written))
        self.assertIn("err= 0", guest.run(f"{FIO} {disk} --rw=randwrite --bsrange=512-1M --size=16M --iodepth=8", 120))
        (group,) = io.rpc.nvmf_get_stats()["poll_groups"]
        (transport,) = group["transports"]
        (device,) = transport["devices"]
        self.assertEqual((device["name"], transport["protocol_errors"]), ("rxe0", 0))
        self.assertGreater(device["requests"], 1000)
        guest.run(f"/bin/nvme disconnect -n {NQN}")
        wait_until(lambda: io.rpc.nvmf_subsystem_get_controllers(nqn=NQN) == [], 10, "the controller to go")
        self.assertEqual(io.stop(), 0)
        guest.power_off()
