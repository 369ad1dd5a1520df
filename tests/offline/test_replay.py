"""`barque log replay`: a log, applied to a machine without a node (offline/replay.py; LIFE-10)."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.support import run_barque
from tests.nodes import Adder, Nodes, until

import barque
from barque.errors import ConfigurationError
from barque.log.disk import ReadingDisk
from barque.offline.replay import replay
from barque.types import Index, Term

ADDER = "tests.nodes:Adder"


class Strict(Adder):
    """It does not take the number 3."""

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """As the adder's, without it."""
        if command == 3:
            raise ValueError("no threes")
        return super().apply(meta, command, state)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a node that has added 1, 2, 3 and 4, in two terms, and was stopped."""

    async def fill(root: Path) -> Path:
        some = Nodes(root, 1)
        for numbers in ((1, 2), (3, 4)):
            await some.start()
            try:
                async with some.client() as client:
                    if numbers == (1, 2):
                        await client.start_cluster("sum", "adder", arguments={"start": 10})
                    for number in numbers:
                        await until(lambda n=number: client.process_command("sum", n), "a leader")
            finally:
                await some.stop()
        return root / "n1"

    return asyncio.run(fill(tmp_path_factory.mktemp("replayed")))


def test_life10_each_entry_is_told_with_its_state(data_dir: Path) -> None:
    """From the first entry on, with the terms' own entries; nothing on the disk is changed."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in data_dir.rglob("*")}
    entries = list(replay(ReadingDisk(), str(data_dir), "sum", Adder()))
    assert [(e.kind, e.command, e.state) for e in entries if e.kind == "user"] == [
        ("user", 1, 11),
        ("user", 2, 13),
        ("user", 3, 16),
        ("user", 4, 20),
    ]
    assert [e.index for e in entries] == list(range(1, len(entries) + 1))
    assert (entries[0].kind, entries[0].term, entries[-1].term) == ("noop", Term(1), Term(2))
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in data_dir.rglob("*")} == before


def test_life10_other_code_stops_where_it_raises(data_dir: Path) -> None:
    """The entry is the last one, with the error; the state is that before it."""
    entries = list(replay(ReadingDisk(), str(data_dir), "sum", Strict()))
    assert (entries[-1].command, entries[-1].state) == (3, 13)
    assert "no threes" in entries[-1].fault
    assert f"index {Index(entries[-1].index)}" in entries[-1].fault
    with pytest.raises(ConfigurationError, match="no server of cluster 'other'; it has: sum"):
        next(replay(ReadingDisk(), str(data_dir), "other", Adder()))


def test_life10_on_the_command_line(data_dir: Path) -> None:
    """One line an entry; JSON for programs; exit code 1 if the machine raises."""
    path = str(Path(__file__).resolve().parents[2])
    environment = {"PYTHONPATH": f"{Path(barque.__file__).parent.parent}:{path}"}
    verb = ("log", "replay", "--data-dir", str(data_dir), "--cluster", "sum", "--machine")
    done = run_barque(*verb, ADDER, "--states", "-o", "json", **environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, lines[-1]["state"]) == (0, 20), done.stderr
    failed = run_barque(*verb, "tests.offline.test_replay:Strict", **environment)
    assert failed.returncode == 1
    assert "FAILED" in failed.stdout
    assert "no threes" in failed.stdout
