"""What a data plane says of requests under way: how old the oldest is, and whether the guest knows of its completions."""

import signal
import time

from diskengine_test import TestCase
from diskengine_test.deadline import wait_until
from diskengine_test.process import program

MIB = 1 << 20


class Outstanding(TestCase):
    def start_disk(self):
        """A vhost disk over an error device over RAM."""
        self.io = self.start_io()
        self.io.rpc.bdev_malloc_create(name="ram", num_blocks=16 * MIB // 512, block_size=512)
        self.io.rpc.bdev_error_create(base_name="ram")
        self.io.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name="EE_ram")

    def load(self, *arguments):
        socket = self.io.vhost_socket("vhost1")
        command = [program("vhost_load"), "--socket", socket, "--sleep", "--qd", "4", "--seconds", "60", *arguments]
        load = self.start(command, "load")
        load.judged = True
        return load

    def queue(self):
        sessions = self.io.rpc.vhost_get_controllers(name="vhost1")[0]["sessions"]
        return sessions[0]["queues"][0] if sessions and sessions[0]["queues"] else None

    def wait_for_completions(self):
        wait_until(lambda: (self.queue() or {"completed": 0})["completed"] > 100, 10, "the load to run")

    def wait_for_standstill(self):
        """The queue, once nothing has completed for a while."""

        def still():
            before = self.queue()
            time.sleep(0.3)
            after = self.queue()
            return after if after["completed"] == before["completed"] else None

        return wait_until(still, 20, "the queue to stand still")

    def test_a_request_that_is_held_is_shown_with_its_age_and_gone_when_it_completes(self):
        self.start_disk()
        self.assertEqual(self.io.rpc.diskengine_outstanding(), [])
        load = self.load()
        self.wait_for_completions()
        self.io.rpc.bdev_error_inject_error(name="EE_ram", io_type="all", error_type="pending", num=4)

        def stuck():
            return self.io.rpc.diskengine_outstanding(older_than_us=200_000)

        held = wait_until(stuck, 10, "requests to grow old")
        self.assertEqual([one["bdev"] for one in held], ["EE_ram"], "the device that holds them, not the one below it")
        self.assertEqual((held[0]["outstanding"], held[0]["op"], held[0]["num_blocks"]), (4, "read", 8))
        later = self.io.rpc.diskengine_outstanding(name="EE_ram")[0]
        self.assertGreater(later["age_us"], held[0]["age_us"])
        self.assertEqual((later["lba"], later["op"]), (held[0]["lba"], held[0]["op"]))
        self.io.rpc.bdev_error_resume_pending(name="EE_ram")
        wait_until(lambda: not stuck(), 10, "no request to be old")
        load.terminate()
        wait_until(lambda: not self.io.rpc.diskengine_outstanding(), 10, "nothing to be outstanding")

    def test_completions_that_the_guest_was_told_of_and_has_not_looked_at_are_counted(self):
        self.start_disk()
        self.load("--deaf-after", "0.5")
        self.wait_for_completions()
        again = self.wait_for_standstill()
        self.assertEqual((again["unseen"], again["inflight_task_cnt"], again["waiting"]), (4, 0, 0))
        self.assertGreater(again["notified"], 0)

    def test_requests_without_a_kick_wait_in_the_ring(self):
        self.start_disk()
        self.load("--mute-after", "0.5")
        self.wait_for_completions()
        queue = self.wait_for_standstill()
        self.assertEqual((queue["waiting"], queue["inflight_task_cnt"], queue["unseen"]), (4, 0, 0))

    def test_a_driver_that_polls_is_not_taken_for_one_that_missed_something(self):
        self.start_disk()
        socket = self.io.vhost_socket("vhost1")
        command = [program("vhost_load"), "--socket", socket, "--qd", "4", "--seconds", "60"]
        self.start(command, "load").judged = True
        self.wait_for_completions()
        self.assertEqual(self.queue()["unseen"], 0)

    def test_a_data_plane_whose_disk_never_answers_ends_all_the_same(self):
        self.start_disk()
        self.load()
        self.wait_for_completions()
        self.io.rpc.bdev_error_inject_error(name="EE_ram", io_type="all", error_type="pending", num=4)
        wait_until(lambda: self.io.rpc.diskengine_outstanding(older_than_us=200_000), 10, "requests to grow old")
        self.io.signal(signal.SIGTERM)
        self.assertEqual(self.io.wait(20), 1)
        self.assertIn("vhost did not stop in time: ending without it, as after a crash", self.io.log())
