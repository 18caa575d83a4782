"""What `memfast advise` prints for people."""

import pytest

from memfast.advice import Advice, Evidence, NotJudged
from memfast.cli.advise import Outcome, show


@pytest.fixture
def advice():
    """One piece of advice, with what a terminal's markup could be taken for."""
    return Advice(
        rule="graph-missing",
        subject="index.flat_limit",
        finding="no graph is made",
        evidence=(Evidence("comparing, p95 ms", 26.5, "GET /v1/stats"), Evidence("text", "a[$1]", "[/red]")),
        action='pip install "memfast[hnsw]"',
        expected="a tenth of the time",
    )


def test_a_table_has_every_figure_and_no_markup(advice, capsys):
    """Brackets are what they are, and each figure says where it was read."""
    show([Outcome(advice, "needs a restart", "set index.flat_limit = 1")], [])
    told = capsys.readouterr().out
    for words in ("memfast[hnsw]", "a[$1] ([/red])", "comparing, p95 ms: 26.5 (GET /v1/stats)", "expected: a tenth"):
        assert words in told
    assert "needs a restart: set index.flat_limit = 1" in told


def test_what_was_not_judged_is_said(capsys):
    """It is not the same as nothing to advise."""
    show([], [NotJudged("database", "it could not be asked")])
    assert capsys.readouterr().out == "database: it could not be asked\n"
    show([], [])
    assert capsys.readouterr().out == "nothing to advise\n"
