"""`memfast serve`: prepare, start the workers, stop in order."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path

from memfast import __version__, kernels
from memfast.bootstrap import Ground, ground, require_telemetry
from memfast.cli.port import Port
from memfast.cli.workers import run_workers
from memfast.config import Config, Effective
from memfast.errors import ConfigError

__all__ = ["serve"]

_PORT_WAIT_S = 2.0
"""How long a start waits for the port: the workers of a killed service need a moment to notice."""


def serve(effective: Effective, arguments: argparse.Namespace) -> int:
    """Run the service until it is told to stop, which is a success also while it still starts."""
    if arguments.with_stdin:
        threading.Thread(target=_stop_with_stdin, name="stdin", daemon=True).start()
    require_telemetry(effective.config)
    server = effective.config.server
    with Port.claim(server.host, server.port, _PORT_WAIT_S) as port, ground(effective.config, _say) as site:
        _refuse_open_door(site, insecure=arguments.insecure)
        port.listen(server.backlog)
        _greet(site)
        arguments.stop.check()
        run_workers(site, port)
        arguments.stop.note()
    return 0


def _stop_with_stdin() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock a daemon thread would hold when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _refuse_open_door(site: Ground, *, insecure: bool) -> None:
    host = site.config.server.host
    if site.prepared.keys_generation or insecure or site.config.server.is_local:
        return
    raise ConfigError(
        f"server.host = {host} is reachable by others and there is no API key: make one with `memfast keys create`, "
        "listen on 127.0.0.1, or say --insecure"
    )


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
  dashboard  {url}/dashboard

Try it from another terminal:

  curl -s {url}/v1/memories -H 'Content-Type: application/json' \\
    -d '{{"user_id": "ada", "text": "I am allergic to peanuts."}}'
  curl -s {url}/v1/search -H 'Content-Type: application/json' \\
    -d '{{"user_id": "ada", "query": "what should I not cook?"}}'

Stop it with Ctrl-C.
""",
        flush=True,
    )


def _url(config: Config) -> str:
    host = config.server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"
