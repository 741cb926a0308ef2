"""The NVMe host against our own target over real sockets: attach, errors, digests, reconnects through kills of the target
under load without losing a write, discovery, what the methods report."""

import os
import threading

from diskengine_test import RpcError, TestCase, wait_until

MIB = 1 << 20
NQN = "nqn.2024-01.io.diskengine:it"


class HostCase(TestCase):
    TEST_TIMEOUT_S = 120

    def setUp(self):
        super().setUp()
        self.port = self.free_port()
        self.file = self.make_file("disk", 16 * MIB)
        self.target = self.start_target()
        self.io = self.start_io("host")
        self.rpc = self.io.rpc

    def start_target(self):
        target = self.start_io("target")
        rpc = target.rpc
        rpc.nvmf_create_transport(trtype="TCP")
        rpc.bdev_uring_create(name="disk", filename=self.file, block_size=512)
        rpc.nvmf_create_subsystem(nqn=NQN, allow_any_host=True, serial_number="SN1", model_number="Test")
        rpc.nvmf_subsystem_add_ns(nqn=NQN, namespace={"bdev_name": "disk", "uuid": "2b1d0cde-8f1b-4a5b-9f10-1c6d2a3b4c5d"})
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port)}
        rpc.nvmf_subsystem_add_listener(nqn=NQN, listen_address=address)
        rpc.nvmf_subsystem_add_listener(nqn="nqn.2014-08.org.nvmexpress.discovery", listen_address=address)
        return target

    def attach(self, name="N", **params):
        return self.rpc.bdev_nvme_attach_controller(
            name=name, trtype="TCP", adrfam="ipv4", traddr="127.0.0.1", trsvcid=str(self.port), subnqn=NQN, **params
        )

    def fails(self, code, method, **params):
        with self.assertRaises(RpcError) as caught:
            self.rpc.call(method, **params)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        return caught.exception.message

    def load(self, **params):
        return self.rpc.call("diskengine_perf_run", 60, bdev_name="Nn1", **params)

    def state(self):
        return self.rpc.bdev_nvme_get_controllers(name="N")[0]["ctrlrs"][0]["state"]


class Attach(HostCase):
    def test_attached_namespaces_are_bdevs_and_detached_ones_are_gone(self):
        self.assertEqual(self.attach(), ["Nn1"])
        (bdev,) = self.rpc.bdev_get_bdevs(name="Nn1")
        self.assertEqual((bdev["product_name"], bdev["block_size"]), ("NVMe disk", 512))
        self.assertEqual(bdev["num_blocks"] * 512, 16 * MIB)
        self.assertEqual(bdev["uuid"], "2b1d0cde-8f1b-4a5b-9f10-1c6d2a3b4c5d")
        (nvme,) = bdev["driver_specific"]["nvme"]
        self.assertEqual(nvme["ctrlr_data"]["serial_number"], "SN1")
        self.assertEqual(nvme["trid"]["subnqn"], NQN)
        self.assertIn("temperature_celsius", self.rpc.bdev_nvme_get_controller_health_info(name="N"))
        self.assertTrue(self.rpc.bdev_nvme_detach_controller(name="N"))
        self.assertEqual(self.rpc.bdev_get_bdevs(), [])
        self.assertEqual(self.rpc.bdev_nvme_get_controllers(), [])

    def test_wrong_calls_are_answered_with_spdks_codes(self):
        self.attach()
        again = dict(name="N", trtype="TCP", traddr="127.0.0.1", trsvcid=str(self.port), subnqn=NQN)
        self.fails(-114, "bdev_nvme_attach_controller", **again)
        self.fails(-114, "bdev_nvme_attach_controller", **again, multipath="disable")
        self.fails(-111, "bdev_nvme_attach_controller", **{**again, "name": "M", "trsvcid": "1"})
        self.fails(-22, "bdev_nvme_attach_controller", **{**again, "name": "M", "traddr": "nowhere"})
        self.fails(-22, "bdev_nvme_attach_controller", **{**again, "name": "M"}, ctrlr_loss_timeout_sec=1)
        self.assertIn("connect", self.fails(-5, "bdev_nvme_attach_controller", **{**again, "name": "M", "subnqn": NQN + "x"}))
        self.fails(-2, "bdev_nvme_detach_controller", name="N", traddr="127.0.0.2")
        self.fails(-19, "bdev_nvme_detach_controller", name="M")
        self.fails(-22, "bdev_nvme_get_controllers", name="M")
        self.fails(-19, "bdev_nvme_reset_controller", name="M")
        self.fails(-1, "bdev_nvme_set_options", timeout_us=1)

    def test_every_size_and_digest_works_and_the_bytes_reach_the_targets_file(self):
        for digests in (False, True):
            self.attach(hdgst=digests, ddgst=digests)
            for size in (512, 4096, 65536, MIB):
                for reads in (0, 100):
                    result = self.load(io_size=size, read_percent=reads, queue_depth=16, duration_ms=200, warm_up_ms=0)
                    self.assertGreater(result["ios"], 0, (digests, size, reads))
            with open(self.file, "rb") as file:
                self.assertTrue(any(file.read(MIB)))
            self.rpc.bdev_nvme_detach_controller(name="N")

    def test_discovery_attaches_what_it_finds_and_follows_the_list(self):
        self.rpc.bdev_nvme_start_discovery(
            name="d", trtype="TCP", traddr="127.0.0.1", trsvcid=str(self.port), wait_for_attach=True
        )
        self.assertEqual([bdev["name"] for bdev in self.rpc.bdev_get_bdevs()], ["d0n1"])
        (service,) = self.rpc.bdev_nvme_get_discovery_info()
        self.assertEqual([one["trid"]["subnqn"] for one in service["referrals"]], [NQN])
        self.target.rpc.nvmf_delete_subsystem(nqn=NQN)
        wait_until(lambda: self.rpc.bdev_get_bdevs() == [], 20, "the bdev of the deleted subsystem to go away")
        self.assertTrue(self.rpc.bdev_nvme_stop_discovery(name="d"))
        self.fails(-2, "bdev_nvme_stop_discovery", name="d")


class Reconnect(HostCase):
    def test_a_target_killed_under_load_comes_back_and_no_io_fails(self):
        self.attach(ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)
        outcome = {}

        def run_load():
            rpc = type(self.rpc)(self.rpc.path)
            with rpc:
                outcome["load"] = rpc.call(
                    "diskengine_perf_run", 90, bdev_name="Nn1", read_percent=50, queue_depth=16, duration_ms=6000, warm_up_ms=0
                )

        thread = threading.Thread(target=run_load)
        thread.start()
        for _ in range(2):
            wait_until(lambda: self.state() == "enabled", 30, "the controller to be enabled")
            self.target.kill()
            wait_until(lambda: self.state() != "enabled", 30, "the loss to be noticed")
            self.target = self.start_target()
        thread.join()
        self.assertGreater(outcome["load"]["ios"], 0)
        wait_until(lambda: self.state() == "enabled", 30, "the controller to be enabled")
        self.assertGreater(self.load(duration_ms=200)["ios"], 0)

    def test_a_lost_controller_is_given_up_after_its_time_and_its_bdev_goes(self):
        self.attach(ctrlr_loss_timeout_sec=2, reconnect_delay_sec=1)
        self.target.kill()
        wait_until(lambda: self.rpc.bdev_get_bdevs() == [], 30, "the bdev to go away")
        wait_until(lambda: self.rpc.bdev_nvme_get_controllers() == [], 30, "the controller to go away")

    def test_a_reset_under_load_fails_nothing(self):
        self.attach()
        outcome = {}

        def run_load():
            rpc = type(self.rpc)(self.rpc.path)
            with rpc:
                outcome["load"] = rpc.call("diskengine_perf_run", 60, bdev_name="Nn1", queue_depth=32, duration_ms=2000)

        thread = threading.Thread(target=run_load)
        thread.start()
        for _ in range(5):
            self.assertTrue(self.rpc.bdev_nvme_reset_controller(name="N"))
        thread.join()
        self.assertGreater(outcome["load"]["ios"], 0)

    def test_the_paths_and_counters_of_an_open_channel_are_shown(self):
        self.attach()
        outcome = {}

        def run_load():
            with type(self.rpc)(self.rpc.path) as rpc:
                outcome["load"] = rpc.call("diskengine_perf_run", 60, bdev_name="Nn1", duration_ms=3000)

        thread = threading.Thread(target=run_load)
        thread.start()
        paths = lambda: self.rpc.bdev_nvme_get_io_paths(name="Nn1")["poll_groups"][0]["io_paths"]
        wait_until(lambda: [path["connected"] for path in paths()] == [True], 10, "the path to be connected")
        counters = self.rpc.bdev_nvme_get_transport_statistics()["poll_groups"][0]["transports"][0]
        self.assertEqual(counters["trname"], "TCP")
        self.assertGreater(counters["submitted_requests"], 0)
        thread.join()
        wait_until(lambda: paths() == [], 10, "the closed channel's path to go away")


class Memory(HostCase):
    def test_what_is_attached_is_in_the_saved_configuration(self):
        self.attach(ctrlr_loss_timeout_sec=10, reconnect_delay_sec=2)
        config = self.rpc.framework_get_config(name="bdev")
        calls = [one for one in config if one["method"] == "bdev_nvme_attach_controller"]
        self.assertEqual(len(calls), 1)
        self.assertEqual(calls[0]["params"]["reconnect_delay_sec"], 2)
        self.rpc.bdev_nvme_detach_controller(name="N")
        self.assertEqual(self.rpc.call("bdev_nvme_attach_controller", **calls[0]["params"]), ["Nn1"])
        self.assertTrue(os.path.exists(self.file))
