"""kill -9 of the data plane while lvols are written to, snapshotted, cloned, resized and deleted: after the restart the
store loads by itself, every acknowledged write is there, and each operation has happened or has not.

DISKENGINE_LVOL_KILLS says how often (a few by default), DISKENGINE_LVOL_SEED replays the choices of one run (the
moments of the kills are real time and cannot be replayed)."""

import collections
import os
import random
import struct
import threading
import time

from diskengine_test import NvmePipeline, RpcError, TargetGone, TestCase

MIB = 1 << 20
NQN = "nqn.2024-01.io.diskengine:lvols"
SECTOR = 512
DISK_MIB = 48
LVOL_MIB = 4
CLUSTER = 65536
KILLS = int(os.environ.get("DISKENGINE_LVOL_KILLS", "5"))
ALWAYS = -1.0
NOT_YET = float("inf")


# What a lvol is to hold: what the history allows to a look that took from `begin` to `end`.
View = collections.namedtuple("View", "history begin end is_snapshot", defaults=(NOT_YET, NOT_YET, False))


class History:
    """What the sectors of one lvol may hold: every stamp with the time in which it was being written."""

    def __init__(self, size_mib):
        self.size_mib = size_mib
        self.sectors = {}  # sector -> [[stamp, begin, end]]; others hold zeroes

    def begin(self, first, count, stamp):
        entry = [stamp, time.monotonic(), NOT_YET]
        for sector in range(first, first + count):
            self.sectors.setdefault(sector, [[0, ALWAYS, ALWAYS]]).append(entry)
        return entry

    def allows(self, sector, stamp, begin, end):
        """Whether a look that took from `begin` to `end` may find the stamp."""
        entries = self.sectors.get(sector)
        if entries is None:
            return stamp == 0
        settled = max((e[1] for e in entries if e[2] < begin), default=ALWAYS)
        return any(e[0] == stamp and e[1] <= end and e[2] >= settled for e in entries)

    def check(self, data, begin, end, what):
        """Fails if the data is not allowed. Returns a history of just this data."""
        found = History(self.size_mib)
        zeroes = bytes(SECTOR)
        for sector in range(len(data) // SECTOR):
            piece = data[sector * SECTOR : (sector + 1) * SECTOR]
            if piece == zeroes:
                stamp = 0
            else:
                stamp = struct.unpack_from("<Q", piece)[0]
                assert piece == struct.pack("<Q", stamp) * (SECTOR // 8), f"{what}: sector {sector} holds no one stamp"
                found.sectors[sector] = [[stamp, ALWAYS, ALWAYS]]
            assert self.allows(sector, stamp, begin, end), (
                f"{what}: sector {sector} holds {stamp}, which cannot be: "
                f"{self.sectors.get(sector)}, looked at from {begin} to {end}"
            )
        return found


class Load(threading.Thread):
    """Writes to one namespace until the target is gone. Reads of now and then are checked."""

    DEPTH = NvmePipeline.DEPTH_MAX

    def __init__(self, host, nsid, history, seed):
        super().__init__()
        self.host, self.nsid, self.history = host, nsid, history
        self.random = random.Random(seed)
        self.next_stamp = seed << 24
        self.stopping = False
        self.acknowledged = 0
        self.error = None

    def run(self):
        under_way = {}
        try:
            while under_way or not self.stopping:
                while len(under_way) < self.DEPTH and not self.stopping:
                    self.start_one(under_way)
                command, status, data = self.host.wait()
                self.end_one(under_way.pop(command), status, data)
        except TargetGone:
            pass
        except Exception as error:  # pylint: disable=broad-exception-caught  # told to the test's thread
            self.error = error

    def start_one(self, under_way):
        sectors = self.history.size_mib * MIB // SECTOR
        count = self.random.choice((1, 1, 2, 8, 16))
        cluster = self.random.randrange(sectors * SECTOR // CLUSTER)
        first = min(cluster * (CLUSTER // SECTOR) + self.random.randrange(24), sectors - count)
        roll = self.random.randrange(20)
        if roll == 0:
            under_way[self.host.flush(self.nsid)] = ("flush", None, 0, 0, 0)
        elif roll < 3:
            begun = time.monotonic()
            under_way[self.host.read(self.nsid, first, count * SECTOR)] = ("read", None, first, count, begun)
        elif roll == 3:
            entry = self.history.begin(first, count, 0)
            under_way[self.host.write_zeroes(self.nsid, first, count * SECTOR)] = ("zeroes", entry, first, count, 0)
        else:
            self.next_stamp += 1
            entry = self.history.begin(first, count, self.next_stamp)
            data = struct.pack("<Q", self.next_stamp) * (count * SECTOR // 8)
            under_way[self.host.write(self.nsid, first, data)] = ("write", entry, first, count, 0)

    def end_one(self, command, status, data):
        what, entry, first, count, begun = command
        assert status == 0, f"{what} of {count} sectors at {first}: status {status:#x}"
        now = time.monotonic()
        if entry is not None:
            entry[2] = now
            self.acknowledged += 1
        for i in range(count if what == "read" else 0):
            stamp = struct.unpack_from("<Q", data, i * SECTOR)[0]
            assert self.history.allows(first + i, stamp, begun, now), f"read: sector {first + i} holds {stamp}"


class LvolCrash(TestCase):
    TEST_TIMEOUT_S = 60 + 8 * KILLS

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("DISKENGINE_LVOL_SEED", random.randrange(1, 1 << 24)))
        self.random = random.Random(self.seed)
        self.disk = self.make_file("disk", DISK_MIB * MIB)
        self.lvols = {}  # name -> View; "a" is the one that is written to
        self.doubtful = {}  # the same for the operation that was cut: None for what may be gone
        self.names = 0
        self.acknowledged = 0
        self.operations = 0

    def start_plane(self, first=False):
        self.io = self.start_io(core_mask=self.random.choice(("0x1", "0x3")))
        self.rpc = self.io.rpc
        self.rpc.bdev_uring_create(name="disk0", filename=self.disk, block_size=SECTOR)
        if first:
            self.rpc.bdev_lvol_create_lvstore(bdev_name="disk0", lvs_name="s", cluster_sz=CLUSTER)
            self.rpc.bdev_lvol_create(lvs_name="s", lvol_name="a", size_in_mib=LVOL_MIB, thin_provision=True)
            self.lvols["a"] = View(History(LVOL_MIB))
        self.rpc.bdev_wait_for_examine()
        self.rpc.nvmf_create_transport(trtype="tcp")
        self.rpc.nvmf_create_subsystem(nqn=NQN, allow_any_host=True)

    def export(self, names):
        """A host that sees these lvols as namespaces 1, 2, ..."""
        for name in names:
            self.rpc.nvmf_subsystem_add_ns(nqn=NQN, namespace={"bdev_name": f"s/{name}"})
        port = self.free_port()
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        self.rpc.nvmf_subsystem_add_listener(nqn=NQN, listen_address=address)
        return NvmePipeline(port, NQN)

    def listed(self):
        return {lvol["name"]: lvol for lvol in self.rpc.bdev_lvol_get_lvols(lvs_name="s")}

    # --- Operations while the load runs; an OSError means that the plane died under it

    def operate(self):
        """One operation of the manager while "a" is under load."""
        others = sorted(set(self.lvols) - {"a"})
        snapshots = [name for name in others if self.lvols[name].is_snapshot]
        choice = self.random.randrange(10)
        if choice < 4 and len(others) < 5:
            self.snapshot()
        elif choice < 6 and snapshots and len(others) < 6:
            self.clone(self.random.choice(snapshots))
        elif choice < 9 and others:
            self.delete(self.random.choice(others))
        else:
            self.rpc.bdev_lvol_inflate(name="s/a")
        self.doubtful = {}
        self.operations += 1

    def new_name(self):
        self.names += 1
        return f"n{self.names}"

    def snapshot(self):
        name, begun, history = self.new_name(), time.monotonic(), self.lvols["a"].history
        self.doubtful = {name: View(history, begun, NOT_YET, True)}
        self.rpc.bdev_lvol_snapshot(lvol_name="s/a", snapshot_name=name)
        self.lvols[name] = View(history, begun, time.monotonic(), True)

    def clone(self, of):
        name = self.new_name()
        self.doubtful = {name: self.lvols[of]._replace(is_snapshot=False)}
        self.rpc.bdev_lvol_clone(snapshot_name=f"s/{of}", clone_name=name)
        self.lvols[name] = self.doubtful[name]

    def delete(self, name):
        self.doubtful = {name: None}
        try:
            self.rpc.bdev_lvol_delete(name=f"s/{name}")
        except RpcError:
            clones = [lvol for lvol in self.listed().values() if lvol["is_clone"]]
            self.assertGreater(len(clones), 1, f"{name} cannot be deleted, but has not two clones")
            return
        del self.lvols[name]

    # --- After the restart

    def verify(self):
        stores = self.rpc.bdev_lvol_get_lvstores()
        self.assertEqual([store["name"] for store in stores], ["s"])
        self.assertEqual(self.rpc.diskengine_lvol_get_damaged(), [])
        listed = self.listed()
        may_be_missing = {name for name, view in self.doubtful.items() if view is None}
        may_be_there = set(self.doubtful) - may_be_missing
        self.assertLessEqual(set(self.lvols) - may_be_missing, set(listed))
        self.assertLessEqual(set(listed), set(self.lvols) | may_be_there)
        owned = sum(lvol["num_allocated_clusters"] for lvol in listed.values())
        self.assertEqual(owned + stores[0]["free_clusters"], stores[0]["total_data_clusters"])
        report = self.rpc.diskengine_lvol_check(store="s")
        self.assertTrue(report["sound"], report)
        names = sorted(listed)
        host = self.export(names)
        found = {}
        for nsid, name in enumerate(names, 1):
            view = self.lvols.get(name) or self.doubtful[name]
            self.assertEqual(listed[name]["is_read_only"], view.is_snapshot)
            data = host.read_all(nsid, 0, view.history.size_mib * MIB)
            found[name] = View(view.history.check(data, view.begin, view.end, name), is_snapshot=view.is_snapshot)
        self.lvols = found
        self.doubtful = {}
        return host, names.index("a") + 1

    def cycle(self, number, host, nsid):
        load = Load(host, nsid, self.lvols["a"].history, (self.seed << 12) + number)
        kill_at = time.monotonic() + self.random.uniform(0.02, 0.25)
        killer = threading.Timer(kill_at - time.monotonic(), self.io.kill)
        load.start()
        killer.start()
        try:
            while load.is_alive():
                self.operate()
                time.sleep(self.random.uniform(0, 0.02))
        except OSError:
            pass
        finally:  # also when an operation fails: its reason is what is to be seen
            killer.join()
            load.join()
            host.close()
        if load.error is not None:
            raise load.error
        self.acknowledged += load.acknowledged

    def test_everything_acknowledged_is_there_after_a_kill(self):
        self.start_plane(first=True)
        host, nsid = self.verify()
        for number in range(KILLS):
            try:
                self.cycle(number, host, nsid)
                self.start_plane()
                host, nsid = self.verify()
            except Exception as error:
                raise AssertionError(f"after kill {number} of the run with seed {self.seed}: {error}") from error
        host.close()
        print(f"{KILLS} kills, {self.acknowledged} acknowledged writes, {self.operations} operations, seed {self.seed}")
        self.assertGreater(self.acknowledged, 0)
