"""Soft-RoCE in a guest, with our own data planes and Linux's NVMe/RDMA target and host in it.

    guest = start_rdma_guest(test, programs=["fio"])
    io = GuestDataPlane(test, guest, "io", port=5000)
    io.rpc.nvmf_create_transport(trtype="RDMA")
"""

import glob
import os

from .deadline import wait_until
from .guest import NETWORK_MODULES
from .process import program
from .rpc import RpcClient

ADDRESS = "10.0.2.15"  # of the guest's RDMA device
NVME_PORT = 4420
# rdma_rxe computes its checksums with crc32, which no module says it needs.
RDMA_MODULES = [*NETWORK_MODULES, "crc32_generic", "rdma_rxe", "rdma_ucm", "ib_uverbs"]
HOST_MODULES = ["nvme-rdma"]
TARGET_MODULES = ["nvmet-rdma", "brd"]
LIBRARY_DIR = "/usr/lib/x86_64-linux-gnu"
MEMORY_MB = 1024


def rdma_libraries():
    """What a program that speaks RDMA opens by itself: the two libraries and the provider of soft-RoCE."""
    provider = glob.glob(f"{LIBRARY_DIR}/libibverbs/librxe-rdmav*.so")
    return [f"{LIBRARY_DIR}/librdmacm.so.1", f"{LIBRARY_DIR}/libibverbs.so.1", *provider]


def make_rdma_guest(test, rpc_ports=(), modules=(), programs=(), **options):
    """A guest, not started, that has soft-RoCE once start_rdma was called. rpc_ports: of GuestDataPlanes in it."""
    guest = test.make_guest(
        modules=[*RDMA_MODULES, *modules],
        programs=["rdma", "socat", program("diskengine-io"), *programs],
        libraries=rdma_libraries(),
        files={"/etc/libibverbs.d/rxe.driver": "driver rxe\n"},
        memory_mb=MEMORY_MB,
        cpus=2,
        **options,
    )
    guest.add_user_network(forwards=[(port, port) for port in rpc_ports])
    return guest


def start_rdma(guest):
    """Makes the RDMA device rxe0 on eth0."""
    guest.run("rdma link add rxe0 type rxe netdev eth0 && rdma link")


def export_ram_disk(guest, nqn):
    """Makes the guest (with TARGET_MODULES, and RDMA started) an NVMe/RDMA target of /dev/ram0, open to any host."""
    guest.run(
        f"""
        set -e
        cd /sys/kernel/config/nvmet
        mkdir subsystems/{nqn} subsystems/{nqn}/namespaces/1 ports/1
        echo 1 > subsystems/{nqn}/attr_allow_any_host
        echo -n /dev/ram0 > subsystems/{nqn}/namespaces/1/device_path
        echo 1 > subsystems/{nqn}/namespaces/1/enable
        cd ports/1
        echo rdma > addr_trtype; echo ipv4 > addr_adrfam; echo {ADDRESS} > addr_traddr; echo {NVME_PORT} > addr_trsvcid
        ln -s /sys/kernel/config/nvmet/subsystems/{nqn} subsystems/
        """
    )


class GuestDataPlane:
    """A diskengine-io inside the guest, whose RPC socket is carried out over a forwarded port."""

    def __init__(self, test, guest, name, port, core_mask="0x1", arguments=""):
        self.guest = guest
        self.name = name
        socket = f"/tmp/{name}.sock"
        self.running = guest.begin(
            f"ulimit -l unlimited; echo $$ > /tmp/{name}.pid;"
            f" exec /bin/diskengine-io -r {socket} -S /tmp -m {core_mask} {arguments} >> /tmp/{name}.log 2>&1"
        )
        self.rpc_path = test.path(f"{name}.sock")
        if not os.path.exists(self.rpc_path):  # the way out outlives a data plane that is killed
            guest.begin(f"/bin/socat TCP-LISTEN:{port},fork,reuseaddr UNIX-CONNECT:{socket}")
            test.start(["socat", f"UNIX-LISTEN:{self.rpc_path},fork", f"TCP:127.0.0.1:{port}"], f"{name}.socat")
        self.rpc = RpcClient(self.rpc_path)
        wait_until(self.answers, 30, f"{name} to answer in the guest")

    def answers(self):
        try:
            return self.rpc.call("spdk_get_version")
        except (OSError, ValueError):
            self.rpc.close()
            return None

    def log(self):
        return self.guest.run(f"cat /tmp/{self.name}.log")

    def kill(self):
        """SIGKILL, as a crash would."""
        self.rpc.close()
        self.guest.run(f"kill -9 $(cat /tmp/{self.name}.pid)")
        self.guest.finish(self.running, check=False)

    def stop(self):
        """SIGTERM; returns the exit code."""
        self.rpc.close()
        self.guest.run(f"kill $(cat /tmp/{self.name}.pid)")
        code, _ = self.guest.finish(self.running, check=False)
        return code
