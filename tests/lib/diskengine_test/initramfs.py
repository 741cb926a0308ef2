"""The guest's root file system: busybox, kernel modules, host programs with their libraries, and guest_init.sh."""

import glob
import hashlib
import os
import re
import shutil
import stat
import subprocess

from .kernel import CACHE, write_atomically

BUSYBOX = "/bin/busybox"
INIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest_init.sh")
MAX_CACHED = 8
FORMAT = 1  # raise it when the same inputs give another archive


class Archive:
    """A cpio archive in the 'newc' format, as the kernel unpacks it (driver-api/early-userspace/buffer-format)."""

    def __init__(self):
        self._parts = []
        self._inode = 0
        self._names = set()

    def _entry(self, name, mode, data=b"", device=(0, 0)):
        name = name.strip("/")
        if name in self._names:
            return
        parent = os.path.dirname(name)
        if parent:
            self._entry(parent, stat.S_IFDIR | 0o755)
        self._names.add(name)
        self._inode += 1
        fields = [self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        self._parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]

    def directory(self, name):
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name, data, mode=0o755):
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name, target):
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name, major, minor):
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def bytes(self):
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def module_files(modules, version):
    """The files of the modules and of what they need, in the order to load them."""
    files = []
    for module in modules:
        shown = subprocess.run(
            ["modprobe", "-S", version, "--show-depends", "--ignore-install", module],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": os.environ["PATH"] + ":/sbin:/usr/sbin"},
        )
        if shown.returncode != 0:
            raise FileNotFoundError(f"kernel {version} has no module {module}: {shown.stderr.strip()}")
        files += re.findall(r"^insmod (\S+)", shown.stdout, re.MULTILINE)
    return list(dict.fromkeys(files))


def find_program(name):
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{name} is not on this machine; is its package in packages.txt?")
    return path


def libraries_of(program):
    """The shared libraries a program needs, the loader among them."""
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return re.findall(r"(/\S+\.so\S*)", shown.stdout)


def unpack_module(path):
    for suffix, tool in ((".xz", "xz"), (".zst", "zstd"), (".gz", "gzip")):
        if path.endswith(suffix):
            return subprocess.run([tool, "-dcq", path], check=True, capture_output=True).stdout
    return read(path)


def build(modules, programs, libraries, files):
    archive = Archive()
    for name in ("bin", "dev", "etc", "lib/modules", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("init", read(INIT))
    for path in programs:
        archive.file(f"bin/{os.path.basename(path)}", read(path))
    archive.file("bin/busybox", read(BUSYBOX))
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        archive.link(f"bin/{applet}", "busybox")
    for path in libraries:
        archive.file(path, read(path))
    order = []
    for path in modules:
        name = re.sub(r"\.(xz|zst|gz)$", "", os.path.basename(path))
        archive.file(f"lib/modules/{name}", unpack_module(path), 0o644)
        order.append(name)
    archive.file("lib/modules/order", "".join(f"{name}\n" for name in order).encode(), 0o644)
    for name, data in files.items():
        archive.file(name, data.encode() if isinstance(data, str) else data)
    return archive.bytes()


def initramfs(version, modules=(), programs=(), files=None, libraries=()):
    """The path of an initramfs with these kernel modules, host programs (by name or path), files {path: content}, and
    shared libraries (by path) that a program opens by itself, each with what it needs.

    Built once for each set of inputs and kept in build/vm/.
    """
    files = files or {}
    module_paths = module_files(modules, version)
    program_paths = [find_program(name) for name in programs]
    needed = {library for path in [*program_paths, *libraries] for library in libraries_of(path)}
    libraries = sorted({*libraries, *needed})

    key = hashlib.sha256(repr((FORMAT, version, sorted(files.items()), os.environ.get("PATH"))).encode())
    for path in [*module_paths, *program_paths, *libraries, INIT, BUSYBOX]:
        state = os.stat(path)
        key.update(repr((path, state.st_size, state.st_mtime_ns)).encode())
    image = os.path.join(CACHE, f"initramfs-{key.hexdigest()[:16]}.cpio")
    if os.path.exists(image):
        os.utime(image)
    else:
        write_atomically(image, build(module_paths, program_paths, libraries, files))
        cached = sorted(glob.glob(os.path.join(CACHE, "initramfs-*.cpio")), key=os.path.getmtime)
        for old in cached[:-MAX_CACHED]:
            os.unlink(old)
    return image
