"""The snapshot store against a naive model: crashes, failing disks, and transfers, in any order."""

import random
from typing import cast

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.kit.snapshots import (
    CHECKPOINT,
    DIR,
    RECOVERY,
    SNAPSHOT,
    UID,
    Node,
    file_at,
    meta_at,
    state_at,
)
from tests.kit.storage import batch

from barque.core.log_contract import Log, SnapshotKind
from barque.core.messages import AcceptFailed, SnapshotAccepted, SnapshotFailed, SnapshotWritten
from barque.errors import StorageError
from barque.log.snapshot_config import SnapshotConfig
from barque.log.snapshot_transfer import OutgoingSnapshot
from barque.testing.sim.disk import SimDisk
from barque.types import Index

CONFIG = SnapshotConfig(
    min_snapshot_interval=2,
    min_checkpoint_interval=2,
    max_checkpoints=3,
    min_recovery_checkpoint_interval=2,
    chunk_bytes=100,
)


class StoreMachine(RuleBasedStateMachine):
    """`current` and `applied` are the model; `begun` holds what must still end, once."""

    @initialize(seed=st.integers(0, 2**16))
    def start(self, seed: int) -> None:
        """A new server."""
        self.disk = SimDisk(random.Random(seed))
        self.node = Node(self.disk, CONFIG)
        self.applied = 0
        self.current = 0
        self.begun: list[tuple[SnapshotKind, int]] = []
        self.receiving = 0
        self.in_doubt = 0  # an install of this one has failed: it may be there at the next start, or not
        self.accepted = False
        self.completing = False
        self.sent: list[tuple[OutgoingSnapshot, int]] = []
        self.failing = False

    def live_at(self, index: int) -> list[int]:
        """The entries that the state at this entry needs."""
        return [i for i in range(max(1, index - 9), index + 1) if i % 3 == 0] if index % 2 else []

    # --- making

    @rule(
        kind=st.sampled_from([SNAPSHOT, CHECKPOINT]),
        entries=st.integers(0, 6),
        fails=st.none() | st.integers(1, 12),
    )
    def ask(self, kind: SnapshotKind, entries: int, fails: int | None) -> None:
        """The machine offers its state; perhaps the disk refuses an operation of the writing."""
        self.applied += entries
        if fails is not None:
            self.fail(fails, 1)
        index = self.applied
        if not self.node.store.wants(kind, Index(index)):
            return
        assert index > self.current
        assert not self.begun
        live = self.live_at(index) if kind is SNAPSHOT else []
        pieces = (state_at(index)[at : at + 50] for at in range(0, len(state_at(index)), 50))
        if self.node.begin(kind, index, live, pieces):
            self.begun.append((kind, index))

    @rule(back=st.integers(0, 6))
    def promote(self, back: int) -> None:
        """The machine wants a checkpoint to be the snapshot."""
        before = {c for c in self.node.store.overview()["checkpoints"] if c <= self.applied - back}
        if self.node.store.promote_checkpoint(Index(self.applied - back)):
            assert max(before) > self.current
            assert SNAPSHOT not in [kind for kind, _ in self.begun]
            self.begun.append((SNAPSHOT, max(before)))

    @rule(steps=st.integers(1, 12), delivers=st.booleans())
    def work(self, steps: int, delivers: bool) -> None:
        """The worker goes on; perhaps the loop hears of all ends so far."""
        for _ in range(steps):
            self.node.worker.run_step()
        while delivers and self.node.worker.deliver():
            pass
        self.take_events()

    @rule(ends=st.integers(1, 3))
    def deliver(self, ends: int) -> None:
        """The loop hears of the ends of jobs."""
        for _ in range(ends):
            self.node.worker.deliver()
        self.take_events()

    def take_events(self) -> None:
        """What the store reports is what was begun."""
        for event in self.node.take_events():
            assert event.uid == UID
            match event:
                case SnapshotWritten():
                    self.begun.remove((event.kind, event.position.index))
                    if event.kind is SNAPSHOT:
                        assert event.position.index > self.current
                        self.current = event.position.index
                        self.check_file(self.current)
                case SnapshotFailed():
                    self.begun.remove((event.kind, event.position.index))
                    assert self.failing or event.position.index <= self.current
                case SnapshotAccepted():
                    assert self.completing
                    assert event.position.index == self.receiving
                    self.accepted, self.completing = True, False
                case AcceptFailed():
                    assert self.completing
                    assert self.failing
                    self.completing, self.receiving = False, 0
                case _:
                    raise AssertionError(event)

    def check_file(self, index: int) -> None:
        """The current snapshot is whole and durable."""
        path = f"{DIR}/snapshots/{1:016X}_{index:016X}/snapshot"
        data = self.disk.durable(path)
        assert data is not None, f"snapshot {index} could be gone after a loss of power"
        live = self.live_at(index)
        assert bytes(data) in (file_at(index, live), file_at(index))  # a promoted one has no survivors

    # --- the disk and the process

    @rule(after=st.integers(1, 12), count=st.integers(1, 3))
    def fail(self, after: int, count: int) -> None:
        """Some operations of the disk will fail."""
        first = self.disk.operations + after
        self.failing = True
        self.disk.fault = lambda operation, path: (
            OSError(5, "EIO", path) if first <= self.disk.operations < first + count else None
        )

    @rule(how=st.sampled_from(["crash", "kill", "stop"]), keep=st.booleans())
    def restart(self, how: str, keep: bool) -> None:
        """The process ends, with or without the machine, or in order."""
        self.disk.fault = None
        self.failing = False
        if how == "stop":
            if keep and self.node.store.wants(RECOVERY, Index(self.applied)):
                assert self.node.begin(RECOVERY, self.applied)
            self.node.worker.close()
            self.node.store.close()
        for outgoing, _ in self.sent:
            outgoing.close()
        self.sent.clear()
        if how == "crash":
            self.disk.crash()
        else:
            self.disk.kill()
        self.node.open()
        assert self.node.current() >= self.current, "a snapshot that was reported is gone"
        self.current = self.node.current()
        assert self.current <= max(self.applied, self.receiving, self.in_doubt)
        self.applied = max(self.applied, self.current)
        self.begun.clear()
        self.receiving, self.accepted, self.completing, self.in_doubt = 0, False, False, 0
        self.node.worker.run_until_idle()
        assert self.node.take_events() == []
        self.check_directory()

    def check_directory(self) -> None:
        """Nothing is there but what the store knows; every state that it offers is right."""
        overview = self.node.store.overview()
        assert overview["notes"] == []
        assert self.node.indexes(SNAPSHOT) == ([self.current] if self.current else [])
        assert self.node.indexes(CHECKPOINT) == overview["checkpoints"]
        assert self.node.indexes(RECOVERY)[-1:] == [i for i in [overview["recovery_checkpoint"]] if i]
        assert set(self.disk.listdir(DIR)) <= {"snapshots", "checkpoints", "recovery_checkpoint"}
        meta = self.node.store.recovery_point(cast(Log, self.node.log))
        if meta is not None:
            assert self.node.store.load(meta, b"".join) == state_at(meta.position.index)
            assert meta == meta_at(meta.position.index)
            assert meta.position.index <= self.applied

    # --- receiving

    @rule(ahead=st.integers(1, 8), whole=st.booleans())
    def receive(self, ahead: int, whole: bool) -> None:
        """A leader sends a snapshot; perhaps not all of it."""
        index = self.applied + ahead
        self.receiving, self.accepted, self.completing = 0, False, False
        try:
            self.node.store.begin_accept(meta_at(index))
            self.receiving = index
            live = self.live_at(index)
            self.node.store.accept_live([batch(i) for i in live])
            data = file_at(index, live)
            for number, at in enumerate(range(0, len(data), 100), 1):
                assert self.node.store.accept_chunk(number, data[at : at + 100])
            if whole:
                self.node.store.complete_accept(b"".join)
                self.completing = True
        except StorageError:
            assert self.failing
            self.give_up()
        self.take_events()

    @rule(ahead=st.integers(1, 8))
    def obtain(self, ahead: int) -> None:
        """A leader's snapshot arrives, and is ready to be installed."""
        self.receive(ahead, whole=True)
        self.node.worker.run_until_idle()
        self.take_events()

    @precondition(lambda self: self.receiving)
    @rule()
    def give_up(self) -> None:
        """The transfer is broken off."""
        self.node.store.abort_accept()
        self.receiving, self.accepted, self.completing = 0, False, False

    @precondition(lambda self: self.accepted)
    @rule()
    def install(self) -> None:
        """The accepted snapshot replaces log and state."""
        index = self.receiving
        try:
            state = self.node.store.install_accepted()
        except StorageError:
            assert self.failing or index <= self.current
            self.in_doubt = max(self.in_doubt, index)
            self.give_up()
            return
        assert state == state_at(index)
        assert index > self.current
        self.current = index
        self.applied = max(self.applied, index)
        self.receiving, self.accepted = 0, False
        self.check_file(index)
        self.move_survivors()

    def move_survivors(self) -> None:
        """The log takes the survivors over, as it does when a snapshot is installed."""
        path = self.node.store.live_file()
        if path is not None:
            self.disk.remove(path)

    # --- sending

    @precondition(lambda self: self.current)
    @rule()
    def send(self) -> None:
        """A transfer begins."""
        try:
            self.sent.append((self.node.store.open_outgoing(), self.current))
        except StorageError:
            assert self.failing

    @precondition(lambda self: self.sent)
    @rule(ends=st.booleans(), number=st.integers(1, 3))
    def send_on(self, ends: bool, number: int) -> None:
        """A transfer goes on, or ends."""
        outgoing, index = self.sent[0]
        if ends:
            outgoing.close()
            self.sent.pop(0)
            return
        try:
            found = outgoing.chunk(number)
        except StorageError:
            assert self.failing
            return
        assert found is not None
        start = (number - 1) * 100
        assert found[0] in (
            file_at(index, self.live_at(index))[start : start + 100],
            file_at(index)[start : start + 100],
        )

    # --- always

    @invariant()
    def newer_never_gives_way(self) -> None:
        """The current snapshot is the newest one reported; checkpoints are above it, and not too many."""
        assert self.node.current() == self.current
        checkpoints = self.node.store.overview()["checkpoints"]
        assert checkpoints == sorted(set(checkpoints))
        assert all(self.current < checkpoint <= self.applied for checkpoint in checkpoints)
        assert len(checkpoints) <= CONFIG.max_checkpoints
        assert self.node.store.lowest_sent() == min((index for _, index in self.sent), default=None)

    def teardown(self) -> None:
        """Without faults everything that was begun ends, and the directory holds what the store knows."""
        if not hasattr(self, "node"):
            return
        self.disk.fault = None
        self.node.worker.run_until_idle()
        self.take_events()
        assert self.begun == []
        assert not self.completing
        self.node.store.abort_accept()
        self.restart("kill", keep=False)


def random_history(seed: int, steps: int = 60) -> None:
    """One history without Hypothesis: cheaper, and the same for a seed whatever the code does."""
    draw = random.Random(seed)
    machine = StoreMachine()
    machine.start(seed)  # type: ignore[call-arg]  # it is a method, whatever Hypothesis makes of it
    for _ in range(steps):
        match draw.randrange(12):
            case 0 | 1 | 2:
                fails = draw.randint(1, 12) if draw.random() < 0.2 else None
                machine.ask(kind=draw.choice([SNAPSHOT, CHECKPOINT]), entries=draw.randint(0, 6), fails=fails)
            case 3 | 4:
                machine.work(steps=draw.randint(1, 12), delivers=draw.random() < 0.4)
            case 5:
                machine.deliver(ends=draw.randint(1, 3))
            case 6:
                machine.promote(back=draw.randint(0, 6))
            case 7:
                machine.obtain(ahead=draw.randint(1, 8))
            case 8:
                machine.receive(ahead=draw.randint(1, 8), whole=draw.random() < 0.5)
            case 9 if machine.accepted:
                machine.install()
            case 10 if machine.current:
                machine.send()
                machine.send_on(ends=draw.random() < 0.7, number=1) if machine.sent else None
            case 11 if draw.random() < 0.4:
                machine.restart(how=draw.choice(["crash", "kill", "stop"]), keep=draw.random() < 0.5)
        machine.newer_never_gives_way()
    machine.teardown()


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_random_histories(start: int) -> None:
    """A hundred histories; the seed is in the message."""
    for seed in range(start, start + 100):
        try:
            random_history(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
