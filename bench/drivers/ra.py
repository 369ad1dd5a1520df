"""Ra 2.2.0 from Debian's rabbitmq-server package, in three plain Erlang nodes with an epmd of their own."""

import os
import subprocess
from pathlib import Path

from barque.bench.measure import Sample, Settings
from drivers.common import (
    HERE,
    ROOT,
    ROWS,
    NotInstalled,
    Processes,
    drive,
    free_ports,
    processes,
    sample_of,
    timeout_of,
    wait_for_port,
)

NAMES = ("ra1@127.0.0.1", "ra2@127.0.0.1", "ra3@127.0.0.1")
DRIVER = "driver@127.0.0.1"
_APPLICATIONS = ("ra", "gen_batch_server", "aten", "seshat")


class Ra:
    """`ra_bench`'s machine under our driver (bench/ra/barque_peer.erl)."""

    syncs = "fdatasync, one for each batch of the log"
    not_promised = "– (the model for Barque)"

    def __init__(self, *, inside: bool) -> None:
        self._inside = inside
        self.rows = ROWS if inside else tuple(row for row in ROWS if row != "failover")  # the same for both
        self.name = "ra" if inside else "ra, outside"
        self.clients = "inside the leader's Erlang node" if inside else "in another Erlang node"

    def check(self) -> None:
        """Look for Erlang and for Ra's code."""
        if not (erlang := ROOT / "usr/lib/erlang").is_dir():
            raise NotInstalled(f"no Erlang in {erlang}; run bench/setup-peers")
        _code_path()

    def run(self, row: str, settings: Settings) -> Sample:
        """Three Erlang nodes and one for the driver."""
        self.check()
        with processes(settings, "ra") as running:
            cluster = RaCluster(running)
            for name in NAMES:
                cluster.start(name)
            arguments = [
                ",".join(NAMES),
                row,
                f"{settings.seconds:.3f}",
                str(settings.payload_bytes),
                "inside" if self._inside and row != "failover" else "outside",
                str(settings.kills),
            ]
            quoted = ",".join(f'"{argument}"' for argument in arguments)
            driver = cluster.start(DRIVER, f"barque_peer:main([{quoted}])", piped=True)
            sample = sample_of(row, drive(driver, cluster.restart, timeout_of(row, settings)))
        if self._inside:
            sample.client_cpu_us = None  # it is part of the leader's
        return sample


def _code_path() -> list[str]:
    plugins = next(iter(sorted(ROOT.glob("usr/lib/rabbitmq/lib/*/plugins"))), None)
    if plugins is None:
        raise NotInstalled(f"no rabbitmq-server in {ROOT}; run bench/setup-peers")
    path = []
    for application in _APPLICATIONS:
        found = sorted(plugins.glob(f"{application}-[0-9]*/ebin"))
        if not found:
            raise NotInstalled(f"{plugins} lacks {application}")
        path.append(str(found[-1]))
    return path


class RaCluster:
    """Erlang nodes in one directory, and the driver of that name (bench/ra/), compiled."""

    def __init__(self, running: Processes, driver: str = "barque_peer.erl") -> None:
        self._running = running
        erlang = ROOT / "usr/lib/erlang"
        binaries = next(erlang.glob("erts-*/bin"))
        self._erlexec = str(binaries / "erlexec")
        [port] = free_ports(1)
        self._env = {
            "ROOTDIR": str(erlang),
            "BINDIR": str(binaries),
            "EMU": "beam",
            "PROGNAME": "erl",
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(running.home),
            "ERL_EPMD_PORT": str(port),
            "ERL_CRASH_DUMP": "/dev/null",
            "LD_LIBRARY_PATH": str(ROOT / "usr/lib/x86_64-linux-gnu"),
        }
        running.start(
            "epmd", [str(binaries / "epmd"), "-address", "127.0.0.1", "-port", str(port)], env=self._env
        )
        wait_for_port(port)
        self._compile(HERE / "ra" / driver)

    def _compile(self, source: Path) -> None:
        code = f'{{ok, _}} = compile:file("{source}", [{{outdir, "{self._running.home}"}}]), halt().'
        self._running.start("compiler", [self._erlexec, "-noshell", "-eval", code], env=self._env)
        if self._running.by_name["compiler"].wait(60) != 0:
            raise RuntimeError(f"{source.name} cannot be compiled")

    def start(self, name: str, code: str = "ok", *, piped: bool = False) -> "subprocess.Popen[str]":
        """One Erlang node. A member waits until the driver starts Ra on it."""
        data = self._running.home / "data" / name.partition("@")[0]
        data.mkdir(parents=True, exist_ok=True)
        command = [self._erlexec, "-noshell", *([] if piped else ["-noinput"])]
        command += [
            "-name",
            name,
            "-setcookie",
            "bench",
            "-start_epmd",
            "false",
            "-kernel",
            "logger_level",
            "error",
        ]
        command += ["-pa", *_code_path(), str(self._running.home)]
        command += ["-ra", "data_dir", f'"{data}"', "-eval", f"{code}."]
        return self._running.start(name, command, env=self._env, piped=piped)

    def restart(self, name: str) -> str:
        """Start a killed node again; the driver finds it by its name."""
        self._running.reap(name)
        return str(self.start(name).pid)
