"""The guest's kernel: Debian's own, unpacked once to an ELF image, which boots in half the time of the bzImage."""

import glob
import gzip
import lzma
import os
import re
import struct
import subprocess

from .process import ROOT

CACHE = os.path.join(ROOT, "build", "vm")

# Offsets in the setup header of a bzImage (Documentation/arch/x86/boot.rst of Linux).
SETUP_SECTORS_OFFSET = 0x1F1
PAYLOAD_OFFSET_OFFSET = 0x248
PAYLOAD_LENGTH_OFFSET = 0x24C
SECTOR_BYTES = 512


def kernel_version():
    """The newest kernel in /boot whose modules are installed too."""
    versions = [path.removeprefix("/boot/vmlinuz-") for path in glob.glob("/boot/vmlinuz-*")]
    versions = [version for version in versions if os.path.isdir(f"/lib/modules/{version}")]
    if not versions:
        raise FileNotFoundError("no /boot/vmlinuz-* with its modules: ./dev setup installs linux-image-amd64")
    return max(versions, key=lambda version: [int(number) for number in re.findall(r"\d+", version)])


def write_atomically(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = f"{path}.{os.getpid()}"
    with open(partial, "wb") as file:
        file.write(data)
    os.rename(partial, path)


def unpack(image):
    """The ELF kernel inside a bzImage."""
    setup_sectors = image[SETUP_SECTORS_OFFSET] or 4
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET_OFFSET)
    start = (setup_sectors + 1) * SECTOR_BYTES + offset
    payload = image[start : start + length]
    if payload.startswith(b"\xfd7zXZ"):
        elf = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        elf = gzip.decompress(payload[:-4])  # four bytes of size follow the stream
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        # The size that follows the stream makes zstd complain after it has written everything.
        elf = subprocess.run(["zstd", "-dcq"], input=payload, capture_output=True, check=False).stdout
    else:
        raise ValueError(f"unknown compression of the kernel: starts with {payload[:6].hex()}")
    if not elf.startswith(b"\x7fELF"):
        raise ValueError("the kernel image does not hold an ELF kernel")
    return elf


def kernel_image():
    """(path of the unpacked kernel, its version); unpacked on first use."""
    version = kernel_version()
    path = os.path.join(CACHE, f"vmlinux-{version}")
    if not os.path.exists(path):
        with open(f"/boot/vmlinuz-{version}", "rb") as file:
            write_atomically(path, unpack(file.read()))
    return path, version
