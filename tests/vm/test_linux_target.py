"""Our NVMe/TCP host works with the Linux kernel's target: it discovers, connects, keeps data as fio verifies it through a
guest disk, survives the loss of its connection, and passes on what the target says about itself."""

from diskengine_test import BLOCK_MODULES, RpcError, TestCase, linux_nvme, wait_until

NQN = "nqn.2024-01.io.diskengine:linux"
FIO_VERIFY = (
    "/bin/fio --name=verify --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randwrite --bsrange=4k-128k --size=12M"
    " --iodepth=16 --verify=crc32c --do_verify=1 --verify_fatal=1"
)


class LinuxTarget(TestCase):
    TEST_TIMEOUT_S = 240

    def setUp(self):
        super().setUp()
        self.port = self.free_port()
        self.target = self.make_guest("target", modules=linux_nvme.TARGET_MODULES)
        self.target.add_user_network(forwards=[(self.port, linux_nvme.GUEST_PORT)])
        self.target.start()
        linux_nvme.export_ram_disk(self.target, NQN)
        self.io = self.start_io()
        self.rpc = self.io.rpc

    def attach(self, **params):
        return self.rpc.bdev_nvme_attach_controller(
            name="Linux", trtype="TCP", adrfam="ipv4", traddr="127.0.0.1", trsvcid=str(self.port), subnqn=NQN, **params
        )

    def sectors(self):
        return int(self.target.run("cat /sys/block/ram0/size"))

    def test_data_written_through_our_host_is_what_fio_reads_back(self):
        self.assertEqual(self.attach(), ["Linuxn1"])
        (bdev,) = self.rpc.bdev_get_bdevs(name="Linuxn1")
        self.assertEqual(bdev["product_name"], "NVMe disk")
        self.assertEqual(bdev["num_blocks"] * bdev["block_size"], self.sectors() * 512)
        self.assertIn("Linux", bdev["driver_specific"]["nvme"][0]["ctrlr_data"]["model_number"])
        self.rpc.vhost_create_blk_controller(ctrlr="vhost.0", dev_name="Linuxn1")
        guest = self.start_guest(
            "guest", disks=[self.io.vhost_socket("vhost.0")], modules=BLOCK_MODULES, programs=["fio"]
        )
        self.assertIn("err= 0", guest.run(FIO_VERIFY, 150))
        # What the guest reads is what the target's own kernel sees on its disk.
        command = "dd if={} bs=64k count=64 2>/dev/null | md5sum | cut -d' ' -f1"
        self.assertEqual(guest.run(command.format("/dev/vda")), self.target.run(command.format("/dev/ram0")))
        guest.power_off()

    def test_digests_large_transfers_and_a_reset_under_load_work(self):
        self.assertEqual(self.attach(hdgst=True, ddgst=True), ["Linuxn1"])
        for size in (512, 4096, 131072, 1048576):
            for reads in (0, 100):
                result = self.rpc.diskengine_perf_run(
                    bdev_name="Linuxn1", io_size=size, read_percent=reads, queue_depth=8, duration_ms=400, warm_up_ms=0
                )
                self.assertGreater(result["ios"], 0, (size, reads))
        self.assertTrue(self.rpc.bdev_nvme_reset_controller(name="Linux"))
        self.assertGreater(self.rpc.diskengine_perf_run(bdev_name="Linuxn1", duration_ms=300)["ios"], 0)

    def test_a_namespace_that_the_target_takes_away_and_brings_back_follows(self):
        self.attach()
        enable = "/sys/kernel/config/nvmet/subsystems/" + NQN + "/namespaces/1/enable"
        self.target.run(f"echo 0 > {enable}")
        wait_until(lambda: self.names() == [], 15, "the bdev to go away")
        self.target.run(f"echo 1 > {enable}")
        wait_until(lambda: self.names() == ["Linuxn1"], 15, "the bdev to come back")

    def test_discovery_finds_and_attaches_the_subsystem(self):
        # The log names the address the target listens on, which is the guest's own: attaching fails, the service stays.
        self.assertTrue(
            self.rpc.bdev_nvme_start_discovery(name="d", trtype="tcp", traddr="127.0.0.1", trsvcid=str(self.port))
        )
        wait_until(lambda: NQN in self.io.log() or "d0" in self.io.log(), 30, "the subsystem to be tried")
        self.assertEqual([one["name"] for one in self.rpc.bdev_nvme_get_discovery_info()], ["d"])
        self.assertTrue(self.rpc.bdev_nvme_stop_discovery(name="d"))
        self.assertEqual(self.rpc.bdev_nvme_get_discovery_info(), [])

    def test_a_host_that_is_not_admitted_is_told_so(self):
        self.target.run(f"echo 0 > /sys/kernel/config/nvmet/subsystems/{NQN}/attr_allow_any_host")
        with self.assertRaises(RpcError) as caught:
            self.attach()
        self.assertEqual(caught.exception.code, -5)
        self.assertIn("invalid host", caught.exception.message)
        self.assertEqual(self.rpc.bdev_nvme_get_controllers(), [])

    def names(self):
        return [bdev["name"] for bdev in self.rpc.bdev_get_bdevs()]
