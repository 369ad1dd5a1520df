"""`barque node`: one node in this process, until SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import click

from barque.cli.failures import FAILED
from barque.cli.node_facts import info_sections
from barque.cli.settings import build_config, clusters_from, named_addresses
from barque.cli.streams import drain_outlets, install_outlets
from barque.client.local import NodeSubmitter
from barque.config import NodeConfig
from barque.errors import ConfigurationError
from barque.gateways.resp.limits import RespLimits
from barque.gateways.resp.server import RespServer
from barque.runtime.node import Node

logger = logging.getLogger("barque.cli")

LOG_LEVELS = ("debug", "info", "warning", "error")
_HAND_OVER_S = 1.0
_SHUTDOWN_S = 10.0


class LineFormatter(logging.Formatter):
    """One line per event: a traceback is joined into one line, so that no tool splits it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        return super().format(record).replace("\n", " | ")


def log_to_stderr(level: str) -> None:
    """Log everything from this level on to stderr, which never lets the event loop wait."""
    install_outlets()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class HttpGateway(Protocol):
    """The HTTP gateway, whose packages may be missing."""

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""

    async def stop(self) -> None:
        """Stop listening, and end all connections."""


class GatewayAddress:
    """The gateway's address for `status`: `host:port`, as for nodes."""

    def __init__(self, server: RespServer) -> None:
        host, port = server.address
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@click.command()
@click.option("--config", "config_path", envvar="BARQUE_CONFIG", metavar="FILE", help="The node's TOML file.")
@click.option("--name", envvar="BARQUE_NAME", help="This node's name.")
@click.option("--data-dir", envvar="BARQUE_DATA_DIR", metavar="DIR", help="Where its files are.")
@click.option("--bind", envvar="BARQUE_BIND", metavar="HOST:PORT", help="Listen here, if not on its address.")
@click.option("--nodes", envvar="BARQUE_NODES", metavar="n1=HOST:PORT,…", help="All nodes, this one too.")
@click.option("--secret-file", envvar="BARQUE_SECRET_FILE", metavar="FILE", help="The nodes' secret.")
@click.option(
    "--admin-secret-file", envvar="BARQUE_ADMIN_SECRET_FILE", metavar="FILE", help="Of administrators."
)
@click.option("--client-secret-file", envvar="BARQUE_CLIENT_SECRET_FILE", metavar="FILE", help="Of clients.")
@click.option("--installation", envvar="BARQUE_INSTALLATION", help="The same name on all nodes.")
@click.option("--resp-bind", envvar="BARQUE_RESP_BIND", metavar="HOST:PORT", help="Serve Redis clients here.")
@click.option("--http-bind", envvar="BARQUE_HTTP_BIND", metavar="HOST:PORT", help="Serve /metrics here.")
@click.option(
    "--cluster",
    "clusters",
    envvar="BARQUE_CLUSTERS",
    multiple=True,
    metavar="NAME=MACHINE",
    help="Form this cluster on all nodes at the first start; may be repeated.",
)
@click.option(
    "--log-level", envvar="BARQUE_LOG_LEVEL", type=click.Choice(LOG_LEVELS), default="info", show_default=True
)
def node(config_path: str | None, log_level: str, **flags: Any) -> int:
    """Run one node until SIGTERM or SIGINT; then hand its leaderships over and stop.

    A second signal ends the process at once, which is safe for the data. Settings come from
    flags, then BARQUE_* variables, then the file. SIGHUP makes it read secrets and certificates again.
    """
    log_to_stderr(log_level)
    clusters, nodes = flags.pop("clusters"), flags.pop("nodes")
    settings = {
        **flags,
        "clusters": clusters_from(clusters, "--cluster") if clusters else None,
        "nodes": named_addresses(nodes, "--nodes") if nodes else None,
    }
    config = build_config(config_path, settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(config))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop factory of uvloop, if uvloop is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _collect_rarely() -> None:
    """Collect garbage rarely: few objects form cycles, and a full collection walks every batch of every log.

    Objects made by recovery live long; freeze them, so that the collector skips them. It was off meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    gc.enable()


async def serve(config: NodeConfig) -> int:
    """Start a node and its gateway, wait for a signal, stop both; returns the exit code."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if asked_to_stop.is_set():
            logger.warning("%s again: ending at once", number.name)
            _end_now(128 + number)
        logger.info("%s: handing leaderships over and stopping", number.name)
        asked_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    running = Node(config)
    loop.add_signal_handler(signal.SIGHUP, running.reload_credentials)
    gc.disable()  # recovery makes many objects and hardly any garbage: collections would walk them in vain
    await running.start()
    gateway: RespServer | None = None
    http: HttpGateway | None = None
    _collect_rarely()
    try:
        http = await _start_http(running)
        gateway = await _start_gateway(running)
        logger.info(
            "node %s is up: pid %d, address %s, redis %s, http %s, data %s, %s",
            config.name,
            os.getpid(),
            running.transport.advertise,
            running.reporter.gateway.address if running.reporter.gateway else "not served",
            http.address if http else "not served",
            config.data_path,
            type(loop).__module__.partition(".")[0],
        )
        await asked_to_stop.wait()
    finally:
        try:
            async with asyncio.timeout(_SHUTDOWN_S):
                await _stop(running, gateway, http)
        except TimeoutError:
            logger.error("not stopped after %g s; ending the process now", _SHUTDOWN_S)
            _end_now(FAILED)
    logger.info("node %s has stopped", config.name)
    return 0


def _end_now(code: int) -> NoReturn:
    """End the process without any clean-up, but for what it has logged."""
    drain_outlets()
    os._exit(code)


async def _start_gateway(running: Node) -> RespServer | None:
    settings = running.config.resp
    if settings is None:
        return None

    gateway = RespServer(
        NodeSubmitter(running),
        settings.cluster,
        settings.bind,
        [*([] if settings.password is None else [settings.password]), *settings.passwords],
        RespLimits(command_timeout_ms=settings.timeout_ms),
        lambda: info_sections(running, settings.cluster),
        running.clock,
        running.rng,
        running.server_tls if settings.tls else None,
    )
    await gateway.start()
    running.reporter.gateway = GatewayAddress(gateway)
    return gateway


async def _start_http(running: Node) -> HttpGateway | None:
    settings = running.config.http
    if settings is None:
        return None
    try:
        from barque.gateways.http.server import HttpServer
    except ImportError as error:
        raise ConfigurationError(
            f"http: {error.name} is not installed; install it with: pip install 'barque[http]'"
        ) from error
    server = HttpServer(running, settings.bind, running.server_tls if settings.tls else None)
    await server.start()
    return server


async def _stop(running: Node, gateway: RespServer | None, http: HttpGateway | None) -> None:
    """Hand over first: the successor serves the gateway's clients until the gateway closes."""
    await running.admin.hand_over(_HAND_OVER_S)
    for door in (gateway, http):
        if door is not None:
            await door.stop()
    await running.stop()
