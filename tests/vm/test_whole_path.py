"""One guest write through every process of the path: guest, compute node's data plane, two storage nodes' data planes,
their disk files; and the loss and return of a storage node under a guest that goes on writing.

Driven by the data plane's RPC alone, with SPDK's method names: no control plane."""

from diskengine_test import BLOCK_MODULES, RpcError, TestCase, wait_until

BLOCK_BYTES = 4096
DISK_BYTES = 64 << 20
VOLUME = "raid_1"
NODES = (1, 2)
LOSS_TIMEOUT_S = 2
FIO = (
    "/bin/fio --name=verify --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --size=8M"
    " --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1"
)


def nqn(node):
    return f"nqn.2024-01.io.diskengine:volume1:{node}"


class WholePath(TestCase):
    TEST_TIMEOUT_S = 240

    def start_storage(self, node):
        """A storage node: one disk file, exported over NVMe/TCP on port 4420 + node."""
        io = self.start_io(f"storage{node}")
        io.rpc.bdev_uring_create(name="disk", filename=self.disks[node], block_size=BLOCK_BYTES)
        io.rpc.nvmf_create_transport(trtype="TCP")
        io.rpc.nvmf_create_subsystem(nqn=nqn(node), allow_any_host=True, serial_number=f"DE{node}")
        io.rpc.nvmf_subsystem_add_ns(nqn=nqn(node), namespace={"bdev_name": "disk"})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(4420 + node)}
        io.rpc.nvmf_subsystem_add_listener(nqn=nqn(node), listen_address=address)
        return io

    def attach(self, node):
        """Connects the compute node to a storage node; returns the base bdev's name."""
        names = self.compute.rpc.bdev_nvme_attach_controller(
            name=f"replica{node}",
            trtype="TCP",
            adrfam="IPv4",
            traddr="127.0.0.1",
            trsvcid=str(4420 + node),
            subnqn=nqn(node),
            ctrlr_loss_timeout_sec=LOSS_TIMEOUT_S,
            reconnect_delay_sec=1,
        )
        return names[0]

    def raid(self):
        return next(raid for raid in self.compute.rpc.bdev_raid_get_bdevs(category="all") if raid["name"] == VOLUME)

    def legs(self):
        """The names of the legs that are in the mirror now."""
        return [base["name"] for base in self.raid()["base_bdevs_list"] if base["is_configured"]]

    def setUp(self):
        super().setUp()
        self.disks = {node: self.make_file(f"disk{node}", DISK_BYTES) for node in NODES}
        self.storage = {node: self.start_storage(node) for node in NODES}
        self.compute = self.start_io("compute")
        self.bases = [self.attach(node) for node in NODES]
        self.compute.rpc.bdev_raid_create(name=VOLUME, raid_level="raid1", base_bdevs=self.bases)
        self.compute.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name=VOLUME)
        disk = self.compute.vhost_socket("vhost1")
        self.guest = self.start_guest(disks=[disk], modules=BLOCK_MODULES, programs=["fio"])

    def blocks_of(self, node):
        """What a stranger finds in the disk file."""
        with open(self.disks[node], "rb") as disk:
            return disk.read()

    def write_marked_block(self, mark, block):
        """The guest writes one block that begins with the mark, flushes, and reads it back."""
        position = f"bs=4096 seek={block} count=1"
        self.guest.run(f"yes {mark} | head -c 4096 > /tmp/block")
        self.guest.run(f"dd if=/tmp/block of=/dev/vda {position} oflag=direct conv=notrunc,fsync")
        self.guest.run(f"dd if=/dev/vda bs=4096 skip={block} count=1 iflag=direct | cmp - /tmp/block")
        return f"{mark}\n".encode() * (BLOCK_BYTES // (len(mark) + 1))

    def test_one_write_is_on_both_replicas_and_fio_verifies(self):
        self.assertEqual(int(self.guest.run("cat /sys/block/vda/size")) * 512, DISK_BYTES)
        written = self.write_marked_block("witness", 1000)
        for node in NODES:
            self.assertEqual(self.blocks_of(node).count(written), 1, f"replica {node}")
        self.assertIn("err= 0", self.guest.run(FIO, 120))
        self.assertEqual(self.blocks_of(1), self.blocks_of(2))
        self.guest.power_off()

    def test_a_storage_node_dies_under_a_writing_guest_and_comes_back_identical(self):
        self.write_marked_block("before", 10)
        writing = self.guest.begin(FIO + " --time_based --runtime=6")
        self.storage[1].kill()
        self.assertIn("err= 0", self.guest.finish(writing, 120))
        wait_until(lambda: self.legs() == [self.bases[1]], 20, "the mirror to leave the lost leg")
        lone = self.write_marked_block("degraded", 20)
        self.assertNotIn(lone, self.blocks_of(1))

        self.storage[1] = self.start_storage(1)
        self.compute.rpc.bdev_raid_add_base_bdev(raid_bdev=VOLUME, base_bdev=self.reattach(1))
        wait_until(lambda: len(self.legs()) == 2 and "process" not in self.raid(), 60, "the rebuild to end")
        self.write_marked_block("after", 30)
        self.assertIn(lone, self.blocks_of(1))
        self.assertEqual(self.blocks_of(1), self.blocks_of(2))
        self.guest.power_off()

    def reattach(self, node):
        """The lost controller's name is free again once its time is over."""

        def attached():
            try:
                return self.attach(node)
            except RpcError:
                return None

        return wait_until(attached, LOSS_TIMEOUT_S + 20, f"replica{node} to be attached again")
