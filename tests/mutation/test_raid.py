"""The mirror's unit tests notice each deliberate mistake of src/raid/mutation.h. Builds only raid_test, once for each."""

import os
import subprocess
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, "build", "mutation")


class RaidMutations(unittest.TestCase):
    TEST_TIMEOUT_S = 1200

    def run_tests(self, mutation):
        """Builds with the mutation and runs the tests; returns how they ended and what they printed."""
        environment = dict(os.environ, CCACHE_BASEDIR=ROOT, CCACHE_NOHASHDIR="1", DISKENGINE_RAID_HISTORIES="60")
        configure = ["cmake", "--preset", "release", "-B", BUILD, "--log-level=WARNING", f"-DDISKENGINE_MUTATION={mutation}"]
        for command in (configure, ["cmake", "--build", BUILD, "--target", "raid_test"]):
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout[-4000:] + done.stderr[-4000:])
        program = os.path.join(BUILD, "test", "raid_test")
        ran = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=600)
        return ran.returncode, ran.stdout

    def caught(self, mutation, *by):
        code, output = self.run_tests(mutation)
        self.assertNotEqual(code, 0, f"{mutation} was not noticed")
        failed = [line.split()[-1] for line in output.splitlines() if line.startswith("[  FAILED  ]") and "." in line]
        for test in by:
            self.assertTrue(any(test in name for name in failed) or code < 0, f"{mutation}: {test} passed; failed: {failed}")

    def test_without_a_mutation_all_pass(self):
        code, output = self.run_tests("none")
        self.assertEqual(code, 0, output[-4000:])

    def test_acknowledging_before_the_exclusion_is_noticed(self):
        self.caught("ack_before_exclude", "AFailedWriteIsAcknowledgedOnlyAfterTheLegIsOut")

    def test_a_dropped_dirty_bit_is_noticed(self):
        self.caught("dropped_dirty_bit", "ARegionIsMarkedOnEveryLegBeforeItIsWrittenTo")

    def test_a_skipped_flush_is_noticed(self):
        self.caught("skipped_flush", "WhatIsNoLongerWrittenToIsCleared")

    def test_an_unlocked_copy_is_noticed(self):
        self.caught("unlocked_copy", "MirrorHistory")

    def test_assembling_from_the_wrong_leg_is_noticed(self):
        self.caught("wrong_leg", "TheNewestOfTheNamedLegsIsRight")

    def test_trusting_a_leg_that_lost_its_cache_is_noticed(self):
        self.caught("trusted_cache", "ALegThatLostItsCacheIsNotRead", "MirrorHistory")

    def test_forgetting_that_a_leg_lost_its_cache_is_noticed(self):
        self.caught("forgotten_cache", "ALegThatLostItsCacheMeanwhile")

    def test_re_admitting_an_old_epoch_is_noticed(self):
        self.caught("old_epoch", "ALegThatKnowsALaterEpochIsNotAdmitted")

    def test_unordered_overlapping_writes_are_noticed(self):
        self.caught("unordered_writes", "MirrorHistory")
