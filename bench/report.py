"""The figures of JSON files as Markdown, printed or put into the documentation.

python bench/report.py bench/results/barque.json bench/results/peers.json
python bench/report.py … --into docs/explanation/performance.md
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from drivers import comparison as compare

from barque.bench.report import COLUMNS, Report, header, notes, rows

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> None:
    """Read, convert, print or insert."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="what `barque bench --json` and bench/peers.py wrote")
    parser.add_argument("--into", help="replace what stands between the marks in this file")
    options = parser.parse_args()
    text = "\n".join(section(Path(name).read_bytes()) for name in options.files)
    if options.into:
        insert(Path(options.into), text)
    else:
        print(text)


def section(data: bytes) -> str:
    """One file's figures."""
    if "peers" in msgspec.json.decode(data):
        found = msgspec.json.decode(data, type=compare.Comparison)
        lines = [
            "### Beside others",
            "",
            *header(Report(found.machine, found.settings, [])),
            "",
            *markdown(compare.COLUMNS, compare.table(found)),
            "",
            *markdown(compare.PROMISE_COLUMNS, compare.promises(found)),
            "",
            *(f"- {line.splitlines()[0]}" for line in compare.troubles(found)),
        ]
    else:
        report = msgspec.json.decode(data, type=Report)
        lines = ["### Alone", "", *header(report), "", *markdown(COLUMNS, rows(report.samples)), ""]
        lines += [f"- {line}" for line in notes(report.samples)]
    return "\n".join(lines).rstrip() + "\n"


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; all but the first column to the right if they hold figures."""
    figures = "runs" in columns
    rule = [":--" if position == 0 or not figures else "--:" for position in range(len(columns))]
    return ["| " + " | ".join(line) + " |" for line in (columns, rule, *lines)]


def insert(file: Path, text: str) -> None:
    """Put the text between the marks; ends the program if they are not there."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{file}: the marks {BEGIN} and {END} are not there")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
