"""What may become a disk of a storage node: a disk that holds something is refused, unless its data is given up; one in
use is never taken."""

import subprocess

from diskengine_test import TestCase, wait_until
from diskengine_test.cluster import Cluster

MIB = 1 << 20
DISK_BYTES = 32 * MIB


class DiskAdd(TestCase):
    TEST_TIMEOUT_S = 60

    def setUp(self):
        super().setUp()
        self.cluster = Cluster(self, storage=1, compute=0, interval="200ms").start()

    def file_with(self, name, offset, mark):
        path = self.make_file(name, DISK_BYTES)
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(mark)
        return path

    def add(self, path, *more):
        return self.cluster.cli("disk", "add", "--node", "s1", "--path", path, *more)

    def refused(self, path):
        return self.cluster.refused("disk", "add", "--node", "s1", "--path", path)

    def test_a_disk_with_a_file_system_is_refused_until_it_may_be_overwritten(self):
        path = self.make_file("ext4", DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
        with open(path, "rb") as file:
            before = file.read()
        self.assertIn("holds data (ext file system)", self.refused(path))
        with open(path, "rb") as file:
            self.assertEqual(file.read(), before, "a refused disk was written to")
        would = self.cluster.cli("disk", "add", "--node", "s1", "--path", f"{path}2", "--overwrite", "--dry-run")
        self.assertIn("overwrites what it holds", would)
        fresh = self.file_with("xfs", 0, b"XFSB")
        self.assertIn("ready", self.add(fresh, "--overwrite"))

    def test_partition_tables_and_foreign_stores_are_refused(self):
        self.assertIn("GPT partition table", self.refused(self.file_with("gpt", 512, b"EFI PART")))
        self.assertIn("GPT partition table", self.refused(self.file_with("end", DISK_BYTES - 512, b"EFI PART")))
        self.assertIn("lvol store", self.refused(self.file_with("store", 0, b"SPDKBLOB")))

    def test_what_only_looks_like_a_path_of_a_disk_is_refused(self):
        for path in ("0000:00:04", "0000:00:04.9", "serial:", "serial:with space", "disk"):
            self.assertIn("absolute path", self.refused(path))
        # This machine has no such device, and says so instead of taking a file of that name.
        self.assertIn("there is no PCI device at ffff:ff:1f.7", self.failing("ffff:ff:1f.7"))
        self.assertIn("has the serial number NOBODYS", self.failing("serial:NOBODYS"))

    def failing(self, path):
        """The reason a disk is waiting for."""
        self.cluster.cli("disk", "add", "--node", "s1", "--path", path, "--no-wait")
        return self.cluster.refused("disk", "add", "--node", "s1", "--path", path) + self.reason(path)

    def reason(self, path):
        def known():
            (disk,) = [disk for disk in self.cluster.query("disk", "list") if disk["path"] == path]
            return disk["reason"] if "PCI" in disk["reason"] or "serial" in disk["reason"] else None

        return wait_until(known, 10, "the loop to have tried")
