"""A real Linux guest in QEMU: boots in seconds under software emulation, takes commands, shows its console.

    guest = Guest(directory, modules=BLOCK_MODULES, programs=["fio"])
    guest.add_vhost_user_disk(socket_path)
    guest.start()
    guest.run("fio --name=v --filename=/dev/vda ...", timeout_s=60)
    guest.stop()

Inside a TestCase use start_guest(), which also ends it. One thread at a time.
"""

import base64
import os
import socket
import time

from .accelerator import QEMU, accelerator
from .deadline import scaled, wait_until
from .initramfs import initramfs
from .kernel import kernel_image
from .process import LOG_TAIL_BYTES, Process

# Modules of Debian's kernel, by what a test needs in the guest.
BLOCK_MODULES = ["virtio_pci", "virtio_blk"]
NETWORK_MODULES = ["virtio_pci", "virtio_net"]
NVME_TCP_MODULES = ["crc32c_generic", "nvme-tcp"]
NVMET_TCP_MODULES = ["crc32c_generic", "nvmet-tcp", "brd"]
EXT4_MODULES = ["crc32c_generic", "ext4"]

BOOT_TIMEOUT_S = 90
COMMAND_TIMEOUT_S = 60
HOST_ID = "6f9d1c52-0c0c-4d2a-9a67-0d6b1f0a7e11"
RECV_BYTES = 65536


class GuestCommandFailed(AssertionError):
    """A command in the guest ended with another code than 0."""


class Guest:
    def __init__(
        self, directory, name="guest", modules=(), programs=(), files=None, memory_mb=512, cpus=1, qemu_args=(),
        libraries=(),
    ):
        self.directory = directory
        self.name = name
        self.memory_mb = memory_mb
        self.cpus = cpus
        self.modules = list(modules)
        self.programs = list(programs)
        self.files = dict(files or {})
        self.libraries = list(libraries)  # opened by programs themselves, so not seen by ldd
        self.qemu_args = list(qemu_args)
        self.kernel_args = []
        self.process = None
        self.boot_s = None
        self._port = None
        self._received = b""
        self._answers = {}
        self._next_id = 1
        if "nvme" in self.programs:  # nvme-cli refuses to connect without a host identity
            self.files.setdefault("/etc/nvme/hostnqn", f"nqn.2014-08.org.nvmexpress:uuid:{HOST_ID}\n")
            self.files.setdefault("/etc/nvme/hostid", f"{HOST_ID}\n")

    def add_vhost_user_disk(self, socket_path, queues=1, reconnect_s=1):
        """A virtio-blk disk served on a vhost-user socket; the first one is /dev/vda."""
        number = sum(argument.startswith("vhost-user-blk-pci") for argument in self.qemu_args)
        chardev = f"socket,id=vhost{number},path={socket_path}" + (f",reconnect={reconnect_s}" if reconnect_s else "")
        device = f"vhost-user-blk-pci,chardev=vhost{number},num-queues={queues}"
        self.qemu_args += ["-chardev", chardev, "-device", device]

    def add_user_network(self, forwards=()):
        """eth0 is 10.0.2.15; the host's loopback is 10.0.2.2. forwards: (host port, guest port) of 127.0.0.1."""
        extra = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in forwards)
        self.qemu_args += ["-netdev", f"user,id=net0{extra}", "-device", "virtio-net-pci,netdev=net0"]

    def _command(self, kernel, image):
        memory = f"memory-backend-memfd,id=memory,size={self.memory_mb}M,share=on"  # vhost-user needs it shared
        return [
            QEMU, "-M", "q35,memory-backend=memory", *accelerator(), "-smp", str(self.cpus), "-m", str(self.memory_mb),
            "-object", memory, "-kernel", kernel, "-initrd", image, "-nodefaults", "-display", "none", "-no-reboot",
            "-append", " ".join(["console=ttyS0 quiet mitigations=off panic=-1", *self.kernel_args]),
            "-serial", f"file:{self._console_path}", "-serial", f"unix:{self._port_path},server=on,wait=off",
            *self.qemu_args,
        ]  # fmt: skip

    def start(self, wait_ready=True):
        kernel, version = kernel_image()
        image = initramfs(version, self.modules, self.programs, self.files, self.libraries)
        self._console_path = os.path.join(self.directory, f"{self.name}.console")
        self._port_path = os.path.join(self.directory, f"{self.name}.port")
        started = time.monotonic()
        self.process = Process(self._command(kernel, image), os.path.join(self.directory, f"{self.name}.log"))
        if wait_ready:
            self.wait_ready()
            self.boot_s = time.monotonic() - started
        return self

    def wait_ready(self, timeout_s=BOOT_TIMEOUT_S):
        """Until the guest takes commands."""

        def connected():
            if self.process.exit_code() is not None:
                return True
            try:
                self._port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._port.connect(self._port_path)
                return True
            except OSError:
                self._port.close()
                return False

        wait_until(connected, timeout_s, f"{QEMU} to open {self._port_path}")
        self._await("READY", timeout_s)

    def console(self):
        """What the guest's kernel and programs wrote to the console so far."""
        try:
            with open(self._console_path, "rb") as file:
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_for(self, text, timeout_s=COMMAND_TIMEOUT_S):
        """Until the text is on the console."""
        what = f"{text!r} on the console of {self.name}"
        wait_until(lambda: self._alive() and text in self.console(), timeout_s, what)

    def begin(self, command):
        """Starts a shell command in the guest; finish() waits for it. Any number may run at once."""
        number = str(self._next_id)
        self._next_id += 1
        self._port.sendall(f"{number} {base64.b64encode(command.encode()).decode()}\n".encode())
        return number, command

    def finish(self, begun, timeout_s=COMMAND_TIMEOUT_S, check=True):
        """The output of a begun command; with check=False (exit code, output)."""
        number, command = begun
        code, output = self._await(number, timeout_s, command)
        if not check:
            return code, output
        if code != 0:
            raise GuestCommandFailed(f"in {self.name}: {command!r} ended with {code}:\n{output}\n{self._tail()}")
        return output

    def done(self, begun):
        """True when finish() would return at once."""
        self._receive(0)
        return begun[0] in self._answers

    def run(self, command, timeout_s=COMMAND_TIMEOUT_S, check=True):
        return self.finish(self.begin(command), timeout_s, check)

    def power_off(self, timeout_s=COMMAND_TIMEOUT_S):
        """Orderly: the guest syncs and powers off, QEMU ends."""
        self.begin("sync; poweroff -f")
        self.process.wait(timeout_s)
        self._close()

    def stop(self):
        """At once; a guest that already ended is fine."""
        self._close()
        if self.process is not None:
            self.process.terminate()

    def kill(self):
        self._close()
        if self.process is not None:
            self.process.kill()

    def _close(self):
        if self._port is not None:
            self._port.close()
            self._port = None

    def _alive(self):
        if self.process.exit_code() is not None:
            self.process.fail(f"ended with {self.process.exit_code()}\n{self._tail()}")
        return True

    def _tail(self):
        return f"console of {self.name}:\n{self.console()[-LOG_TAIL_BYTES:]}"

    def _receive(self, timeout_s):
        """Takes what came within the time and files the complete lines by their first word."""
        self._port.settimeout(timeout_s or 0.001)
        try:
            chunk = self._port.recv(RECV_BYTES)
        except TimeoutError:
            return
        if not chunk:
            self._alive()
            time.sleep(0.05)
        *lines, self._received = (self._received + chunk).split(b"\n")
        for line in lines:
            words = line.decode(errors="replace").split()
            if len(words) >= 2 and words[0].isdigit():
                output = base64.b64decode(words[2]).decode(errors="replace") if len(words) > 2 else ""
                self._answers[words[0]] = (int(words[1]), output)
            elif words[:1] == ["READY"]:
                self._answers["READY"] = words[1]

    def _await(self, key, timeout_s, what="boot"):
        deadline = time.monotonic() + scaled(timeout_s)
        while key not in self._answers:
            self._alive()
            if time.monotonic() > deadline:
                waited = f"{self.name}: after {scaled(timeout_s):.0f} s still waiting for {what!r}"
                raise TimeoutError(f"{waited}\n{self._tail()}")
            self._receive(0.2)
        return self._answers.pop(key)
