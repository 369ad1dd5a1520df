"""The Redis port over TLS: a Redis client that trusts the authority is served, others are not."""

import asyncio
import contextlib
from pathlib import Path

import pytest
import redis.asyncio
import redis.exceptions
from tests.nodes import Nodes, until
from tests.transport.certificates import Authority

import barque
from barque.client.local import NodeSubmitter
from barque.gateways.resp.server import RespServer


async def test_s2_redis_clients_speak_tls(tmp_path: Path) -> None:
    """redis-py with `ssl=True` works, also with large values; plain clients and strangers harm nobody.

    A renewed certificate counts for the next connection.
    """
    ca = Authority(tmp_path / "pki")
    shown = ca.issue("n1", dns=("n1", "localhost"))
    made = Nodes(tmp_path, 1, clusters=(barque.ClusterConfig("kv", "kv"),))
    tls = barque.TlsConfig(str(shown), str(ca.key_of(shown)), str(ca.path))
    made.credentials = {"tls": tls}
    await made.start()
    node = made.running["n1"]
    gateway = RespServer(NodeSubmitter(node), "kv", "127.0.0.1:0", tls=node.server_tls)
    await gateway.start()
    try:
        host, port = gateway.address
        reader, plain = await asyncio.open_connection(host, port)
        plain.write(b"PING\r\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        plain.close()
        silent = [await asyncio.open_connection(host, port) for _ in range(5)]

        async def served() -> bool:
            async with redis.asyncio.Redis(
                host="localhost", port=port, ssl=True, ssl_ca_certs=str(ca.path)
            ) as client:
                await client.set("k", b"v" * 3_000_000)
                return await client.get("k") == b"v" * 3_000_000

        assert await until(served, "an answer")
        stranger = Authority(tmp_path / "other")
        async with redis.asyncio.Redis(
            host="localhost", port=port, ssl=True, ssl_ca_certs=str(stranger.path), retry=None
        ) as client:
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.ping()
        renewed = stranger.issue("n1", dns=("n1", "localhost"))
        ca.key_of(shown).write_bytes(ca.key_of(renewed).read_bytes())
        shown.write_bytes(renewed.read_bytes())
        assert node.reload_credentials()
        async with redis.asyncio.Redis(
            host="localhost", port=port, ssl=True, ssl_ca_certs=str(stranger.path)
        ) as client:
            assert await client.ping()
        for _, writer in silent:
            writer.close()
    finally:
        await gateway.stop()
        await made.stop()
