"""Arguments in, exit code out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memfast import __version__
from memfast.cli.signals import Stopped, StopRequest
from memfast.config import Effective, load
from memfast.errors import CommandFailed, MemfastError, StartError

__all__ = ["build_parser", "main"]

Command = Callable[[Effective, argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    with StopRequest() as arguments.stop:
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    try:
        if getattr(arguments, "url", "") is None:
            arguments.url = os.environ.get("MEMFAST_URL") or None
        effective = load(os.environ, flags=_flags(arguments), file=arguments.config)
        _set_up_logging(effective)
        command: Command = arguments.command
        return command(effective, arguments)
    except StartError as error:
        return _fail(error, error.exit_code)
    except MemfastError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Stopped:
        stop: StopRequest = arguments.stop
        return 0 if arguments.ends_by_signal else stop.exit_code
    except Exception as error:
        logging.getLogger("memfast").debug("the command failed", exc_info=True)
        hint = "run it again with MEMFAST_LOG_LEVEL=debug for the details, and please report it"
        return _fail(CommandFailed(f"an error of its own: {type(error).__name__}: {error}; {hint}"), 1)


def _fail(error: Exception, exit_code: int) -> int:
    print(f"memfast: {error}", file=sys.stderr)
    return exit_code


def build_parser() -> argparse.ArgumentParser:
    """The command line, as argparse knows it."""
    parser = argparse.ArgumentParser(
        prog="memfast",
        description="A memory service for AI agents.",
        epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 port taken, 4 data directory in use, "
        "5 database refused, 6 other embedding model, "
        "10 found something forgotten, or something to advise, 11 could not look everywhere for it, "
        "130 Ctrl-C, 143 SIGTERM (0 for `serve`, which is meant to be stopped).",
    )
    parser.add_argument("--version", action="version", version=f"memfast {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    shared = _shared_options()

    serve = _command(commands, shared, "serve", "run the service", _lazily("serve", "serve"))
    serve.set_defaults(ends_by_signal=True)
    serve.add_argument("--host", dest="server.host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", dest="server.port", help="TCP port (8077)")
    serve.add_argument("--workers", dest="server.workers", help="worker processes (1)")
    serve.add_argument(
        "--with-stdin",
        action="store_true",
        help="stop when standard input ends, as it does with the program that started this",
    )
    serve.add_argument("--insecure", action="store_true", help="listen beyond loopback although no API key exists")
    _command(commands, shared, "migrate", "bring the database's schema up to date", _lazily("database", "migrate"))
    config = _command(
        commands, shared, "config", "show every setting and where it comes from", _lazily("show", "config")
    )
    config.add_argument("--json", action="store_true", help="as JSON")
    _command(commands, shared, "version", "show versions", _lazily("show", "version"))
    _command(commands, shared, "doctor", "check what a start needs", _lazily("doctor", "doctor"))
    _add_profile(commands, shared)
    _add_mcp(commands, shared)
    _add_memories(commands, shared)
    _add_advise(commands, shared)
    _add_warm(commands, shared)
    _add_keys(commands, shared)
    _add_copies(commands, shared)
    _add_transfer(commands, shared)
    _add_reembed(commands, shared)
    _add_graph(commands, shared)
    _add_forgetting(commands, shared)
    completion = _command(
        commands, shared, "completion", "print a script that completes commands", _lazily("completion", "completion")
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="whose script")
    return parser


def _add_profile(commands: Any, shared: argparse.ArgumentParser) -> None:
    profile = _command(
        commands, shared, "profile", "show what a running worker spends its time in", _lazily("profile", "profile")
    )
    profile.add_argument(
        "--seconds",
        type=int,
        choices=range(1, 601),
        default=10,
        metavar="N",
        help="how long to look, up to 600 (10)",
    )
    profile.add_argument("--worker", type=int, metavar="PID", help="the worker; without it the one that answers")
    profile.add_argument(
        "--stacks", type=Path, metavar="FILE", help="also write all stacks with their counts, for flame graphs"
    )


def _add_mcp(commands: Any, shared: argparse.ArgumentParser) -> None:
    mcp = _command(commands, shared, "mcp", "carry MCP from standard input to a running service", _lazily("mcp", "mcp"))
    mcp.set_defaults(ends_by_signal=True)
    mcp.add_argument("--user", help="the one user_id whose memories it is for; else every call names one")
    mcp.add_argument("--url", help="the service, where it is not the configured one")


def _add_memories(commands: Any, shared: argparse.ArgumentParser) -> None:
    remember = _command(commands, shared, "remember", "store a memory", _lazily("memories", "remember"))
    remember.add_argument("text", help="what is to be remembered; - is standard input")
    remember.add_argument("--tag", dest="tags", action="append", default=[], metavar="TAG", help="repeatable")
    remember.add_argument("--entity", dest="entities", action="append", default=[], metavar="NAME", help="repeatable")
    remember.add_argument("--importance", type=float, help="0 to 1 (0.5)")
    remember.add_argument("--metadata", metavar="JSON", help="an object")
    remember.add_argument("--source", help="where it comes from")
    remember.add_argument("--expires-at", metavar="TIME", help="when it is forgotten by itself, RFC 3339")
    remember.add_argument("--dedupe", action="store_true", help="store nothing that is said already")
    recall = _command(commands, shared, "recall", "find memories by what they mean", _lazily("memories", "recall"))
    recall.add_argument("query", help="what is looked for")
    recall.add_argument("--limit", "-n", type=int, help="hits at most (10)")
    recall.add_argument("--mode", choices=["hybrid", "lexical", "vector"], help="by words and meaning, or one (hybrid)")
    recall.add_argument("--min-score", type=float, help="0 to 1 (0)")
    recall.add_argument(
        "--tag", dest="tags", action="append", default=[], metavar="TAG", help="any of them; repeatable"
    )
    several = _command(commands, shared, "list", "show memories, newest first", _lazily("memories", "list_memories"))
    several.add_argument("--limit", "-n", type=int, default=20, help="memories at most (20); 0 = all")
    several.add_argument("--tag", help="only with this tag")
    several.add_argument("--entity", help="only with this entity")
    several.add_argument("--order", choices=["created_desc", "created_asc"], help="newest or oldest first")
    one = _command(commands, shared, "get", "show a memory", _lazily("memories", "get"))
    one.add_argument("id", help="its id")
    told = _command(
        commands,
        shared,
        "stats",
        "show how the service is and does, or what there is of a user",
        _lazily("stats", "stats"),
    )
    told.add_argument("--minutes", type=int, choices=[1, 5, 60], help="how the service did in the last minutes")
    for command in (recall, several):
        command.add_argument("--filter", metavar="JSON", help="see docs/filters.md")
    for command in (remember, several):
        command.add_argument("--kind", help="e.g. fact, opinion")
        command.add_argument("--agent", dest="agent_id", metavar="ID", help="whose memory it is")
        command.add_argument("--run", dest="run_id", metavar="ID", help="the session it is of")
    for command in (remember, recall, several, one, told):
        command.add_argument("--user", required=command is not told, help="the user's id")
        command.add_argument("--json", action="store_true", help="one JSON object a line, which a pipe gets anyway")
        command.add_argument("--url", help="the service, where it is not the configured one")
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.epilog = _EXAMPLES[command.prog.split()[-1]]


_EXAMPLES = {
    "remember": """examples:
  memfast remember "I am allergic to peanuts." --user ada --tag health --importance 0.9
  git log -1 --format=%B | memfast remember - --user ada --source git --dedupe""",
    "recall": """examples:
  memfast recall "which foods must be avoided?" --user ada -n 3
  memfast recall "kitchen" --user ada --filter '{"kind": {"in": ["fact", "opinion"]}}' | jq -r .text""",
    "list": """examples:
  memfast list --user ada --tag health
  memfast list --user ada -n 0 --json > ada.ndjson""",
    "get": """example:
  memfast get 0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01 --user ada""",
    "stats": """examples:
  memfast stats
  memfast stats --minutes 5
  memfast stats --user ada --json""",
}


def _add_advise(commands: Any, shared: argparse.ArgumentParser) -> None:
    advise = _command(
        commands,
        shared,
        "advise",
        "say what a running service and its database should be set to, and by which figures",
        _lazily("advise", "advise"),
    )
    advise.add_argument("--minutes", type=int, choices=[1, 5, 60], default=60, help="the counts of how many (60)")
    advise.add_argument("--apply", action="store_true", help="do what is safe while the service serves")
    advise.add_argument("--json", action="store_true", help="as JSON, which a pipe gets anyway")
    advise.add_argument("--url", help="the service, where it is not the configured one")


def _add_warm(commands: Any, shared: argparse.ArgumentParser) -> None:
    warm = _command(
        commands, shared, "warm", "save the most read users and warm a running service", _lazily("warm", "warm")
    )
    warm.add_argument("users", nargs="*", help="user ids; without them the most read users")
    warm.add_argument("--namespace", default="default", help="tenant of the named users (default)")
    warm.add_argument("--all", action="store_true", help="also users that were never read")
    warm.add_argument("--limit", type=int, default=1000, help="users at most (1000)")
    warm.add_argument("--budget-mb", type=int, default=0, help="stop when so many MiB are on disk (0 = no bound)")
    warm.add_argument(
        "--queries", type=int, default=20, help="frequent questions of each user that are asked again (20)"
    )
    warm.add_argument("--dry-run", action="store_true", help="show what would be warmed, change nothing")


def _add_keys(commands: Any, shared: argparse.ArgumentParser) -> None:
    keys = commands.add_parser("keys", help="make, list and revoke API keys").add_subparsers(
        metavar="action", required=True
    )
    create = _command(keys, shared, "create", "make a key; it is shown this once", _lazily("keys", "create"))
    create.add_argument("--namespace", default="default", help="tenant that the key belongs to (default)")
    create.add_argument("--user", help="the one user_id that the key may reach")
    create.add_argument("--role", choices=["user", "admin"], default="user", help="what it may do (user)")
    _command(keys, shared, "list", "list keys, without their secrets", _lazily("keys", "list_keys"))
    revoke = _command(keys, shared, "revoke", "revoke a key", _lazily("keys", "revoke"))
    revoke.add_argument("id", help="the key's id, from `memfast keys list`")


def _add_copies(commands: Any, shared: argparse.ArgumentParser) -> None:
    backup = _command(
        commands,
        shared,
        "backup",
        "copy the embedded database and verify the copy",
        _lazily("database", "backup"),
    )
    backup.add_argument("directory", type=Path, help="a new or empty directory")
    restore = _command(
        commands,
        shared,
        "restore",
        "fill an empty data directory from a backup",
        _lazily("database", "restore"),
    )
    restore.add_argument("directory", type=Path, help="a backup made by `memfast backup`")
    upgrade = _command(
        commands,
        shared,
        "upgrade",
        "move the embedded database to a newer PostgreSQL",
        _lazily("database", "upgrade"),
    )
    upgrade.add_argument("--to", type=int, default=18, help="PostgreSQL version (18)")


def _add_forgetting(commands: Any, shared: argparse.ArgumentParser) -> None:
    forget = _command(commands, shared, "forget", "erase a user", _lazily("forget", "forget"))
    forget.add_argument("--rewrite", action="store_true", help="rewrite all tables: no file says it any more")
    forget.add_argument("--yes", action="store_true", help="do not ask")
    verify = _command(
        commands, shared, "verify-forgotten", "look for what is left of a user", _lazily("forget", "verify")
    )
    verify.add_argument("--text", action="append", default=[], help="what a memory said, from its begin on; repeatable")
    verify.add_argument(
        "--path", action="append", default=[], type=Path, help="another file or directory to look into; repeatable"
    )
    verify.add_argument("--json", action="store_true", help="as JSON, which a pipe gets anyway")
    for command in (forget, verify):
        command.add_argument("user", help="the user's id")
        command.add_argument("--namespace", default="default", help="the user's tenant (default)")
        command.add_argument("--url", help="the service, where it is not the configured one")


def _add_transfer(commands: Any, shared: argparse.ArgumentParser) -> None:
    export = _command(
        commands, shared, "export", "write everything of a user or a namespace to a file", _lazily("transfer", "export")
    )
    export.add_argument("--user", help="the one user to export; without it all of the key's namespace")
    take_in = _command(commands, shared, "import", "send a file to a running service", _lazily("transfer", "import_"))
    take_in.add_argument("--user", help="whose memories those are that name no user")
    take_in.add_argument(
        "--from", dest="form", choices=["auto", "memfast", "mem0"], default="auto", help="whose file it is (auto)"
    )
    take_in.add_argument(
        "--on-conflict",
        choices=["error", "update", "ignore"],
        default="error",
        help="what happens to a memory whose id the user has, with other content (error)",
    )
    take_in.add_argument(
        "--on-error", choices=["continue", "stop"], default="continue", help="after a line that is refused (continue)"
    )
    take_in.add_argument("--resume", action="store_true", help="leave out what an import that broke off had sent")
    for command in (export, take_in):
        command.add_argument("file", help="lines of JSON; .gz is compressed; - is standard input or output")
        command.add_argument("--url", help="the service, where it is not the configured one")


def _add_reembed(commands: Any, shared: argparse.ArgumentParser) -> None:
    reembed = _command(
        commands,
        shared,
        "reembed",
        "move the database to another embedding model, beside a running service",
        _lazily("reembed", "reembed"),
    )
    reembed.add_argument("--provider", dest="embedding.provider", help="of the model to move to: wordllama or openai")
    reembed.add_argument("--model", dest="embedding.model", help="its name")
    reembed.add_argument("--dimensions", dest="embedding.dimensions", help="length of its vectors")
    reembed.add_argument(
        "--base-url", dest="embedding.base_url", help="its endpoint, which is given embedding.next_api_key"
    )
    reembed.add_argument(
        "--from-text", action="store_true", help="replace vectors that clients gave by vectors of the texts"
    )
    instead = reembed.add_mutually_exclusive_group()
    instead.add_argument("--status", action="store_true", help="show models and how far a move is, change nothing")
    instead.add_argument(
        "--rollback", "--abort", action="store_true", help="give up a move that has not switched, with all it built"
    )


def _add_graph(commands: Any, shared: argparse.ArgumentParser) -> None:
    graph = commands.add_parser("graph", help="the copy of the links in Neo4j").add_subparsers(
        metavar="action", required=True
    )
    rebuild = _command(graph, shared, "rebuild", "build it anew, beside a running service", _lazily("graph", "rebuild"))
    rebuild.add_argument("--json", action="store_true", help="tell how far it is as lines of JSON")
    status = _command(graph, shared, "status", "show it and what waits for it", _lazily("graph", "status"))
    status.add_argument("--json", action="store_true", help="as JSON")
    _command(graph, shared, "off", "keep nothing for it until a service that has one starts", _lazily("graph", "off"))


def _shared_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, help="TOML file with settings")
    shared.add_argument("--data-dir", dest="data_dir", help="where everything on disk lies")
    shared.add_argument("--profile", dest="profile", help="set of defaults, e.g. high-traffic")
    shared.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting, e.g. server.port=9000",
    )
    return shared


def _command(
    commands: Any, shared: argparse.ArgumentParser, name: str, text: str, run: Command
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, parents=[shared])
    parser.set_defaults(command=run, ends_by_signal=False)
    return parser


def _lazily(module: str, function: str) -> Command:
    """A command whose module is imported when it runs: `memfast version` need not load a web server."""

    def run(effective: Effective, arguments: argparse.Namespace) -> int:
        from importlib import import_module

        command: Command = getattr(import_module(f"memfast.cli.{module}"), function)
        return command(effective, arguments)

    return run


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    flags = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None and (name in {"data_dir", "profile"} or "." in name)
    }
    for assignment in arguments.assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise_usage(f"--set {assignment}: must be KEY=VALUE")
        flags[key] = value
    return flags


def raise_usage(message: str) -> None:
    """End as argparse does for wrong usage."""
    print(f"memfast: {message}", file=sys.stderr)
    raise SystemExit(2)


def _set_up_logging(effective: Effective) -> None:
    from memfast.cli.logs import set_up

    set_up(effective.config.log)
    logging.captureWarnings(capture=True)
