"""D7: one wrong clock of three does not reach the machines."""

import time
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import nodes, until

import barque
from barque.runtime.clock import SystemClock
from barque.runtime.cluster_clock import ClusterClock

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000


class HandClock:
    """A clock that the test moves."""

    def __init__(self, ahead_ms: int = 0) -> None:
        self.now_s = 1_000.0
        self.ahead_ms = ahead_ms

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_s

    def wall_ms(self) -> int:
        """Unix milliseconds, and this clock's error."""
        return START_MS + int(self.now_s * 1000) + self.ahead_ms


def true_ms(clock: HandClock) -> int:
    """The right time."""
    return START_MS + int(clock.now_s * 1000)


def told(clock: ClusterClock, hand: HandClock, **errors_ms: int) -> ClusterClock:
    """Let the clock hear of other nodes whose clocks have these errors."""
    for node, error_ms in errors_ms.items():
        clock.heard(node, true_ms(hand) + error_ms)
    return clock


@pytest.mark.parametrize(
    ("own_ms", "others_ms", "counts_ms"),
    [
        (HOUR_MS, {}, HOUR_MS),  # nobody else is known
        (HOUR_MS, {"n2": 0, "n3": 3}, 3),
        (-HOUR_MS, {"n2": 0, "n3": 3}, 0),
        (0, {"n2": HOUR_MS, "n3": 3}, 0),
        (0, {"n2": HOUR_MS, "n3": -HOUR_MS}, 0),
        (400, {"n2": 0, "n3": 0}, 400),  # near enough
        (501, {"n2": 0, "n3": 0}, 0),
        (0, {"n2": -HOUR_MS, "n3": HOUR_MS, "n4": 0, "n5": 1}, 0),
        (HOUR_MS, {"n2": 2 * HOUR_MS, "n3": 0, "n4": 0, "n5": 0}, 0),
        (HOUR_MS, {"n2": 0}, 0),  # two clocks: the earlier one
        (0, {"n2": HOUR_MS}, 0),
    ],
)
def test_d7_the_median_counts_where_a_clock_is_far_from_it(
    own_ms: int, others_ms: dict[str, int], counts_ms: int
) -> None:
    """D7: as long as most clocks are right, the time that counts is within the bound of theirs."""
    hand = HandClock(own_ms)
    clock = told(ClusterClock(hand, "n1", 500), hand, **others_ms)
    assert clock.wall_ms() - true_ms(hand) == counts_ms
    assert clock.is_overruled == (counts_ms != own_ms)


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
def test_d7_a_clock_that_is_set_anew_is_compared_before_it_counts(step_ms: int) -> None:
    """D7: even the first stamp after the step is right."""
    hand = HandClock()
    clock = told(ClusterClock(hand, "n1", 500), hand, n2=0, n3=0)
    hand.ahead_ms += step_ms
    hand.now_s += 0.05
    assert clock.wall_ms() == true_ms(hand)
    clock.look()
    assert clock.wall_ms() == true_ms(hand)
    assert clock.error_ms == step_ms


def test_a_late_message_moves_nothing() -> None:
    """A message that waited an hour says that the other clock is an hour behind; earlier ones know better."""
    hand = HandClock()
    clock = told(ClusterClock(hand, "n1", 500), hand, n2=0, n3=0)
    told(clock, hand, n2=-HOUR_MS, n3=-HOUR_MS)
    assert clock.error_ms == 0


def test_a_node_that_is_gone_still_counts() -> None:
    """Its clock runs on, as far as ours can tell: one dead node must not make two clocks a draw."""
    hand = HandClock()
    clock = told(ClusterClock(hand, "n1", 500), hand, n2=0, n3=0)
    hand.now_s += 86_400
    hand.ahead_ms = HOUR_MS
    for _ in range(8):
        told(clock, hand, n2=0)
    assert clock.wall_ms() == true_ms(hand)


def test_the_log_names_a_wrong_clock_once(caplog: pytest.LogCaptureFixture) -> None:
    """It says how far the clock is off, and with which command to look."""
    hand = HandClock(HOUR_MS)
    clock = told(ClusterClock(hand, "n1", 500), hand, n2=0, n3=0)
    for _ in range(5):
        clock.look()
    [line] = [record.getMessage() for record in caplog.records]
    assert "3600.000 s ahead of the median" in line
    assert "chronyc" in line
    assert clock.overview()["differences_ms"] == {"n2": -HOUR_MS, "n3": -HOUR_MS}


class TellTime(barque.Machine[int]):
    """Replies with the time that it sees."""

    def init(self, args: dict[str, Any]) -> int:
        """No time yet."""
        return 0

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """The stamp of the command."""
        return meta.system_time_ms, meta.system_time_ms


class ShiftedClock(SystemClock):
    """This machine's clocks; the wall clock can be set wrong."""

    __slots__ = ("ahead_ms",)

    def __init__(self) -> None:
        self.ahead_ms = 0

    def wall_ms(self) -> int:
        """As the wall clock of a node that is set wrong."""
        return SystemClock.wall_ms(self) + self.ahead_ms


async def test_d7_the_leaders_wrong_clock_does_not_reach_the_machine(tmp_path: Path) -> None:
    """D7: the clock of the leader's node is set an hour ahead before a write. The machine sees the right
    time, and `status` says which clock is wrong.
    """
    clock = ShiftedClock()
    async with nodes(tmp_path) as three, three.client() as client:
        await three.stop()
        machines = {"time": TellTime()}
        await three.start("n1", machines=machines, clock=clock)
        await three.start("n2", "n3", machines=machines)
        await client.start_cluster("time", "time", nodes=["n1", "n2", "n3"])
        await until(lambda: client.transfer_leadership("time", "n1"), "n1 to lead")
        kv = client.cluster("time")

        async def knows_the_others() -> bool:
            known: Any = three.running["n1"].clock.overview()["differences_ms"]
            return len(known) == 2 and await three.leader(client, "time") == "n1"

        await until(knows_the_others, "n1 to lead and to know the others' clocks")
        clock.ahead_ms = HOUR_MS
        for _ in range(3):
            seen = await kv.process_command("now")
            assert abs(seen - time.time() * 1000) < HOUR_MS / 2

        async def shown() -> bool:
            facts = {node.name: node.clock for node in (await client.status()).nodes}
            return facts["n1"]["overruled"] and not facts["n2"]["overruled"]

        await until(shown, "status to show the wrong clock")
        assert abs(await kv.process_command("now") - time.time() * 1000) < HOUR_MS / 2
