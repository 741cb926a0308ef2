"""NVMe/RDMA over soft-RoCE in a guest: our target with Linux's host, our host with Linux's target, and ours with ours,
whose target is killed and comes back. fio in the guest is the judge of the data."""

import re

from diskengine_test import RpcError, TestCase, program, rdma, wait_until
from diskengine_test.depth import make_slow, most_outstanding

NQN = "nqn.2024-01.io.diskengine:rdma"
DISK_BLOCKS = 64 * 2048
# Linux drops a namespace that comes back with another identity.
NAMESPACE_UUID = "6a2c4b7e-5e0d-4c37-9a55-3f5b2f0c9d12"
FIO = "/bin/fio --name=verify --ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1"
LINUX_NQN = "nqn.2024-01.io.diskengine:linux"
FRONT_PORT = rdma.NVME_PORT + 1
DEEP_NQN = "nqn.2024-01.io.diskengine:deep"
DEEP_PORT = rdma.NVME_PORT + 2
LOSS_TIMEOUT_S = 60


def export(io, bdev, port=rdma.NVME_PORT, nqn=NQN):
    """The data plane exports the bdev over RDMA."""
    if not any(transport["trtype"] == "RDMA" for transport in io.rpc.nvmf_get_transports()):
        io.rpc.nvmf_create_transport(trtype="RDMA", max_srq_depth=2048)
    io.rpc.nvmf_create_subsystem(nqn=nqn, allow_any_host=True, serial_number="DE01")
    io.rpc.nvmf_subsystem_add_ns(nqn=nqn, namespace={"bdev_name": bdev, "uuid": NAMESPACE_UUID})
    address = {"trtype": "RDMA", "adrfam": "IPv4", "traddr": rdma.ADDRESS, "trsvcid": str(port)}
    io.rpc.nvmf_subsystem_add_listener(nqn=nqn, listen_address=address)


def attach(io, nqn, **options):
    """The data plane connects to a subsystem over RDMA; the name of its bdev."""
    values = {"name": "Remote", "trsvcid": str(rdma.NVME_PORT), **options}
    (name,) = io.rpc.bdev_nvme_attach_controller(
        trtype="RDMA", adrfam="IPv4", traddr=rdma.ADDRESS, subnqn=nqn, **values
    )
    return name


def connect(guest, port, nqn=NQN):
    """Linux's host connects; the disk is /dev/nvme0n1."""
    guest.run(f"/bin/nvme connect -t rdma -a {rdma.ADDRESS} -s {port} -n {nqn} -i 2 -k 20")
    guest.run("for i in $(seq 40); do [ -b /dev/nvme0n1 ] && exit 0; sleep 0.25; done; exit 1")


def verify(guest, options):
    """fio writes and reads back; returns what it says of its speed."""
    output = guest.run(f"{FIO} --filename=/dev/nvme0n1 --rw=randwrite {options}", 120)
    if "err= 0" not in output:
        raise AssertionError(output)
    return re.findall(r"(?:read|write): IOPS=[^,]+", output)


class Rdma(TestCase):
    TEST_TIMEOUT_S = 240

    def boot(self, names, modules=(), programs=("nvme", "fio")):
        """A guest with soft-RoCE and data planes of these names in it."""
        ports = {name: self.free_port() for name in names}
        self.guest = rdma.make_rdma_guest(self, ports.values(), modules, programs).start()
        print(f"booted in {self.guest.boot_s:.1f} s")
        # A data plane alone has both processors: its connections are spread over two reactors.
        cores = [f"0x{1 << number:x}" for number in range(len(names))] if len(names) > 1 else ["0x3"]
        self.ports = ports
        return [
            rdma.GuestDataPlane(self, self.guest, name, ports[name], core)
            for name, core in zip(names, cores, strict=True)
        ]

    def test_linux_host_on_our_target(self):
        (io,) = self.boot(["io"], rdma.HOST_MODULES)
        guest = self.guest
        with self.assertRaises(RpcError) as without_device:
            io.rpc.nvmf_create_transport(trtype="RDMA")
        self.assertEqual(without_device.exception.code, -19)
        rdma.start_rdma(guest)
        io.rpc.bdev_malloc_create(name="disk", num_blocks=DISK_BLOCKS, block_size=512)
        export(io, "disk")
        self.assertIn(NQN, guest.run(f"/bin/nvme discover -t rdma -a {rdma.ADDRESS} -s {rdma.NVME_PORT}"))
        connect(guest, rdma.NVME_PORT)
        print("Linux on ours, 4 KiB at depth 16:", *verify(guest, "--bs=4k --size=8M --iodepth=16"))
        verify(guest, "--bsrange=512-1M --size=16M --iodepth=8")
        for group in io.rpc.nvmf_get_stats()["poll_groups"]:
            (transport,) = group["transports"]
            (device,) = transport["devices"]
            self.assertEqual((device["name"], transport["protocol_errors"]), ("rxe0", 0))
            self.assertGreater(device["requests"], 20)
        guest.run(f"/bin/nvme disconnect -n {NQN}")
        wait_until(lambda: io.rpc.nvmf_subsystem_get_controllers(nqn=NQN) == [], 10, "the controller to go")
        self.assertEqual(io.stop(), 0, io.log())
        guest.power_off()

    def test_our_host_on_linux_target(self):
        (io,) = self.boot(["io"], [*rdma.HOST_MODULES, *rdma.TARGET_MODULES])
        guest = self.guest
        rdma.start_rdma(guest)
        with self.assertRaises(RpcError) as nobody:
            attach(io, LINUX_NQN)
        self.assertIn(f"nothing listens for RDMA connections on {rdma.ADDRESS}", nobody.exception.message)
        rdma.export_ram_disk(guest, LINUX_NQN)
        disk = attach(io, LINUX_NQN)
        for size, depth in ((512, 8), (4096, 32), (131072, 8), (1048576, 2)):
            for reads in (0, 100):
                run = io.rpc.diskengine_perf_run(
                    bdev_name=disk, io_size=size, read_percent=reads, queue_depth=depth, duration_ms=600, warm_up_ms=0
                )
                self.assertGreater(run["ios"], 0, (size, reads))
                if size == 4096:
                    print(f"ours on Linux, 4 KiB at depth 32, {reads} % reads: {run['iops']:.0f} IOPS")
        self.assertTrue(io.rpc.bdev_nvme_reset_controller(name="Remote"))
        # Linux's host on our target over our host on Linux's target.
        export(io, disk, FRONT_PORT)
        connect(guest, FRONT_PORT)
        verify(guest, "--bsrange=512-256k --size=8M --iodepth=8")
        sums = guest.run("for d in nvme0n1 ram0; do dd if=/dev/$d bs=1M count=8 2>/dev/null | md5sum; done").split("\n")
        self.assertEqual(sums[0], sums[1])
        guest.run(f"/bin/nvme disconnect -n {NQN}")
        self.assertEqual(io.stop(), 0, io.log())
        guest.power_off()

    def export_file(self, storage):
        storage.rpc.bdev_uring_create(name="disk", filename="/tmp/disk", block_size=512)
        export(storage, "disk")

    def load_from_guest_memory(self, compute, disk):
        """A vhost front end's memory is registered, and data moves straight into and out of it."""
        compute.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name=disk)
        for kind in ("randwrite", "randread"):
            load = f"/bin/vhost_load --socket /tmp/vhost1 --rw {kind} --bs 65536 --qd 8 --seconds 1.5 --sleep"
            loading = self.guest.begin(load)
            wait_until(lambda: self.direct_requests(compute) > 10, 20, "data to go straight to guest memory")
            self.guest.finish(loading)
        compute.rpc.vhost_delete_controller(ctrlr="vhost1")

    def direct_requests(self, io):
        (group,) = io.rpc.bdev_nvme_get_transport_statistics()["poll_groups"]
        return sum(transport.get("direct_requests", 0) for transport in group["transports"])

    def fill_a_queue(self, storage, compute):
        """As many commands at once as a queue holds, all of them at the target."""
        storage.rpc.bdev_malloc_create(name="ram", num_blocks=DISK_BLOCKS, block_size=512)
        make_slow(storage, "slow", "ram", 500_000)
        storage.rpc.bdev_wait_for_examine()
        export(storage, "slow", DEEP_PORT, DEEP_NQN)
        compute.rpc.bdev_nvme_set_options(io_queue_requests=1024)
        deep = attach(compute, DEEP_NQN, name="Deep", trsvcid=str(DEEP_PORT))
        for reads in (0, 100):
            load = {"bdev_name": deep, "queue_depth": 1024, "read_percent": reads, "duration_ms": 1500, "warm_up_ms": 0}
            most = most_outstanding(storage, "slow", lambda load=load: compute.rpc.diskengine_perf_run(**load))
            print(f"{most} of 1024 commands at once at the target, {reads} % reads")
            self.assertGreaterEqual(most, 1023)  # a ring of 1024 entries holds one less
        compute.rpc.bdev_nvme_detach_controller(name="Deep")

    def test_our_host_finds_our_target_again_after_a_kill(self):
        programs = ["nvme", "fio", program("vhost_load")]
        storage, compute = self.boot(["storage", "compute"], rdma.HOST_MODULES, programs)
        guest = self.guest
        rdma.start_rdma(guest)
        self.fill_a_queue(storage, compute)
        guest.run("dd if=/dev/zero of=/tmp/disk bs=1M count=16")
        self.export_file(storage)
        disk = attach(compute, NQN, ctrlr_loss_timeout_sec=LOSS_TIMEOUT_S, reconnect_delay_sec=1)
        for reads in (0, 100):
            run = compute.rpc.diskengine_perf_run(
                bdev_name=disk, read_percent=reads, queue_depth=32, duration_ms=1000, warm_up_ms=100
            )
            print(f"ours on ours, 4 KiB at depth 32, {reads} % reads: {run['iops']:.0f} IOPS")
        self.load_from_guest_memory(compute, disk)
        export(compute, disk, FRONT_PORT, nqn=LINUX_NQN)
        connect(guest, FRONT_PORT, LINUX_NQN)
        writing = guest.begin(f"{FIO} --filename=/dev/nvme0n1 --rw=randwrite --bs=4k --size=4M --iodepth=16")
        storage.kill()
        self.assertFalse(guest.done(writing))
        again = rdma.GuestDataPlane(self, guest, "storage", self.ports["storage"], "0x1")
        self.export_file(again)
        self.assertIn("err= 0", guest.finish(writing, 90))
        sums = guest.run("for d in /dev/nvme0n1 /tmp/disk; do dd if=$d bs=1M count=4 2>/dev/null | md5sum; done").split("\n")
        self.assertEqual(sums[0], sums[1])
        guest.run(f"/bin/nvme disconnect -n {LINUX_NQN}")
        self.assertEqual((compute.stop(), again.stop()), (0, 0), compute.log() + again.log())
        guest.power_off()
