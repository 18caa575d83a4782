"""What is shared: found by who wants this very state, and by nobody whose value it is not."""

from datetime import timedelta
from uuid import UUID

import msgspec
import numpy as np
import pytest
from redis.crc import key_slot
from worlds import EPOCH, cache, scope

from memfast.service import shared as module
from memfast.service.answers import Answer, Answers, derive_key
from memfast.service.embeddings import CachedEmbedder
from memfast.service.heat import Heat
from memfast.service.shared import Seal, SharedAnswers, SharedVectors

ADA = scope(1).id
KEY = derive_key(ADA, b"a question")
COST_S = 0.001


class Shelf:
    """`SharedCache` in a dictionary."""

    def __init__(self):
        self.values = {}
        self.available = True
        self.asked = []
        self.lives_s = set()

    async def get(self, keys):
        self.asked.append(len(keys))
        return [self.values.get(key) for key in keys]

    def put(self, key, value, ttl_s, *, replace=True):
        self.values[key] = value
        self.lives_s.add(ttl_s)


@pytest.fixture
def shelf():
    """What lies in the shared cache."""
    return Shelf()


def sharing(world, shelf, secret=b"secret", inputs=b"inputs"):
    """A worker's shared answers."""
    world.ledger.versions_of.setdefault(ADA, 5)
    seal = Seal(secret, inputs)
    answers = SharedAnswers(shelf, seal, world.coherence, world.clock, ttl_s=60, min_cost_s=COST_S)
    answers.enabled = True
    return answers


async def look(world, answers, key=KEY, scope_id=ADA):
    """Ask as a reader does."""
    return await answers.look(key, scope_id, world.coherence.epochs(scope_id))


def offered(answers, version=5, cost_s=COST_S, **fields):
    """Share an answer."""
    answers.offer(KEY, ADA, Answer(b"body", version, "cold", **fields), cost_s)


async def test_an_answer_is_found_by_who_wants_its_state(world, shelf):
    """Without copies the database says which state that is."""
    offered(sharing(world, shelf))
    other = sharing(world, shelf)
    assert await look(world, other) == Answer(b"body", 5, "redis")
    assert world.ledger.asked == [[ADA]]
    assert shelf.lives_s == {60}
    world.ledger.versions_of[ADA] = 6
    assert await look(world, other) is None


async def test_copies_that_are_good_say_which_state_is_wanted(world, shelf):
    """No statement is needed; after a write they say nothing."""
    answers = sharing(world, shelf)
    offered(answers)
    world.coherence.copied(ADA, world.coherence.epochs(ADA), 5)
    assert (await look(world, answers)).body == b"body"
    assert world.ledger.asked == []
    world.ledger.versions_of[ADA] = 6
    world.coherence.wrote(ADA, 6)
    assert await look(world, answers) is None
    assert world.ledger.asked == [[ADA]]


@pytest.mark.parametrize("what", ["inputs", "secret", "key", "life", "era"])
async def test_everything_that_changes_an_answer_is_in_its_key(world, shelf, what):
    """Other settings, another database, another question, another life, another era of copies."""
    offered(sharing(world, shelf))
    named = {what: b"other"} if what in {"inputs", "secret"} else {}
    other = sharing(world, shelf, **named)
    if what == "life":
        world.ledger.facts = msgspec.structs.replace(world.ledger.facts, lineage=UUID(int=5))
        await world.coherence.check()
    if what == "era":
        await world.coherence.begin_era()
    assert await look(world, other, key=derive_key(ADA, b"another") if what == "key" else KEY) is None
    assert shelf.asked == [1]


async def test_keys_of_one_user_lie_together_in_a_cluster(world, shelf):
    """The hash tag is the scope, and nothing else of the key is looked at; other users' lie elsewhere."""
    answers = sharing(world, shelf)
    for version in (1, 2, 3):
        for question in (b"one", b"two"):
            answers.offer(derive_key(ADA, question), ADA, Answer(b"body", version, "cold"), COST_S)
    assert len(shelf.values) == 6
    assert {key_slot(key) for key in shelf.values} == {key_slot(ADA.hex.encode())}
    ours, shelf.values = set(shelf.values), {}
    bob = scope(2).id
    answers.offer(KEY, bob, Answer(b"body", 1, "cold"), COST_S)
    assert {key_slot(key) for key in shelf.values} == {key_slot(bob.hex.encode())} != {key_slot(key) for key in ours}


async def test_nothing_else_opens(world, shelf):
    """Every byte that is flipped, every end that is missing, another key's value, and what is not ours."""
    answers = sharing(world, shelf)
    offered(answers)
    (name, value), now = next(iter(shelf.values.items())), world.clock.now()
    seal = Seal(b"secret", b"inputs")
    assert seal.open(name, value, now) == (b"body", None)
    for position in range(len(value)):
        flipped = bytearray(value)
        flipped[position] ^= 1
        assert seal.open(name, bytes(flipped), now) is None
        assert seal.open(name, value[:position], now) is None
    other = seal.key("group", b"another")
    assert seal.open(other, value, now) is None
    assert seal.open(name, seal.close(other, b"foreign"), now) is None
    assert seal.open(name, Seal(b"other", b"inputs").close(name, b"forged"), now) is None
    assert seal.open(name, None, now) is None
    shelf.values[name] = b"nonsense"
    assert await look(world, answers) is None


async def test_an_answer_that_stops_being_true_is_not_given(world, shelf):
    """It says until when it holds, and keeps that for whoever gets it."""
    answers = sharing(world, shelf)
    until = EPOCH + timedelta(seconds=101)
    offered(answers, expires_at=until)
    assert (await look(world, answers)).expires_at == until
    world.clock.seconds = 101
    assert await look(world, answers) is None


async def test_what_is_cheap_is_neither_shared_nor_asked_for(world, shelf, monkeypatch):
    """A scope whose last search was quick; one that is not known is asked for once."""
    answers = sharing(world, shelf)
    assert await look(world, answers) is None
    offered(answers, cost_s=COST_S / 2)
    assert shelf.values == {}
    assert await look(world, answers) is None
    assert shelf.asked == [1]
    monkeypatch.setattr(module, "_COSTS_MAX", 1)
    answers.offer(KEY, scope(2).id, Answer(b"", 1, "cold"), COST_S)
    assert await look(world, answers) is None
    assert shelf.asked == [1, 1]


@pytest.mark.parametrize("reason", ["disabled", "away", "no user", "no database", "silent database"])
async def test_nothing_is_asked_where_that_cannot_help(world, shelf, reason):
    """Before the database's life is known, while the cache is away, for nobody, or without knowing which state."""
    answers = sharing(world, shelf)
    offered(answers)
    answers.enabled = reason != "disabled"
    shelf.available = reason != "away"
    world.ledger.away = reason == "no database"
    if reason == "no user":
        world.ledger.versions_of.clear()
    if reason == "silent database":
        await world.fall_silent()
        world.ledger.away = False  # it would answer now, but whoever asks might wait
        world.clock.seconds += 100
    assert await look(world, answers) is None
    assert shelf.asked == []


async def test_an_answer_of_nothing_is_not_shared(world, shelf):
    """A user without a version has no state to name; what is true for no time, as a degraded answer, is not kept."""
    offered(sharing(world, shelf), version=0)
    offered(sharing(world, shelf), expires_at=world.clock.now())
    assert shelf.values == {}


async def test_searches_are_looked_for_before_they_are_made(world, shelf):
    """What one worker made another gets, keeps, and gives again; lists are not shared."""
    made = []

    async def compute(_epochs):
        made.append(1)
        world.clock.seconds += COST_S
        return Answer(b"body", 5, "cold")

    workers = []
    for _ in range(2):
        caches = {name: cache() for name in ("search", "list", "get")}
        heat = Heat(None, world.clock)
        shared = sharing(world, shelf)
        workers.append(Answers(caches, cache(), world.coherence, heat, world.clock, shared))
    tiers = [(await each.answer("search", KEY, ADA, compute)).tier for each in (*workers, *workers)]
    assert (tiers, len(made)) == (["cold", "redis", "hot", "hot"], 1)
    tiers = [(await each.answer("list", KEY, ADA, compute)).tier for each in workers]
    assert (tiers, len(made)) == (["cold", "cold"], 3)


class Model:
    """An embedder far away; the vector of a text is its length."""

    model, dimensions = "far", 2

    def __init__(self):
        self.texts = []

    async def embed(self, texts):
        self.texts += texts
        return np.array([[len(text), 1] for text in texts], np.float32)


async def test_vectors_are_made_once_for_all(world, shelf):
    """By one text or many, whoever asks; a round trip for all of them; a broken one is made again."""
    model = Model()

    def worker():
        vectors = SharedVectors(shelf, Seal(b"secret", b"inputs"), world.coherence, world.clock, ttl_s=60)
        return CachedEmbedder(model, cache(), world.clock, vectors)

    await worker().embed(["a", "bb"])
    assert (await worker().embed(["ccc", "bb", "a", "dddd"]))[:, 0].tolist() == [3, 2, 1, 4]
    assert model.texts == ["a", "bb", "ccc", "dddd"]
    assert shelf.asked == [2, 4]
    assert (await worker().vector("bb"))[0] == 2
    assert model.texts == ["a", "bb", "ccc", "dddd"]
    for key in shelf.values:
        shelf.values[key] = shelf.values[key][:-1] + b"!"
    assert (await worker().vector("bb"))[0] == 2
    assert model.texts[4:] == ["bb"]
    shelf.available = False
    assert (await worker().vector("bb"))[0] == 2
    assert model.texts[4:] == ["bb", "bb"]


async def test_vectors_of_an_era_that_is_over_are_made_again(world, shelf):
    """Both those that lie in the shared cache and those that a worker holds."""
    model = Model()
    vectors = SharedVectors(shelf, Seal(b"secret", b"inputs"), world.coherence, world.clock, ttl_s=60)
    embedder = CachedEmbedder(model, cache(), world.clock, vectors)
    embedder.learned(world.coherence.facts)
    await embedder.vector("a")
    embedder.learned(world.coherence.facts)
    await embedder.vector("a")
    assert model.texts == ["a"]
    await world.coherence.begin_era()
    embedder.learned(world.coherence.facts)
    await embedder.vector("a")
    assert model.texts == ["a", "a"]
