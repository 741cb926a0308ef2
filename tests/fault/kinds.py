"""What can go wrong. A fault is a generator: it yields how many seconds it waits, and is over when it returns. Two may be
under way at once, so each looks whether what it meant to harm is still there."""

import contextlib
import os
import signal
import sqlite3

from diskengine_test import RpcError

HOG = "hog"  # lvols that fill a store
FOREVER = 1_000_000_000
HOUR_S = 3600
RETRY_S = 0.2  # between tries to reach a data plane that does not answer


class Kinds:
    """Acts on `history`, and tells its Blame for which errors of the guest a fault is the reason."""

    def __init__(self, history):
        self.history = history
        self.cluster = history.cluster
        self.blame = history.blame
        self.tell = history.tell
        self.all = [self.kill_plane, self.kill_agent, self.stop_agent, self.stop_plane, self.stop_machine,
                    self.stop_everything, self.cut_link, self.cut_link, self.unplug, self.lose_database, self.lose_database,
                    self.slow_disk, self.fail_disk, self.fail_disk, self.fail_both_disks, self.fill_store, self.fill_both_stores]
        if self.cluster.clocks.are_possible:
            self.all.append(self.jump_clocks)

    @staticmethod
    def together(*faults):
        """Several as one."""
        now, running = 0, [[0, fault] for fault in faults]
        while running:
            running.sort(key=lambda entry: entry[0])
            yield running[0][0] - now
            now = running[0][0]
            try:
                running[0][0] = now + next(running[0][1])
            except StopIteration:
                running.pop(0)

    def a_while(self, rng, most):
        """Seconds; now and then much longer, so that every time-out on the way passes; short in a short history."""
        if self.history.is_short:
            return rng.uniform(0.2, min(most, 4))
        return rng.uniform(0.2, most) * (4 if rng.random() < 0.08 else 1)

    def any_node(self, rng):
        return rng.choice(self.cluster.nodes)

    def any_storage(self, rng):
        return rng.choice(self.cluster.storage)

    # --- processes

    def kill_plane(self, rng):
        node = rng.choice([*self.cluster.storage, self.history.holder])
        self.tell(f"kill the data plane of {node}")
        self.cluster.planes[node].kill()
        yield rng.uniform(0, 2)
        self.cluster.start_plane(node)

    def kill_agent(self, rng):
        node = self.any_node(rng)
        self.tell(f"kill the agent of {node}")
        self.cluster.agents[node].kill()
        yield rng.uniform(0, 2)
        self.cluster.start_agent(node)

    def stop_agent(self, rng):
        """It goes on later with what it had read before."""
        node = self.any_node(rng)
        yield from self.hold(rng, [self.cluster.agents[node]], f"the agent of {node}", 7)

    def stop_plane(self, rng):
        node = self.any_node(rng)
        yield from self.hold(rng, [self.cluster.planes[node]], f"the data plane of {node}", 4)

    def stop_machine(self, rng):
        node = self.any_node(rng)
        yield from self.hold(rng, [self.cluster.planes[node], self.cluster.agents[node]], f"all of {node}", 8)

    def stop_everything(self, rng):
        """As when the machine under all of them is suspended."""
        processes = [*self.cluster.processes(), *self.history.guests]
        yield from self.hold(rng, processes, "everything", 12, self.cluster.database_pids())

    def hold(self, rng, processes, what, most, pids=()):
        seconds = self.a_while(rng, most)
        self.tell(f"stop {what} for {seconds:.1f} s")
        self.send(processes, pids, signal.SIGSTOP)
        yield seconds
        self.send(processes, pids, signal.SIGCONT)

    @staticmethod
    def send(processes, pids, number):
        """Except to those that another fault has killed meanwhile."""
        for process in processes:
            if process.exit_code() is None:
                process.signal(number)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # --- the network

    def cut_link(self, rng):
        """One way, or both, between the compute node that has the volume and a storage node."""
        network = self.cluster.network
        yield from self.cut(rng, network[self.history.holder], network[self.any_storage(rng)])

    def cut(self, rng, one, other, most=6):
        ways = rng.choice([[(one, other)], [(other, one)], [(one, other), (other, one)]])
        silently = rng.random() < 0.5
        self.tell(f"cut {', '.join(f'{a.name} to {b.name}' for a, b in ways)}{' silently' if silently else ''}")
        for sender, receiver in ways:
            sender.cut_to(receiver, silently)
        yield self.a_while(rng, most)
        for sender, receiver in ways:
            sender.mend_to(receiver)

    def unplug(self, rng):
        machine = self.cluster.network[self.any_node(rng)]
        self.tell(f"unplug {machine.name}")
        machine.unplug()
        yield self.a_while(rng, 4)
        machine.plug_in()

    # --- the database

    def lose_database(self, rng):
        if self.cluster.postgres is None:
            yield from self.lock_database(rng)
        else:
            yield from rng.choice([self.kill_database, self.stop_database, self.cut_database, self.cut_database])(rng)

    def lock_database(self, rng):
        self.tell("the database does not answer")
        with contextlib.closing(sqlite3.connect(self.cluster.db, timeout=30, isolation_level=None)) as database:
            database.execute("BEGIN EXCLUSIVE")
            yield self.a_while(rng, 4)
            database.execute("ROLLBACK")

    def kill_database(self, rng):
        """By kill -9 of every process of it, or as an administrator who does not wait."""
        is_kill = rng.random() < 0.5
        self.tell("kill the database" if is_kill else "shut the database down at once")
        if is_kill:
            self.cluster.postgres.kill()
        else:
            self.cluster.postgres.stop_at_once()
        yield self.a_while(rng, 4)
        self.cluster.postgres.start()

    def stop_database(self, rng):
        """Every session stands still, in whatever transaction it is."""
        yield from self.hold(rng, [], "the database", 12, self.cluster.database_pids())

    def cut_database(self, rng):
        """Between the database and one machine, or several."""
        network = self.cluster.network
        database = network["db"]
        machines = [machine for machine in network.machines.values() if machine is not database]
        chosen = rng.sample(machines, rng.randint(1, len(machines)))
        yield from self.together(*(self.cut(rng, machine, database, most=10) for machine in chosen))

    # --- disks

    def slow_disk(self, rng):
        node = self.any_storage(rng)  # one, else the guest would wait for most of the history
        latency_us = int(10 ** rng.uniform(3, 6.4))
        self.tell(f"the disk of {node} takes {latency_us / 1000:.0f} ms")
        yield from self.told(lambda: self.cluster.set_latency(node, latency_us))
        yield rng.uniform(0.5, 6)
        yield from self.told(lambda: self.cluster.set_latency(node, 0))

    def fail_disk(self, rng, node=None):
        """For some requests, or for all in a while; `pending` ones are answered when it is over."""
        node = node or self.any_storage(rng)
        what = rng.choice(["read", "write", "write", "flush", "unmap", "all"])
        how = rng.choice(["failure", "failure", "pending"])
        count = rng.choice([1, 3, 20, FOREVER, FOREVER])
        number = "all" if count == FOREVER else count
        verb = "does not answer" if how == "pending" else "fails"
        self.tell(f"the disk of {node} {verb} {number} of {'its requests' if what == 'all' else what}")
        with self.blame.disk(node):
            yield from self.told(lambda: self.cluster.inject(node, what, how, count))
            yield self.a_while(rng, 5)
            yield from self.told(lambda: self.cluster.end_errors(node))
            yield from self.reload(node)

    def fail_both_disks(self, rng):
        yield from self.together(*(self.fail_disk(rng, node) for node in self.cluster.storage))

    def reload(self, node):
        """A store whose metadata could not be written changes nothing any more: its data plane is started anew."""
        store = {}
        yield from self.told(lambda: store.update(self.cluster.store(node) or {}))
        if "frozen_reason" not in store:
            return
        self.tell(f"start the data plane of {node} anew: {store['frozen_reason']}")
        self.cluster.planes[node].kill()
        self.cluster.start_plane(node)

    def fill_store(self, rng, node=None):
        """Whoever frees a cluster meanwhile has lost it."""
        node = node or self.any_storage(rng)
        self.tell(f"the store of {node} is full")
        with self.blame.disk(node):
            left_s = rng.uniform(1, 6)
            for number in range(1000):
                with contextlib.suppress(OSError, RpcError):
                    self.cluster.fill_store(node, f"{HOG}{number}")
                if left_s <= 0:
                    break
                left_s -= RETRY_S
                yield RETRY_S
            yield from self.told(lambda: self.empty_store(node))

    def fill_both_stores(self, rng):
        yield from self.together(*(self.fill_store(rng, node) for node in self.cluster.storage))

    def empty_store(self, node):
        """Raises OSError while the store is not loaded: then the node is on its way back."""
        if self.cluster.store(node) is None:
            raise ConnectionError("no store")
        for alias in self.cluster.lvols_named(node, HOG):
            self.cluster.ask(node, "bdev_lvol_delete", timeout_s=10, name=alias)

    def told(self, action):
        """Does it as soon as the data plane answers."""
        while True:
            try:
                action()
                return
            except OSError:
                yield RETRY_S

    # --- time

    def jump_clocks(self, rng):
        """By minutes or hours, either way; then back."""
        clocks = self.cluster.clocks
        names = rng.sample(clocks.names, rng.randint(1, len(clocks.names)))
        offset_s = rng.choice([-1, 1]) * rng.choice([90, HOUR_S, 12 * HOUR_S])
        self.tell(f"the clocks of {', '.join(names)} jump by {offset_s} s")
        for name in names:
            clocks.jump(name, offset_s)
        yield rng.uniform(0.5, 6)
        for name in names:
            clocks.jump(name, 0)
