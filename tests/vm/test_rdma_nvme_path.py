"""The whole path of a write as it is meant to run: a vhost-user front end, a mirror, NVMe over RDMA, a lvol, and an NVMe
disk on the PCI bus that the data plane drives by itself. What was written is looked for on the media, from outside."""

import json
import struct

from diskengine_test import TestCase, program, wait_until
from diskengine_test.nvme_pcie import MODULES as PCIE_MODULES
from diskengine_test.nvme_pcie import add_iommu, add_nvme, bind_vfio, nvme_addresses
from diskengine_test.rdma import GuestDataPlane, make_rdma_guest

DISK_BYTES = 96 << 20
LVOL_MIB = 32
BLOCKS = 1024
BLOCK_BYTES = 4096
PORT = 4420
LOSS_TIMEOUT_S = 3
MARK = struct.Struct("<QQQQ")


def nqn(node):
    return f"nqn.2024-01.io.diskengine:volume1:{node}"


class Storage:
    """A storage node's data plane: for each disk that QEMU keeps in a file a lvol store, a lvol, and its export over
    RDMA. The first replica's number is `node`."""

    def __init__(self, test, guest, node, rpc_port, address):
        self.io = GuestDataPlane(test, guest, f"storage{node}", rpc_port)
        self.io.rpc.nvmf_create_transport(trtype="RDMA", max_srq_depth=512)
        self.replicas = []  # number and address
        for replica, disk in enumerate(nvme_addresses(guest), node):
            bind_vfio(guest, disk)
            self.export(replica, disk, address)

    def direct_requests(self):
        """Requests of the disks whose data they moved to and from where it was."""
        groups = self.io.rpc.bdev_nvme_get_transport_statistics()["poll_groups"]
        return sum(transport.get("direct_requests", 0) for group in groups for transport in group["transports"])

    def export(self, replica, disk, address):
        rpc = self.io.rpc
        (bdev,) = rpc.bdev_nvme_attach_controller(name=f"NvmeDisk{replica}", trtype="PCIe", traddr=disk)
        store = f"lvs{replica}"
        rpc.bdev_lvol_create_lvstore(bdev_name=bdev, lvs_name=store, cluster_sz=1 << 20)
        lvol = rpc.bdev_lvol_create(lvs_name=store, lvol_name="volume1", size_in_mib=LVOL_MIB, thin_provision=True)
        rpc.nvmf_create_subsystem(nqn=nqn(replica), allow_any_host=True, serial_number=f"DE{replica}")
        rpc.nvmf_subsystem_add_ns(nqn=nqn(replica), namespace={"bdev_name": lvol})
        listener = {"trtype": "RDMA", "adrfam": "IPv4", "traddr": address, "trsvcid": str(PORT)}
        rpc.nvmf_subsystem_add_listener(nqn=nqn(replica), listen_address=listener)
        self.replicas.append((replica, address))


class Compute:
    """The compute node's data plane: a connection to each storage node, a mirror over them, a vhost controller."""

    def __init__(self, io, storages):
        self.io = io
        bases = [
            io.rpc.bdev_nvme_attach_controller(
                name=f"replica{replica}", trtype="RDMA", adrfam="IPv4", traddr=address, trsvcid=str(PORT),
                subnqn=nqn(replica), ctrlr_loss_timeout_sec=LOSS_TIMEOUT_S, reconnect_delay_sec=1,
            )[0]
            for storage in storages
            for replica, address in storage.replicas
        ]  # fmt: skip
        io.rpc.bdev_raid_create(name="raid_1", raid_level="raid1", base_bdevs=bases)
        io.rpc.vhost_create_blk_controller(ctrlr="vhost1", dev_name="raid_1")

    def legs(self):
        (raid,) = self.io.rpc.bdev_raid_get_bdevs(category="all")
        return [base["name"] for base in raid["base_bdevs_list"] if base["is_configured"]]


class RdmaNvmePath(TestCase):
    TEST_TIMEOUT_S = 420

    def link(self, guest, number, side, server):
        """One end of the wire between the compute node and storage node `number`; returns its address."""
        wire = f"stream,id=wire{number},server={'on' if server else 'off'},addr.type=unix,addr.path={self.path(f'wire{number}')}"
        mac = f"52:54:00:00:0{number}:0{side}"
        guest.qemu_args += ["-netdev", wire, "-device", f"virtio-net-pci,netdev=wire{number},mac={mac}"]
        return f"10.9.{number}.{side}"

    def start_rdma(self, guest, interface, address):
        guest.run(
            f"""
            set -e
            ip link set {interface} up
            ip addr add {address}/24 dev {interface}
            rdma link add rxe-{interface} type rxe netdev {interface}
            """
        )

    def boot_three(self, media):
        """A compute node and two storage nodes, a wire to each; returns the guests and the nodes."""
        ports = [self.free_port() for _ in range(3)]
        compute = make_rdma_guest(self, ports[:1], (), [program("vhost_verify")], name="compute")
        guests = [compute]
        addresses = []
        for number, path in enumerate(media, 1):
            guest = make_rdma_guest(self, [ports[number]], PCIE_MODULES, name=f"storage{number}")
            add_iommu(guest)
            add_nvme(guest, f"NV{number}", [(path, 512)])
            addresses.append((self.link(compute, number, 1, True), self.link(guest, number, 2, False)))
            guests.append(guest)
        for guest in guests:  # the compute node first: it is the server of the wires
            guest.start()
        storages = []
        for number, (near, far) in enumerate(addresses, 1):
            self.start_rdma(compute, f"eth{number}", near)
            self.start_rdma(guests[number], "eth1", far)
            storages.append(Storage(self, guests[number], number, ports[number], far))
        return guests, Compute(GuestDataPlane(self, compute, "io", ports[0]), storages), storages

    def verify(self, guest, seed, passes=1, timeout_s=120, read_only=False):
        command = f"/bin/vhost_verify --socket /tmp/vhost1 --seed {seed} --blocks {BLOCKS} --passes {passes}"
        return guest.begin(command + (" --read-only" if read_only else "")), passes, timeout_s

    def verified(self, guest, begun):
        """Every request completed at the top, and what was read back is what was written."""
        command, passes, timeout_s = begun
        outcome = json.loads(guest.finish(command, timeout_s))
        self.assertEqual((outcome["errors"], outcome["wrong"]), (0, 0))
        self.assertEqual(outcome["completions"], BLOCKS * (passes + 1))

    def on_media(self, path, seed, passes):
        """The numbers of the marked blocks of the last pass in the file that is the disk."""
        found = set()
        with open(path, "rb") as media:
            while block := media.read(BLOCK_BYTES):
                mark = MARK.unpack_from(block)
                if mark[0] == seed and mark[2] == passes and block == block[: MARK.size] * (BLOCK_BYTES // MARK.size):
                    found.add(mark[1])
        return found

    def test_a_write_goes_from_the_front_end_to_the_nvme_disks_and_back(self):
        media = [self.make_file(f"disk{number}", DISK_BYTES) for number in (1, 2)]
        ports = [self.free_port(), self.free_port()]
        guest = make_rdma_guest(self, ports, PCIE_MODULES, [program("vhost_verify")])
        add_iommu(guest)
        for number, path in enumerate(media, 1):
            add_nvme(guest, f"NV{number}", [(path, 512)])
        guest.start()
        guest.run("rdma link add rxe0 type rxe netdev eth0")
        storage = Storage(self, guest, 1, ports[0], "10.0.2.15")
        compute = Compute(GuestDataPlane(self, guest, "compute", ports[1], "0x2"), [storage])
        self.verified(guest, self.verify(guest, seed=0x5EED0001))
        for path in media:
            self.assertEqual(self.on_media(path, 0x5EED0001, 1), set(range(BLOCKS)))
        # The disks fetched from the target's buffers and filled them: both copies of each block, and what was read back.
        self.assertGreater(storage.direct_requests(), 2 * BLOCKS)
        self.assertEqual((compute.io.stop(), storage.io.stop()), (0, 0), compute.io.log() + storage.io.log())
        guest.power_off()

    def test_a_storage_guest_dies_under_writes_and_nothing_is_lost(self):
        media = [self.make_file(f"disk{number}", DISK_BYTES) for number in (1, 2)]
        guests, compute, storages = self.boot_three(media)
        front = guests[0]
        self.verified(front, self.verify(front, seed=0x5EED0002))
        for path in media:
            self.assertEqual(self.on_media(path, 0x5EED0002, 1), set(range(BLOCKS)))
        passes = 16
        writing = self.verify(front, seed=0x5EED0003, passes=passes, timeout_s=240)
        wait_until(lambda: self.on_media(media[0], 0x5EED0003, 2), 60, "the second pass to reach the disks")
        guests[1].kill()
        self.assertFalse(front.done(writing[0]), "everything was written before the node died")
        self.verified(front, writing)
        self.assertEqual(compute.legs(), ["replica2n1"])
        self.assertEqual(self.on_media(media[1], 0x5EED0003, passes), set(range(BLOCKS)))
        self.assertNotEqual(self.on_media(media[0], 0x5EED0003, passes), set(range(BLOCKS)))
        self.assertEqual((compute.io.stop(), storages[1].io.stop()), (0, 0), compute.io.log())
        for guest in (guests[0], guests[2]):
            guest.power_off()
