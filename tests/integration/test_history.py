"""The history of a data plane: what it did and what happened to it, second by second, across restarts; and the watchdog."""

import os
import subprocess
import time

from diskengine_test import RpcError, TestCase, program, wait_until


class History(TestCase):
    TEST_TIMEOUT_S = 90

    def disk(self, io, delay_us=0):
        """RAM0 behind a delay of the path's latency, behind a vhost controller."""
        io.rpc.bdev_malloc_create(name="ram", num_blocks=65536, block_size=512)
        delays = dict.fromkeys(("avg_read_latency", "p99_read_latency", "avg_write_latency", "p99_write_latency"), delay_us)
        io.rpc.bdev_delay_create(base_bdev_name="ram", name="slow", **delays)
        io.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name="slow")

    def load(self, io, seconds):
        command = [program("vhost_load"), "--socket", io.vhost_socket("vhost1"), "--rw", "randwrite", "--sleep"]
        return subprocess.Popen([*command, "--qd", "1", "--seconds", str(seconds)], stdout=subprocess.PIPE)

    @staticmethod
    def records(io, **wanted):
        return io.rpc.diskengine_history_get(**wanted)["records"]

    def test_each_second_says_what_a_device_its_stages_and_its_reactor_did(self):
        io = self.start_io()
        self.disk(io, delay_us=2000)
        load = self.load(io, 3)
        self.addCleanup(load.kill)
        found = wait_until(lambda: [r for r in self.records(io, name="slow") if r["kind"] == "device" and r["writes"] > 50], 10,
                           "a full second of writes")
        self.assertGreater(found[-1]["write_p50_us"], 1900)
        self.assertEqual(found[-1]["errors"], 0)
        self.assertAlmostEqual(found[-1]["span_ms"], 1000, delta=500)
        reactors = [r for r in self.records(io, name="reactor_0") if r["kind"] == "reactor"]
        self.assertGreater(max(r["busy_percent"] + r["spinning_percent"] for r in reactors), 0)
        stages = [r for r in self.records(io, name="slow") if r["kind"] == "stages"]
        self.assertTrue(stages)
        slowest = max(stages[-1]["stages"], key=lambda stage: stage["p50_us"])
        self.assertEqual(slowest["stage"], "disk")
        load.communicate(timeout=30)

    def test_it_survives_a_kill_and_says_what_was_called(self):
        io = self.start_io()
        self.disk(io)
        wait_until(lambda: [e for e in self.records(io, series="events") if "bdev_delay_create" in e["text"]], 5, "the call")
        state = io.rpc.diskengine_history_get()["directory"]
        self.assertTrue(os.path.exists(os.path.join(state, "history-events")))
        io.kill()
        again = self.start_io("again", extra_arguments=["--state-dir", state])
        events = self.records(again, series="events")
        self.assertEqual([e["type"] for e in events].count("started"), 2)
        [call] = [e for e in events if "bdev_delay_create" in e["text"]]
        self.assertEqual((call["type"], call["phase"]), ("rpc", "moment"))
        self.assertIn("base_bdev_name=ram", call["text"])

    def test_a_stuck_request_is_reported_once_and_so_is_its_end(self):
        io = self.start_io("io", extra_arguments=["--stuck-ms", "1000"])
        self.disk(io, delay_us=3_500_000)
        io.rpc.bdev_wait_for_examine()  # which reads it
        load = self.load(io, 1)

        def told():
            return [n["ctx"] for n in io.rpc.notify_get_notifications() if n["type"] == "diskengine_io_stuck"]

        wait_until(lambda: [t for t in told() if "slow: write" in t and "outstanding for more than 1000 ms" in t], 10, "the report")
        wait_until(lambda: [t for t in told() if "slow: write" in t and "over after" in t], 10, "its end")
        self.assertEqual(len(told()), len(set(told())), told())
        events = wait_until(lambda: [e for e in self.records(io, series="events", name="slow") if e["phase"] == "ended"], 5,
                            "the event")
        self.assertEqual(events[0]["type"], "stuck")
        self.assertGreater(events[0]["span_ms"], 1000)
        load.kill()
        load.communicate(timeout=30)

    def test_damaged_files_do_not_keep_it_from_starting(self):
        state = self.path("state")
        os.mkdir(state)
        for name in ("seconds", "minutes", "events"):
            with open(os.path.join(state, "history-" + name), "wb") as file:
                file.write(os.urandom(100_000))
        io = self.start_io("io", extra_arguments=["--state-dir", state])
        wait_until(lambda: self.records(io, series="events"), 5, "an event")

    def test_without_history_it_says_so(self):
        io = self.start_io("io", extra_arguments=["--no-history"])
        with self.assertRaises(RpcError) as refused:
            io.rpc.diskengine_history_get()
        self.assertEqual(refused.exception.code, -95)

    def test_what_is_asked_is_bounded(self):
        io = self.start_io()
        self.disk(io)
        wait_until(lambda: len(self.records(io, series="events")) > 3, 5, "events")
        found = io.rpc.diskengine_history_get(series="events", limit=2)
        self.assertEqual((len(found["records"]), found["cut"]), (2, True))
        later = int(time.time() * 1000) + 60_000
        self.assertEqual(self.records(io, series="events", since_ms=later), [])
