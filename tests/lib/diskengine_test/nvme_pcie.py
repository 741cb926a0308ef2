"""NVMe disks on the PCI bus of a guest, behind an IOMMU, for a data plane in the guest to drive by itself.

    guest = make_pcie_guest(test, rpc_ports=[port])
    add_nvme(guest, "NV1", [(path, 512)])
    guest.start()
    (address,) = nvme_addresses(guest)
    bind_vfio(guest, address)
    io = GuestDataPlane(test, guest, "io", port)
    io.rpc.bdev_nvme_attach_controller(name="NvmeDisk1", trtype="PCIe", traddr=address)
"""

from .guest import NETWORK_MODULES
from .process import program

MODULES = [*NETWORK_MODULES, "vfio_iommu_type1", "vfio-pci"]
MEMORY_MB = 1024


def add_iommu(guest):
    """The guest has an IOMMU, before any other device, and its kernel uses it."""
    iommu = ["-machine", "kernel-irqchip=split", "-device", "intel-iommu,intremap=on,caching-mode=on,aw-bits=48"]
    guest.qemu_args[:0] = iommu
    # On a loaded machine the kernel would find that its timer does not tick.
    guest.kernel_args += ["intel_iommu=on", "no_timer_check"]


def make_pcie_guest(test, rpc_ports=(), modules=(), programs=(), iommu=True, **options):
    """A guest, not started, with an IOMMU unless told otherwise. rpc_ports: of GuestDataPlanes in it."""
    guest = test.make_guest(
        modules=[*MODULES, *modules],
        programs=["socat", program("diskengine-io"), *programs],
        memory_mb=MEMORY_MB,
        cpus=2,
        **options,
    )
    if iommu:
        add_iommu(guest)
    guest.add_user_network(forwards=[(port, port) for port in rpc_ports])
    return guest


def add_nvme(guest, serial, disks, options="", bus=None):
    """A controller whose namespaces are these disks: (path, block size). bus: of a root port, to be unplugged from."""
    port = f",bus={bus}" if bus else ""
    guest.qemu_args += ["-device", f"nvme,id={serial},serial={serial}{port}{options}"]
    for number, (path, block_size) in enumerate(disks, 1):
        drive = f"{serial}-{number}"
        guest.qemu_args += ["-drive", f"if=none,id={drive},file={path},format=raw,cache=none"]
        blocks = f"logical_block_size={block_size},physical_block_size={block_size}"
        guest.qemu_args += ["-device", f"nvme-ns,bus={serial},drive={drive},nsid={number},{blocks}"]


def nvme_addresses(guest):
    """The PCI addresses of the NVMe controllers, in order."""
    return guest.run("cd /sys/bus/pci/devices; for d in *; do grep -q 0x010802 $d/class && echo $d; done; :").split()


def bind_vfio(guest, address):
    """Gives a device to vfio-pci, as docs/operating.md says."""
    guest.run(
        f"""
        set -e
        cd /sys/bus/pci/devices/{address}
        echo vfio-pci > driver_override
        [ ! -e driver ] || echo {address} > driver/unbind
        echo {address} > /sys/bus/pci/drivers_probe
        [ "$(basename $(readlink driver))" = vfio-pci ]
        """
    )
