"""Two services over one database that know nothing of each other: what a token promises, and what holds without one."""

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from bench.coherence.driver import Checker, Stale, Tally, drive
from bench.coherence.history import History
from bench.coherence.model import Search
from bench.coherence.plan import DIMENSIONS, LEG_TIMEOUT_MS, VECTORS
from bench.coherence.tokens import TokenClient
from pair import Pair, Unwatched, install, reached, worker

from memfast.service.coherence import TRUST_S, Coherence

_numbers = itertools.count(1)

READS = 1500
"""Reads that are compared with the model. `python -m bench.hosts` does the same, longer and with figures."""


class Nobody:
    """A database that nobody changes by hand."""


@pytest.fixture(scope="module")
def sites(server, make_site):
    """The grounds of two services with slots of their own, over one database."""
    dsn = server.new_database()
    settings = {"embedding__provider": "none", "embedding__dimensions": DIMENSIONS, "coherence__mode": "cluster"}
    settings["search__leg_timeout_ms"] = LEG_TIMEOUT_MS
    return [make_site(dsn, **settings) for _ in range(2)]


@asynccontextmanager
async def hosts(sites, *, warm=False):
    """One worker of each service, with one user of six memories."""
    async with worker(sites[0]) as a, worker(sites[1]) as b:
        both = Pair(a, b, f"host-{next(_numbers)}")
        await both.begin()
        if warm:
            await both.warm()
        yield both


def token_of(pair, place):
    """The token of the user's last write there."""
    return f"{place.services.coherence.facts.lineage.hex}.{pair.state.version}"


def checkers(pair, **named):
    """The two workers, as clients see them that send tokens."""
    tokens = {}
    return Checker([TokenClient(place, tokens, **named) for place in (pair.a, pair.b)], Tally())


async def test_reads_with_tokens_are_never_stale(sites):
    """Random writes through both services; each read on either names the last acknowledged write."""
    async with hosts(sites) as pair:
        checker = checkers(pair)
        await drive(checker, Nobody(), seed=3, owners=4, reads=READS, sql_share=0.0, lifetime=40)
    assert all(checker.tally.reads[tier] > READS // 50 for tier in ("hot", "warm", "cold")), checker.tally.reads


async def test_one_user_under_eight_writers_and_thirty_two_readers(sites):
    """No read shows less than what was acknowledged before it began, and each shows one state."""
    async with hosts(sites) as pair:
        judged = await History(checkers(pair), 5).run(writers=4, readers=16, writes=6)
    assert judged > 200


async def test_the_token_is_what_does_it(sites, monkeypatch):
    """The same without tokens, where nothing is checked between the hosts: the checker finds stale answers."""
    install(monkeypatch, Coherence=Unwatched)
    monkeypatch.setattr(Coherence, "trusts", lambda _self, _scope: True)
    async with hosts(sites) as pair:
        with pytest.raises(Stale):
            await drive(checkers(pair, silent=True), Nobody(), seed=3, owners=2, reads=READS, sql_share=0.0)


@pytest.mark.parametrize("warm", [False, True])
async def test_without_tokens_trust_ends(sites, monkeypatch, warm):
    """Copies that nobody confirmed for a second are confirmed before they are used, by whoever wants them."""
    install(monkeypatch, Coherence=Unwatched)
    async with hosts(sites, warm=warm) as pair:
        await pair.copied()
        old, before = pair.state, len(pair.asks)
        await pair.write(pair.a, pair.delete())
        await Checker((pair.b,), Tally()).everywhere(old, pair.asks[:before], 1)  # trusted: not older than a second
        pair.b.services.coherence._confirmed.clear()  # a second has gone
        await pair.right((pair.b,))


async def test_without_tokens_other_hosts_are_seen_within_the_bound(sites):
    """A second and a query after the acknowledgement the new state is shown everywhere, and the old one never again."""
    async with hosts(sites) as pair:
        await pair.copied()
        for operation in (pair.patch(), pair.delete(1), pair.put()):
            old = pair.state
            await pair.write(pair.a, operation)
            began = time.monotonic()
            await Checker((pair.b,), Tally()).becomes(old, pair.state, pair.asks)
            assert time.monotonic() - began < TRUST_S + 3.0, "the machine may be busy; 3 s are for that"
            await pair.right()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("form", ["header", "field", "strong header", "strong field"])
async def test_every_read_meets_its_demand(sites, monkeypatch, warm, form):
    """Hot copies of an older state on the other host do not answer: by header or field, for each kind of read."""
    install(monkeypatch, Coherence=Unwatched)
    async with hosts(sites, warm=warm) as pair:
        for ask in pair.asks[:9]:
            old = pair.state
            await pair.right()
            number = pair.asks.index(ask)
            await pair.write(pair.a, pair.patch(number % 6, f"changed for {number} {form}"))
            pair.b.services.coherence._confirm([pair.b.scope(pair.user_id).id], time.monotonic())  # it may be believed
            stale = await pair.b.ask(*ask.request())
            token = token_of(pair, pair.a)
            fresh = await pair.b.ask(*with_demand(ask, form, token), headers=headers_of(form, token))
            now = datetime.now(UTC)
            changed = not ask.holds(old, now, fresh.status, fresh.version, fresh.body)
            assert ask.holds(pair.state, now, fresh.status, fresh.version, fresh.body), (ask, fresh)
            assert changed <= ask.holds(old, now, stale.status, stale.version, stale.body), "the copy was not used"


def headers_of(form, token):
    """A demand's headers."""
    return {
        "header": {"Memfast-Min-Version": token},
        "strong header": {"Memfast-Consistency": "strong"},
    }.get(form, {})


def with_demand(ask, form, token):
    """A request with the demand in its fields."""
    method, path, body = ask.request()
    wished = {"field": ("min_version", token), "strong field": ("consistency", "strong")}.get(form)
    if wished is None:
        return method, path, body
    if body is None:
        return method, f"{path}&{wished[0]}={wished[1]}", None
    return method, path, body | dict([wished])


async def test_a_batch_of_searches_meets_its_demand(sites, monkeypatch):
    """The batch's token is for the batch's user; a search's own is its own."""
    install(monkeypatch, Coherence=Unwatched)
    async with hosts(sites) as pair:
        ask = pair.asks[0]
        await pair.copied()
        await pair.write(pair.a, pair.delete())
        pair.b.services.coherence._confirm([pair.b.scope(pair.user_id).id], time.monotonic())
        token, search = token_of(pair, pair.a), ask.request()[2]
        plain = {key: value for key, value in search.items() if key != "user_id"}
        other = plain | {"user_id": "somebody who has nothing"}
        bodies = [
            {"user_id": pair.user_id, "min_version": token, "searches": [plain, other]},
            {"searches": [search | {"min_version": token}, other]},
        ]
        for body, headers in [
            *((body, {}) for body in bodies),
            (bodies[0] | {"min_version": None}, headers_of("header", token)),
        ]:
            answer = await pair.b.ask("POST", "/v1/search/batch", body, headers=headers)
            assert answer.status == 200, answer
            assert b'"problem"' not in answer.body
            assert f'"version":{pair.state.version}'.encode() in answer.body
            pair.state  # noqa: B018
        ahead = f"{token.partition('.')[0]}.{pair.state.version + 1}"
        answer = await pair.b.ask("POST", "/v1/search/batch", {"searches": [search | {"min_version": ahead}, other]})
        assert answer.status == 200
        assert answer.body.count(b"version-ahead") == 1


async def test_a_read_that_joins_an_older_computation_is_made_again(sites, monkeypatch):
    """The other host's write comes between the snapshot of a computation under way and the read with its token."""
    install(monkeypatch, Coherence=Unwatched)
    async with hosts(sites) as pair:
        ask = Search(pair.user_id, tuple(VECTORS[3].astype(float)), 5)
        with pair.b.held("nearest") as pause:
            first = asyncio.create_task(pair.b.ask(*ask.request()))
            await reached(pause)
            await pair.write(pair.a, pair.delete())
            second = asyncio.create_task(
                pair.b.ask(*ask.request(), headers=headers_of("header", token_of(pair, pair.a)))
            )
            for _ in range(20):
                await asyncio.sleep(0)
            pause.go.set()
            assert (await first).version == pair.state.version - 1
            assert (await second).version == pair.state.version


async def test_what_cannot_be_met_is_refused(sites):
    """A version that does not exist, a token of another life, and what is no token."""
    async with hosts(sites) as pair:
        path, lineage = f"/v1/memories?user_id={pair.user_id}", pair.b.services.coherence.facts.lineage.hex
        await pair.right()
        for text, status, slug in (
            (f"{lineage}.{pair.state.version + 1}", 409, b"version-ahead"),
            (f"{'0' * 32}.1", 409, b"other-lineage"),
            ("yesterday", 400, b"invalid-request"),
        ):
            for place in (pair.a, pair.b):
                for how in ("header", "field"):
                    asked = f"{path}&min_version={text}" if how == "field" else path
                    answer = await place.ask(
                        "GET", asked, headers={"Memfast-Min-Version": text} if how == "header" else {}
                    )
                    assert (answer.status, slug in answer.body) == (status, True), answer
        answer = await pair.b.ask("GET", path, headers={"Memfast-Consistency": "eventual"})
        assert answer.status == 400
        assert (await pair.b.ask("GET", path + "&consistency=eventual")).status == 400
