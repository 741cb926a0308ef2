"""`diskengine store check`: what it says of a store, and that it changes nothing unless it is told to."""

import hashlib
import json
import subprocess

from diskengine_test import LvolCase
from diskengine_test.lvols import MIB, pattern
from diskengine_test.process import program

PAGE = 4096
OK, FAILED, USAGE, NOT_FOUND, CONFLICT = 0, 1, 2, 3, 4


class StoreCheck(LvolCase):
    def check(self, *arguments):
        """(exit code, stdout, stderr) of the command."""
        command = [program("diskengine"), "store", "check", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    def report(self, *arguments, expect=OK):
        code, out, err = self.check("-o", "json", *arguments)
        self.assertEqual(code, expect, err + out)
        return json.loads(out)

    def digest(self, name="disk"):
        with open(self.path(name), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def filled(self, **more):
        self.store(**more)
        self.create("a", 8)
        self.write("lvs/a", 0, pattern(1, MIB))
        self.rpc.bdev_lvol_snapshot(lvol_name="lvs/a", snapshot_name="s")

    def change(self, offset, data):
        with open(self.path("disk"), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def test_a_store_that_was_unloaded_is_sound_and_untouched(self):
        self.filled()
        self.stop()
        before = self.digest()
        report = self.report(self.path("disk"))
        self.assertEqual((report["sound"], report["clean"], report["lvols"], report["findings"]), (True, True, 2, []))
        code, out, _ = self.check(self.path("disk"))
        self.assertEqual(code, OK)
        self.assertIn("store lvs", out)
        self.assertIn("sound", out)
        self.assertEqual(self.digest(), before)

    def test_a_store_of_a_killed_process_is_checked_without_being_recovered(self):
        for block_size in (512, 4096):
            with self.subTest(block_size=block_size):
                self.filled(block_size=block_size)
                self.crash()
                before = self.digest()
                report = self.report(self.path("disk"))
                self.assertEqual((report["clean"], report["lvols"]), (False, 2))
                self.assertEqual(self.digest(), before)
                subprocess.run(["rm", self.path("disk")], check=True)
                self.begin()

    def test_damage_is_named_and_only_what_is_safe_is_mended(self):
        self.filled()
        uuid = self.lvol("a")["uuid"].encode()
        self.stop()
        with open(self.path("disk"), "rb") as file:
            metadata = file.read(4 * MIB)
        self.change(metadata.index(uuid) // PAGE * PAGE + PAGE - 4, b"\xff" * 4)
        report = self.report(self.path("disk"), expect=FAILED)
        self.assertFalse(report["sound"])
        self.assertTrue(report["findings"])
        before = self.digest()
        code, out, _ = self.check(self.path("disk"))
        self.assertEqual(code, FAILED)
        self.assertIn(report["findings"][0]["kind"], out)
        self.assertEqual(self.digest(), before)
        self.check(self.path("disk"), "--repair")
        self.begin()
        self.disk()
        self.assertEqual(self.names(), ["s"])
        self.assertEqual(len(self.rpc.diskengine_lvol_get_damaged()), 1)
        self.assertEqual(self.read("lvs/s", 0, MIB), pattern(1, MIB))

    def test_a_disk_in_use_is_checked_through_its_data_plane(self):
        self.filled()
        code, _, err = self.check(self.path("disk"))
        self.assertEqual(code, CONFLICT, err)
        self.assertIn("--data-plane", err)
        report = self.report("lvs", "--data-plane", self.io.rpc_path)
        self.assertEqual((report["sound"], report["lvols"]), (True, 2))
        self.assertEqual(self.report("disk", "--data-plane", self.io.rpc_path), report)
        self.sound()

    def test_what_cannot_be_checked_is_named(self):
        self.make_file("noise", 64 * MIB)
        code, _, err = self.check(self.path("noise"))
        self.assertEqual(code, NOT_FOUND, err)
        self.assertIn("noise", err)
        code, _, err = self.check(self.path("missing"))
        self.assertEqual(code, NOT_FOUND, err)
        self.assertIn("missing", err)
        code, _, err = self.check("something")
        self.assertEqual(code, USAGE, err)
        self.filled()
        self.stop()
        with open(self.path("disk"), "r+b") as file:
            file.truncate(16 * MIB)
        code, _, err = self.check(self.path("disk"))
        self.assertNotEqual(code, OK)
        self.assertIn("disk", err)
