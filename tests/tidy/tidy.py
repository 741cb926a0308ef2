"""Checks of the source that need no compiler. Each takes the tree of files and returns a list of problems."""

import os
import re

from includes import INCLUDE
from tree import cpp_files

MAX_LINES = 800

# What has to come through a seam of src/runtime or src/fabric, so that a whole cluster can run on simulated time,
# randomness and networks (docs/map.md). A call with its own object in front (client.connect()) is not one of these.
AMBIGUOUS_SOCKET_CALLS = "socket|connect|bind|listen|accept|recv|send"
CLEAR_SOCKET_CALLS = (
    "socketpair|accept4|recvmsg|recvfrom|recvmmsg|sendmsg|sendto|sendmmsg|setsockopt|getsockopt"
)
RAW_CALLS = {
    "clock": re.compile(
        r"(?:system|steady|high_resolution)_clock::now"
        r"|\b(?:clock_gettime|gettimeofday|__rdtsc|std::time|usleep|nanosleep)\s*\("
        r"|\btime\s*\(\s*(?:NULL|nullptr|0)\s*\)|this_thread::sleep_|(?<![\w:])::(?:sleep|time)\s*\("
    ),
    "random": re.compile(
        r"std::random_device|std::default_random_engine"
        r"|(?<![\w.>:])(?:std::|::)?(?:rand|srand|drand48|getrandom|getentropy|arc4random)\s*\("
        r"|(?<![\w:])::random\s*\("
    ),
    "socket": re.compile(
        rf"(?<![\w:>])::(?:{AMBIGUOUS_SOCKET_CALLS}|{CLEAR_SOCKET_CALLS})\s*\("
        rf"|(?<![\w.>:])(?:{CLEAR_SOCKET_CALLS})\s*\(|(?<![\w.>:])socket\s*\(\s*(?:AF|PF)_"
    ),
}

# (path prefix or suffix, kinds, why it may call them directly)
ALLOWED_CALLS = [
    ("src/runtime/", "clock random socket", "is the seam"),
    ("src/fabric/", "socket", "is the seam"),
    ("src/base/log.cpp", "clock", "a log line carries the wall-clock time; nothing decides by it"),
    ("src/vhost/", "socket", "the vhost-user transport is a unix socket that passes descriptors"),
    ("src/rpc/", "socket", "the JSON-RPC server listens on a unix socket from a thread of its own"),
    ("src/client/", "socket clock", "blocking clients: no reactor, each call with a time-out"),
    ("src/control/", "socket", "the API server and its clients block on plain threads"),
    ("apps/", "clock random socket", "the two mains wire the real world in"),
    ("bench/", "clock random socket", "measures real time"),
    ("fuzz/", "socket", "plays the hostile end of a socket pair"),
    ("tests/", "clock random socket", "drives real peers in real time"),
    ("_test.cpp", "clock random socket", "drives real peers in real time"),
]

MARKS = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.*{}])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me)/")
CODE = (".cpp", ".h", ".py", ".sh", ".cmake")


def without_comments_and_strings(text):
    """The code alone, line numbers kept."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)
    return token.sub(lambda match: '""' + "\n" * match[0].count("\n"), text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def check_raw_calls(files):
    """Clock, randomness and sockets are called only where ALLOWED_CALLS says."""
    problems = []
    for path, text in cpp_files(files).items():
        allowed = set()
        for place, kinds, _ in ALLOWED_CALLS:
            if path.startswith(place) or (place.startswith("_") and path.endswith(place)):
                allowed |= set(kinds.split())
        code = without_comments_and_strings(text)
        for kind, pattern in RAW_CALLS.items():
            if kind in allowed:
                continue
            problems += [
                f"{path}:{line_of(code, match.start())}: raw {kind} call {match[0].strip()!r}: "
                "use the seam of src/runtime or src/fabric"
                for match in pattern.finditer(code)
            ]
    return problems


def check_marks(files):
    """No marks of unfinished work."""
    return [
        f"{path}:{line_of(text, match.start())}: {match[0]}"
        for path, text in files.items()
        for match in MARKS.finditer(text)
    ]


def check_lengths(files):
    """A code file over MAX_LINES is two things."""
    code = {path: text for path, text in files.items() if path.endswith(CODE) or path == "dev"}
    return [
        f"{path}: {text.count(chr(10))} lines; split it (limit {MAX_LINES})"
        for path, text in code.items()
        if text.count("\n") > MAX_LINES
    ]


def check_header_opening(files):
    """A header opens with a comment that says what it is, then `#pragma once`."""
    problems = []
    for path, text in cpp_files(files).items():
        if not path.endswith(".h"):
            continue
        lines = text.splitlines()
        code = [line for line in lines if line.strip() and not line.startswith("//")]
        if not lines or not lines[0].startswith("//"):
            problems.append(f"{path}:1: opens without a comment that says what it is")
        if not code or code[0].strip() != "#pragma once":
            problems.append(f"{path}: the first line after the comment is not #pragma once")
    return problems


def check_dead_headers(files):
    """Every header is included by some file other than its own unit test."""
    included = {}
    for path, text in cpp_files(files).items():
        for name in INCLUDE.findall(text):
            beside = os.path.normpath(os.path.join(os.path.dirname(path), name))
            for target in (f"src/{name}", name, beside):
                included.setdefault(target, set()).add(path)
    problems = []
    for path in cpp_files(files):
        if path.endswith(".h"):
            users = included.get(path, set()) - {path, path.removesuffix(".h") + "_test.cpp"}
            if not users:
                problems.append(f"{path}: nobody includes it")
    return problems


def check_dead_sources(files, compiled):
    """Every .cpp is in the compile database (fuzz targets are globbed into their own preset)."""
    sources = [path for path in cpp_files(files) if path.endswith(".cpp") and path not in compiled]
    return [f"{path}: no target compiles it" for path in sources if not re.fullmatch(r"fuzz/\w+_fuzz\.cpp", path)]


def check_machine_paths(files):
    """No path of one person's machine."""
    return [
        f"{path}:{line_of(text, match.start())}: machine path {text[match.start():match.start() + 24]!r}"
        for path, text in files.items()
        for match in MACHINE_PATHS.finditer(text)
    ]
