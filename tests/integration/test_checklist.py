"""`diskengine volume checklist` and `diskengine rpc`: every object of a path is named and proved, and a difference is told."""

import json
import subprocess

from diskengine_test import TestCase
from diskengine_test.control import COMPUTE, STORAGE, Fleet
from diskengine_test.deadline import wait_until

OK, FAILED, USAGE, NOT_FOUND = 0, 1, 2, 3


class Checklist(TestCase):
    TEST_TIMEOUT_S = 120

    def fleet(self):
        fleet = Fleet(self).start()
        fleet.volume()
        return fleet

    def failures(self, rows):
        return {(row["node"], row["rpc"], row["object"]) for row in rows if row["verdict"] == "fail"}

    def test_every_object_of_a_sound_volume_passes_and_the_printed_commands_prove_it(self):
        fleet = self.fleet()
        attachment = fleet.attach()
        load = fleet.load(attachment["socket"])
        fleet.moves(attachment["raid"])
        rows = fleet.query("volume", "checklist", "v")
        self.assertEqual({row["verdict"] for row in rows}, {"pass"}, rows)
        named = {row["object"] for row in rows}
        for node in STORAGE:
            replica = fleet.replica(node)
            self.assertLessEqual({replica["nqn"], replica["lvol"], replica["base_bdev"]}, named)
        self.assertLessEqual({attachment["vhost"], attachment["raid"], attachment["host_nqn"], "NvmeDisk1n1"}, named)
        load.terminate()
        printed = fleet.query("volume", "checklist", "v", "--print")
        self.assertEqual([row["command"] for row in printed], [row["command"] for row in rows])
        for row in printed:
            program, *rest = row["command"].split(" ", 1)
            self.assertEqual(program, "diskengine")
            answer = subprocess.run(
                ["sh", "-c", f'exec "$0" --api "$1" {rest[0]}', fleet.loops["api"].arguments[0], fleet.api],
                capture_output=True, text=True, check=False, timeout=30,
            )
            self.assertEqual(answer.returncode, OK, f"{row['command']}: {answer.stderr}")
            self.assertTrue(json.loads(answer.stdout), row["command"])

    def test_what_differs_is_named(self):
        fleet = self.fleet()
        attachment = fleet.attach()
        self.assertEqual(fleet.run("volume", "checklist", "v").returncode, FAILED, "no VM is connected: a warning")
        fleet.loops["s1"].terminate()
        replica = fleet.replica("s1")
        fleet.rpc("s1").nvmf_subsystem_remove_ns(nqn=replica["nqn"], nsid=1)
        failed = self.failures(fleet.query("volume", "checklist", "v", expect=(FAILED,)))
        self.assertIn(("s1", "nvmf_get_subsystems", replica["lvol"]), failed)
        self.assertFalse([row for row in failed if row[0] == "s2"], failed)
        fleet.loops[COMPUTE].terminate()
        fleet.rpc(COMPUTE).vhost_delete_controller(ctrlr=attachment["vhost"])
        failed = self.failures(fleet.query("volume", "checklist", "v", expect=(FAILED,)))
        self.assertIn((COMPUTE, "vhost_get_controllers", attachment["vhost"]), failed)

    def test_a_dead_node_fails_and_one_on_another_machine_is_not_asked(self):
        fleet = self.fleet()
        fleet.planes["s2"].kill()
        wait_until(lambda: fleet.node_state("s2") == "down", 20, "s2 to be down")
        rows = fleet.query("volume", "checklist", "v", expect=(FAILED,))
        self.assertEqual({row["verdict"] for row in rows if row["node"] == "s2"}, {"fail"})
        self.assertEqual({row["verdict"] for row in rows if row["node"] == "s1"}, {"pass"})
        # The same socket path for two nodes: they are different machines, and only one can be this one.
        fleet.loops["s1"].terminate()
        fleet.cli("node", "add", "far", "--role", "storagenode", "--data-plane", fleet.planes["s1"].rpc_path,
                  "--address", "127.0.0.1:9")
        rows = fleet.query("volume", "checklist", "v", expect=(FAILED,))
        asked = [row for row in rows if row["node"] == "s1"]
        self.assertEqual({row["verdict"] for row in asked}, {"warn"})
        self.assertIn("--data-plane s1=", asked[0]["evidence"])
        here = f"s1={fleet.planes['s1'].rpc_path}"
        rows = fleet.query("volume", "checklist", "v", "--data-plane", here, expect=(FAILED,))
        self.assertEqual({row["verdict"] for row in rows if row["node"] == "s1"}, {"pass"})

    def test_wrong_arguments_are_told(self):
        fleet = self.fleet()
        self.assertEqual(fleet.run("volume", "checklist", "none").returncode, NOT_FOUND)
        self.assertEqual(fleet.run("volume", "checklist", "v", "--data-plane", "x").returncode, USAGE)
        self.assertEqual(fleet.run("rpc", "spdk_get_version", "--node", "none").returncode, NOT_FOUND)
        self.assertEqual(fleet.run("rpc", "spdk_get_version", "[1]", "--node", "s1").returncode, USAGE)
        self.assertEqual(fleet.run("rpc", "spdk_get_version").returncode, USAGE)
