"""Each check of the source can fail: it is shown a file that breaks the rule, and one that nearly does."""

import os
import tempfile
import unittest

import docs
import includes
import tidy
import toolchain
from tree import ROOT

TABLE = {"src/layers.txt": "base:\nblock: base\nraid: base block\n"}
HEADER = "// A thing.\n#pragma once\n"


class Includes(unittest.TestCase):
    def test_an_include_past_the_table_is_found(self):
        files = {**TABLE, "src/block/a.cpp": '#include "base/x.h"\n#include "raid/raid1.h"\n'}
        problems = includes.check_includes(files)
        self.assertEqual(len(problems), 1)
        self.assertIn("src/block/a.cpp:2", problems[0])

    def test_an_include_without_its_folder_is_found(self):
        self.assertTrue(includes.check_includes({**TABLE, "src/block/a.cpp": '#include "a.h"\n'}))
        self.assertTrue(includes.check_includes({**TABLE, "src/block/a.cpp": '#include "../raid/raid1.h"\n'}))

    def test_apps_may_include_anything(self):
        self.assertEqual(includes.check_includes({**TABLE, "apps/a.cpp": '#include "raid/raid1.h"\n'}), [])

    def test_a_table_with_a_cycle_or_a_missing_folder_is_found(self):
        self.assertTrue(includes.check_table({"src/layers.txt": "base: raid\nraid: base\n"}))
        self.assertTrue(includes.check_table({**TABLE, "src/other/a.cpp": ""}))
        self.assertEqual(includes.check_table({**TABLE, "src/raid/a.cpp": ""}), [])


class RawCalls(unittest.TestCase):
    def found(self, code, path="src/raid/raid1.cpp"):
        return len(tidy.check_raw_calls({path: code}))

    def test_raw_calls_are_found(self):
        for code in [
            "auto t = std::chrono::steady_clock::now();",
            "clock_gettime(CLOCK_MONOTONIC, &t);",
            "auto t = time(nullptr);",
            "std::this_thread::sleep_for(1s);",
            "int r = rand();",
            "int r = std::rand();",
            "std::random_device d;",
            "int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);",
            "int fd = socket(AF_UNIX, SOCK_STREAM, 0);",
            "if (::connect(fd, a, n) < 0) return;",
            "n = recvmsg(fd, &m, 0);",
        ]:
            self.assertEqual(self.found(code), 1, code)

    def test_look_alikes_are_not(self):
        for code in [
            "client.connect(path); host->send(pdu); auto s = open_socket();",
            "// rand() and ::socket() are banned",
            'LOG_WARN("x", "clock_gettime() failed");',
            "struct World { uint64_t now(); uint64_t random(); }; world.random(); operand(1);",
        ]:
            self.assertEqual(self.found(code), 0, code)

    def test_the_allow_list_is_by_place_and_kind(self):
        call = "int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);"
        self.assertEqual(self.found(call, "src/fabric/tcp.cpp"), 0)
        self.assertEqual(self.found("auto r = rand();", "src/fabric/tcp.cpp"), 1)
        self.assertEqual(self.found(call, "src/raid/raid1_test.cpp"), 0)


class Files(unittest.TestCase):
    def test_marks_are_found(self):
        self.assertTrue(tidy.check_marks({"docs/a.md": "TO" + "DO: write"}))
        self.assertTrue(tidy.check_marks({"src/a.cpp": "// FIX" + "ME"}))
        self.assertEqual(tidy.check_marks({"a.sh": "mktemp -d x.XX" + "XXXX"}), [])

    def test_long_files_are_found(self):
        self.assertTrue(tidy.check_lengths({"src/a.cpp": "x\n" * (tidy.MAX_LINES + 1)}))
        self.assertEqual(tidy.check_lengths({"src/a.cpp": "x\n" * tidy.MAX_LINES}), [])

    def test_bad_header_openings_are_found(self):
        self.assertEqual(len(tidy.check_header_opening({"src/a/a.h": "#pragma once\n"})), 1)
        self.assertEqual(len(tidy.check_header_opening({"src/a/a.h": "// A.\n#include <vector>\n#pragma once\n"})), 1)
        self.assertEqual(tidy.check_header_opening({"src/a/a.h": HEADER}), [])

    def test_dead_headers_are_found(self):
        files = {"src/a/dead.h": HEADER, "src/a/dead_test.cpp": '#include "a/dead.h"\n'}
        self.assertTrue(tidy.check_dead_headers(files))
        self.assertEqual(tidy.check_dead_headers({**files, "apps/main.cpp": '#include "a/dead.h"\n'}), [])

    def test_dead_sources_are_found(self):
        files = {"src/a/a.cpp": "", "fuzz/a_fuzz.cpp": ""}
        self.assertEqual(len(tidy.check_dead_sources(files, set())), 1)
        self.assertEqual(tidy.check_dead_sources(files, {"src/a/a.cpp"}), [])

    def test_machine_paths_are_found(self):
        self.assertTrue(tidy.check_machine_paths({"docs/a.md": "see /wo" + "rk/main"}))
        self.assertTrue(tidy.check_machine_paths({"a.py": '"/ho' + 'me/me/x"'}))
        self.assertEqual(tidy.check_machine_paths({"a.md": "homework/rooted"}), [])


class Docs(unittest.TestCase):
    MAP = "| `base` | | x |\n| `block` | base | x |\n| `raid` | base block | x |\n| `docs/` | x |\n"

    def test_a_map_that_differs_from_the_table_is_found(self):
        self.assertEqual(docs.check_map({**TABLE, "docs/map.md": self.MAP}), [])
        self.assertTrue(docs.check_map({**TABLE, "docs/map.md": self.MAP.replace("base block", "base")}))
        self.assertTrue(docs.check_map({**TABLE, "docs/map.md": self.MAP.replace("`base`", "`bass`")}))
        self.assertTrue(docs.check_map({**TABLE, "docs/map.md": self.MAP, "extra/a.py": ""}))

    def test_a_dead_link_is_found(self):
        self.assertTrue(docs.check_links({"docs/a.md": "[b](b.md)"}))
        links = "[b](b.md#x) [c](../src) [d](https://x.y)"
        self.assertEqual(docs.check_links({"docs/a.md": links, "docs/b.md": "", "src/c": ""}), [])

    def test_a_function_that_does_not_exist_is_found(self):
        page = {"docs/life-of-a-write.md": "| `A::f` | `src/a.cpp` |"}
        for source in ("void A::f() {}", "class A {\n int f() { return 1; }\n};", "struct A : B { int f(int a) noexcept {"):
            self.assertEqual(docs.check_symbols({**page, "src/a.cpp": source}), [], source)
        for source in ("void A::g() {}", "class A {\n int f();\n};", "void B::f() {}"):
            self.assertEqual(len(docs.check_symbols({**page, "src/a.cpp": source})), 1, source)
        self.assertTrue(docs.check_symbols(page))
        self.assertTrue(docs.check_symbols({"docs/life-of-a-write.md": "`A::f` without a file"}))

    def test_a_package_without_a_reason_is_found(self):
        files = {"packages.txt": "# c\ncmake\n", "docs/dependencies.md": "| `cmake` | x |\n"}
        self.assertEqual(docs.check_packages(files), [])
        self.assertEqual(len(docs.check_packages({**files, "packages.txt": "cmake\nfio\n"})), 1)
        self.assertEqual(len(docs.check_packages({**files, "packages.txt": ""})), 1)


class Toolchain(unittest.TestCase):
    TEST_TIMEOUT_S = 120

    def setUp(self):
        os.makedirs(os.path.join(ROOT, "build"), exist_ok=True)
        self.directory = self.enterContext(tempfile.TemporaryDirectory(dir=os.path.join(ROOT, "build")))

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return os.path.relpath(path, ROOT)

    def test_bad_formatting_is_found(self):
        self.assertTrue(toolchain.check_format([self.write("a.cpp", "int  main( ){return 0 ;}\n")]))
        self.assertEqual(toolchain.check_format([self.write("b.cpp", "int main() { return 0; }\n")]), [])

    def test_a_header_that_does_not_stand_alone_is_found(self):
        flags = ["c++", "-std=c++20"]
        self.assertTrue(toolchain.compile_alone(self.write("a.h", HEADER + "inline std::string name;\n"), flags))
        alone = self.write("b.h", HEADER + "#include <string>\ninline std::string name;\n")
        self.assertEqual(toolchain.compile_alone(alone, flags), [])

    def test_only_a_header_included_first_counts_as_proven(self):
        files = {"src/a/a.h": HEADER, "src/a/b.h": HEADER, "src/a/a.cpp": '#include "a/a.h"\n#include <vector>\n'}
        files["src/a/b.cpp"] = '#include <vector>\n#include "a/b.h"\n'
        self.assertEqual(toolchain.proven_by_their_source(files), {"src/a/a.h"})

    def test_clang_tidy_finds_a_use_after_move(self):
        code = "#include <string>\n#include <utility>\nstd::string taken;\n"
        code += "unsigned long f(std::string s) {\n  taken = std::move(s);\n  return s.size();\n}\n"
        path = self.write("a.cpp", code)
        with open(os.path.join(self.directory, "compile_flags.txt"), "w") as flags:
            flags.write("-std=c++20\n")
        problems = toolchain.clang_tidy(path, self.directory)
        self.assertIn("bugprone-use-after-move", "".join(problems))
