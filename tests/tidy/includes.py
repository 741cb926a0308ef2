"""Holds the table of allowed includes, src/layers.txt: arrows point one way, and no include goes past the table."""

import re

from tree import cpp_files, layer_of

TABLE = "src/layers.txt"
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def read_table(text):
    """{layer: [the layers it may include]} in the order of the table."""
    table = {}
    for line in text.splitlines():
        if match := re.match(r"([a-z_]+):(.*)$", line):
            table[match[1]] = match[2].split()
    return table


def check_table(files):
    """Each layer may only need layers above it in the table, so there is no cycle; and each folder has its line."""
    table = read_table(files[TABLE])
    problems, seen = [], []
    for layer, needs in table.items():
        problems += [f"{TABLE}: {layer} needs {need}, which is not above it" for need in needs if need not in seen]
        seen.append(layer)
    folders = {layer_of(path) for path in cpp_files(files)} - {None}
    return problems + [f"{TABLE}: the folder src/{folder} has no line" for folder in sorted(folders - set(table))]


def check_includes(files):
    """Every quoted include in src/ names its folder and is allowed by the table. Apps and tests may use all."""
    table = read_table(files[TABLE])
    problems = []
    for path, text in cpp_files(files).items():
        layer = layer_of(path)
        if layer is None:
            continue
        allowed = {layer, *table.get(layer, [])}
        for match in INCLUDE.finditer(text):
            included = match[1]
            line = text.count("\n", 0, match.start()) + 1
            if "/" not in included or included.startswith("."):
                problems.append(f'{path}:{line}: write "{layer}/..." instead of "{included}"')
            elif included.split("/")[0] not in allowed:
                problems.append(f'{path}:{line}: "{included}" is not allowed in {layer}: see {TABLE}')
    return problems
