"""Runs the compiler-based checks: formatting, clang-tidy, headers that compile alone."""

import concurrent.futures
import json
import os
import re
import shlex
import subprocess
import time

from includes import INCLUDE
from tree import ROOT, cpp_files, git, layer_of

BUILD = os.path.join(ROOT, "build", "release")
TIDY_BUDGET_S = 120  # for clang-tidy on changed files
CHANGED_COMMITS = 20  # how far back "changed" looks on the main branch


def compile_commands():
    """{path: its entry of the compile database}, configured afresh so that new files are in it."""
    subprocess.run(["cmake", "--preset", "release"], cwd=ROOT, check=True, capture_output=True)
    with open(os.path.join(BUILD, "compile_commands.json")) as file:
        return {os.path.relpath(entry["file"], ROOT): entry for entry in json.load(file)}


def parallel(function, items):
    """function over items on all cores; the problems of all."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [problem for problems in pool.map(function, items) for problem in problems]


def check_format(paths):
    """Every file is as clang-format leaves it; './dev fmt' mends it."""
    command = ["clang-format", "--dry-run", "-Werror", *paths]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    unformatted = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error: code should be", run.stderr, re.MULTILINE)))
    if run.returncode != 0 and not unformatted:
        return [run.stderr]
    return [f"{path}: not formatted (./dev fmt)" for path in unformatted]


def first_include(text):
    match = INCLUDE.search(text)
    return match[1] if match else None


def proven_by_their_source(files):
    """The headers whose own .cpp or test includes them before anything else: compiling that shows they stand alone."""
    proven = set()
    for path, text in cpp_files(files).items():
        if path.endswith(".cpp"):
            header = path.removesuffix(".cpp").removesuffix("_test") + ".h"
            first = text.find("#include")
            if header in files and text[first:].startswith(f'#include "{header.removeprefix("src/")}"'):
                proven.add(header)
    return proven


def flags_for(header, commands):
    """The compile flags of the file that stands nearest: in the same folder, else the same layer, else any."""

    def nearness(path):
        return (os.path.dirname(path) == os.path.dirname(header), layer_of(path) == layer_of(header))

    words = shlex.split(commands[max(commands, key=nearness)]["command"])
    if launcher := [index for index, word in enumerate(words) if os.path.basename(word) == "ccache"]:
        words = words[launcher[0] + 1 :]
    stop = words.index("-o")
    return [word for word in words[:stop] if word != "-c"]


def compile_alone(header, flags):
    """Problems of a header included by nothing but an empty file."""
    command = [*flags, "-fsyntax-only", "-x", "c++", "-include", os.path.join(ROOT, header), "/dev/null"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [f"{header} does not compile alone:\n{run.stderr}"] if run.returncode else []


def check_headers_alone(files, commands):
    headers = [path for path in cpp_files(files) if path.endswith(".h")]
    unproven = sorted(set(headers) - proven_by_their_source(files))
    return parallel(lambda header: compile_alone(header, flags_for(header, commands)), unproven)


def changed_sources(commands):
    """The .cpp files touched by the working tree, then by the latest commits, newest first."""
    names = git("diff", "--name-only", "HEAD")
    names += git("log", f"-{CHANGED_COMMITS}", "--name-only", "--pretty=format:")
    return [name for name in dict.fromkeys(names) if name in commands]


def clang_tidy(path, build=BUILD):
    """What clang-tidy says of one file, with the checks of .clang-tidy."""
    command = ["clang-tidy", "--quiet", "-p", build, "--extra-arg=-w", "--warnings-as-errors=*", path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [run.stdout.strip() or run.stderr.strip()] if run.returncode else []


def check_clang_tidy(paths, budget_s):
    """Problems, and how many files were looked at before the budget ran out."""
    deadline = time.monotonic() + budget_s
    looked_at = []

    def one(path):
        if time.monotonic() > deadline:
            return []
        looked_at.append(path)
        return clang_tidy(path)

    return parallel(one, paths), len(looked_at)
