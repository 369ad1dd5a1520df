"""`python -m tests.fuzz CODEC --seconds N`: run one codec under atheris, a coverage-guided fuzzer.

It prints its seed; an input that breaks a promise is kept in `build/fuzz/CODEC`, beside the inputs that
reached new code, with which the next run begins. Install it with `pip install atheris`.
"""

import argparse
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["barque"]):
    from tests.fuzz.targets import targets, without_checksums

MEMORY_MIB_MAX = 64
"""In one piece."""
HANG_S = 5


def main() -> None:
    """Run for so many seconds, or until an input breaks a promise."""
    known = targets()
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("codec", choices=sorted(known))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--input", type=Path, help="only this file, as a failed run has kept it")
    given = parser.parse_args()
    target = known[given.codec]
    corpus = given.corpus / given.codec
    corpus.mkdir(parents=True, exist_ok=True)
    with without_checksums():
        if given.input is not None:
            target.decode(given.input.read_bytes())
            return
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        print(f"codec {given.codec}, seed {given.seed}, {given.seconds} s", flush=True)
        options = [
            f"-seed={given.seed}",
            f"-max_total_time={given.seconds}",
            f"-timeout={HANG_S}",
            f"-malloc_limit_mb={MEMORY_MIB_MAX}",
            f"-artifact_prefix={corpus}/failed-",
            "-max_len=8192",
            "-print_final_stats=1",
            str(corpus),
        ]
        atheris.Setup([sys.argv[0], *options], target.decode)
        atheris.Fuzz()


main()
