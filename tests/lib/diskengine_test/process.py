"""Processes under test: started with their output in a file, always ended, their exit judged."""

import ctypes
import os
import signal
import subprocess

from .deadline import scaled, wait_until
from .rpc import RpcClient

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
READY_TIMEOUT_S = 15
STOP_TIMEOUT_S = 15
LOG_TAIL_BYTES = 6000
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def program(name):
    """The path of one of our programs. DISKENGINE_BIN_DIR chooses the build; the default is release."""
    return os.path.join(os.environ.get("DISKENGINE_BIN_DIR", os.path.join(ROOT, "build/release/bin")), name)


class ProcessFailed(Exception):
    """A process under test ended when it should not have, or ended badly."""


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One child process. Its stdout and stderr go to log_path."""

    EXIT_CODES_ON_SIGTERM = (0, -signal.SIGTERM, 128 + signal.SIGTERM)

    def __init__(self, arguments, log_path, env=None):
        self.arguments = arguments
        self.log_path = log_path
        self.judged = False  # someone has looked at the exit code
        with open(log_path, "ab") as log:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self):
        return self._child.pid

    def exit_code(self):
        """The exit code (negative: the signal), or None while it runs."""
        return self._child.poll()

    def log(self):
        with open(self.log_path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    def fail(self, what):
        raise ProcessFailed(f"{os.path.basename(self.arguments[0])} (pid {self.pid}) {what}; its output:\n{self.log()}")

    def wait_for_output(self, text, timeout_s=READY_TIMEOUT_S):
        """Waits until the text is in the output; fails at once when the process ends without it."""

        def seen():
            found = text in self.log()
            if not found and self.exit_code() is not None:
                self.fail(f"ended with {self.exit_code()} before printing {text!r}")
            return found

        wait_until(seen, timeout_s, f"{text!r} in {self.log_path}")

    def wait(self, timeout_s=STOP_TIMEOUT_S):
        """Waits for the process to end by itself and returns its exit code."""
        self.judged = True
        try:
            return self._child.wait(scaled(timeout_s))
        except subprocess.TimeoutExpired:
            self.kill()
            self.fail(f"still ran after {scaled(timeout_s):.0f} s")

    def terminate(self, timeout_s=STOP_TIMEOUT_S):
        """SIGTERM; the process must end within the time, and well."""
        if self.exit_code() is None:
            self._child.send_signal(signal.SIGTERM)
        code = self.wait(timeout_s)
        if code not in self.EXIT_CODES_ON_SIGTERM:
            self.fail(f"ended with {code} on SIGTERM")

    def kill(self):
        """SIGKILL, as a crash would; never fails."""
        self.judged = True
        if self.exit_code() is None:
            self._child.kill()
        self._child.wait()

    def signal(self, number):
        self._child.send_signal(number)


class DataPlane(Process):
    """One diskengine-io. `directory` holds its RPC socket, its vhost sockets and its log."""

    EXIT_CODES_ON_SIGTERM = (0,)

    def __init__(self, directory, name="io", core_mask="0x1", extra_arguments=(), env=None, wait_ready=True, prefix=()):
        """`prefix` is a command that becomes the program, such as nsenter."""
        self.directory = directory
        self.name = name
        self.rpc_path = os.path.join(directory, f"{name}.sock")
        self.vhost_dir = os.path.join(directory, f"{name}.vhost")
        os.makedirs(self.vhost_dir, exist_ok=True)
        arguments = [*prefix, program("diskengine-io"), "-r", self.rpc_path, "-S", self.vhost_dir]
        if core_mask is not None:  # None: one reactor on any core
            arguments += ["-m", core_mask]
        super().__init__([*arguments, *extra_arguments], os.path.join(directory, f"{name}.log"), env)
        self.rpc = RpcClient(self.rpc_path)
        if wait_ready:
            self.wait_ready()

    def wait_ready(self, timeout_s=READY_TIMEOUT_S):
        """Ready means that the RPC socket answers."""

        def answers():
            if self.exit_code() is not None:
                return "ended"
            try:
                self.rpc.call("spdk_get_version")
                return "ready"
            except OSError:
                self.rpc.close()
                return None

        if wait_until(answers, timeout_s, f"{self.name} to answer on {self.rpc_path}") == "ended":
            self.fail(f"ended with {self.exit_code()} before it was ready")

    def vhost_socket(self, controller):
        return os.path.join(self.vhost_dir, controller)

    def terminate(self, timeout_s=STOP_TIMEOUT_S):
        self.rpc.close()
        super().terminate(timeout_s)

    def kill(self):
        self.rpc.close()
        super().kill()
