"""A real guest on our vhost-user-blk disk: data, features, file systems, queues, a data plane that is restarted."""

from diskengine_test import BLOCK_MODULES, EXT4_MODULES, TestCase, wait_until

DISK_BYTES = 64 << 20
FIO = "/bin/fio --filename=/dev/vda --ioengine=libaio --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1"


class VhostDisk(TestCase):
    TEST_TIMEOUT_S = 240

    def serve_file(self):
        """A data plane that serves the test's disk file as vhost1."""
        io = self.start_io(self.next_name())
        io.rpc.bdev_uring_create(name="disk", filename=self.disk, block_size=512)
        io.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name="disk")
        return io

    def next_name(self):
        self.started = getattr(self, "started", 0) + 1
        return f"io{self.started}"

    def boot(self, io, queues=1, cpus=1, programs=("fio",)):
        modules = [*BLOCK_MODULES, *EXT4_MODULES]
        guest = self.make_guest(modules=modules, programs=list(programs), cpus=cpus)
        guest.add_vhost_user_disk(io.vhost_socket("vhost1"), queues=queues)
        return guest.start()

    def setUp(self):
        super().setUp()
        self.disk = self.make_file("disk", DISK_BYTES)

    def test_fio_verifies_all_sizes_and_the_disk_says_what_it_is(self):
        guest = self.boot(self.serve_file())
        self.assertEqual(int(guest.run("cat /sys/block/vda/size")) * 512, DISK_BYTES)
        self.assertEqual(guest.run("cat /sys/block/vda/ro").strip(), "0")
        for sizes in ("--bs=4k --iodepth=16", "--bsrange=512-256k --bs_unaligned=0 --iodepth=8"):
            run = guest.run(f"{FIO} --name=verify --rw=randwrite --size=16M {sizes}", 120)
            self.assertIn("err= 0", run)
        guest.power_off()

    def test_discard_and_write_zeroes_reach_the_disk(self):
        guest = self.boot(self.serve_file(), programs=["blkdiscard"])
        guest.run("yes | dd of=/dev/vda bs=1M count=8 oflag=direct iflag=fullblock")
        guest.run("/bin/blkdiscard -z -o 1048576 -l 1048576 /dev/vda && /bin/blkdiscard -o 4194304 -l 1048576 /dev/vda")
        with open(self.disk, "rb") as disk:
            data = disk.read(8 << 20)
        self.assertEqual(data[1 << 20 : 2 << 20], bytes(1 << 20))
        self.assertEqual(data[:4], b"y\ny\n")
        self.assertEqual(data[2 << 20 : (2 << 20) + 4], b"y\ny\n")
        guest.power_off()

    def test_a_file_system_survives_a_reboot(self):
        io = self.serve_file()
        guest = self.boot(io, programs=["mkfs.ext4"])
        guest.run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /mnt && echo kept > /mnt/file && umount /mnt")
        guest.power_off()
        again = self.boot(io, programs=["mkfs.ext4"])
        self.assertEqual(again.run("mount -t ext4 /dev/vda /mnt && cat /mnt/file && umount /mnt"), "kept\n")
        again.power_off()

    def test_four_processors_on_four_queues(self):
        guest = self.boot(self.serve_file(), queues=4, cpus=4)
        self.assertEqual(len(guest.run("ls /sys/block/vda/mq").split()), 4)
        jobs = "--name=verify --rw=randwrite --bs=4k --size=4M --iodepth=8 --numjobs=4 --offset_increment=8M"
        run = guest.run(f"{FIO} {jobs}", 120)
        self.assertEqual(run.count("err= 0"), 4)
        guest.power_off()

    def test_the_guest_goes_on_when_the_data_plane_dies_and_returns(self):
        io = self.serve_file()
        guest = self.boot(io)
        job = "--name=verify --rw=randwrite --bs=4k --size=16M --iodepth=8 --time_based --runtime=6"
        writing = guest.begin(f"{FIO} {job}")
        guest.run("sleep 2")
        self.assertFalse(guest.done(writing))
        io.kill()
        again = self.start_io(io.name)
        again.rpc.bdev_uring_create(name="disk", filename=self.disk, block_size=512)
        again.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name="disk")
        self.assertIn("err= 0", guest.finish(writing, 120))
        guest.power_off()

    def test_the_disk_names_itself_and_has_blocks_of_4096_bytes(self):
        io = self.start_io(self.next_name())
        io.rpc.bdev_uring_create(name="disk", filename=self.disk, block_size=4096)
        io.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name="disk")
        guest = self.boot(io)
        self.assertEqual(guest.run("cat /sys/block/vda/serial").strip("\0\n"), "disk")
        self.assertEqual(guest.run("cat /sys/block/vda/queue/logical_block_size"), "4096\n")
        self.assertIn("err= 0", guest.run(f"{FIO} --name=verify --rw=randwrite --bs=4k --size=8M --iodepth=16", 120))
        (session,) = io.rpc.vhost_get_controllers()[0]["sessions"]
        self.assertEqual([queue["bad_requests"] for queue in session["queues"]], [0])
        guest.power_off()
        wait_until(lambda: not io.rpc.vhost_get_controllers()[0]["sessions"], 10, "the session to end")

    def test_requests_in_flight_when_the_data_plane_dies_are_done_by_the_next_one(self):
        io = self.serve_slow_file(self.next_name())
        guest = self.boot(io)
        writing = guest.begin(f"{FIO} --name=verify --rw=randwrite --bs=4k --size=4M --iodepth=16")
        for _ in range(3):
            wait_until(lambda io=io: self.in_flight(io) >= 8, 30, "writes to be in flight")
            self.assertFalse(guest.done(writing))
            io.kill()
            io = self.serve_slow_file(io.name)
        self.assertIn("err= 0", guest.finish(writing, 180))
        self.assertEqual(guest.run("dmesg | grep -ciE 'i/o error|is not a head' || true"), "0\n")
        with open(io.log_path) as log:
            self.assertIn("requests in flight", log.read())
        guest.power_off()

    def serve_slow_file(self, name):
        """The disk file behind a delay of 50 ms, so that a kill falls among requests."""
        io = self.start_io(name)
        io.rpc.bdev_uring_create(name="disk", filename=self.disk, block_size=512)
        delays = {f"{kind}_{op}_latency": 50_000 for kind in ("avg", "p99") for op in ("read", "write")}
        io.rpc.bdev_delay_create(base_bdev_name="disk", name="slow", **delays)
        io.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name="slow")
        return io

    def in_flight(self, io):
        sessions = io.rpc.vhost_get_controllers()[0]["sessions"]
        return sessions[0]["inflight_task_cnt"] if sessions else 0
