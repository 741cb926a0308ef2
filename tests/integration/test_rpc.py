"""diskengine-io is driven by JSON-RPC as SPDK is: by real clients on a real socket."""

import base64
import json
import os
import random
import socket
import struct
import subprocess
import threading
import time

from diskengine_test import RpcClient, RpcError, TestCase, program, scaled


class RpcCase(TestCase):
    def refused(self, code, method, _rpc=None, **params):
        """The call fails with the code; returns the message."""
        with self.assertRaises(RpcError) as raised:
            (_rpc or self.io.rpc).call(method, **params)
        self.assertEqual(raised.exception.code, code, raised.exception)
        return raised.exception.message

    def run_io(self, *arguments):
        """Runs diskengine-io to its end: (exit code, stdout, stderr)."""
        done = subprocess.run(
            [program("diskengine-io"), *arguments], capture_output=True, text=True, timeout=scaled(20), check=False
        )
        return done.returncode, done.stdout, done.stderr


class Calls(RpcCase):
    def setUp(self):
        super().setUp()
        self.io = self.start_io()
        self.rpc = self.io.rpc

    def test_errors_have_spdks_codes_and_say_what_is_wrong(self):
        self.assertEqual(self.refused(-32601, "no_such_method"), "Method not found")
        missing = self.refused(-32602, "bdev_malloc_create", block_size=512)
        self.assertIn("parameter 'num_blocks' is missing", missing)
        unknown = self.refused(-32602, "bdev_malloc_create", block_size=512, num_blocks=8, blocks=8)
        self.assertIn('unknown parameter "blocks"', unknown)
        self.assertIn("'num_blocks' is \"8\"", self.refused(-32602, "bdev_malloc_create", block_size=512, num_blocks="8"))
        self.assertIn("must be", self.refused(-32602, "bdev_malloc_create", block_size=100, num_blocks=8))
        self.rpc.bdev_malloc_create(name="M", block_size=512, num_blocks=8)
        self.assertIn("'M' is taken", self.refused(-17, "bdev_malloc_create", name="M", block_size=512, num_blocks=8))
        self.assertIn("'X'", self.refused(-19, "bdev_get_bdevs", name="X"))
        self.assertIn("only be called before framework", self.refused(-1, "bdev_set_options"))

    def test_a_bdev_is_described_with_spdks_fields(self):
        uuid = "00112233-4455-6677-8899-aabbccddeeff"
        self.assertEqual(self.rpc.bdev_malloc_create(name="M", num_blocks=64, block_size=4096, uuid=uuid), "M")
        (bdev,) = self.rpc.bdev_get_bdevs(name=uuid)
        self.assertEqual(bdev["name"], "M")
        self.assertEqual(bdev["aliases"], [uuid])
        self.assertEqual((bdev["block_size"], bdev["num_blocks"], bdev["uuid"]), (4096, 64, uuid))
        self.assertEqual(bdev["product_name"], "Malloc disk")
        self.assertIs(bdev["claimed"], False)
        self.assertIs(bdev["supported_io_types"]["write"], True)
        self.assertEqual(bdev["assigned_rate_limits"]["rw_ios_per_sec"], 0)
        self.assertIsInstance(bdev["driver_specific"], dict)

    def test_waiting_for_a_bdev_ends_when_it_appears_or_the_time_is_over(self):
        started = time.monotonic()
        self.refused(-19, "bdev_get_bdevs", name="late", timeout=200)
        self.assertGreater(time.monotonic() - started, 0.19)
        other = RpcClient(self.io.rpc_path)
        other.send_text(json.dumps({"method": "bdev_get_bdevs", "id": 1, "params": {"name": "late", "timeout": 20000}}))
        self.rpc.bdev_malloc_create(name="late", num_blocks=8, block_size=512)
        self.assertEqual(other.receive()["result"][0]["name"], "late")
        other.close()

    def test_a_client_that_waits_does_not_hold_up_the_others_or_the_end(self):
        waiting = RpcClient(self.io.rpc_path)
        waiting.send_text(json.dumps({"method": "bdev_get_bdevs", "id": 1, "params": {"name": "x", "timeout": 3600000}}))
        self.assertEqual(self.rpc.bdev_get_bdevs(), [])
        self.io.terminate()
        self.assertEqual(waiting.receive()["error"]["code"], -19)
        waiting.close()

    def test_notifications_tell_what_happened_to_bdevs(self):
        self.rpc.bdev_malloc_create(name="A", num_blocks=8, block_size=512)
        self.rpc.bdev_malloc_create(name="B", num_blocks=8, block_size=512)
        self.rpc.bdev_malloc_delete(name="A")
        seen = [(event["type"], event["ctx"], event["id"]) for event in self.rpc.notify_get_notifications()]
        expected = [("bdev_register", "A", 0), ("bdev_register", "B", 1), ("bdev_unregister", "A", 2)]
        self.assertEqual(seen, expected)
        self.assertEqual([event["id"] for event in self.rpc.notify_get_notifications(id=1, max=1)], [1])
        self.assertEqual(self.rpc.notify_get_notifications(id=3), [])
        self.assertIn("bdev_register", self.rpc.notify_get_types())

    def test_only_the_last_1024_notifications_are_kept(self):
        for _ in range(520):
            self.rpc.bdev_malloc_create(name="A", num_blocks=8, block_size=512)
            self.rpc.bdev_malloc_delete(name="A")
        events = self.rpc.notify_get_notifications()
        self.assertEqual((len(events), events[0]["id"], events[-1]["id"]), (1024, 16, 1039))

    def test_statistics_and_histograms_start_empty_and_have_spdks_layout(self):
        self.rpc.bdev_malloc_create(name="A", num_blocks=8, block_size=512)
        stats = self.rpc.bdev_get_iostat(names=["A"])
        self.assertGreater(stats["tick_rate"], 0)
        self.assertEqual(stats["bdevs"][0]["name"], "A")
        self.assertEqual(stats["bdevs"][0]["num_write_ops"], 0)  # it was read: examined for lvol stores and mirrors
        self.assertEqual(stats["bdevs"][0]["io_error"], {})
        self.refused(-22, "bdev_get_iostat", per_channel=True)
        self.refused(-32602, "bdev_get_iostat", reset_mode="some")
        self.refused(-32603, "bdev_get_histogram", name="A")
        self.assertIs(self.rpc.bdev_enable_histogram(name="A", enable=True), True)
        histogram = self.rpc.bdev_get_histogram(name="A")
        buckets = base64.b64decode(histogram["histogram"])
        ranges = histogram["max_range"] - histogram["min_range"] + 1
        self.assertEqual(len(buckets), 8 * ranges << histogram["granularity"])
        self.assertEqual(sum(struct.unpack(f"={len(buckets) // 8}Q", buckets)), 0)
        self.rpc.bdev_enable_histogram(name="A", enable=False)
        self.refused(-32603, "bdev_get_histogram", name="A")

    def test_the_log_level_can_be_changed(self):
        self.assertEqual(self.rpc.log_get_level(), "INFO")
        self.rpc.log_set_level(level="DEBUG")
        self.assertEqual(self.rpc.log_get_level(), "DEBUG")
        self.refused(-32602, "log_set_level", level="LOUD")

    def test_the_process_can_be_ended_by_rpc(self):
        self.refused(-32602, "spdk_kill_instance", sig_name="SIGSTOP")
        self.assertIs(self.rpc.spdk_kill_instance(sig_name="SIGTERM"), True)
        self.assertEqual(self.io.wait(), 0)
        self.assertFalse(os.path.exists(self.io.rpc_path))


class Configuration(RpcCase):
    def saved(self, rpc):
        """What SPDK's save_config collects."""
        names = [subsystem["subsystem"] for subsystem in rpc.framework_get_subsystems()]
        return {"subsystems": [{"subsystem": name, "config": rpc.framework_get_config(name=name)} for name in names]}

    def write(self, config):
        path = self.path("config.json")
        with open(path, "w") as file:
            json.dump(config, file)
        return path

    def test_a_saved_configuration_makes_the_same_bdevs_again_at_start(self):
        self.io = self.start_io("first")
        # Created in an order that is not that of the names.
        for name in ("Z", "A", "M"):
            self.io.rpc.bdev_malloc_create(name=name, num_blocks=64, block_size=512)
        config = self.saved(self.io.rpc)
        before = self.io.rpc.bdev_get_bdevs()
        self.io.terminate()
        second = self.start_io("second", extra_arguments=["-c", self.write(config)])
        self.assertEqual(second.rpc.bdev_get_bdevs(), before)
        self.assertEqual(self.saved(second.rpc), config)

    def test_a_configuration_loads_through_rpc_as_spdks_load_config_does(self):
        io = self.start_io(extra_arguments=["--wait-for-rpc"])
        rpc = io.rpc
        calls = [
            {"method": "bdev_malloc_create", "params": {"name": "M", "num_blocks": 8, "block_size": 512}},
            {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 4096}},
            {"method": "bdev_wait_for_examine"},
        ]
        while calls:
            allowed = rpc.rpc_get_methods(current=True)
            for call in [call for call in calls if call["method"] in allowed]:
                rpc.call(call["method"], **call.get("params", {}))
                calls.remove(call)
            if "framework_start_init" in allowed:
                rpc.framework_start_init()
        self.assertEqual([bdev["name"] for bdev in rpc.bdev_get_bdevs()], ["M"])
        options = rpc.framework_get_config(name="bdev")[0]
        self.assertEqual(options, {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 4096}})

    def test_a_start_up_call_that_fails_is_named_and_ends_the_process_unless_told_to_go_on(self):
        bad = {"method": "bdev_malloc_create", "params": {"name": "M", "num_blocks": 8, "block_size": 7}}
        good = {"method": "bdev_malloc_create", "params": {"name": "N", "num_blocks": 8, "block_size": 512}}
        path = self.write({"subsystems": [{"subsystem": "bdev", "config": [bad, good]}]})
        code, out, err = self.run_io("-r", self.path("x.sock"), "-c", path)
        self.assertEqual((code, out), (1, ""))
        self.assertIn("subsystem bdev, call 1: bdev_malloc_create: error -32602", err)
        self.assertIn("'block_size' is 7", err)
        io = self.start_io(extra_arguments=["-c", path, "--json-ignore-init-errors"])
        self.assertEqual([bdev["name"] for bdev in io.rpc.bdev_get_bdevs()], ["N"])

    def test_a_configuration_that_cannot_be_read_is_refused_with_the_reason(self):
        for text, reason in (
            ("{", "not JSON"),
            ("[]", "no array 'subsystems'"),
            ('{"subsystems":[{"config":[]}]}', "lacks a 'subsystem'"),
            ('{"subsystems":[{"subsystem":"bdev","config":[{}]}]}', "no object with a 'method'"),
            ('{"subsystems":[{"subsystem":"bdev","config":[{"method":"nope"}]}]}', "error -32601: Method not found"),
        ):
            with self.subTest(text):
                path = self.path("bad.json")
                with open(path, "w") as file:
                    file.write(text)
                code, _, err = self.run_io("-r", self.path("x.sock"), "-c", path)
                self.assertEqual(code, 1)
                self.assertIn(reason, err)
        code, _, err = self.run_io("-r", self.path("x.sock"), "-c", self.path("none.json"))
        self.assertEqual(code, 1)
        self.assertIn("No such file", err)


class Start(RpcCase):
    def test_phases_are_kept_apart(self):
        self.io = self.start_io(extra_arguments=["--wait-for-rpc"])
        self.refused(-1, "bdev_get_bdevs")
        self.assertNotIn("bdev_get_bdevs", self.io.rpc.rpc_get_methods(current=True))
        self.assertIn("bdev_get_bdevs", self.io.rpc.rpc_get_methods())
        waiting = RpcClient(self.io.rpc_path)
        waiting.send_text('{"method":"framework_wait_init","id":1}')
        self.io.rpc.framework_start_init()
        self.assertIs(waiting.receive()["result"], True)
        waiting.close()
        self.assertEqual(self.io.rpc.bdev_get_bdevs(), [])
        self.refused(-1, "framework_start_init")
        self.assertNotIn("framework_start_init", self.io.rpc.rpc_get_methods(current=True))

    def test_ends_while_it_waits_for_its_start(self):
        io = self.start_io(extra_arguments=["--wait-for-rpc"])
        waiting = RpcClient(io.rpc_path)
        waiting.send_text('{"method":"framework_wait_init","id":1}')
        io.rpc.spdk_get_version()
        io.terminate()
        self.assertEqual(waiting.receive()["error"]["code"], -125)
        waiting.close()

    def test_one_line_says_when_it_is_ready(self):
        io = self.start_io(core_mask="0x1")
        io.wait_for_output(f"ready: rpc {io.rpc_path}, reactors 1\n")

    def test_every_core_of_the_mask_gets_a_reactor_of_its_own(self):
        cores = sorted(os.sched_getaffinity(0))[:2]
        if len(cores) < 2:
            self.skipTest("this machine has one core")
        self.io = self.start_io(core_mask=f"[{cores[0]},{cores[1]}]")
        reactors = self.io.rpc.framework_get_reactors()["reactors"]
        self.assertEqual([reactor["lcore"] for reactor in reactors], cores)
        self.assertEqual(len({reactor["tid"] for reactor in reactors}), 2)
        threads = self.io.rpc.thread_get_stats()["threads"]
        self.assertEqual([int(thread["cpumask"], 16) for thread in threads], [1 << core for core in cores])
        self.assertEqual(len(self.io.rpc.thread_get_pollers()["threads"]), 2)
        self.assertEqual(len(self.io.rpc.thread_get_io_channels()["threads"]), 2)

    def test_idle_reactors_sleep(self):
        io = self.start_io()
        io.rpc.spdk_get_version()
        time.sleep(0.2)

        def cpu_seconds():
            with open(f"/proc/{io.pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        before = cpu_seconds()
        time.sleep(1)
        self.assertLess(cpu_seconds() - before, 0.05)

    def test_a_wrong_command_line_is_refused_with_code_2(self):
        for arguments, reason in (
            (["--nonsense"], "--nonsense"),
            (["-m", "x"], "not hexadecimal"),
            (["-m", "0x0"], "names no core"),
            (["-m", "[3-1]"], "runs backwards"),
            (["--wait-for-rpc", "-c", "x"], "exclude each other"),
        ):
            with self.subTest(arguments):
                code, _, err = self.run_io("-r", self.path("x.sock"), *arguments)
                self.assertEqual(code, 2, err)
                self.assertIn(reason, err)
        self.assertEqual(self.run_io("--version")[0], 0)

    def test_what_keeps_it_from_starting_is_said_with_code_1(self):
        code, _, err = self.run_io("-r", self.path("x.sock"), "-m", "[1000]")
        self.assertEqual(code, 1)
        self.assertIn("names core 1000", err)
        code, _, err = self.run_io("-r", self.path("none/x.sock"))
        self.assertEqual(code, 1)
        self.assertIn("No such file", err)

    def test_spdks_other_flags_are_accepted_with_a_note(self):
        io = self.start_io(extra_arguments=["-s", "512", "--no-huge", "-u", "-g", "--iova-mode", "va"])
        io.wait_for_output("--no-huge is accepted")

    def test_a_socket_has_one_process_and_a_killed_ones_socket_is_taken_over(self):
        first = self.start_io()
        code, _, err = self.run_io("-r", first.rpc_path)
        self.assertEqual(code, 1)
        self.assertIn("is served by another process", err)
        first.rpc.spdk_get_version()
        first.kill()
        self.assertTrue(os.path.exists(first.rpc_path))
        second = self.start_io()
        self.assertEqual(second.rpc.bdev_get_bdevs(), [])


class HostileText(RpcCase):
    """Whatever a client sends, the process answers others and ends well."""

    def setUp(self):
        super().setUp()
        self.io = self.start_io()

    def send_and_read_all(self, data):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(scaled(20))
            client.connect(self.io.rpc_path)
            received = b""
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            try:
                while chunk := client.recv(65536):
                    received += chunk
            except ConnectionResetError:
                pass  # closed with some of our text unread, after the answer
            return received

    def test_wrong_text_is_answered_or_the_connection_closed(self):
        self.assertIn(b"-32700", self.send_and_read_all(b"}"))
        self.assertIn(b"-32700", self.send_and_read_all(b"[" * 100))
        self.assertIn(b"longer than", self.send_and_read_all(b'"' + b"x" * (2 << 20)))
        self.assertIn(b"-32700", self.send_and_read_all(b"\x00"))
        self.assertIn(b"-32700", self.send_and_read_all(b'{"method":"\xff\xfe"}'))
        self.assertEqual(self.send_and_read_all(b'{"method":'), b"")
        self.assertEqual(self.send_and_read_all(b""), b"")
        self.assertIn(b"-32600", self.send_and_read_all(b"[1,2,3]"))

    def test_mutilated_requests_never_disturb_the_process(self):
        seed = random.SystemRandom().getrandbits(32)
        rng = random.Random(seed)
        good = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": "bdev_malloc_create", "params": {"num_blocks": 8, "block_size": 512}}
        ).encode()
        for _ in range(300):
            text = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(text))
                text[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            with self.subTest(seed=seed, text=bytes(text)):
                self.send_and_read_all(bytes(text))
        self.assertIn("version", self.io.rpc.spdk_get_version())

    def test_many_clients_at_once_each_get_their_own_answers(self):
        failures = []

        def drive(number):
            with RpcClient(self.io.rpc_path) as client:
                for turn in range(50):
                    name = f"C{number}_{turn}"
                    if client.bdev_malloc_create(name=name, num_blocks=8, block_size=512) != name:
                        failures.append(name)
                    client.bdev_malloc_delete(name=name)

        clients = [threading.Thread(target=drive, args=(number,)) for number in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        self.assertEqual(failures, [])
        self.assertEqual(self.io.rpc.bdev_get_bdevs(), [])

    def test_pipelined_requests_are_all_answered(self):
        requests = b"".join(b'{"method":"bdev_get_bdevs","id":%d}' % number for number in range(5000))
        answers = self.send_and_read_all(requests)
        numbers = sorted(json.loads(line)["id"] for line in answers.splitlines())
        self.assertEqual(numbers, list(range(5000)))
