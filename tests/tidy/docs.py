"""Checks that the documentation says what the code does: layer table, links, packages."""

import os
import re

from includes import TABLE, read_table

MAP = "docs/map.md"
DEPENDENCIES = "docs/dependencies.md"
PACKAGES = "packages.txt"
LIFE = "docs/life-of-a-write.md"


def check_map(files):
    """docs/map.md has one row for each layer, with exactly what the table allows it, and names every folder."""
    table = read_table(files[TABLE])
    rows = dict(re.findall(r"^\| `([a-z]+)` \| ([a-z ]*?) ?\|", files[MAP], re.MULTILINE))
    problems = [f"{MAP}: no row for the layer {layer}" for layer in table if layer not in rows]
    problems += [f"{MAP}: the row {layer} is not in {TABLE}" for layer in rows if layer not in table]
    for layer, needs in table.items():
        if layer in rows and rows[layer].split() != needs:
            problems.append(f"{MAP}: {layer} may include {' '.join(needs)!r}, the page says {rows[layer]!r}")
    folders = {path.split("/")[0] for path in files if "/" in path} - {"src"}
    named = set(re.findall(r"^\| `([a-z]+)/` \|", files[MAP], re.MULTILINE))
    return problems + [
        f"{MAP}: does not name the folder {folder}/"
        for folder in sorted(folders - named)
        if not folder.startswith(".")
    ]


def check_links(files):
    """Every relative link of a page leads to a file or folder of the project."""
    folders = {os.path.dirname(path) for path in files}
    problems = []
    for path, text in files.items():
        if not path.endswith(".md"):
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" in target:
                continue
            place = os.path.normpath(os.path.join(os.path.dirname(path), target))
            if place not in files and place not in folders:
                problems.append(f"{path}: the link to {target} leads nowhere")
    return problems


def check_symbols(files, page=LIFE):
    """Every `Class::function` of the page stands with the file that defines it, and that file does."""
    problems = []
    text = files[page]
    named = re.findall(r"`(\w+)::(\w+)`[^`]*`(src/[\w/.]+)`", text)
    for owner, function, path in named:
        if path not in files:
            problems.append(f"{page}: there is no {path}")
        elif not defines(files[path], owner, function):
            problems.append(f"{page}: {path} does not define {owner}::{function}")
    lone = set(re.findall(r"`(\w+::\w+)`", text)) - {f"{owner}::{function}" for owner, function, _ in named}
    return problems + [f"{page}: no file beside {symbol}" for symbol in sorted(lone)]


def defines(text, owner, function):
    """Whether a source defines owner::function, out of its class or in it."""
    inside = re.search(rf"\b(?:class|struct) {owner}\b[^;{{]*\{{", text)
    return bool(
        re.search(rf"\b{owner}::{function}\(", text)
        or (inside and re.search(rf"\b{function}\([^;]*\{{", text[inside.end() :]))
    )


def check_packages(files):
    """Every package of packages.txt is explained in docs/dependencies.md, and none besides."""
    listed = {line.strip() for line in files[PACKAGES].splitlines() if line.strip() and not line.startswith("#")}
    cells = re.findall(r"^\| ((?:`[a-z0-9.+-]+`(?:, )?)+) \|", files[DEPENDENCIES], re.MULTILINE)
    explained = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    problems = [f"{DEPENDENCIES}: does not explain {name}" for name in sorted(listed - explained)]
    return problems + [f"{DEPENDENCIES}: {name} is not in {PACKAGES}" for name in sorted(explained - listed)]
