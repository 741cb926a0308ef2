"""Linux's own NVMe/TCP initiator, in a guest, works against our target: it discovers, connects with and without digests,
finds its data again, and comes back after the target was killed. What it and we sent is well-formed on the wire."""

import os
import shutil
import subprocess

from diskengine_test import TestCase, linux_nvme, wait_until

NQN = "nqn.2024-01.io.diskengine:initiator"
DISK_BLOCKS = 64 * 2048
# Linux drops a namespace that comes back with another identity.
NAMESPACE_UUID = "6a2c4b7e-5e0d-4c37-9a55-3f5b2f0c9d11"
HOST_OPTIONS = "-i 1 -c 1 -l 60 -k 5"
FIO = (
    "/bin/fio --name=verify --filename=/dev/nvme0n1 --ioengine=libaio --direct=1 --size=16M --verify=crc32c"
    " --do_verify=1 --verify_fatal=1"
)


class LinuxInitiator(TestCase):
    TEST_TIMEOUT_S = 240

    def export(self, port, io=None, disk=None):
        """A data plane (started unless given) that exports a disk on the port."""
        io = io or self.start_io()
        if disk is None:
            io.rpc.bdev_malloc_create(name="disk", num_blocks=DISK_BLOCKS, block_size=512)
        else:
            io.rpc.bdev_uring_create(name="disk", filename=disk, block_size=512)
        io.rpc.nvmf_create_transport(trtype="TCP")
        io.rpc.nvmf_create_subsystem(nqn=NQN, allow_any_host=True, serial_number="DE01")
        io.rpc.nvmf_subsystem_add_ns(nqn=NQN, namespace={"bdev_name": "disk", "uuid": NAMESPACE_UUID})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        io.rpc.nvmf_subsystem_add_listener(nqn=NQN, listen_address=address)
        return io

    def start_host(self):
        return self.start_guest(
            "host", network=True, modules=linux_nvme.HOST_MODULES, programs=["nvme", "fio", "blkdiscard"]
        )

    def capture(self, port):
        """A packet capture of the port that ends with the test, or None where there is no dumpcap."""
        if shutil.which("dumpcap") is None or shutil.which("tshark") is None:
            return None
        path = self.path("wire.pcapng")
        process = self.start(
            ["dumpcap", "-q", "-i", "lo", "-f", f"tcp port {port}", "-s", "300", "-w", path], "dumpcap"
        )
        wait_until(lambda: os.path.exists(path), 10, "the capture to begin")
        return process, path

    def malformed_frames(self, port, path):
        decoded = subprocess.run(
            ["tshark", "-r", path, "-d", f"tcp.port=={port},nvme-tcp", "-Y", "nvme-tcp", "-T", "fields", "-e",
             "_ws.malformed", "-e", "nvme-tcp.type"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        lines = decoded.stdout.splitlines()
        self.assertGreater(len(lines), 20, "the capture must hold the conversation")
        return [line for line in lines if line.split("\t")[0]]

    def test_discovers_connects_and_finds_its_data_again(self):
        port = self.free_port()
        io = self.export(port)
        wire = self.capture(port)
        host = self.start_host()
        self.assertIn(NQN, linux_nvme.discover(host, port))
        linux_nvme.connect(host, port, NQN, HOST_OPTIONS)
        if wire is not None:
            host.run("dd if=/dev/zero of=/dev/nvme0n1 bs=128k count=4 oflag=direct && "
                     "dd if=/dev/nvme0n1 of=/dev/null bs=4k count=32 iflag=direct")  # fmt: skip
            wire[0].terminate()
            self.assertEqual(self.malformed_frames(port, wire[1]), [])
        self.assertEqual(int(host.run("cat /sys/block/nvme0n1/size")), DISK_BLOCKS)
        self.assertIn("err= 0", host.run(f"{FIO} --rw=randwrite --bs=4k --iodepth=32", 120))
        self.assertIn("err= 0", host.run(f"{FIO} --rw=randwrite --bsrange=512-1M --iodepth=8", 120))
        # Deallocated and zeroed blocks read as zeroes on a RAM disk; their neighbours keep what they had.
        host.run("dd if=/dev/urandom of=/pattern bs=1M count=4 && dd if=/pattern of=/dev/nvme0n1 bs=1M oflag=direct")
        host.run("/bin/blkdiscard -o 1M -l 1M /dev/nvme0n1 && /bin/blkdiscard -z -o 2M -l 1M /dev/nvme0n1")
        host.run(
            "echo 3 > /proc/sys/vm/drop_caches; dd if=/pattern of=/want bs=1M;"
            " dd if=/dev/zero of=/want bs=1M seek=1 count=2 conv=notrunc;"
            " dd if=/dev/nvme0n1 of=/have bs=1M count=4 iflag=direct; cmp /want /have"
        )
        controllers = [c for c in io.rpc.nvmf_subsystem_get_controllers(nqn=NQN)]
        self.assertEqual([c["num_io_qpairs"] for c in controllers], [1])
        linux_nvme.disconnect(host, NQN)
        wait_until(lambda: io.rpc.nvmf_subsystem_get_controllers(nqn=NQN) == [], 10, "the controller to go")
        host.power_off()

    def test_works_with_header_and_data_digests(self):
        port = self.free_port()
        io = self.export(port)
        host = self.start_host()
        linux_nvme.connect(host, port, NQN, f"{HOST_OPTIONS} --hdr-digest --data-digest")
        self.assertIn("err= 0", host.run(f"{FIO} --rw=randwrite --bs=4k --iodepth=16", 120))
        self.assertIn("err= 0", host.run(f"{FIO} --rw=randwrite --bs=256k --iodepth=4", 120))
        linux_nvme.disconnect(host, NQN)
        groups = io.rpc.nvmf_get_stats()["poll_groups"]
        self.assertEqual(sum(t["digest_errors"] for g in groups for t in g["transports"]), 0)
        self.assertEqual(sum(t["protocol_errors"] for g in groups for t in g["transports"]), 0)
        host.power_off()

    def test_sees_namespaces_come_grow_and_go(self):
        port = self.free_port()
        io = self.export(port)
        host = self.start_host()
        linux_nvme.connect(host, port, NQN, HOST_OPTIONS)
        io.rpc.bdev_malloc_create(name="second", num_blocks=4096, block_size=4096)
        nsid = io.rpc.nvmf_subsystem_add_ns(nqn=NQN, namespace={"bdev_name": "second"})
        self.assertEqual(nsid, 2)
        host.run("for i in $(seq 80); do [ -b /dev/nvme0n2 ] && exit 0; sleep 0.25; done; exit 1", 40)
        self.assertEqual(int(host.run("cat /sys/block/nvme0n2/queue/logical_block_size")), 4096)
        io.rpc.nvmf_subsystem_remove_ns(nqn=NQN, nsid=2)
        host.run("for i in $(seq 80); do [ -b /dev/nvme0n2 ] || exit 0; sleep 0.25; done; exit 1", 40)
        io.rpc.bdev_malloc_delete(name="second")
        linux_nvme.disconnect(host, NQN)
        host.power_off()

    def test_a_killed_target_that_comes_back_is_found_again_with_the_data(self):
        port = self.free_port()
        disk = self.make_file("disk.raw", DISK_BLOCKS * 512)
        io = self.export(port, disk=disk)
        host = self.start_host()
        linux_nvme.connect(host, port, NQN, HOST_OPTIONS)
        host.run("dd if=/dev/urandom of=/pattern bs=1M count=4 && dd if=/pattern of=/dev/nvme0n1 bs=1M oflag=direct")
        writing = host.begin("dd if=/pattern of=/dev/nvme0n1 bs=4k seek=2048 count=1024 oflag=direct")
        io.kill()
        self.export(port, io=self.start_io("io2"), disk=disk)
        host.finish(writing, 90)
        host.run(
            "dd if=/dev/nvme0n1 of=/first bs=1M count=4 iflag=direct && cmp /pattern /first &&"
            " dd if=/dev/nvme0n1 of=/second bs=1M skip=8 count=4 iflag=direct && cmp /pattern /second"
        )
        linux_nvme.disconnect(host, NQN)
        host.power_off()

    def test_a_host_taken_off_the_list_is_cut_off_at_once(self):
        port = self.free_port()
        io = self.export(port)
        host_nqn = "nqn.2024-01.io.diskengine:the-host"
        io.rpc.nvmf_subsystem_allow_any_host(nqn=NQN, allow_any_host=False)
        host = self.start_host()
        refused, _ = linux_nvme.connect(host, port, NQN, f"{HOST_OPTIONS} -q {host_nqn}", check=False)
        self.assertNotEqual(refused, 0)
        io.rpc.nvmf_subsystem_add_host(nqn=NQN, host=host_nqn)
        linux_nvme.connect(host, port, NQN, f"{HOST_OPTIONS} -q {host_nqn}")
        host.run("dd if=/dev/zero of=/dev/nvme0n1 bs=64k count=16 oflag=direct")
        self.assertTrue(io.rpc.nvmf_subsystem_remove_host(nqn=NQN, host=host_nqn, timeout_ms=5000))
        self.assertEqual(io.rpc.nvmf_subsystem_get_controllers(nqn=NQN), [])
        host.power_off()

