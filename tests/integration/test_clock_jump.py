"""No wait is measured by the wall clock, which is set back and forth under a process."""

import os
import socket
import struct
import unittest

from diskengine_test import TestCase, program, scaled, wait_until

CLOCK_LIBRARY = program("../test/libclock_jump.so")


@unittest.skipUnless(scaled(1) == 1, "a sanitizer's runtime must be loaded first")
class ClockJump(TestCase):
    def test_connecting_to_a_database_that_says_nothing_ends_in_time_though_the_clock_is_set_back(self):
        clock = self.path("clock")
        with open(clock, "wb") as file:
            file.write(struct.pack("q", 0))
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        database = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=3"
        serve = self.start([program("diskengine"), "--api", self.path("api.sock"), "serve", "--db", database], "serve",
                           env={"LD_PRELOAD": CLOCK_LIBRARY, "DISKENGINE_CLOCK_FILE": clock})
        wait_until(lambda: os.path.exists(serve.log_path), 5, "serve to start")
        connection, _ = silent.accept()
        self.addCleanup(connection.close)
        connection.recv(8)  # it has begun, and waits for an answer
        with open(clock, "r+b") as file:
            file.write(struct.pack("q", -3600 * 10**9))
        connection.sendall(b"N")  # no TLS here; then nothing more
        serve.wait_for_output("waiting for the database", 10)
        self.assertIn("no answer from", serve.log())
        serve.kill()  # it would wait on
