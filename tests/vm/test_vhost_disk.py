"""A real guest on our vhost-user-blk disk: data, features, file systems, queues, a data plane that is restarted."""

from diskengine_test import BLOCK_MODULES, EXT4_MODULES, TestCase

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
