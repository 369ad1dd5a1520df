"""Function calls for each request stay within their budgets (bench/calls.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BUDGETS = {
    "sequential": {"leader": 415, "follower": 220, "client": 97},
    "read": {"leader": 250, "follower": 72, "client": 94},
    "pipeline": {"leader": 1.3, "follower": 0.7, "client": 7.5},
    "pipeline low": {"leader": 1.3, "follower": 0.7, "client": 7.5},
    "redis set": {"leader": 465, "follower": 220},
    "redis get": {"leader": 300, "follower": 72},
}
"""At most so many calls for each request: what was counted, and a little room."""


@pytest.mark.parametrize("workload", BUDGETS)
def test_a_request_costs_no_more_calls_than_its_budget(workload: str) -> None:
    """A change that makes every command dearer is noticed, on a busy machine too."""
    command = [sys.executable, str(ROOT / "bench" / "calls.py"), "--workload", workload, "--json"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)[workload]
    for role, budget in BUDGETS[workload].items():
        assert found[role] <= budget, f"{workload}, {role}: {found[role]} calls, at most {budget}"
