"""The source as the compiler-based tools see it: formatting, clang-tidy, headers that stand alone."""

import os
import unittest

import toolchain
from tree import cpp_files, read_tree


class Toolchain(unittest.TestCase):
    TEST_TIMEOUT_S = 3600 if os.environ.get("DISKENGINE_TIDY") == "full" else 400

    @classmethod
    def setUpClass(cls):
        cls.files = read_tree()
        cls.commands = toolchain.compile_commands()

    def holds(self, problems):
        if problems:
            self.fail(f"{len(problems)} problem(s)\n" + "\n".join(problems))

    def test_every_file_is_formatted(self):
        self.holds(toolchain.check_format(sorted(cpp_files(self.files))))

    def test_every_header_compiles_alone(self):
        self.holds(toolchain.check_headers_alone(self.files, self.commands))

    def test_clang_tidy_finds_nothing(self):
        """On the files changed lately, within a bound of time; on all of them for `./dev tidy full`."""
        if os.environ.get("DISKENGINE_TIDY") == "full":
            problems, _ = toolchain.check_clang_tidy(sorted(self.commands), self.TEST_TIMEOUT_S)
        else:
            changed = toolchain.changed_sources(self.commands)
            problems, count = toolchain.check_clang_tidy(changed, toolchain.TIDY_BUDGET_S)
            self.assertGreater(count, 0, "no changed source was found to look at")
        self.holds(problems)
