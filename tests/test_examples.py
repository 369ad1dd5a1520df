"""The programs in examples/ run, and do what they say."""

import importlib.util
from pathlib import Path

from tests.ports import free_port

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


async def test_the_counter_counts_to_42(tmp_path: Path) -> None:
    """examples/counter.py forms a cluster, loses a node and still counts."""
    spec = importlib.util.spec_from_file_location("counter", EXAMPLES / "counter.py")
    assert spec is not None
    assert spec.loader is not None
    counter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(counter)
    assert await counter.main(str(tmp_path), (free_port(), free_port(), free_port())) == 42
