"""The guest harness itself is sound: a guest boots, takes commands, and sees the disk of an independent vhost-user
server (QEMU's own storage daemon), so that a failure with our server is our server's."""

import os

from diskengine_test import BLOCK_MODULES, EXT4_MODULES, GuestCommandFailed, TestCase, linux_nvme, wait_until

FIO_VERIFY = (
    "/bin/fio --name=verify --filename=/dev/vda --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --size=8M"
    " --iodepth=16 --verify=crc32c --do_verify=1 --verify_fatal=1"
)
DISK_BYTES = 64 << 20
NQN = "nqn.2024-01.io.diskengine:harness"


class Guest(TestCase):
    TEST_TIMEOUT_S = 180

    def test_a_guest_boots_takes_commands_and_powers_off(self):
        guest = self.start_guest()
        self.assertEqual(guest.run("echo one; echo two >&2"), "one\ntwo\n")
        self.assertEqual(guest.run("exit 3", check=False), (3, ""))
        with self.assertRaises(GuestCommandFailed):
            guest.run("false")
        slow = guest.begin("sleep 1; echo slow")
        self.assertEqual(guest.run("echo quick"), "quick\n")
        self.assertFalse(guest.done(slow))
        self.assertEqual(guest.finish(slow), "slow\n")
        guest.run("echo on the console > /dev/console")
        guest.wait_for("on the console", 5)
        guest.power_off()
        self.assertEqual(guest.process.exit_code(), 0)

    def test_long_commands_and_outputs_arrive_whole(self):
        guest = self.start_guest()
        text = "x" * 20000
        self.assertEqual(guest.run(f"echo {text}"), text + "\n")

    def test_a_disk_of_the_qemu_storage_daemon_keeps_what_fio_writes(self):
        image = self.make_file("disk.raw", DISK_BYTES)
        socket = self.path("vhost.sock")
        self.start(
            [
                "qemu-storage-daemon",
                "--blockdev", f"driver=file,node-name=disk,filename={image},discard=unmap",
                "--export",
                f"type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket},writable=on",
            ],
            "storage-daemon",
        )  # fmt: skip
        wait_until(lambda: os.path.exists(socket), 10, "the storage daemon's socket")
        guest = self.start_guest(disks=[socket], modules=[*BLOCK_MODULES, *EXT4_MODULES], programs=["fio", "mkfs.ext4"])
        self.assertEqual(int(guest.run("cat /sys/block/vda/size")) * 512, DISK_BYTES)
        self.assertIn("err= 0", guest.run(FIO_VERIFY, 120))
        guest.run("mkfs.ext4 -q /dev/vda && mount -t ext4 /dev/vda /mnt && echo kept > /mnt/file && umount /mnt")
        self.assertEqual(guest.run("mount -t ext4 /dev/vda /mnt && cat /mnt/file && umount /mnt"), "kept\n")
        guest.power_off()

    def test_the_linux_target_and_initiator_reach_each_other_over_the_user_network(self):
        port = self.free_port()
        target = self.make_guest("target", modules=linux_nvme.TARGET_MODULES)
        target.add_user_network(forwards=[(port, linux_nvme.GUEST_PORT)])
        target.start()
        linux_nvme.export_ram_disk(target, NQN)
        host = self.start_guest("host", network=True, modules=linux_nvme.HOST_MODULES, programs=["nvme"])
        self.assertIn(NQN, linux_nvme.discover(host, port))
        linux_nvme.connect(host, port, NQN, "-i 1")
        host.run("dd if=/dev/zero of=/dev/nvme0n1 bs=64k count=16 oflag=direct")
        linux_nvme.disconnect(host, NQN)
