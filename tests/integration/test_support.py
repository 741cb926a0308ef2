"""`diskengine support dump`: one archive that another program opens, with what each node says, and none of the secrets."""

import json
import os
import tarfile

from diskengine_test import TestCase
from diskengine_test.control import NODES, Fleet

OK, CONFLICT = 0, 4


class SupportDump(TestCase):
    TEST_TIMEOUT_S = 120

    def dump(self, fleet, *arguments, expect=OK):
        path = self.path("dump.tar")
        done = fleet.run("support", "dump", "--file", path, *arguments)
        self.assertEqual(done.returncode, expect, done.stderr)
        return path, done

    def members(self, path):
        with tarfile.open(path) as archive:
            return {member.name: json.load(archive.extractfile(member)) for member in archive.getmembers()}

    def test_it_holds_the_state_of_every_node_the_rows_events_and_versions(self):
        fleet = Fleet(self).start()
        fleet.volume()
        fleet.attach()
        path, _ = self.dump(fleet, "--volume", "v", "--volume", "none")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        members = self.members(path)
        self.assertEqual({node["node"]: node["reach"] for node in members["manifest.json"]["nodes"]},
                         {node: "answers" for node in NODES})
        self.assertTrue(members["manifest.json"]["version"])
        self.assertEqual(members["control/status.json"]["volumes"][0]["name"], "v")
        self.assertTrue(members["control/events.json"] and members["control/operations.json"])
        for node in NODES:
            self.assertIn("version", members[f"nodes/{node}/spdk_get_version.json"])
            self.assertTrue(members[f"nodes/{node}/framework_get_config.json"])
        self.assertEqual(members["nodes/c1/bdev_raid_get_bdevs.json"][0]["state"], "online")
        self.assertTrue(members["nodes/s1/nvmf_subsystem_get_controllers.json"])
        self.assertTrue(members["volumes/v/checklist.json"] and members["volumes/v/diagnosis.json"]["layers"])
        self.assertIn("no volume", members["volumes/none/error.json"]["error"])
        self.assertEqual(self.dump(fleet, expect=CONFLICT)[1].stdout, "", "an archive that is there is kept")

    def test_without_a_control_plane_the_nodes_that_are_named_are_asked(self):
        fleet = Fleet(self).start()
        fleet.loops["api"].terminate()
        fleet.planes["s2"].kill()
        path, _ = self.dump(fleet, "--data-plane", f"s1={fleet.planes['s1'].rpc_path}",
                            "--data-plane", f"s2={fleet.planes['s2'].rpc_path}")
        members = self.members(path)
        self.assertIn("error", members["control/status.json"])
        reach = {node["node"]: node["reach"] for node in members["manifest.json"]["nodes"]}
        self.assertEqual(reach, {"s1": "answers", "s2": "down"})
        self.assertIn("nodes/s1/bdev_get_bdevs.json", members)

    def test_what_looks_like_a_secret_is_not_in_it(self):
        fleet = Fleet(self).start()
        rpc = fleet.rpc("s1")
        key = "DHHC-1:00:c2VjcmV0LXNlY3JldA==:"
        rpc.bdev_malloc_create(name=f"disk {key}", num_blocks=64, block_size=512)
        rpc.bdev_malloc_create(name="postgresql://me:hunter2@db/x", num_blocks=64, block_size=512)
        path, _ = self.dump(fleet)
        with open(path, "rb") as file:
            content = file.read()
        self.assertIn(b"disk DHHC-1:(redacted)", content)
        for secret in (b"c2VjcmV0", b"hunter2"):
            self.assertNotIn(secret, content)
