"""The project's text files as the checks see them: a dict of path (relative to the root) to text."""

import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CPP = (".cpp", ".h")


def git(*arguments):
    """The lines that a git command prints, run at the root."""
    command = ["git", "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def read_tree():
    """Every text file that is tracked, or new and not ignored."""
    files = {}
    for path in git("ls-files", "--cached", "--others", "--exclude-standard"):
        try:
            with open(os.path.join(ROOT, path), encoding="utf-8") as file:
                files[path] = file.read()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # binary, or deleted and not committed yet
    return files


def cpp_files(files):
    return {path: text for path, text in files.items() if path.endswith(CPP)}


def layer_of(path):
    """'raid' for src/raid/..., None outside src/."""
    parts = path.split("/")
    return parts[1] if parts[0] == "src" and len(parts) > 2 else None
