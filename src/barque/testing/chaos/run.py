"""One run of chaos: start nodes and clients, cause faults, heal, demand progress, stop, judge.

A run has these phases, in this order:

1. **Start.** Write a configuration for each node and start the nodes (`nodes`). Nodes reach each other, and
   the clients of workloads reach nodes, only through proxies (`proxy`), so that every direction of every link
   can be cut. The run itself asks the nodes directly.
2. **Work.** The processes of each workload (`clients`) begin. Every operation is recorded, with its outcome.
3. **Faults.** Lanes of faults run side by side, as the schedule says (`schedule`, `faults`). A keeper starts
   nodes again that end by themselves. The phase lasts until each fault has happened, at most twice `seconds`.
4. **Heal.** Undo all faults. Within `PATIENCE_S` every workload must be served again, one member must lead,
   and all members must have written and applied the same.
5. **Stop.** Stop the clients, read every object once more, ask each member for its state, and stop the nodes.
6. **Verdict.** Judge histories, states, logs, exit codes, descriptors and leftovers (`verdict`).

Times are real, so a seed fixes the schedule and the choices of the faults, but not the run. A run without
problems is *clean*. The directory of any other run is kept, with the histories and the logs of the nodes.
"""

import asyncio
import random
import secrets
import shutil
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from barque.client.client import Client
from barque.machine.kv_commands import Keys, Mget, Stats
from barque.testing.chaos import verdict
from barque.testing.chaos.clients import CLUSTER, Workload, connect_client, until
from barque.testing.chaos.faults import FAULTS, NotNow, Stage, add_again, lacking
from barque.testing.chaos.nodes import HOST, NodeProcesses, free_ports, open_descriptors, quoted
from barque.testing.chaos.presets import Preset
from barque.testing.chaos.proxy import Network, beside
from barque.testing.chaos.schedule import Event, draw_schedule
from barque.testing.chaos.verdict import Problem, Verdict
from barque.testing.checkers.history import Outcome

PATIENCE_S = 30.0
"""After healing, every workload must be served again and all members be equal within this time."""
_TIMEOUT_S, _STATUS_S = 2.0, 5.0
_PROGRESS = 5
_LINE_MAX = 400  # the report has the whole line
_LOOK_S = 0.2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `directory` must not exist yet; it is kept if the run fails."""

    name: str
    preset: Preset
    seed: int
    seconds: float
    directory: Path
    nodes: int
    workloads: tuple[str, ...]
    program: tuple[str, ...] = ("-m", "barque")
    """The arguments of Python for a node, before `node --config …`."""


class RunReport(msgspec.Struct, kw_only=True):
    """What a run did and found. A run without problems is clean."""

    preset: str
    seed: int
    nodes: int
    seconds: float
    workloads: dict[str, dict[str, int]] = {}
    faults: dict[str, int] = {}
    left_out: list[str] = []
    starts: int = 0
    restarts: int = 0
    """How many starts were of nodes that had ended by themselves."""
    recovered_s: float | None = None
    checking_s: float = 0.0
    problems: list[Problem] = []
    directory: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether the run is clean, or at least void."""
        return verdict.judge(self.problems)

    @property
    def operations(self) -> int:
        """How many operations were begun."""
        return sum(counts["begun"] for counts in self.workloads.values())


class Run:
    """One run of a plan. `tell` is called with a line whenever something happens."""

    def __init__(self, plan: Plan, tell: Callable[[str], None]) -> None:
        self.plan = plan
        self.tell = tell
        wanted = plan.preset.faults
        self.faults = tuple(name for name in wanted if FAULTS[name].needs not in lacking())
        self.fired: Counter[str] = Counter(dict.fromkeys(self.faults, 0))
        self.report = RunReport(
            preset=plan.name,
            seed=plan.seed,
            nodes=plan.nodes,
            seconds=plan.seconds,
            left_out=[f"{name} (no {FAULTS[name].needs})" for name in wanted if name not in self.faults],
            directory=str(plan.directory),
        )
        self._secret = secrets.token_hex(16).encode()
        self._installation = f"nemesis-{secrets.token_hex(4)}"
        self._names = [f"n{i + 1}" for i in range(plan.nodes)]
        ports = free_ports(plan.nodes)
        self._ports = dict(zip(self._names, ports, strict=True))
        self._network = Network(self._ports)
        self._nodes: NodeProcesses | None = None
        self._workloads: list[Workload] = []
        self._lanes: list[asyncio.Task[None]] = []
        self._complaints: dict[str, str] = {}
        self._over = asyncio.Event()
        self._began = time.monotonic()

    async def run(self) -> RunReport:
        """Run everything. An error of the runner fails the run, as a violation does."""
        self.plan.directory.mkdir(parents=True)
        before = open_descriptors()
        schedule = draw_schedule(
            self.plan.preset, self.faults, self.plan.seconds, f"{self.plan.seed}/{self.plan.name}"
        )
        self._write("schedule.json", schedule)
        try:
            await self._network.start()
            self._nodes = NodeProcesses(
                self.plan.directory, {name: self._config(name) for name in self._names}, self.plan.program
            )
            self._nodes.start(self._names)
            await self._with_nodes(self._nodes, schedule)
        except Exception as error:
            words = "" if self._nodes is None else f"\n{self._nodes.last_words()}"
            self._problem(Problem("error", f"{type(error).__name__}: {error}{words}"))
        finally:
            await self._end()
        self._found(verdict.judge_leftovers(self.plan.directory))
        self._found(verdict.judge_descriptors("this process", before, open_descriptors(), 0))
        self._judge_histories()
        self._write("report.json", self.report)
        if self.report.verdict is not Verdict.NOT_CLEAN:
            for name in self._names:
                shutil.rmtree(self.plan.directory / name, ignore_errors=True)
        return self.report

    # --- phases --------------------------------------------------------------------------

    async def _with_nodes(self, nodes: NodeProcesses, schedule: dict[str, list[Event]]) -> None:
        async with self._client("", self._ports_as_addresses(), PATIENCE_S) as admin:
            await self._demand(lambda: self._is_well(admin), "the nodes to start")
            descriptors = {name: nodes.descriptors(name) for name in self._names}
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(
                        self._client(name, self._links_as_addresses(name), _TIMEOUT_S)
                    )
                    for name in self._names
                ]
                watchers = {
                    name: await stack.enter_async_context(
                        self._client(name, {name: f"{HOST}:{self._ports[name]}"}, _TIMEOUT_S)
                    )
                    for name in self._names
                }
                stage = Stage(nodes, self._network, admin, watchers, self.plan.directory)
                await stack.enter_async_context(stage.kept(self._say))
                await self._work(stage, clients, schedule)
                await self._demand(lambda: self._is_well(admin), "all members to be equal")
                for name, complaint in self._complaints.items():
                    self._problem(Problem("state", f"{name} serves, and says that it is {complaint}"))
                self._found(verdict.same_states(await self._states()))
                self.report.restarts = stage.restarts
        for name in self._names:
            counts = (descriptors[name], nodes.descriptors(name))
            self._found(verdict.judge_descriptors(name, *counts, verdict.DESCRIPTORS_SLACK))
        codes = await asyncio.to_thread(nodes.stop)  # they hand over leaderships through our proxies
        self._found(verdict.judge_nodes(nodes, codes))
        self._found(verdict.judge_progress(self._workloads, dict(self.fired)))

    async def _work(self, stage: Stage, clients: Sequence[Client], schedule: dict[str, list[Event]]) -> None:
        """Run the phases with clients at work: faults, healing, and the last reads."""
        self._begin_work(clients)
        await self._cause_faults(stage, schedule)
        await self._heal(stage)
        await self._finish_work()

    def _begin_work(self, clients: Sequence[Client]) -> None:
        plan = self.plan
        self._began = time.monotonic()
        origin_ns = time.monotonic_ns()
        self._workloads = [
            Workload(
                name,
                clients,
                plan.seed,
                plan.directory,
                processes=plan.preset.processes,
                rate=plan.preset.rate,
                timeout_s=_TIMEOUT_S,
                origin_ns=origin_ns,
                operations_per_key=plan.preset.operations_per_key,
            )
            for name in plan.workloads
        ]
        for workload in self._workloads:
            workload.start()

    async def _cause_faults(self, stage: Stage, schedule: dict[str, list[Event]]) -> None:
        """Run the lanes until each fault has happened, at most twice the planned time."""
        lanes = self._lanes = [asyncio.create_task(self._lane(stage, events)) for events in schedule.values()]
        # a task that ends early has failed, and that ends the run
        waiting = [*lanes, *(task for workload in self._workloads for task in workload.tasks)]
        ends = self._began + self.plan.seconds
        while time.monotonic() < ends or (
            not all(self.fired.values()) and time.monotonic() < ends + self.plan.seconds
        ):
            ended, _ = await asyncio.wait(waiting, timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
            if any(task.exception() for task in ended):
                break
        self._over.set()
        await asyncio.gather(*lanes)

    async def _heal(self, stage: Stage) -> None:
        """Open every link, and demand that each workload is served again and that all is well."""
        healed = time.monotonic()
        self._network.heal()
        if "member" in self.faults:
            for name in self._names:  # a removal without an answer may come late
                await add_again(stage, name)
        self._say("healed")
        goals = {workload.name: workload.acknowledged + _PROGRESS for workload in self._workloads}

        async def served() -> str:
            waiting = [w.name for w in self._workloads if w.acknowledged < goals[w.name]]
            return f"not served: {', '.join(waiting)}" if waiting else await self._is_well(stage.admin)

        await self._demand(served, "service after healing")
        self.report.recovered_s = round(time.monotonic() - healed, 2)
        self._say(f"served again after {self.report.recovered_s} s")

    async def _finish_work(self) -> None:
        """Stop the clients, and read every object once more."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(workload.stop() for workload in self._workloads))
        for workload in self._workloads:
            missing = await workload.read_all(PATIENCE_S)
            if missing:
                self._problem(Problem("hang", f"{workload.name}: could not be read: {missing[:5]}"))

    async def _lane(self, stage: Stage, events: list[Event]) -> None:
        """Cause the faults of one lane, one after the other, until the run is over."""
        waiting = deque(events)
        while waiting and not await self._is_over(waiting[0].wait_s):
            event = waiting.popleft()
            if not await self._happens(stage, event):
                waiting.insert(1, event)  # first another fault, then this one again

    async def _happens(self, stage: Stage, event: Event) -> bool:
        fault = FAULTS[event.fault]
        try:
            rng = random.Random(event.seed)  # noqa: S311  # repeatable on purpose
            async with fault.begin(stage, rng) as what:
                self._say(f"{event.fault}: {what}" + (f", {event.length_s:.1f} s" * (not fault.brief)))
                await self._is_over(event.length_s)
        except NotNow as reason:
            self._say(f"{event.fault}: not now: {reason}")
            return False
        self.fired[event.fault] += 1
        return True

    async def _is_over(self, seconds: float) -> bool:
        """Wait this long, but not beyond the end of the faults. Returns whether that has come."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return False
        return True

    async def _end(self) -> None:
        """Undo every fault, and end everything that this run has started, whatever happened."""
        self._over.set()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        for workload in self._workloads:
            await workload.cancel()
            workload.close()
        if self._nodes is not None:
            await asyncio.to_thread(self._nodes.stop)
        await self._network.stop()
        await asyncio.sleep(0.05)  # transports close in a later turn of the loop

    # --- questions -----------------------------------------------------------------------

    async def _demand(self, condition: Callable[[], Any], what: str) -> None:
        said = await until(condition, PATIENCE_S)
        if said is not None:
            raise TimeoutError(f"waited {PATIENCE_S:.0f} s for {what}: {said}")

    async def _is_well(self, admin: Client) -> str:
        """Return "" if all nodes answer, one member leads, and all have written and applied the same."""
        report = await admin.status([CLUSTER], timeout_s=_STATUS_S)
        self._complaints = {
            node.name: f"{node.state}: {node.failure}" for node in report.nodes if node.state != "running"
        }
        members = [member for cluster in report.clusters for member in cluster.members]
        roles = sorted(member.role for member in members)
        if roles != [*["follower"] * (len(self._names) - 1), "leader"]:
            return f"roles are {roles}"
        positions = {(m.last_applied, m.last_written_index, m.last_index) for m in members}
        working = any(not task.done() for w in self._workloads for task in w.tasks)
        return "" if working or len(positions) == 1 else f"members are at {sorted(positions)}"

    async def _states(self) -> dict[str, Any]:
        """The state of each member, from the member itself."""
        states = {}
        for name, address in self._ports_as_addresses().items():
            if ":" in name:
                continue
            async with self._client(name, {name: address}, 10.0) as client:
                stats = await client.local_query(CLUSTER, Stats())
                keys = sorted(await client.local_query(CLUSTER, Keys(b"*")))
                values = await client.local_query(CLUSTER, Mget(keys))
            states[name] = (stats, hash((tuple(keys), tuple(values))))
        return states

    # --- small things --------------------------------------------------------------------

    @asynccontextmanager
    async def _client(self, home: str, addresses: dict[str, str], timeout_s: float) -> AsyncIterator[Client]:
        home = home or self._names[0]
        async with connect_client(addresses, home, self._secret, self._installation, timeout_s) as client:
            yield client

    def _ports_as_addresses(self) -> dict[str, str]:
        """The nodes' real ports, by their names and by all addresses that stand for them."""
        return self._addresses({name: f"{HOST}:{port}" for name, port in self._ports.items()})

    def _links_as_addresses(self, home: str) -> dict[str, str]:
        """The same, over the links of the client beside this node."""
        links = {name: self._network.links[beside(home), name] for name in self._names}
        return self._addresses({name: link.address for name, link in links.items()})

    def _addresses(self, by_name: dict[str, str]) -> dict[str, str]:
        links = {link.address: by_name[link.target] for link in self._network.links.values()}
        own = {f"{HOST}:{port}": by_name[name] for name, port in self._ports.items()}
        return {**by_name, **own, **links}

    def _config(self, name: str) -> str:
        """A node's configuration: it reaches the others over its own links."""
        links = {other: self._network.links[name, other].address for other in self._names if other != name}
        addresses = {**links, name: f"{HOST}:{self._ports[name]}"}
        table = "".join(f"{other} = {quoted(address)}\n" for other, address in addresses.items())
        return (
            f"name = {quoted(name)}\n"
            f"data_dir = {quoted(str(self.plan.directory / name))}\n"
            f"secret = {quoted(self._secret.decode())}\n"
            f"installation = {quoted(self._installation)}\n"
            f'clusters = [{{name = "{CLUSTER}", machine = "kv"}}]\n'
            f"[nodes]\n{table}"
            "[time]\nheartbeat_interval_ms = 50\ndetector_poll_ms = 300\nbroadcast_time_ms = 50\n"
            f"[log]\nwal_max_size_bytes = {self.plan.preset.wal_max_size_bytes}\n"
        )

    def _judge_histories(self) -> None:
        started = time.monotonic()
        self._say(f"checking {sum(len(workload.records) for workload in self._workloads):,} operations")
        for workload in self._workloads:
            self._found(verdict.judge_history(workload.name, workload.records))
            self.report.workloads[workload.name] = {
                "begun": len(workload.records),
                **{str(outcome): workload.counts[outcome] for outcome in Outcome},
            }
        self.report.checking_s = round(time.monotonic() - started, 2)
        self.report.faults = dict(self.fired)
        self.report.starts = 0 if self._nodes is None else self._nodes.starts

    def _found(self, problems: list[Problem]) -> None:
        for problem in problems:
            self._problem(problem)

    def _problem(self, problem: Problem) -> None:
        self.report.problems.append(problem)
        self._say("\n".join(line[:_LINE_MAX] for line in str(problem).splitlines()))

    def _say(self, line: str) -> None:
        self.tell(f"{time.monotonic() - self._began:7.2f} s  {line}")

    def _write(self, name: str, value: Any) -> None:
        encoded = msgspec.json.format(msgspec.json.encode(value), indent=2)
        (self.plan.directory / name).write_bytes(encoded)


def worst(reports: Sequence[RunReport]) -> Verdict:
    """Judge several runs: what one of them has found counts for all."""
    return verdict.judge([problem for report in reports for problem in report.problems])


async def run_plan(plan: Plan, tell: Callable[[str], None]) -> RunReport:
    """Run a plan. Nothing that the cluster does raises an error here."""
    return await Run(plan, tell).run()
