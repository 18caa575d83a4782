"""`memfast serve`: prepare, start the workers, stop in order."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from granian import Granian
from granian.constants import Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels

from memfast import __version__, kernels
from memfast.asgi import Loader
from memfast.bootstrap import Ground, ground
from memfast.config import Config, Effective, ServerConfig
from memfast.errors import ConfigError, PortTaken

__all__ = ["serve"]

_log = logging.getLogger("memfast.serve")

_WORKER_KILL_S = 5
"""Seconds beyond the stop timeout after which a worker is killed."""


def serve(effective: Effective, arguments: argparse.Namespace) -> int:
    """Run the service until it is told to stop."""
    config = effective.config
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _claimed(config.server), ground(config, _say) as site:
            _refuse_open_door(site, insecure=arguments.insecure)
            _greet(site)
            return _run(site)
    except KeyboardInterrupt:
        return 0  # told to stop while starting; everything that was started has been stopped


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(site: Ground) -> int:
    server = site.config.server
    granian = Granian(
        "memfast.asgi",
        address=server.host,
        port=server.port,
        interface=Interfaces.ASGI,
        workers=server.workers,
        loop=Loops.uvloop,
        http1_settings=HTTP1Settings(),
        websockets=False,
        backlog=server.backlog,
        log_level=LogLevels.warning,
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=server.stop_timeout_s + _WORKER_KILL_S,
        process_name="memfast",
    )
    granian.serve(target_loader=Loader(site, os.getpid()), wrap_loader=False)
    return 0


class _claimed:  # noqa: N801 - reads as what it is in a with statement
    """Holds the address so that no second service can share it.

    Granian's workers bind with SO_REUSEPORT, under which two services on one port both run and answer in turns. This
    socket is bound without it, which fails if anybody listens, and is then opened to the workers of this user; it never
    listens itself.
    """

    def __init__(self, server: ServerConfig) -> None:
        self._server = server
        self._socket: socket.socket | None = None

    def __enter__(self) -> None:
        host, port = self._server.host, self._server.port
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise ConfigError(f"server.host = {host!r} is not an address: {error.strerror}") from error
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            raise PortTaken(
                f"{host}:{port} cannot be used ({error.strerror}): another service may run there; stop it, or choose "
                "another port with --port"
            ) from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def __exit__(self, *_details: object) -> None:
        if self._socket is not None:
            self._socket.close()


def _refuse_open_door(site: Ground, *, insecure: bool) -> None:
    host = site.config.server.host
    if site.prepared.keys_generation or insecure or _is_loopback(host):
        return
    raise ConfigError(
        f"server.host = {host} is reachable by others and there is no API key: make one with `memfast keys create`, "
        "listen on 127.0.0.1, or say --insecure"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def _greet(site: Ground) -> None:
    config = site.config
    where = "external PostgreSQL" if config.postgres.dsn else f"PostgreSQL in {Path(config.data_dir) / 'postgres'}"
    facts, url = site.prepared.facts, _url(config)
    keys = "needed for every route but health"
    if not site.prepared.keys_generation:
        keys = "none yet: every caller is let in (memfast keys create)"
    print(
        f"""
memfast {__version__} on {url}
  memories   {where}
             PostgreSQL {facts.server_version}, pgvector {facts.pgvector_version}, schema {site.prepared.schema}
  embedder   {site.prepared.model} ({site.prepared.dimensions} dimensions)
  kernels    {"compiled" if kernels.IMPL == "c" else "Python (slow): the extension is not built"}
  keys       {keys}
  API        {url}/schema

Try it from another terminal:

  curl -s {url}/v1/memories -H 'Content-Type: application/json' \\
    -d '{{"user_id": "ada", "text": "I am allergic to peanuts."}}'
  curl -s {url}/v1/search -H 'Content-Type: application/json' \\
    -d '{{"user_id": "ada", "query": "what should I not cook?"}}'

Stop it with Ctrl-C.
""",
        flush=True,
    )
    sys.stdout.flush()


def _url(config: Config) -> str:
    host = config.server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"
