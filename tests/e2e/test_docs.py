"""The pages that say so do what they show: every block of them is run, in order, against a service.

A page says so by the comment `MARK` at its top. Its blocks share one service, one folder, one namespace of Python and one
shell, in which MEMFAST_URL, MEMFAST_PORT and MEMFAST_DATA_DIR name the service; 8077 stands for its port.

- ```python: run as it stands; with `>>> ` as a doctest.
- ```console: what follows `$ ` (and `> ` on the lines after it) is run by bash and has to exit with 0, or with N where the
  command ends with `# exits with N`. Lines below it are what it prints, where there are any.

In what is printed `...` stands for anything. Other blocks are not run.
"""

import doctest
import gc
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- run: tests/e2e/test_docs.py -->"
PAGES = [page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if MARK in page.read_text()]

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
END = "--end-of-command--"


def _blocks(page, port):
    """(language, line, text) of every block that is run."""
    text = page.read_text()
    for match in BLOCK.finditer(text):
        yield match[1], text[: match.start()].count("\n") + 2, match[2].replace("8077", str(port))


def _run_python(text, where, namespace):
    if not text.startswith(">>> "):
        exec(compile(text, where, "exec"), namespace)
        return
    test = doctest.DocTestParser().get_doctest(text, namespace, where, where, 0)
    told = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=told.append, clear_globs=False)
    namespace.update(test.globs)
    assert not told, "".join(told)


class _Shell:
    """One bash for a page."""

    def __init__(self, environment, folder):
        self._process = subprocess.Popen(
            ["bash", "--norc", "-o", "pipefail"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            text=True,
        )

    def run(self, command):
        """Its exit code and what it printed, both streams."""
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\ncode=$?; echo; echo {END} $code\n")
        self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            if line.startswith(END):
                return int(line.split()[1]), "".join(printed).removesuffix("\n")
            printed.append(line)
        return self._process.wait(), "".join(printed)

    def close(self):
        """End it."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(20)


def _run_console(text, where, shell):
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, *rest = part.splitlines()
        continued = [line for line in rest if line.startswith("> ")]
        command = "\n".join([first, *(line[2:] for line in continued)])
        expected = "\n".join(rest[len(continued) :]).strip()
        exits = re.search(r"# exits with (\d+)$", first)
        code, printed = shell.run(command)
        assert code == (int(exits[1]) if exits else 0), f"{where}: {command}\n{printed}"
        same = doctest.OutputChecker().check_output(f"{expected}\n", f"{printed.strip()}\n", OPTIONS)
        assert same or not expected, f"{where}: {command}\nprints\n{printed}\nand not\n{expected}"


@pytest.mark.usefixtures("mem0")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_does_what_it_shows(page, serve, data_dir, tmp_path, monkeypatch):
    """Every block of a page works as it is written, and prints what stands below it."""
    service = serve(data_dir()).wait_until_ready()
    for name in [name for name in os.environ if name.startswith("MEMFAST_")]:
        monkeypatch.delenv(name)
    named = {"URL": service.url, "PORT": str(service.port), "DATA_DIR": str(service.data_dir)}
    for name, value in named.items():
        monkeypatch.setenv(f"MEMFAST_{name}", value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    shell, namespace = _Shell(dict(os.environ), tmp_path), {"__name__": "__main__"}
    try:
        for language, line, text in _blocks(page, service.port):
            where = f"{page.name}:{line}"
            if language == "python":
                _run_python(text, where, namespace)
            else:
                _run_console(text, where, shell)
    finally:
        shell.close()
        with warnings.catch_warnings():  # clients of others that a page uses have no end of their own
            warnings.simplefilter("ignore", ResourceWarning)
            namespace.clear()
            gc.collect()


def test_a_page_that_lies_is_found_out(tmp_path):
    """An output that differs, an exit code and an exception each fail their block."""
    shell = _Shell(dict(os.environ), tmp_path)
    try:
        _run_console(
            "$ echo 1\n> echo 2\n1\n2\n$ X=3; (exit 4)  # exits with 4\n$ echo a $X c\na ... c\n", "page", shell
        )
        for lie in ("$ echo 1\n2\n", "$ false\n", "$ true  # exits with 1\n"):
            with pytest.raises(AssertionError):
                _run_console(lie, "page", shell)
    finally:
        shell.close()
    namespace = {}
    _run_python(">>> x = 1\n>>> x\n1\n", "page", namespace)
    _run_python("assert x == 1\n", "page", namespace)
    with pytest.raises(AssertionError):
        _run_python(">>> x\n2\n", "page", namespace)
    with pytest.raises(ZeroDivisionError):
        _run_python("1 / 0\n", "page", {})
