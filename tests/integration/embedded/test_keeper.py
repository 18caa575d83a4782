"""A server that ends while it is needed comes back, and one that is no longer needed does not."""

import logging
import os
import signal

import pytest

from memfast.store.embedded import Keeper
from memfast.store.embedded.cluster import _owner
from memfast.store.embedded.process import servers_in


@pytest.fixture
def kept(data_dir, clusters, fetch):
    """A running cluster with a row in it, and its directory."""
    folder = data_dir()
    cluster = clusters(folder)
    fetch(cluster.start(), "CREATE TABLE kept AS SELECT 7 AS x")
    return cluster, folder


def no_server(folder):
    """Whether no process of PostgreSQL works in a data directory."""
    return servers_in(folder / "postgres", _owner(folder / "postgres")) == []


def test_a_killed_server_comes_back(kept, fetch, pid_of, poll):
    """Kill -9 of the postmaster, again and again: it runs anew with every row, and ends with its keeper."""
    cluster, folder = kept
    lines = []
    with Keeper(cluster, lines.append):
        for count in (1, 2):
            before = pid_of(folder)
            os.kill(before, signal.SIGKILL)
            endpoint = poll(lambda before=before: cluster._pid != before and cluster.running())
            assert fetch(endpoint, "SELECT x FROM kept") == [(7,)]
            poll(lambda count=count: len(lines) == 2 * count)
        assert lines == ["PostgreSQL ended by itself and is started again", "PostgreSQL runs again"] * 2
    assert no_server(folder)


@pytest.mark.parametrize("moment", range(5))
def test_an_end_while_it_starts_leaves_nothing(kept, pid_of, poll, moment):
    """Told to end while it starts the server again, at one moment or another, it ends and leaves no process."""
    cluster, folder = kept
    lines = []
    with Keeper(cluster, lines.append):
        os.kill(pid_of(folder), signal.SIGKILL)
        poll(lambda: lines)
        before, steps = cluster._pid, 0
        while cluster._pid == before and steps < 50 * moment:  # a start takes some hundred of these steps
            poll(lambda: True)
            steps += 1
    assert no_server(folder)


def test_a_server_that_cannot_start_is_tried_again(kept, fetch, pid_of, poll, caplog):
    """While the database is not there none is made in its place; once it is back, so is the server."""
    cluster, folder = kept
    with Keeper(cluster), caplog.at_level(logging.WARNING):
        os.kill(pid_of(folder), signal.SIGKILL)
        (folder / "postgres").rename(folder / "away")
        poll(lambda: "could not be started again" in caplog.text)
        assert not (folder / "postgres").exists()
        (folder / "away").rename(folder / "postgres")
        endpoint = poll(cluster.running)
        assert fetch(endpoint, "SELECT x FROM kept") == [(7,)]
    assert no_server(folder)
