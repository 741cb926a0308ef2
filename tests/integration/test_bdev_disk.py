"""The disks and decorators over RPC: names, errors, persistence, exclusive hold, resize, injected errors and delays."""

import fcntl
import os
import subprocess

from diskengine_test import RpcError, TestCase

MIB = 1 << 20


class DiskCase(TestCase):
    def fails(self, code, method, **params):
        """The call fails with this code; returns the message."""
        with self.assertRaises(RpcError) as caught:
            self.io.rpc.call(method, **params)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        return caught.exception.message

    def setUp(self):
        super().setUp()
        self.io = self.start_io()
        self.rpc = self.io.rpc

    def load(self, bdev, **params):
        return self.rpc.call("diskengine_perf_run", bdev_name=bdev, duration_ms=100, warm_up_ms=0, **params)


class Malloc(DiskCase):
    def test_a_ram_disk_is_made_with_its_own_name_or_a_free_one(self):
        self.assertEqual(self.rpc.bdev_malloc_create(num_blocks=64, block_size=512), "Malloc0")
        self.assertEqual(self.rpc.bdev_malloc_create(num_blocks=64, block_size=4096, name="ram"), "ram")
        self.fails(-17, "bdev_malloc_create", num_blocks=64, block_size=512, name="ram")
        self.assertTrue(self.rpc.bdev_malloc_delete(name="ram"))
        self.fails(-19, "bdev_malloc_delete", name="ram")

    def test_sizes_out_of_range_are_refused(self):
        self.fails(-32602, "bdev_malloc_create", num_blocks=0, block_size=512)
        self.fails(-32602, "bdev_malloc_create", num_blocks=64, block_size=520)
        self.fails(-22, "bdev_malloc_create", num_blocks=1 << 60, block_size=4096)


class Files(DiskCase):
    def test_both_names_make_a_disk_in_a_file_and_keep_what_was_written(self):
        for flavour in ("uring", "aio"):
            with self.subTest(flavour):
                path = self.make_file(flavour, 4 * MIB)
                create, delete = (f"bdev_{flavour}_{verb}" for verb in ("create", "delete"))
                self.assertEqual(self.rpc.call(create, name=flavour, filename=path, block_size=4096), flavour)
                self.assertGreater(self.load(flavour, read_percent=0, sequential=True)["ios"], 0)
                self.assertTrue(self.rpc.call(delete, name=flavour))
                with open(path, "rb") as file:
                    self.assertEqual(file.read(1), b"\x01")
                self.fails(-19, delete, name=flavour)

    def test_what_cannot_be_a_disk_is_refused_with_its_reason(self):
        create = lambda code, path, **more: self.fails(code, "bdev_uring_create", name="d", filename=path, **more)
        self.assertIn("No such file", create(-2, self.path("missing")))
        self.assertIn("directory", create(-22, self.directory))
        self.assertIn("special file", create(-22, "/dev/null"))
        self.assertIn("less than one block", create(-22, self.make_file("empty", 0)))
        self.assertIn("not a multiple", create(-22, self.make_file("odd", 5000), block_size=4096))
        create(-32602, self.make_file("good", MIB), block_size=1000)

    def test_a_file_of_another_process_is_refused_until_it_is_free(self):
        path = self.make_file("disk", MIB)
        with open(path, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            message = self.fails(-16, "bdev_uring_create", name="disk", filename=path)
            self.assertIn(f"process {os.getpid()}", message)
        self.rpc.bdev_uring_create(name="disk", filename=path)
        second = self.start_io("second")
        with self.assertRaises(RpcError) as caught:
            second.rpc.bdev_aio_create(name="disk", filename=path)
        self.assertIn("diskengine-io", caught.exception.message)
        self.io.kill()
        self.assertEqual(second.rpc.bdev_aio_create(name="disk", filename=path), "disk")

    def test_a_grown_file_is_taken_over_by_a_rescan(self):
        path = self.make_file("disk", MIB)
        self.rpc.bdev_uring_create(name="disk", filename=path, block_size=512)
        self.fails(-22, "diskengine_perf_run", bdev_name="disk", io_size=2 * MIB, duration_ms=50)
        os.truncate(path, 2 * MIB)
        self.assertTrue(self.rpc.bdev_uring_rescan(name="disk"))
        self.assertGreater(self.load("disk", io_size=2 * MIB)["ios"], 0)

    def test_a_read_only_disk_refuses_writes(self):
        path = self.make_file("disk", MIB)
        self.rpc.bdev_aio_create(name="disk", filename=path, readonly=True)
        self.assertGreater(self.load("disk")["ios"], 0)
        self.fails(-22, "diskengine_perf_run", bdev_name="disk", read_percent=0)

    def test_a_block_device_is_a_disk_and_is_held(self):
        path = self.make_file("backing", 4 * MIB)
        made = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            self.skipTest("no loop device to be had")
        loop = made.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "--detach", loop], check=False)
        self.rpc.bdev_uring_create(name="disk", filename=loop)
        self.assertIn("in use", self.fails(-16, "bdev_uring_create", name="again", filename=loop))
        self.assertGreater(self.load("disk", read_percent=0)["ios"], 0)
        self.assertTrue(self.rpc.bdev_uring_delete(name="disk"))


class Errors(DiskCase):
    def setUp(self):
        super().setUp()
        self.rpc.bdev_malloc_create(num_blocks=2048, block_size=512, name="ram")
        self.rpc.bdev_error_create(base_name="ram")

    def inject(self, io_type, error_type="failure", **more):
        return self.rpc.bdev_error_inject_error(name="EE_ram", io_type=io_type, error_type=error_type, **more)

    def test_injected_errors_hit_their_kind_and_can_be_taken_back(self):
        self.assertGreater(self.load("EE_ram")["ios"], 0)
        self.assertTrue(self.inject("read", num=5))
        self.assertGreater(self.load("EE_ram", read_percent=0)["ios"], 0)
        self.assertIn("io_error", self.fails(-5, "diskengine_perf_run", bdev_name="EE_ram"))
        self.inject("clear")
        self.assertGreater(self.load("EE_ram")["ios"], 0)

    def test_wrong_parameters_are_refused(self):
        self.fails(-19, "bdev_error_create", base_name="none")
        self.fails(-16, "bdev_error_create", base_name="ram")
        self.fails(-19, "bdev_error_inject_error", name="ram", io_type="all", error_type="failure")
        self.fails(-32602, "bdev_error_inject_error", name="EE_ram", io_type="trim", error_type="failure")
        self.fails(-22, "bdev_error_inject_error", name="EE_ram", io_type="read", error_type="corrupt_data")
        self.fails(-22, "bdev_error_inject_error", name="EE_ram", io_type="read", error_type="nvme_failure")

    def test_the_base_is_free_again_after_the_delete(self):
        self.assertTrue(self.rpc.bdev_error_delete(name="EE_ram"))
        self.fails(-19, "bdev_error_delete", name="EE_ram")
        self.assertGreater(self.load("ram", read_percent=0)["ios"], 0)

    def test_removing_the_base_removes_the_device_over_it(self):
        self.assertTrue(self.rpc.bdev_malloc_delete(name="ram"))
        self.fails(-19, "bdev_error_delete", name="EE_ram")


class Delays(DiskCase):
    def setUp(self):
        super().setUp()
        self.rpc.bdev_malloc_create(num_blocks=2048, block_size=512, name="ram")

    def create(self, **latencies):
        values = {f"{which}_{op}_latency": 0 for which in ("avg", "p99") for op in ("read", "write")}
        return self.rpc.call("bdev_delay_create", base_bdev_name="ram", name="slow", **{**values, **latencies})

    def test_requests_take_the_latency_they_were_given(self):
        self.assertEqual(self.create(avg_read_latency=5000, p99_read_latency=5000), "slow")
        self.assertGreaterEqual(self.load("slow")["latency_us"]["p50"], 5000)
        self.assertLess(self.load("slow", read_percent=0)["latency_us"]["p50"], 5000)
        update = dict(delay_bdev_name="slow", latency_us=10000)
        self.rpc.bdev_delay_update_latency(latency_type="p99_read", **update)
        self.rpc.bdev_delay_update_latency(latency_type="avg_read", **update)
        self.assertGreaterEqual(self.load("slow")["latency_us"]["p50"], 10000)
        self.assertTrue(self.rpc.bdev_delay_delete(name="slow"))

    def test_wrong_parameters_are_refused(self):
        with self.assertRaises(RpcError) as caught:
            self.create(avg_read_latency=10, p99_read_latency=5)
        self.assertEqual(caught.exception.code, -22)
        self.create()
        update = dict(latency_type="avg_read", latency_us=1)
        self.fails(-32602, "bdev_delay_update_latency", delay_bdev_name="none", **update)
        self.fails(-32600, "bdev_delay_update_latency", delay_bdev_name="ram", **update)
        self.fails(-19, "bdev_delay_delete", name="ram")
