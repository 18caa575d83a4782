"""`memfast remember`, `recall`, `list`, `get`, `stats` and `completion`, in pipes and on a terminal."""

import json
import os
import pty
import subprocess
import sys

import pytest


@pytest.fixture
def ask(command, shared):
    """Function: run a command against the module's service; gives what it printed as JSON lines."""

    def run(*words, expect=0, **settings):
        out, error = command(*words, expect=expect, url=shared.url, **settings)
        return [json.loads(line) for line in out.splitlines()] if not expect else error

    return run


def on_terminal(words, url):
    """What a command shows on a terminal of 200 columns, and its exit code."""
    main, side = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMFAST_")}
    environment |= {"MEMFAST_URL": url, "COLUMNS": "200", "TERM": "xterm"}
    try:
        command = [sys.executable, "-m", "memfast", *words]
        with subprocess.Popen(command, stdin=side, stdout=side, stderr=side, env=environment) as process:
            os.close(side)
            side = None
            shown = b""
            while True:
                try:
                    data = os.read(main, 65536)
                except OSError:  # the other end is closed
                    break
                if not data:
                    break
                shown += data
        return shown.decode().replace("\r\n", "\n"), process.returncode
    finally:
        os.close(main)
        if side is not None:
            os.close(side)


def test_memories_from_a_pipe(ask, shared):
    """Every option arrives; what is printed is what the service has."""
    more = ("--tag", "a", "--tag", "b", "--entity", "Ada", "--importance", "0.25", "--kind", "opinion", "--run", "r")
    more += ("--agent", "g", "--source", "s", "--metadata", '{"n": [1, "é"]}', "--expires-at", "2099-01-01T00:00:00")
    (memory,) = ask("remember", "Tea, not coffee.", "--user", "piped", *more)
    expected = {"tags": ["a", "b"], "entities": ["Ada"], "importance": 0.25, "kind": "opinion", "run_id": "r"}
    expected |= {"agent_id": "g", "source": "s", "metadata": {"n": [1, "é"]}, "expires_at": "2099-01-01T00:00:00Z"}
    assert expected.items() <= memory.items()
    ask("remember", "Something else.", "--user", "piped")
    assert ask("get", memory["id"], "--user", "piped")[0]["text"] == "Tea, not coffee."
    assert [each["text"] for each in ask("list", "--user", "piped")] == ["Something else.", "Tea, not coffee."]
    assert len(ask("list", "--user", "piped", "-n", "1")) == 1
    for words in (("--tag", "b"), ("--kind", "opinion"), ("--agent", "g"), ("--filter", '{"metadata.n": [1, "é"]}')):
        assert [each["id"] for each in ask("list", "--user", "piped", *words)] == [memory["id"]]
    (hit,) = ask("recall", "coffee", "--user", "piped", "--mode", "lexical", "--min-score", "0.1")
    assert hit["id"] == memory["id"]
    assert [each["id"] for each in ask("recall", "x", "--user", "piped", "--tag", "a", "-n", "5")] == [memory["id"]]
    assert ask("stats", "--user", "piped")[0]["memories"] == 2
    assert ask("stats")[0]["status"] == "ready"


def test_tables_on_a_terminal(shared):
    """People see tables, and nothing that a memory says is obeyed by their terminal."""
    shown, code = on_terminal(("remember", "Red \x1b[31m[bold]alert[/bold]\x07.", "--user", "shown"), shared.url)
    assert code == 0
    assert shown.startswith("created ")
    memory_id = shown.split()[1]
    for words in (("list",), ("recall", "alert"), ("get", memory_id)):
        shown, code = on_terminal((*words, "--user", "shown"), shared.url)
        assert code == 0
        assert memory_id in shown
        assert "[31m[bold]alert[/bold]" in shown.replace("\n", "")
        assert "\x1b[31m" not in shown
        assert "\x07" not in shown
    shown, code = on_terminal(("list", "--user", "shown", "--json"), shared.url)
    assert json.loads(shown)["id"] == memory_id
    assert "ready" in on_terminal(("stats",), shared.url)[0]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("recall", "x"), 2, "--user"),
        (("remember", "x", "--user", "u", "--metadata", "[1]"), 2, "--metadata: must be a JSON object"),
        (("list", "--user", "u", "--filter", "{"), 2, "--filter: must be a JSON object"),
        (("remember", "x", "--user", "u", "--expires-at", "soon"), 2, "--expires-at: must be a time"),
        (("remember", "x", "--user", "u", "--importance", "7"), 1, "$.importance"),
        (("get", "nothing", "--user", "u"), 1, "must be a UUID"),
        (("stats", "--user", "nobody at all"), 1, "nobody at all"),
        (("list", "--user", "u", "--url", "http://127.0.0.1:9"), 1, "start one with `memfast serve`"),
        (("list", "--user", "u", "--url", "nowhere"), 1, "url: 'nowhere' is not"),
        (("completion", "fish"), 2, "invalid choice"),
    ],
)
def test_mistakes_are_named(ask, words, code, message):
    """With the exit code of their kind, and no trace."""
    assert message in ask(*words, expect=code)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(command, shell):
    """The script knows every command; bash takes it."""
    script, _ = command("completion", shell, expect=0)
    assert all(name in script for name in ("remember", "verify-forgotten", "serve"))
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)
