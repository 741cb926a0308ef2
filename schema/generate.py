#!/usr/bin/env python3
"""Reads schema/*.json, checks it, and writes what comes from it: the C++ table that the RPC server checks parameters
against, and the reference page. schema/README.md describes the format.

    python3 schema/generate.py                  rewrites docs/rpc.md
    python3 schema/generate.py --cpp FILE       writes the C++ table (the build does this)
    python3 schema/generate.py --check          says whether docs/rpc.md is current
"""

import argparse
import errno
import glob
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(os.path.dirname(HERE), "docs", "rpc.md")

INT_RANGES = {
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}
TYPES = {**dict.fromkeys(INT_RANGES, "integer"), **{name: name for name in ("any", "boolean", "number", "string", "uuid", "array", "object")}}
PHASES = ("startup", "runtime", "any")
STRING_BYTES_MAX = 4096  # a string without its own max
ARRAY_ITEMS_MAX = 4096  # an array without its own max

FILE_KEYS = {"title", "description", "methods"}
METHOD_KEYS = {"name", "phase", "description", "params", "result", "errors", "aliases"}
PARAM_KEYS = {"name", "type", "required", "default", "min", "max", "enum", "items", "fields", "ignored", "unit", "description"}
ERROR_KEYS = {"code", "when"}


class Wrong(Exception):
    """A mistake in a schema file."""


def need(condition, where, what):
    if not condition:
        raise Wrong(f"{where}: {what}")


def check_keys(thing, allowed, required, where):
    need(isinstance(thing, dict), where, f"is {json.dumps(thing)[:60]}, not an object")
    for key in thing:
        need(key in allowed, where, f"unknown key '{key}'; allowed are {', '.join(sorted(allowed))}")
    for key in required:
        need(key in thing, where, f"lacks '{key}'")


def no_duplicates(pairs):
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"key '{name}' stands twice in one object")
    return dict(pairs)


def load_files(directory):
    """[(layer, content)], in order of file names."""
    files = []
    for path in sorted(glob.glob(os.path.join(directory, "*.json"))):
        with open(path, encoding="utf-8") as file:
            try:
                content = json.load(file, object_pairs_hook=no_duplicates)
            except ValueError as error:
                raise Wrong(f"{path}: {error}") from None
        check_file(content, path)
        files.append((os.path.splitext(os.path.basename(path))[0], content))
    check_names(files)
    return files


def check_names(files):
    owners = {}
    for layer, content in files:
        for method in content["methods"]:
            for name in [method["name"], *method.get("aliases", [])]:
                need(name not in owners, f"schema/{layer}.json", f"method '{name}' is already in {owners.get(name)}.json")
                owners[name] = layer


def check_file(content, path):
    check_keys(content, FILE_KEYS, ("title", "description", "methods"), path)
    for method in content["methods"]:
        name = method.get("name", "(no name)") if isinstance(method, dict) else "(not an object)"
        check_method(method, f"{path}: method {name}")


def check_method(method, where):
    check_keys(method, METHOD_KEYS, ("name", "description", "result"), where)
    need(re.fullmatch(r"[a-z][a-z0-9_]*", method["name"]), where, "a name is lower case letters, digits and _")
    need(method.get("phase", "runtime") in PHASES, where, f"phase is one of {', '.join(PHASES)}")
    for text in ("description", "result"):
        need(isinstance(method[text], str) and method[text].strip(), where, f"'{text}' is a text")
    check_params(method.get("params", []), where)
    for error in method.get("errors", []):
        check_keys(error, ERROR_KEYS, ERROR_KEYS, f"{where}: error")
        need(isinstance(error["code"], int) and error["code"] < 0, where, "an error code is a negative integer")


def check_params(params, where):
    need(isinstance(params, list), where, "a list of parameters is expected")
    names = [param.get("name") for param in params if isinstance(param, dict)]
    for param in params:
        check_keys(param, PARAM_KEYS, ("name", "type", "description"), f"{where}: parameter")
        name = param["name"]
        need(names.count(name) == 1, where, f"parameter '{name}' stands twice")
        check_value_schema(param, f"{where}: parameter '{name}'")


def check_value_schema(param, where):
    kind = param.get("type")
    need(kind in TYPES, where, f"type '{kind}' is none of {', '.join(TYPES)}")
    need(("items" in param) == (kind == "array"), where, "'items' stands with type array, and only there")
    need("fields" not in param or kind == "object", where, "'fields' stands only with type object")
    need(not (param.get("required") and "default" in param), where, "required and a default exclude each other")
    for flag in ("required", "ignored"):
        need(isinstance(param.get(flag, False), bool), where, f"'{flag}' is true or false")
    if "min" in param or "max" in param:
        need(kind in (*INT_RANGES, "string", "array"), where, "min and max are for integers, strings and arrays")
        low, high = bounds(param)
        need(low <= high, where, f"min {low} is above max {high}")
    if "enum" in param:
        need(isinstance(param["enum"], list) and param["enum"], where, "'enum' is a list with something in it")
        need(kind in (*INT_RANGES, "string"), where, "'enum' is for integers and strings")
        for value in param["enum"]:
            need(fits({**param, "enum": None}, value), where, f"enum value {value!r} is no {kind} in range")
    if kind == "array":
        check_keys(param["items"], PARAM_KEYS - {"name", "required", "default"}, ("type",), f"{where}: items")
        check_value_schema(param["items"], f"{where}: items")
    if "fields" in param:
        check_params(param["fields"], where)
    if "default" in param:
        need(fits(param, param["default"]), where, f"default {param['default']!r} does not fit its own description")


def bounds(param):
    """What min and max stand for: values of integers, bytes of strings, items of arrays."""
    kind = param["type"]
    low, high = INT_RANGES.get(kind, (0, 0))
    if kind == "string":
        high = STRING_BYTES_MAX
    if kind == "array":
        high = ARRAY_ITEMS_MAX
    return param.get("min", low), param.get("max", high)


def fits(param, value):
    kind = param["type"]
    low, high = bounds(param)
    if param.get("enum"):
        return value in param["enum"]
    if kind in INT_RANGES:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    if kind == "string":
        return isinstance(value, str) and low <= len(value.encode()) <= high
    if kind == "array":
        return isinstance(value, list) and low <= len(value) <= high and all(fits(param["items"], item) for item in value)
    if kind == "uuid":
        return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value) is not None
    python = {"boolean": bool, "number": (int, float), "object": dict, "any": object}[kind]
    return isinstance(value, python)


# --- the C++ table ---------------------------------------------------------------------------------------------------


def cpp_text(text):
    escaped = "".join(c if " " <= c <= "~" and c not in '"\\' else "".join(f"\\{b:03o}" for b in c.encode()) for c in text)
    return f'"{escaped}"'


class Cpp:
    """Collects arrays, innermost first."""

    def __init__(self):
        self.arrays = []

    def array(self, element, items):
        """The expression for a span over a constant array of the items."""
        if not items:
            return "{}"
        name = f"k{element}{len(self.arrays)}"
        kind = {"Text": "std::string_view", "Param": "Param"}[element]
        self.arrays.append(f"constexpr {kind} {name}[] = {{\n    " + ",\n    ".join(items) + ",\n};\n")
        return name

    def param(self, param):
        kind = param["type"]
        low, high = bounds(param)
        if kind == "array":
            children = self.array("Param", [self.param(param["items"])])
        else:
            children = self.array("Param", [self.param(field) for field in param.get("fields", [])])
        allowed = self.array("Text", [cpp_text(str(value)) for value in param.get("enum", [])])
        low_text = "INT64_MIN" if low == -(2**63) else f"{low}"
        default = cpp_text(json.dumps(param["default"])) if "default" in param else "{}"
        return (
            f"{{.name = {cpp_text(param.get('name', ''))}, .type = Type::{TYPES[kind]}, "
            f".required = {'true' if param.get('required') else 'false'}, "
            f".is_signed = {'true' if kind.startswith('int') else 'false'}, "
            f".closed = {'true' if 'fields' in param else 'false'}, .min = {low_text}, .max = {high}u, "
            f".allowed = {allowed}, .children = {children}, .default_json = {default}}}"
        )

    def method(self, layer, method):
        params = self.array("Param", [self.param(param) for param in method.get("params", [])])
        aliases = self.array("Text", [cpp_text(alias) for alias in method.get("aliases", [])])
        return (
            f"{{.name = {cpp_text(method['name'])}, .layer = {cpp_text(layer)}, "
            f".phase = Phase::{method.get('phase', 'runtime')}, .params = {params}, .aliases = {aliases}}}"
        )


def cpp_table(files):
    cpp = Cpp()
    methods = sorted((cpp.method(layer, method) for layer, content in files for method in content["methods"]))
    return (
        "// Generated by schema/generate.py from schema/*.json.\n"
        '#include "rpc/schema.h"\n\n#include <cstdint>\n\nnamespace diskengine::rpc {\nnamespace {\n\n'
        + "".join(cpp.arrays)
        + "constexpr MethodInfo kMethods[] = {\n    "
        + ",\n    ".join(methods)
        + ",\n};\n\n}  // namespace\n\nstd::span<const MethodInfo> method_infos() noexcept { return kMethods; }\n\n"
        "}  // namespace diskengine::rpc\n"
    )


# --- the reference page ----------------------------------------------------------------------------------------------

INTRO = """# RPC reference

<!-- Generated by schema/generate.py from schema/*.json: change those and run it. -->

`diskengine-io` is driven by JSON-RPC 2.0 on a unix stream socket (`-r`, `/var/tmp/spdk.sock` unless said otherwise). A
request is one JSON value; requests may follow each other without anything in between, answers come as they are ready and
carry the request's `id`. An array of requests is a batch. A request without an `id` (or with `null`) is not answered.
Names, parameters, results and error codes are SPDK's, so SPDK's clients work; what SPDK lacks begins with `diskengine_`.

Codes of errors: -32700 the text is not JSON (the connection is then closed), -32600 not a request, -32601 no such method,
-32602 a parameter is missing, unknown, of the wrong type or out of range (the message says which and what is allowed),
-1 the method belongs to the other phase (before or after `framework_start_init`), and otherwise a negative errno.
"""

ERRNO_NAMES = {-code: name for code, name in errno.errorcode.items()}
PHASE_TEXT = {
    "startup": "Before `framework_start_init` only.",
    "any": "Before and after `framework_start_init`.",
}


def allowed_text(param):
    kind = param["type"]
    low, high = bounds(param)
    parts = []
    if "enum" in param:
        parts.append("one of " + ", ".join(f"`{value}`" for value in param["enum"]))
    elif kind in INT_RANGES and ("min" in param or "max" in param):
        parts.append(f"{low} to {high}" if "max" in param else f"at least {low}")
    elif "min" in param or "max" in param:
        parts.append(f"{low} to {high} {'items' if kind == 'array' else 'bytes'}")
    return parts


def type_text(param):
    if param["type"] == "array":
        return f"array of {type_text(param['items'])}"
    return param["type"]


def param_rows(params, prefix=""):
    for param in params:
        name = prefix + param["name"]
        if param.get("required"):
            need_text = "required"
        elif "default" in param:
            need_text = f"`{json.dumps(param['default'])}`"
        else:
            need_text = "optional"
        details = [param["description"].rstrip(".")] + allowed_text(param)
        if "unit" in param:
            details.append(f"in {param['unit']}")
        if param.get("ignored"):
            details.append("accepted and ignored")
        yield f"| `{name}` | {type_text(param)} | {need_text} | {'; '.join(details)} |"
        yield from param_rows(param.get("fields", []), f"{name}.")
        yield from param_rows(param.get("items", {}).get("fields", []), f"{name}[].")


def method_page(method):
    lines = [f"### {method['name']}", "", method["description"]]
    if method.get("phase", "runtime") in PHASE_TEXT:
        lines += ["", PHASE_TEXT[method.get("phase", "runtime")]]
    if method.get("aliases"):
        lines += ["", "Also called " + ", ".join(f"`{alias}`" for alias in method["aliases"]) + "."]
    if method.get("params"):
        lines += ["", "| parameter | type | default | |", "| --- | --- | --- | --- |", *param_rows(method["params"])]
    lines += ["", f"Result: {method['result']}"]
    if method.get("errors"):
        lines += ["", "Errors:"]
        lines += [f"- {error['code']} {ERRNO_NAMES.get(error['code'], '')}".rstrip() + f": {error['when']}" for error in method["errors"]]
    return lines + [""]


def reference_page(files):
    lines = [INTRO]
    for _, content in files:
        lines += [f"## {content['title']}", "", content["description"], ""]
        for method in content["methods"]:
            lines += method_page(method)
    return "\n".join(lines).rstrip() + "\n"


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def page_is_current(text):
    try:
        with open(PAGE, encoding="utf-8") as file:
            return file.read() == text
    except FileNotFoundError:
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpp", metavar="FILE")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        files = load_files(HERE)
    except Wrong as wrong:
        print(f"schema: error: {wrong}", file=sys.stderr)
        return 1
    if options.cpp:
        write(options.cpp, cpp_table(files))
    elif options.check:
        if not page_is_current(reference_page(files)):
            print("docs/rpc.md is not what schema/*.json says; run: python3 schema/generate.py", file=sys.stderr)
            return 1
    else:
        write(PAGE, reference_page(files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
