"""Reads the documentation as a reader does: its code blocks, the files they make, the commands they show."""

import ast
import asyncio
import builtins
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import barque

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 90
_FENCE = re.compile(
    r"(?:^<!-- given: (?P<given>.*?) -->\n\n?)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(r"# ([\w/-]+\.(?:py|toml))$")
_INSTALLING = (  # what a test cannot do without a network; a reader does it once
    "$ python3 -m venv .venv",
    "$ .venv/bin/pip install -q -e '.[all]'",
    "$ . .venv/bin/activate",
)
_OBJECTS = {
    "barque": barque,
    "client": barque.Client,
    "kv": barque.ClusterClient,
    "visits": barque.ClusterClient,
    "locks": barque.ClusterClient,
}
"""What the pages' variables are."""


class Block(NamedTuple):
    """One code block. `given` are the names that a fragment takes from its surroundings."""

    page: str
    line: int
    language: str
    text: str
    given: tuple[str, ...]

    @property
    def file(self) -> str | None:
        """The name of the file that the block is the content of: its first line is a comment with it."""
        found = _FILE.match(self.text.splitlines()[0])
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All code blocks of a page, in order."""
    text = (ROOT / page).read_text()
    return [
        Block(
            page,
            text[: found.start("text")].count("\n") + 1,
            found["language"],
            textwrap.dedent(found["text"]),
            tuple(re.split(r",\s*", found["given"])) if found["given"] else (),
        )
        for found in _FENCE.finditer(text)
    ]


def python_blocks(page: str) -> list[Block]:
    """The Python among them."""
    return [block for block in blocks(page) if block.language == "python"]


# --- fragments -------------------------------------------------------------------------------


def parse(block: Block) -> ast.Module:
    """Compile a block, which may `await` at the top level; return its tree."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile(block.text, str(block), "exec", flags=flags, dont_inherit=True)
    return ast.parse(block.text)


def complaints(block: Block, known: set[str]) -> Iterator[str]:
    """Names of a block that lead nowhere. `known` were bound by earlier blocks of the page; adds its own."""
    tree = parse(block)
    bound = known | set(dir(builtins)) | set(block.given) | {"__file__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif (isinstance(node, ast.ExceptHandler) and node.name) or (
            isinstance(node, ast.MatchAs) and node.name
        ):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            yield from _imports(block, node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in bound:
            yield f"{block}: {node.id} is not defined"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = _OBJECTS.get(node.value.id)
            if owner is not None and not hasattr(owner, node.attr):
                yield f"{block}: {node.value.id} has no {node.attr}"
        elif isinstance(node, ast.Call):
            yield from _keywords(block, node)
    known |= bound


def _imports(block: Block, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """What an import names and Barque does not have. Modules of the reader are not looked for."""
    names = [alias.name for alias in node.names]
    modules = names if isinstance(node, ast.Import) else [node.module or ""]
    for name in modules:
        if name.split(".")[0] != "barque":
            continue
        module = importlib.import_module(name)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{block}: {name} has no {n}" for n in names if not hasattr(module, n))


def _keywords(block: Block, call: ast.Call) -> Iterator[str]:
    """Keyword arguments that the function does not take."""
    function = call.func
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return
    target = getattr(_OBJECTS.get(function.value.id), function.attr, None)
    is_error = isinstance(target, type) and issubclass(target, Exception)
    if not callable(target) or is_error:
        return
    parameters = inspect.signature(target).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for keyword in call.keywords:
        if keyword.arg and keyword.arg not in parameters:
            yield f"{block}: {ast.unparse(function)} takes no {keyword.arg}"


async def run_fragment(block: Block, namespace: dict[str, object], changed: Mapping[str, str]) -> None:
    """Run a block that may `await` at its top level, with some texts exchanged, in a namespace."""
    code = compile(
        exchanged(block.text, changed),
        str(block),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, namespace)
    else:  # it may block, and nodes in this process must go on
        await asyncio.to_thread(exec, code, namespace)


def exchanged(text: str, changed: Mapping[str, str]) -> str:
    """The text with other ports in it."""
    for old, new in changed.items():
        text = re.sub(rf"\b{old}\b", new, text)
    return text


# --- whole pages ------------------------------------------------------------------------------


class Step(NamedTuple):
    """One command of a page, and the output that the page shows."""

    where: str
    command: str
    shown: str


def read_along(page: str, directory: Path, changed: Mapping[str, str]) -> None:
    """Do what the page says, from the first block to the last, in `directory` and in one shell.

    A block whose first line is a comment with a file name becomes that file. The commands of `console` blocks
    are run, and must succeed; what the page shows as their output must come. A line `…` stands for any lines.
    """
    script, steps = ["set -u"], list[Step]()
    for block in blocks(page):
        text = exchanged(block.text, changed)
        if block.language == "console":
            for step in _steps(block, text):
                if step.command in (line.removeprefix("$ ") for line in _INSTALLING):
                    continue
                script.append(f'echo "@@{len(steps)}"')
                end = "" if step.command.endswith("&") else f" || {{ echo '@@failed {len(steps)}'; exit 1; }}"
                script.append(step.command + end)
                steps.append(step)
        elif block.file is not None:
            script.append(f"cat > {block.file} <<'@@end'\n{text}@@end")
    script.append(f'echo "@@{len(steps)}"')
    start = directory / "clone"
    start.mkdir()
    said = _run("\n".join(script), start)
    for number, step in enumerate(steps):
        assert f"@@{number}\n" in said, f"{step.where}: not reached\n{said}"
        output = said.split(f"@@{number}\n")[1].split("\n@@")[0].split("@@")[0].strip()
        assert f"@@failed {number}" not in said, f"{step.where}: {step.command} failed\n{said}"
        pattern = re.escape(step.shown.strip()).replace("…", ".*")
        if step.shown.strip():
            assert re.fullmatch(pattern, output, re.DOTALL), (
                f"{step.where}: {step.command}\nshown:\n{step.shown}\ngot:\n{output}"
            )


def _steps(block: Block, text: str) -> Iterator[Step]:
    lines = text.splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("$ ")]
    for at, following in zip(starts, [*starts[1:], len(lines)], strict=True):
        command = re.sub(r"\s+# .*$", "", lines[at].removeprefix("$ "))
        yield Step(f"{block.page}:{block.line + at}", command, "\n".join(lines[at + 1 : following]))


def _run(script: str, directory: Path) -> str:
    """Run a shell script with this Python and this Barque first on the path; return all it printed."""
    tools = directory.parent / "bin"
    tools.mkdir()
    for name, words in (("python", ""), ("python3", ""), ("barque", "-m barque "), ("pytest", "-m pytest ")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        tool.chmod(0o755)
    source = str(Path(barque.__file__).parent.parent)
    environment = {
        **{
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("BARQUE_", "PYTEST_", "COV_"))
        },
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": source,
        "PYTHONUNBUFFERED": "1",
    }
    out = directory.parent / "said"
    with out.open("w") as stream:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=directory,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            shell.wait(TIMEOUT_S)
        finally:
            _end_group(shell.pid)
            for left in directory.parent.rglob("dev.json"):  # its nodes have sessions of their own
                stop = [str(tools / "barque"), "dev", "stop", "--dir", str(left.parent)]
                subprocess.run(stop, env=environment, stdout=subprocess.DEVNULL, check=False, timeout=30)
    logs = "".join(
        f"\n--- {log}\n{log.read_text()[-2000:]}" for log in sorted(directory.parent.rglob("*.log"))
    )
    return re.sub(r"(?m)^bash: line \d+: .*\n", "", out.read_text()) + logs  # a shell's note of a killed job


def _end_group(group: int) -> None:
    """End what the script left running: it has a session of its own."""
    try:
        os.killpg(group, 9)
    except ProcessLookupError:
        return
