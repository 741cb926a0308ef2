"""A data plane in a guest drives emulated NVMe disks on the PCI bus by itself, through VFIO and an emulated IOMMU."""

import hashlib
import socket
import subprocess
from concurrent import futures

from diskengine_test import EXT4_MODULES, RpcClient, RpcError, TestCase, program, wait_until
from diskengine_test.guest import NVME_TCP_MODULES
from diskengine_test.nvme_pcie import add_nvme, bind_vfio, make_pcie_guest, nvme_addresses
from diskengine_test.rdma import GuestDataPlane

DISK_BYTES = 64 << 20
NQN = "nqn.2024-01.io.diskengine:pcie"
FIO = (
    "/bin/fio --name=verify --filename=/dev/nvme0n1 --ioengine=libaio --direct=1 --rw=randwrite --bsrange=512-256k"
    " --size=16M --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1"
)


def digest(path):
    with open(path, "rb") as disk:
        return hashlib.md5(disk.read()).hexdigest()


class NvmePcie(TestCase):
    TEST_TIMEOUT_S = 300

    def boot(self, disks, modules=(), programs=(), trace=None):
        port = self.free_port()
        self.guest = make_pcie_guest(self, [port], modules, programs)
        for serial, namespaces in disks.items():
            add_nvme(self.guest, serial, namespaces)
        if trace:
            self.guest.qemu_args += ["-trace", trace, "-D", self.path("trace")]
        self.guest.start()
        print(f"booted in {self.guest.boot_s:.1f} s")
        self.addresses = nvme_addresses(self.guest)
        self.assertEqual(len(self.addresses), len(disks))
        self.io = GuestDataPlane(self, self.guest, "io", port, "0x3")
        return self.io

    def attach(self, number=1, **options):
        return self.io.rpc.bdev_nvme_attach_controller(
            name=f"NvmeDisk{number}", trtype="PCIe", traddr=self.addresses[number - 1], **options
        )

    def traced(self, event):
        with open(self.path("trace")) as file:
            return file.read().count(event)

    def perf(self, disk, **options):
        run = self.io.rpc.diskengine_perf_run(bdev_name=disk, warm_up_ms=100, **options)
        self.assertGreater(run["ios"], 0, options)
        return run

    def export_to_linux(self, disk):
        """The guest's own kernel sees the disk as /dev/nvme0n1, over NVMe/TCP."""
        rpc = self.io.rpc
        rpc.nvmf_create_transport(trtype="TCP")
        rpc.nvmf_create_subsystem(nqn=NQN, allow_any_host=True, serial_number="DE01")
        rpc.nvmf_subsystem_add_ns(nqn=NQN, namespace={"bdev_name": disk})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "4420"}
        rpc.nvmf_subsystem_add_listener(nqn=NQN, listen_address=address)
        self.guest.run(f"/bin/nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN} -i 2")
        self.guest.run("for i in $(seq 40); do [ -b /dev/nvme0n1 ] && exit 0; sleep 0.25; done; exit 1")

    def statistics(self):
        """The PCIe counters of the reactor whose queues had most to do."""
        groups = self.io.rpc.bdev_nvme_get_transport_statistics()["poll_groups"]
        transports = [transport for group in groups for transport in group["transports"]]
        pcie = [transport for transport in transports if transport["trname"] == "PCIe"]
        return max(pcie, key=lambda transport: transport["submitted_requests"])

    def end(self):
        self.assertEqual(self.io.stop(), 0, self.io.log())
        self.guest.power_off()

    def test_disks_are_driven_and_hold_what_was_written(self):
        media = [self.make_file(f"disk{number}", DISK_BYTES) for number in (1, 2)]
        io = self.boot(
            {"NV1": [(media[0], 512), (media[1], 4096)]}, NVME_TCP_MODULES, ["nvme", "fio"], "pci_nvme_flush_ns"
        )
        with self.assertRaises(RpcError) as unbound:
            self.attach()
        self.assertEqual((unbound.exception.code, "vfio-pci" in unbound.exception.message), (-16, True))
        bind_vfio(self.guest, self.addresses[0])
        self.assertEqual(self.attach(), ["NvmeDisk1n1", "NvmeDisk1n2"])
        first, second = io.rpc.bdev_get_bdevs()
        self.assertEqual((first["block_size"], second["block_size"]), (512, 4096))
        self.assertEqual(first["num_blocks"] * 512, DISK_BYTES)
        self.assertEqual(first["driver_specific"]["nvme"][0]["pci_address"], self.addresses[0])
        self.assertEqual(first["driver_specific"]["nvme"][0]["ctrlr_data"]["serial_number"], "NV1")
        health = io.rpc.bdev_nvme_get_controller_health_info(name="NvmeDisk1")
        self.assertEqual((health["temperature_celsius"], health["media_errors"]), (50, 0))

        for size, depth in ((512, 1), (4096, 1), (4096, 32), (4096, 128), (131072, 8), (1048576, 2)):
            for reads in (0, 100):
                run = self.perf("NvmeDisk1n1", io_size=size, read_percent=reads, queue_depth=depth, duration_ms=800)
                print(f"{size} bytes at depth {depth}, {reads} % reads: {run['iops']:.0f} IOPS")
        self.perf("NvmeDisk1n2", io_size=4096, read_percent=50, queue_depth=8, duration_ms=300)

        self.export_to_linux("NvmeDisk1n1")
        flushes = self.traced("pci_nvme_flush_ns")
        self.assertIn("err= 0", self.guest.run(FIO, 120))
        self.guest.run("blockdev --flushbufs /dev/nvme0n1; dd if=/dev/zero of=/dev/nvme0n1 bs=4k count=1 conv=fsync")
        self.assertGreater(self.traced("pci_nvme_flush_ns"), flushes)
        print(self.statistics())
        inside = self.guest.run("md5sum < /dev/nvme0n1", 120).split()[0]
        self.guest.run(f"/bin/nvme disconnect -n {NQN}")
        self.end()
        self.assertEqual(digest(media[0]), inside)

    def test_a_disk_of_the_kernels_tells_of_its_health_and_is_not_taken_and_a_free_one_is_by_serial_number(self):
        kernels, free = self.make_file("disk1", DISK_BYTES), self.make_file("disk2", DISK_BYTES)
        with open(free, "r+b") as file:
            file.seek(512)
            file.write(b"EFI PART")
        io = self.boot({"NV1": [(kernels, 512)], "NV2": [(free, 512)]}, ["nvme", *EXT4_MODULES], ["mkfs.ext4"])
        with self.assertRaises(RpcError) as driven:
            self.attach(1)
        self.assertIn(f"{self.addresses[0]} is driven by nvme: ", driven.exception.message)
        io.rpc.bdev_uring_create(name="kernels", filename="/dev/nvme0n1")
        self.assertFalse(io.rpc.bdev_get_bdevs(name="kernels")[0]["claimed"])
        health = io.rpc.diskengine_bdev_get_health(name="kernels")
        self.assertEqual((health["serial_number"], health["temperature_celsius"]), ("NV1", 50))
        self.assertEqual(health["traddr"], "/dev/nvme0")
        io.rpc.bdev_uring_delete(name="kernels")

        # The kernel lets go of what io_uring had a moment after it was closed.
        self.guest.run("for i in $(seq 20); do /bin/mkfs.ext4 -q /dev/nvme0n1 && exit 0; sleep 0.25; done; exit 1")
        self.guest.run("mkdir -p /mnt && mount -t ext4 /dev/nvme0n1 /mnt")
        with self.assertRaises(RpcError) as mounted:
            self.attach(1)
        self.assertIn("/dev/nvme0n1 is mounted on /mnt", mounted.exception.message)
        with self.assertRaises(RpcError) as in_use:
            io.rpc.bdev_uring_create(name="kernels", filename="/dev/nvme0n1")
        self.assertEqual(in_use.exception.code, -16)
        self.guest.run("umount /mnt")

        bind_vfio(self.guest, self.addresses[1])
        self.disk_add("serial:NV2", "holds data (GPT partition table)")
        with open(free, "r+b") as file:
            file.seek(512)
            file.write(bytes(8))
        wait_until(lambda: io.rpc.bdev_lvol_get_lvstores() != [], 20, "the disk to be taken once it is empty")
        self.assertEqual(io.rpc.bdev_lvol_get_lvstores()[0]["base_bdev"], "NvmeDisk1n1")
        self.assertEqual(io.rpc.diskengine_bdev_get_health(name="NvmeDisk1n1")["serial_number"], "NV2")
        self.assertEqual(io.rpc.diskengine_bdev_nvme_get_error_log(name="NvmeDisk1"), [])
        self.end()

    def disk_add(self, path, refusal):
        """A control plane outside the guest takes the disk for the data plane in it."""
        api = self.path("api")
        node = f"s1={self.io.rpc_path},address=127.0.0.1:4420"
        cli = [program("diskengine"), "--api", api]
        self.start([*cli, "serve", "--db", self.path("db"), "--storage-node", node, "--interval", "500ms"], "serve")
        run = lambda *arguments: subprocess.run([*cli, *arguments], capture_output=True, text=True, check=False)
        wait_until(lambda: run("status").returncode == 0, 20, "the control plane to answer")
        refused = run("disk", "add", "--node", "s1", "--path", path)
        self.assertIn(refusal, refused.stderr)

    def test_without_an_iommu_a_disk_is_driven_only_where_that_is_asked_for(self):
        disk = self.make_file("disk", DISK_BYTES)
        port, unsafe_port = self.free_port(), self.free_port()
        self.guest = make_pcie_guest(self, [port, unsafe_port], NVME_TCP_MODULES, ["nvme", "fio"], iommu=False)
        add_nvme(self.guest, "NV1", [(disk, 512)])
        self.guest.start()
        self.addresses = nvme_addresses(self.guest)
        self.io = GuestDataPlane(self, self.guest, "io", port)
        with self.assertRaises(RpcError) as refused:
            self.attach()
        self.assertIn("has no IOMMU in front of it", refused.exception.message)
        if self.guest.run("echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode && echo on; :").strip() != "on":
            self.skipTest("this kernel was built without CONFIG_VFIO_NOIOMMU; refused as it should be")
        bind_vfio(self.guest, self.addresses[0])
        with self.assertRaises(RpcError) as refused:
            self.attach()
        self.assertIn("say --unsafe-no-iommu", refused.exception.message)
        self.io.stop()
        self.io = GuestDataPlane(self, self.guest, "unsafe", unsafe_port, arguments="--unsafe-no-iommu")
        with self.assertRaises(RpcError) as refused:
            self.attach()
        self.assertIn("sysctl vm.nr_hugepages", refused.exception.message)
        self.guest.run("echo 32 > /proc/sys/vm/nr_hugepages")
        self.assertEqual(self.attach(), ["NvmeDisk1n1"])
        for size, depth in ((512, 1), (4096, 32), (131072, 8), (1 << 20, 4)):
            for reads in (0, 100):
                run = self.perf("NvmeDisk1n1", io_size=size, queue_depth=depth, read_percent=reads, duration_ms=500)
                print(f"without IOMMU, {size} bytes at depth {depth}, {reads} % reads: {run['iops']:.0f} IOPS")
        self.export_to_linux("NvmeDisk1n1")
        self.assertIn("err= 0", self.guest.run(FIO, 120))
        inside = self.guest.run("md5sum < /dev/nvme0n1", 120).split()[0]
        self.guest.run(f"/bin/nvme disconnect -n {NQN}")
        self.end()
        self.assertEqual(digest(disk), inside)

    def test_a_reset_under_load_and_an_unplugged_disk(self):
        media = self.make_file("disk1", DISK_BYTES)
        io = self.boot_pluggable(media)
        bind_vfio(self.guest, self.addresses[0])
        self.assertEqual(self.attach(), ["NvmeDisk1n1"])
        with futures.ThreadPoolExecutor() as background:
            load = background.submit(self.load)
            for _ in range(3):
                self.assertTrue(io.rpc.bdev_nvme_reset_controller(name="NvmeDisk1"))
            self.assertFalse(load.done(), "the load ended before the last reset")
            self.assertGreater(load.result()["ios"], 0)  # an error of any request is an error of the call

            load = background.submit(self.load)
            wait_until(lambda: io.rpc.bdev_get_iostat()["bdevs"][0]["num_read_ops"] > 0, 10, "the load to begin")
            self.unplug()
            self.assertIsInstance(load.exception(), RpcError)
        with self.assertRaises(RpcError) as gone:
            self.attach()
        self.assertEqual(gone.exception.code, -2)
        self.end()

    def load(self):
        """On a connection of its own."""
        rpc = RpcClient(self.io.rpc_path)
        try:
            return rpc.diskengine_perf_run(
                bdev_name="NvmeDisk1n1", read_percent=50, queue_depth=16, duration_ms=5000, warm_up_ms=0
            )
        finally:
            rpc.close()

    def unplug(self):
        self.monitor("device_del NV1")
        rpc = self.io.rpc
        wait_until(lambda: rpc.bdev_get_bdevs() == [], 30, "the bdev of the unplugged disk to go")
        wait_until(lambda: nvme_addresses(self.guest) == [], 30, "the kernel to let the device go")
        self.assertEqual(rpc.bdev_nvme_get_controllers(), [])

    def boot_pluggable(self, path):
        """The disk is behind a root port, and QEMU's monitor is at hand."""
        port = self.free_port()
        self.guest = make_pcie_guest(self, [port])
        self.guest.qemu_args += ["-device", "pcie-root-port,id=port1,chassis=1,slot=1"]
        add_nvme(self.guest, "NV1", [(path, 512)], bus="port1")
        self.guest.qemu_args += ["-monitor", f"unix:{self.path('monitor')},server=on,wait=off"]
        self.guest.start()
        self.addresses = nvme_addresses(self.guest)
        self.io = GuestDataPlane(self, self.guest, "io", port, "0x3")
        return self.io

    def monitor(self, command):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path("monitor"))
            connection.settimeout(10)
            connection.sendall(f"{command}\n".encode())
            answer = b""
            while answer.count(b"(qemu)") < 2:  # the prompt before the command, and the one after it
                answer += connection.recv(4096)
