"""Linux's own NVMe/TCP target and host in a guest."""

from .guest import NETWORK_MODULES, NVME_TCP_MODULES, NVMET_TCP_MODULES

TARGET_MODULES = [*NETWORK_MODULES, *NVMET_TCP_MODULES]
HOST_MODULES = [*NETWORK_MODULES, *NVME_TCP_MODULES]
GUEST_PORT = 4420
HOST_LOOPBACK = "10.0.2.2"  # how a guest reaches the machine it runs on


def export_ram_disk(guest, nqn, device="/dev/ram0"):
    """Makes the guest (with TARGET_MODULES) an NVMe/TCP target of one namespace, open to any host."""
    guest.run(
        f"""
        set -e
        cd /sys/kernel/config/nvmet
        mkdir subsystems/{nqn} subsystems/{nqn}/namespaces/1 ports/1
        echo 1 > subsystems/{nqn}/attr_allow_any_host
        echo -n {device} > subsystems/{nqn}/namespaces/1/device_path
        echo 1 > subsystems/{nqn}/namespaces/1/enable
        cd ports/1
        echo tcp > addr_trtype; echo ipv4 > addr_adrfam; echo 0.0.0.0 > addr_traddr; echo {GUEST_PORT} > addr_trsvcid
        ln -s /sys/kernel/config/nvmet/subsystems/{nqn} subsystems/
        """
    )


def discover(guest, port):
    """What `nvme discover` prints."""
    return guest.run(f"/bin/nvme discover -t tcp -a {HOST_LOOPBACK} -s {port}")


def connect(guest, port, nqn, options="", check=True):
    """Connects the guest (with HOST_MODULES and nvme-cli) and waits for /dev/nvme0n1."""
    command = f"/bin/nvme connect -t tcp -a {HOST_LOOPBACK} -s {port} -n {nqn} {options}"
    wait = "for i in $(seq 40); do [ -b /dev/nvme0n1 ] && exit 0; sleep 0.25; done; echo no namespace; exit 1"
    return guest.run(f"{command} || exit 1; {wait}", check=check)


def disconnect(guest, nqn):
    guest.run(f"/bin/nvme disconnect -n {nqn}")
