"""Style as a test: layers, sizes, forbidden imports and calls, docstrings. Each message says what to do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("tidy")  # all of them read the same files
ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "barque"
KIT = ROOT / "tests" / "kit"

BASE = {"types", "errors", "config"}
LAYERS: dict[str, set[str]] = {
    "types": set(),
    "errors": {"types"},
    "config": {"types", "errors"},
    "machine": {"types", "errors"},
    "core": BASE | {"machine"},
    "transport": BASE | {"machine", "core"},
    "log": BASE | {"machine", "core"},
    "runtime": BASE | {"machine", "core", "transport", "log"},
    "client": BASE | {"machine", "core", "transport"},
    "sync": {"client"},
    "gateways": BASE | {"machine", "core", "transport", "log", "runtime", "client"},
    "offline": BASE | {"machine", "core", "log", "runtime"},
    "bench": BASE | {"machine", "core", "transport", "log", "runtime", "client"},
    "cli": BASE
    | {"machine", "core", "transport", "log", "runtime", "client", "gateways", "bench", "testing", "offline"},
    "testing": BASE | {"machine", "core", "transport", "log", "runtime", "client", "gateways"},
}
"""Which layer may import which (docs/explanation/architecture.md): arrows only point down."""

BELONGS_ELSEWHERE = {
    "client/local.py": ("runtime", "the client inside a node's process: a client program never loads it"),
}
"""The modules that may also import what this layer may import, and the layer itself, and why."""

ROOMS: dict[str, set[str]] = {
    "": {"core", "sim", "checkers"},
    "core": {"checkers", "faults.fault_schedule", "sim.loop"},
    "sim": {"faults", "checkers"},
    "faults": {"sim", "checkers"},
    "checkers": {"sim.disk", "sim.loop"},
    "chaos": {"checkers"},
}
"""Which room of `testing` may import which rooms, or which modules of them, besides itself."""

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
"""The pages that the rules of language hold for."""

TOOLS = ("cli/", "bench/", "testing/chaos/")
"""What no simulator ever runs: programs for people, which may read clocks and name files."""

FILE_LINES_MAX, CORE_FILE_LINES_MAX, FUNCTION_LINES_MAX = 600, 400, 70
INIT_LINES_MAX, ROOT_INIT_LINES_MAX = 25, 60

NEVER = {"pickle", "marshal", "shelve"}
"""They run code found in data."""
CORE_NEVER = {"time", "random", "socket", "asyncio", "os", "logging", "secrets", "threading", "datetime"}
"""The core is pure: time, entropy, files and results of I/O come in as messages or through a seam."""

IMPORTS_BY_NAME = {
    "runtime/machines.py": "loads the machines that the node's configuration names",
    "cli/verbs.py": "loads a verb when it is used, from a closed table",
    "cli/version.py": "asks for the versions of installed packages",
}
"""The modules that may use importlib, and why."""
TOUCHES_FILES = {
    "log/disk.py": "the seam between the log and the disk",
    "transport/secret.py": "reads secrets, at the start and when they change",
    "config.py": "reads the node's configuration, once, at start",
}
"""The modules that may open files, and why. So may the command line: people name those files."""
READS_TIME = {
    "runtime/clock.py": "the seam: everybody else asks it",
    "log/disk.py": "measures the disk at start, to choose how the log syncs",
}
"""The modules that may read the time, and why. Modules of the command line may as well."""

TIME_CALLS = {
    f"time.{name}{suffix}" for name in ("time", "monotonic", "perf_counter") for suffix in ("", "_ns")
} | {"datetime.now", "datetime.utcnow", "datetime.datetime.now"}
OS_FILE_CALLS = {
    f"os.{name}"
    for name in (
        *("open", "fdopen", "read", "write", "pread", "preadv", "pwrite", "pwritev", "writev"),
        *("fsync", "fdatasync", "rename", "replace", "remove", "unlink", "rmdir", "mkdir", "makedirs"),
        *("truncate", "ftruncate", "posix_fallocate", "link", "symlink", "listdir", "scandir", "chmod"),
    )
}
PATH_FILE_METHODS = {"read_text", "write_text", "read_bytes", "write_bytes"}


def name_of(path: Path) -> str:
    """The path below the package, or below the repository for the kit of the tests, with slashes."""
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()


def sources() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def sources_and_kit() -> list[Path]:
    """Every module of the package and of the kit of the tests: what is as large must be as readable."""
    return [*sources(), *sorted(KIT.rglob("*.py"))]


def parse(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def layer_of(path: Path) -> str:
    """The layer that a module belongs to; empty for the root modules and for the kit of the tests."""
    if not path.is_relative_to(PACKAGE):
        return ""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first in ("__init__.py", "__main__.py") else first.removesuffix(".py")


def imports_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full module name of each import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: import by the full name, not relatively"
            yield node.lineno, node.module or ""
            if node.module == "barque":
                yield from ((node.lineno, f"barque.{alias.name}") for alias in node.names)


def without_types(tree: ast.Module) -> ast.Module:
    """The module without the blocks that only type checkers see."""
    body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.Module(body, [])


def calls_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each call, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def functions_of(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function, methods and inner ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def complain(complaints: list[str], advice: str) -> None:
    """Fail with all complaints at once, and with what to do."""
    assert not complaints, "\n".join(["", *complaints, f"→ {advice}"])


def test_arrows_only_point_down() -> None:
    """A layer imports only layers below it, and every module belongs to a known layer."""
    complaints = []
    for path in sources():
        layer = layer_of(path)
        if not layer:
            continue
        if layer not in LAYERS:
            complaints.append(f"{name_of(path)}: no such layer: {layer!r}")
            continue
        for line, module in imports_of(parse(path)):
            parts = module.split(".")
            other = BELONGS_ELSEWHERE.get(name_of(path), ("",))[0]
            permitted = LAYERS[layer] | {layer} | (LAYERS[other] | {other} if other else set())
            if parts[0] == "barque" and len(parts) > 1 and parts[1] not in permitted:
                complaints.append(f"{name_of(path)}:{line}: {layer} must not import {module}")
    complain(complaints, "move the code down, or hand it in from above through a protocol")


def lines_of_names(tree: ast.Module) -> int:
    """The lines that only list names: imports, and `__all__`."""
    return sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in tree.body
        if isinstance(node, ast.ImportFrom | ast.Assign)
    )


def is_lazy(node: ast.stmt) -> bool:
    """Whether this is a part of the root's lazy import (docs/decisions/0005-a-client-loads-no-server.md)."""
    return (
        isinstance(node, ast.If)
        and ast.unparse(node.test) == "TYPE_CHECKING"
        and [getattr(other, "name", "") for other in node.orelse] == ["__getattr__"]
    )


def test_rooms_of_testing_import_only_what_they_may() -> None:
    """A room of `testing` imports itself and what `ROOMS` lists; imports for types alone do not count."""
    complaints = []
    for path in sorted((PACKAGE / "testing").rglob("*.py")):
        room = path.parent.name if path.parent.name in ROOMS else ""
        for line, module in imports_of(without_types(parse(path))):
            if not module.startswith("barque.testing."):
                continue
            there = module.removeprefix("barque.testing.").split(".")
            target = there[0] if there[0] in ROOMS else ""
            if target != room and not {target, ".".join(there[:2])} & ROOMS[room]:
                complaints.append(f"{name_of(path)}:{line}: {room or 'the top'} must not import {module}")
    complain(complaints, "move the code into the room that needs it")


def test_files_are_short_enough_to_read() -> None:
    """Core files have at most 400 lines, others 600; an `__init__` 25, the root's 60 beside its names."""
    complaints = []
    for path in sources_and_kit():
        lines = len(path.read_text().splitlines())
        if path.parent == PACKAGE and path.name == "__init__.py":
            lines -= lines_of_names(parse(path))
        limit = CORE_FILE_LINES_MAX if layer_of(path) == "core" else FILE_LINES_MAX
        if path.name == "__init__.py":
            limit = ROOT_INIT_LINES_MAX if path.parent == PACKAGE else INIT_LINES_MAX
        if lines > limit:
            complaints.append(f"{name_of(path)}: {lines} lines, at most {limit}")
    complain(complaints, "split the file where a reader would want two")


def test_the_architecture_page_names_every_module() -> None:
    """A stranger finds each file on the map, in the row of its directory, and no file that is gone."""
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    rooms = dict(re.findall(r"^\| `([\w/]+)/` \| (.+) \|$", page, re.MULTILINE))
    below_testing = [
        name_of(path) for path in (PACKAGE / "testing").glob("*/") if (path / "__init__.py").exists()
    ]
    assert len(below_testing) >= 5
    for room in ("machine", "core", "log", "transport", "runtime", "client", "testing", *below_testing):
        modules = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
        assert room in rooms, f"docs/explanation/architecture.md has no row for {room}/"
        named = set(re.findall(r"`(\w+)`", rooms[room]))
        assert modules == named, f"docs/explanation/architecture.md, {room}/: {modules ^ named}"


def test_functions_are_short_enough_to_read() -> None:
    """No function has more than 70 lines."""
    complaints = []
    for path in sources_and_kit():
        for function in functions_of(parse(path)):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                complaints.append(f"{name_of(path)}:{function.lineno}: {function.name} has {lines} lines")
    complain(complaints, f"name the parts; a function has at most {FUNCTION_LINES_MAX} lines")


def test_init_files_only_export() -> None:
    """An `__init__` holds a docstring, imports and `__all__`; the root may import a name at its first use."""
    complaints = []
    for path in sources_and_kit():
        if path.name != "__init__.py":
            continue
        for position, node in enumerate(parse(path).body):
            is_docstring = (
                position == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            )
            is_name = (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id in ("__all__", "__version__")
            )
            is_permitted = path.parent == PACKAGE and is_lazy(node)
            if not (is_docstring or is_name or is_permitted or isinstance(node, ast.Import | ast.ImportFrom)):
                complaints.append(f"{name_of(path)}:{node.lineno}: {ast.unparse(node)[:60]}")
    complain(complaints, "move code out of __init__ files")


def test_nothing_runs_code_found_in_data() -> None:
    """No pickle, marshal or shelve, no eval or exec, and importlib only where configuration is read."""
    complaints = []
    for path in sources_and_kit():
        tree = parse(path)
        for line, module in imports_of(tree):
            root = module.split(".")[0]
            if root in NEVER or (root == "importlib" and name_of(path) not in IMPORTS_BY_NAME):
                complaints.append(f"{name_of(path)}:{line}: import of {module}")
        for line, call in calls_of(tree):
            if call in ("eval", "exec", "__import__", "compile", "builtins.eval", "builtins.exec"):
                complaints.append(f"{name_of(path)}:{line}: call of {call}")
    complain(complaints, "use a closed, typed codec; code is named in the node's configuration only")


def test_core_and_machine_are_pure() -> None:
    """The core imports no clock, randomness, socket, event loop, files or logging."""
    complaints = [
        f"{name_of(path)}:{line}: import of {module}"
        for path in sources()
        if layer_of(path) == "core"
        for line, module in imports_of(parse(path))
        if module.split(".")[0] in CORE_NEVER
    ]
    complain(complaints, "let it come in as a message or through an injected provider (style 1)")


def test_only_the_seams_touch_files() -> None:
    """Files are opened in `log/disk.py`, and in the few readers listed here with their reasons."""
    complaints = []
    for path in sources_and_kit():
        if name_of(path) in TOUCHES_FILES or name_of(path).startswith(TOOLS):
            continue
        for line, call in calls_of(parse(path)):
            if (
                call in ("open", "io.open")
                or call in OS_FILE_CALLS
                or call.split(".")[-1] in PATH_FILE_METHODS
            ):
                complaints.append(f"{name_of(path)}:{line}: {call}()")
    complain(complaints, "go through the Disk seam, or the simulator cannot inject faults here")


def test_only_the_clock_reads_the_time() -> None:
    """The time is read in `runtime/clock.py`, and in the few places listed here with their reasons."""
    complaints = []
    for path in sources_and_kit():
        if name_of(path) in READS_TIME or name_of(path).startswith(TOOLS):
            continue
        tree = parse(path)
        for line, call in calls_of(tree):
            if call in TIME_CALLS:
                complaints.append(f"{name_of(path)}:{line}: {call}()")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                complaints.append(f"{name_of(path)}:{node.lineno}: import the module, not names of it")
    complain(complaints, "take a Clock, or the simulator cannot own the time here")


def undocumented(path: Path) -> Iterator[str]:
    """What is public here and has no docstring."""
    tree = parse(path)
    if not ast.get_docstring(tree):
        yield f"{name_of(path)}: the module"

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_"):
                continue
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if decorators & {"override", "typing.override", "overload", "typing.overload"} or any(
                decorator.endswith(".setter") for decorator in decorators
            ):
                continue
            if not ast.get_docstring(node):
                yield f"{name_of(path)}:{node.lineno}: {prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, f"{node.name}.")

    yield from visit(tree.body, "")


def test_everything_public_is_documented() -> None:
    """Public modules, classes, functions and methods have a docstring."""
    complaints = [complaint for path in sources_and_kit() for complaint in undocumented(path)]
    complain(complaints, "say what it does, in which units, what it raises, and whether it may have happened")


def test_every_test_states_a_behaviour() -> None:
    """Every test function has a docstring."""
    complaints = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in functions_of(parse(path)):
            if function.name.startswith("test_") and not ast.get_docstring(function):
                complaints.append(f"{path.relative_to(ROOT)}:{function.lineno}: {function.name}")
    complain(complaints, "state the behaviour that the test demands, in one sentence")


@pytest.mark.parametrize(
    "listed",
    [IMPORTS_BY_NAME, TOUCHES_FILES, READS_TIME, {k: why for k, (_, why) in BELONGS_ELSEWHERE.items()}],
)
def test_exceptions_have_reasons(listed: dict[str, str]) -> None:
    """Each exception of the rules above says why it exists."""
    assert all(len(reason.split()) >= 4 for reason in listed.values())


# --- English ---------------------------------------------------------------------------------

IDIOMS = {
    r"\bno more\b(?! than)": "no longer",
    r"\b[Ww]hoever\b|\bthose who(se)?\b|\bsuch a one\b": "the actor's noun: the caller, a client, the leader",
    r"\bshall\b": "must, or will",
    r"\bmay be said\b|\bsay of\b": "what the code does: fail, refuse, report",
    r"\b(time|turn) is (up|over)\b": "past its deadline, expired",
    r"\bfor ever\b": "without end, or never",
    r"\b[Aa] stranger\b(?! can)": "a server outside the configuration",
}
"""Idioms that native readers stumble over, and what to write instead."""


def written_pages() -> list[Path]:
    """The pages of `docs` that people write; not those of programs, nor decisions, which keep their words."""
    generated = {"mutants.md", "roles-and-messages.md", "ra-parity.md", "api.md", "simulation-history.md"}
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [page for page in pages if page.name not in generated and page.parent.name != "decisions"]


def test_texts_avoid_idioms_that_readers_stumble_over() -> None:
    """Code, tests and pages use the field's nouns, name the actor and speak in the active voice."""
    complaints = []
    texts = {*sources(), *PAGES, *written_pages(), *(ROOT / "tests").rglob("*.py")} - {Path(__file__)}
    for path in sorted(texts):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for idiom, better in IDIOMS.items():
                if re.search(idiom, line):
                    complaints.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]} ({better})")
    complain(complaints, "write as CONTRIBUTING.md says: subject, verb, object; the actor's noun")


# --- the core: each rule in one place --------------------------------------------------------

STORED_TOGETHER = {"raft_state", "role", "leader_id", "current_term", "voted_for"}
"""Fields of a server that only `core/transitions.py` sets; `core/state.py` gives them their first values."""


def test_roles_terms_and_leaders_change_in_one_module() -> None:
    """No module but `transitions` sets a server's role, state, term, vote or leader."""
    complaints = []
    for path in sources():
        if layer_of(path) != "core" or path.stem in ("transitions", "state"):
            continue
        for node in ast.walk(parse(path)):
            if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)):
                continue
            if node.attr in STORED_TOGETHER and ast.unparse(node.value) in ("server", "self.server"):
                complaints.append(f"{name_of(path)}:{node.lineno}: {ast.unparse(node)} = …")
    complain(complaints, "call a function of core/transitions.py")


def test_message_terms_are_compared_in_one_module() -> None:
    """Only `core/terms.py` compares a message's term with the server's (the term rule, §3.3)."""
    messages = {"message", "rpc", "reply", "result", "request"}
    complaints = []
    for path in sources():
        if layer_of(path) != "core" or path.stem == "terms":
            continue
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Compare):
                for side in (node.left, *node.comparators):
                    if ast.unparse(side) in {f"{name}.term" for name in messages}:
                        complaints.append(f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}")
    complain(complaints, "let the table in core/terms.py say what this message's term means")


@pytest.mark.parametrize("layer", ["core", "runtime"])
def test_a_layer_has_no_import_cycle(layer: str) -> None:
    """The modules of a layer import each other in one direction, imports for type checkers included."""
    arrows = {
        name_of(path).removesuffix(".py").replace("/", "."): {
            module.removeprefix("barque.")
            for _, module in imports_of(parse(path))
            if module.startswith(f"barque.{layer}.")
        }
        for path in sources()
        if layer_of(path) == layer
    }
    while free := {name for name, needs in arrows.items() if not needs & arrows.keys()}:
        arrows = {name: needs for name, needs in arrows.items() if name not in free}
    complain(sorted(arrows), "hand the object in from above, or move the shared part down")
