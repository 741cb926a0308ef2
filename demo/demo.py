#!/usr/bin/env python3
"""One write of a real guest, followed down to its two replicas; then a storage node dies and comes back.

'./dev demo' runs it. It needs no root, takes about a minute, works in a directory of its own under /tmp, and leaves
neither a process nor a file behind. It exits with 0 only if everything it says was seen to be so.
"""

import hashlib
import json
import os
import sys
import time

from cluster import COMPUTE_NODE, STORAGE_NODES, Blobstore, Cluster

VOLUME = "demo"
VOLUME_SIZE = "256MiB"
BLOCK_BYTES = 4096
WITNESS_BLOCK = 4242
CHUNK_BYTES = 1 << 20
FIO = "/bin/fio --name=demo --filename=/dev/vda --ioengine=libaio --direct=1 --bs=4k --output-format=json"
LOST_NODE = STORAGE_NODES[1]


def step(text):
    print(f"\n== {text}", flush=True)


def say(text):
    print(f"  {text}", flush=True)


def check(holds, text):
    """Says that something was seen, or ends the demo."""
    if not holds:
        raise RuntimeError(f"this does not hold: {text}")
    say(f"ok: {text}")


def fio_job(output):
    """The job's part of fio's JSON, which may follow warnings."""
    return json.loads(output[output.index("{") :])["jobs"][0]


class Replica:
    """What a stranger sees of one replica: an lvol in the file of its storage node's disk, in SPDK's format."""

    def __init__(self, description):
        self.node = description["node"]
        self.disk_file = description["disk_path"]
        self.lvol_name = description["lvol_alias"].split("/")[1]
        self.name = f"lvol {description['lvol'][:8]}"
        self.base_bdev = description["base_bdev"]
        self.data_offset_bytes = 0

    def read(self, offset_bytes, length):
        return self.lvol().read(self.data_offset_bytes + offset_bytes, length)

    def lvol(self):
        return Blobstore(self.disk_file).lvol(self.lvol_name)

    def digest(self, size_bytes):
        """SHA-256 of the volume's data on this replica."""
        sha = hashlib.sha256()
        lvol = self.lvol()
        for offset in range(0, size_bytes, CHUNK_BYTES):
            sha.update(lvol.read(self.data_offset_bytes + offset, min(CHUNK_BYTES, size_bytes - offset)))
        return sha.hexdigest()


class Demo:
    def __init__(self, cluster):
        self.cluster = cluster
        self.replicas = []
        self.picture = ""

    def run(self):
        self.build()
        self.boot()
        self.write_once()
        self.measure()
        self.lose_a_node()
        self.bring_it_back()
        self.compare()
        self.clean_up()

    def compute_rpc(self):
        return self.cluster.data_planes[COMPUTE_NODE].rpc

    def build(self):
        step("Two storage nodes, a compute node and the control plane start")
        for node in (*STORAGE_NODES, COMPUTE_NODE):
            self.cluster.start_data_plane(node)
        self.cluster.start_control_plane()
        for node in STORAGE_NODES:
            self.cluster.cli("disk", "add", "--node", node, "--path", self.cluster.make_disk(node))
        step("A volume with two replicas is made and attached")
        self.cluster.cli("volume", "create", VOLUME, "--size", VOLUME_SIZE)
        self.cluster.cli("attachment", "create", VOLUME)

    def boot(self):
        step("A Linux guest boots with the volume as its disk")
        attachment = self.cluster.query("attachment", "show", VOLUME)
        self.raid = attachment["raid"]
        self.guest = self.cluster.start_guest(attachment["socket"])
        say(f"up after {self.guest.boot_s:.1f} s: {self.guest.run('uname -sr').strip()}")
        self.volume = self.cluster.query("volume", "show", VOLUME)
        sectors = int(self.guest.run("cat /sys/block/vda/size"))
        check(sectors * 512 == self.volume["size_bytes"], f"/dev/vda has {sectors * 512 >> 20} MiB")
        self.replicas = sorted(map(Replica, self.volume["replicas"]), key=lambda replica: replica.node)
        self.find_data_offsets()

    def find_data_offsets(self):
        """Where the volume's data begins on each replica, as the mirror says."""
        raids = self.compute_rpc().bdev_raid_get_bdevs(category="all")
        raid = next(raid for raid in raids if raid["name"] == self.raid)
        offsets = {base["name"]: base["data_offset"] for base in raid["base_bdevs_list"]}
        for replica in self.replicas:
            bdev = self.compute_rpc().bdev_get_bdevs(name=replica.base_bdev)[0]
            replica.data_offset_bytes = offsets[replica.base_bdev] * bdev["block_size"]

    def write_once(self):
        step("The guest writes 4 KiB, flushes, and reads it back")
        text = f"a guest wrote this at {time.time_ns()}\n"
        block = (text * (BLOCK_BYTES // len(text) + 1))[:BLOCK_BYTES].encode()
        command = f"yes '{text.strip()}' | head -c {BLOCK_BYTES} > /tmp/block"
        command += f" && dd if=/tmp/block of=/dev/vda bs={BLOCK_BYTES} seek={WITNESS_BLOCK} oflag=direct conv=fsync"
        say(f"guest: {text.strip()}")
        self.guest.run(command)
        self.guest.run(f"dd if=/dev/vda bs={BLOCK_BYTES} skip={WITNESS_BLOCK} count=1 iflag=direct | cmp - /tmp/block")
        check(True, "the guest reads back what it wrote")
        for replica in self.replicas:
            found = replica.read(WITNESS_BLOCK * BLOCK_BYTES, BLOCK_BYTES)
            where = f"at byte {WITNESS_BLOCK * BLOCK_BYTES} of the data in {replica.name}"
            check(found == block, f"{replica.node} has the same 4096 bytes {where}")

    def measure(self):
        step("One write's way over both machines, with the time in each layer")
        writing = self.guest.begin(f"{FIO} --rw=randwrite --iodepth=1 --offset=16m --size=1m --time_based --runtime=3")
        drawn = self.cluster.cli("volume", "trace", VOLUME)
        self.picture = drawn[drawn.index("write of") :]
        trace = self.cluster.query("volume", "trace", VOLUME)
        job = fio_job(self.guest.finish(writing, 60))
        check(job["error"] == 0 and job["write"]["total_ios"] > 0, f"the guest made {job['write']['total_ios']} writes")
        layers = {stage["stage"].split("_")[0] for stage in trace["stages"]}
        check({"vhost", "raid", "nvme", "network, both ways", "nvmf", "lvol", "disk"} <= layers, "every layer is seen")
        total = sum(stage["us"] for stage in trace["stages"])
        check(abs(total - trace["total_us"]) < 1, f"the stages add up to the whole, {trace['total_us']:.0f} us")

    def lose_a_node(self):
        step(f"{LOST_NODE} is killed while the guest writes")
        verify = f"{FIO} --rw=randwrite --size=64m --iodepth=8 --verify=crc32c --verify_fatal=1 --do_verify=1"
        writing = self.guest.begin(f"{verify} --time_based --runtime=8")
        time.sleep(2)
        check(not self.guest.done(writing), "the guest is writing")
        self.cluster.data_planes[LOST_NODE].kill()
        job = fio_job(self.guest.finish(writing, 120))
        check(job["error"] == 0, f"the guest went on: {job['write']['total_ios']} writes, all verified, no error")
        say(f"the longest any of them waited: {job['write']['clat_ns']['max'] / 1e6:.0f} ms")
        self.cluster.cli("attachment", "wait", VOLUME, "--for", "usable")
        state = self.cluster.query("attachment", "show", VOLUME)
        check(state["state"] == "degraded", f"the attachment is degraded: {state['reason']}")

    def bring_it_back(self):
        step(f"{LOST_NODE} comes back and is rebuilt, the guest still writing")
        writing = self.guest.begin(f"{FIO} --rw=randwrite --iodepth=4 --time_based --runtime=4 --rate_iops=200")
        self.cluster.start_data_plane(LOST_NODE)
        self.cluster.cli("attachment", "wait", VOLUME, "--for", "ready")
        check(fio_job(self.guest.finish(writing, 120))["error"] == 0, "the guest saw no error")

    def compare(self):
        step("Both replicas are compared from the outside")
        self.guest.run("sync; blockdev --flushbufs /dev/vda")
        digests = {replica.node: replica.digest(self.volume["size_bytes"]) for replica in self.replicas}
        for node, digest in digests.items():
            say(f"{node}: sha256 {digest}")
        check(len(set(digests.values())) == 1, f"all {VOLUME_SIZE} are identical on both")

    def clean_up(self):
        step("Everything ends")
        count = self.cluster.stop()
        check(True, f"{count} processes ended in order")
        step("The path of one write")
        print(f"\n{self.picture}", flush=True)


def main():
    started = time.monotonic()
    with Cluster() as cluster:
        try:
            Demo(cluster).run()
        except Exception as error:
            print(f"\nthe demo failed: {error}", file=sys.stderr)
            for name in sorted(name for name in os.listdir(cluster.directory) if name.endswith(".log")):
                with open(cluster.path(name), errors="replace") as log:
                    print(f"--- the end of {name}\n{log.read()[-2000:]}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    print(f"done in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
