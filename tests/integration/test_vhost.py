"""vhost controllers over RPC: names, errors as SPDK gives them, what is listed and saved, load on a socket, idle cost."""

import json
import os
import subprocess
import time

from diskengine_test import RpcError, TestCase, program, wait_until


class Vhost(TestCase):
    def setUp(self):
        super().setUp()
        self.io = self.start_io()
        self.rpc = self.io.rpc
        self.rpc.bdev_malloc_create(name="ram", num_blocks=65536, block_size=512)

    def fails(self, code, text, method, **params):
        """The call fails with this code and a message that begins like SPDK's."""
        with self.assertRaises(RpcError) as caught:
            self.rpc.call(method, **params)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        self.assertTrue(caught.exception.message.startswith(text), caught.exception.message)

    def create(self, name="vhost.0", bdev="ram", **params):
        return self.rpc.vhost_create_blk_controller(ctrlr=name, dev_name=bdev, **params)

    def test_a_controller_is_made_listed_and_deleted(self):
        self.assertTrue(self.create(readonly=True))
        (controller,) = self.rpc.vhost_get_controllers(name="vhost.0")
        self.assertEqual(controller["ctrlr"], "vhost.0")
        self.assertEqual(controller["cpumask"], "0x1")
        self.assertEqual(controller["socket"], self.io.vhost_socket("vhost.0"))
        self.assertEqual(controller["sessions"], [])
        block = {"readonly": True, "bdev": "ram", "transport": "vhost_user_blk"}
        self.assertEqual(controller["backend_specific"], {"block": block})
        self.assertTrue(os.path.exists(self.io.vhost_socket("vhost.0")))
        self.assertTrue(self.rpc.vhost_delete_controller(ctrlr="vhost.0"))
        self.assertEqual(self.rpc.vhost_get_controllers(), [])
        self.assertFalse(os.path.exists(self.io.vhost_socket("vhost.0")))

    def test_errors_are_those_of_spdk(self):
        self.create()
        self.fails(-32602, "File exists", "vhost_create_blk_controller", ctrlr="vhost.0", dev_name="ram")
        self.fails(-32602, "Device or resource busy", "vhost_create_blk_controller", ctrlr="b", dev_name="ram")
        self.fails(-32602, "No such device", "vhost_create_blk_controller", ctrlr="b", dev_name="none")
        self.fails(-32602, "Invalid argument", "vhost_create_blk_controller", ctrlr="a/b", dev_name="ram")
        for cpumask in ("0x80", "0x0", "[7]", "nonsense"):
            self.fails(
                -32602, "Invalid argument", "vhost_create_blk_controller", ctrlr="b", dev_name="ram", cpumask=cpumask
            )
        self.fails(
            -32602, "Invalid argument", "vhost_create_blk_controller", ctrlr="b", dev_name="ram", packed_ring=True
        )
        self.fails(-32602, "No such device", "vhost_delete_controller", ctrlr="none")
        self.fails(-32603, "No such device", "vhost_get_controllers", name="none")
        self.fails(-17, "File exists", "virtio_blk_create_transport", name="vhost_user_blk")
        self.fails(-2, "No such file", "virtio_blk_create_transport", name="none")
        self.fails(-19, "No such device", "virtio_blk_get_transports", name="none")
        self.assertEqual(self.rpc.virtio_blk_get_transports(), [{"name": "vhost_user_blk"}])
        coalescing = {"ctrlr": "vhost.0", "delay_base_us": 50, "iops_threshold": 0}
        self.fails(-32602, "Invalid argument", "vhost_controller_set_coalescing", **coalescing)

    def test_the_configuration_names_every_controller(self):
        self.create(cpumask="0x1")
        self.rpc.vhost_controller_set_coalescing(ctrlr="vhost.0", delay_base_us=50, iops_threshold=1000)
        calls = self.rpc.framework_get_config(name="vhost_blk")
        made = {"ctrlr": "vhost.0", "dev_name": "ram", "readonly": False, "transport": "vhost_user_blk", "cpumask": "0x1"}
        self.assertIn({"method": "vhost_create_blk_controller", "params": made}, calls)
        tuned = {"ctrlr": "vhost.0", "delay_base_us": 50, "iops_threshold": 1000}
        self.assertIn({"method": "vhost_controller_set_coalescing", "params": tuned}, calls)

    def test_load_runs_without_errors_and_idle_costs_nothing(self):
        self.create()
        arguments = [program("vhost_load"), "--socket", self.io.vhost_socket("vhost.0"), "--qd", "32", "--seconds", "0.5"]
        for kind in ("randread", "randwrite"):
            output = subprocess.run([*arguments, "--rw", kind], check=True, capture_output=True, timeout=60).stdout
            result = json.loads(output)
            self.assertEqual(result["errors"], 0)
            self.assertGreater(result["iops"], 1000)
        wait_until(lambda: not self.rpc.vhost_get_controllers()[0]["sessions"], 10, "the front end to be gone")
        before = self.cpu_seconds()
        time.sleep(1)
        self.assertLess(self.cpu_seconds() - before, 0.02)

    def cpu_seconds(self):
        with open(f"/proc/{self.io.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
