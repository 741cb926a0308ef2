"""The source keeps its rules: layers, seams, sizes, no dead files. tests/tidy/test_checks.py proves each can fail."""

import unittest

import docs
import includes
import tidy
import toolchain
from tree import read_tree


class Source(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = read_tree()

    def holds(self, problems):
        if problems:
            self.fail(f"{len(problems)} problem(s)\n" + "\n".join(problems))

    def test_layer_table_points_one_way(self):
        self.holds(includes.check_table(self.files))

    def test_includes_are_allowed_by_the_layer_table(self):
        self.holds(includes.check_includes(self.files))

    def test_clock_random_and_socket_calls_go_through_their_seams(self):
        self.holds(tidy.check_raw_calls(self.files))

    def test_no_marks_of_unfinished_work(self):
        self.holds(tidy.check_marks(self.files))

    def test_no_file_is_longer_than_its_limit(self):
        self.holds(tidy.check_lengths(self.files))

    def test_headers_open_with_a_comment_and_pragma_once(self):
        self.holds(tidy.check_header_opening(self.files))

    def test_every_header_is_included_by_someone(self):
        self.holds(tidy.check_dead_headers(self.files))

    def test_every_source_is_compiled(self):
        self.holds(tidy.check_dead_sources(self.files, toolchain.compile_commands()))

    def test_no_machine_paths(self):
        self.holds(tidy.check_machine_paths(self.files))

    def test_the_map_shows_the_layers_and_folders_there_are(self):
        self.holds(docs.check_map(self.files))

    def test_links_between_pages_lead_somewhere(self):
        self.holds(docs.check_links(self.files))

    def test_the_functions_that_the_life_of_a_write_names_exist(self):
        self.holds(docs.check_symbols(self.files))

    def test_every_package_is_explained(self):
        self.holds(docs.check_packages(self.files))
