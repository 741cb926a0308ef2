"""schema/ is the truth about the RPC methods: the process offers what it says, the reference page shows it, and a mistake
in it is found when it is read."""

import importlib.util
import os
import unittest

from diskengine_test import TestCase
from diskengine_test.process import ROOT

spec = importlib.util.spec_from_file_location("generate", os.path.join(ROOT, "schema", "generate.py"))
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


def method(**changes):
    return {"name": "m", "description": "Does it.", "result": "`true`.", **changes}


class Schema(TestCase):
    def test_the_process_offers_exactly_the_methods_of_the_schema(self):
        files = generate.load_files(generate.HERE)
        described = [method["name"] for _, content in files for method in content["methods"]]
        self.assertEqual(self.start_io().rpc.rpc_get_methods(), sorted(described))

    def test_the_reference_page_is_current(self):
        page = generate.reference_page(generate.load_files(generate.HERE))
        self.assertTrue(generate.page_is_current(page), "run: python3 schema/generate.py")


class Mistakes(unittest.TestCase):
    def wrong(self, thing, *words):
        with self.assertRaises(generate.Wrong) as raised:
            generate.check_file({"title": "T", "description": "D", "methods": [thing]}, "schema/x.json")
        for word in ("schema/x.json", *words):
            self.assertIn(word, str(raised.exception))

    def wrong_param(self, *words, **param):
        param = {"name": "p", "type": "uint32", "description": "P", **param}
        self.wrong(method(params=[param]), "method m", "'p'", *words)

    def test_a_mistake_is_named_with_its_file_method_and_parameter(self):
        self.wrong(method(phases="any"), "method m", "unknown key 'phases'")
        self.wrong(method(name="M-1"), "lower case")
        self.wrong(method(phase="late"), "phase is one of")
        self.wrong({"name": "m", "description": "D"}, "lacks 'result'")
        self.wrong(method(errors=[{"code": 5, "when": "x"}]), "negative")
        self.wrong(method(params=[{"name": "p", "description": "P"}]), "lacks 'type'")
        self.wrong_param("type 'u32' is none of", type="u32")
        self.wrong_param("exclude each other", required=True, default=1)
        self.wrong_param("min 5 is above max 4", min=5, max=4)
        self.wrong_param("does not fit", default=-1)
        self.wrong_param("does not fit", default=8, max=7)
        self.wrong_param("'items'", type="array")
        self.wrong_param("enum value", enum=[1, "x"])
        self.wrong_param("'fields'", fields=[])
        self.wrong_param("min and max", type="boolean", max=1)

    def test_a_parameter_or_a_method_that_stands_twice_is_refused(self):
        param = {"name": "p", "type": "uint32", "description": "P"}
        self.wrong(method(params=[param, param]), "stands twice")
        files = [("a", {"methods": [method()]}), ("b", {"methods": [method(name="n", aliases=["m"])]})]
        with self.assertRaisesRegex(generate.Wrong, "'m' is already in a.json"):
            generate.check_names(files)

    def test_texts_of_any_kind_survive_the_c_plus_plus_table(self):
        self.assertEqual(generate.cpp_text('a"b\\c'), '"a\\042b\\134c"')
        self.assertEqual(generate.cpp_text("\u00e4"), '"\\303\\244"')
