"""WordLlama from its wheel: the same vectors as its own package makes, the same bytes in every call."""

import asyncio
import base64
import json
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from memfast.embedding import tokens as tokens_module
from memfast.embedding import wordllama as adapter
from memfast.embedding.wordllama import WordLlamaEmbedder
from memfast.errors import EmbedderUnavailable, InvalidRequest

TEXTS = [
    "prefers dark mode",
    "a",
    " ",
    "\n\t  ",
    "Alice met Bob in Paris last spring, and they talked about memory for agents.",
    "naïve café, Straße, œuvre, ﬁne",
    "cafe\u0301",
    "Ελληνικά, русский, עברית, العربية, हिन्दी",
    "記憶は宝物です。机器学习,한국어",
    "🎉🚀👩‍👩‍👧‍👦 🏳️‍🌈",
    "\u200b\ufeff\x00\x07",
    "<s> </s> <unk>",
    "def f(x):\n    return {'a': [1, 2.5e-3]}",
    "x" * 300,
    "The quick brown fox jumps over the lazy dog. " * 60,
    "🎉" * 700,
    "𓀀𒀀𝔘 " * 200,
]

PROBE = """
import base64, json, pathlib, sys
import wordllama
texts = json.load(sys.stdin)
model = wordllama.WordLlama.load(cache_dir=pathlib.Path(wordllama.__file__).parent, disable_download=True)
print(base64.b64encode(model.embed(texts, norm=True).astype("<f4").tobytes()).decode())
"""

OFFLINE = """
import asyncio, logging, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event in {"socket.connect", "socket.getaddrinfo"} else None)
from memfast.embedding.wordllama import WordLlamaEmbedder
async def main():
    embedder = WordLlamaEmbedder()
    await embedder.embed(["hello", "hello " * 3000])
    await embedder.close()
asyncio.run(main())
assert "safetensors" in sys.modules
assert not {"wordllama", "requests", "huggingface_hub", "pydantic"} & set(sys.modules)
assert not logging.getLogger().handlers
print(opened)
"""


@pytest.fixture
async def embedder():
    """A fresh embedder, closed afterwards."""
    fresh = WordLlamaEmbedder()
    yield fresh
    await fresh.close()


def token_ids(embedder, texts):
    """The tokens of each text, from the tokeniser of a loaded embedder."""
    return [embedder._loaded.tokens.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def counting_loads(monkeypatch, *, gate=None):
    """Count loads of the model; each waits for `gate` in its thread."""
    loads = []
    load = adapter._load_model

    def counted():
        loads.append(threading.get_ident())
        assert gate is None or gate.wait(20)
        return load()

    monkeypatch.setattr(adapter, "_load_model", counted)
    return loads


async def test_the_vectors_are_those_of_the_package(embedder):
    """Own pooling agrees with WordLlama.embed(norm=True): to 1e-6, and to its own rounding on long texts.

    The package adds thousands of float32 rows in one run; ours are added by blocks and lie nearer to the exact sum.
    """
    answer = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    expected = np.frombuffer(base64.b64decode(answer.stdout), dtype="<f4").reshape(len(TEXTS), 256)
    difference = np.abs(await embedder.embed(TEXTS) - expected).max(axis=1)
    few = [len(ids) <= 512 for ids in token_ids(embedder, TEXTS)]
    assert 10 < sum(few) < len(TEXTS)
    assert difference[few].max() < 1e-6
    assert difference.max() < 4e-6


async def test_the_vectors_are_those_of_exact_sums(embedder):
    """Every text, the longest too, is within 5e-7 of its float64 mean."""
    rows = await embedder.embed(TEXTS)
    for row, ids in zip(rows, token_ids(embedder, TEXTS), strict=True):
        exact = embedder._loaded.matrix[ids].astype(np.float64).sum(axis=0)
        assert np.abs(row - exact / np.linalg.norm(exact)).max() < 5e-7


async def test_a_text_has_the_same_bytes_in_every_call():
    """Alone, in any batch, at any place, inline or in the thread: the row does not change in a bit."""
    alone = WordLlamaEmbedder()
    expected = {text: (await alone.embed([text]))[0].tobytes() for text in TEXTS}
    await alone.close()
    rng = np.random.default_rng(5)
    for batch_size in (1, 3, 64):
        embedder = WordLlamaEmbedder(batch_size=batch_size)
        for size in (2, 5, len(TEXTS), 150):
            texts = [TEXTS[i] for i in rng.integers(0, len(TEXTS), size)]
            rows = await embedder.embed(texts)
            assert [row.tobytes() for row in rows] == [expected[text] for text in texts]
        await embedder.close()


async def test_both_ways_of_tokenising_give_the_same_bytes(embedder):
    """The inline path and the thread's path agree on texts of every size."""
    await embedder.check()
    model = embedder._loaded
    inline = model.embed_inline(model.tokens.parts(TEXTS)).tobytes()
    fresh = adapter._Model(adapter.Tokens(model.tokens.tokenizer), model.matrix)
    assert inline == fresh.embed_chunk(TEXTS).tobytes() == model.embed_chunk(TEXTS).tobytes()


async def test_the_tokens_of_words_are_those_of_the_text(embedder):
    """Cut into words and put together again, a text has the tokens that the tokeniser finds in all of it."""
    await embedder.check()
    tokens = embedder._loaded.tokens
    rng = np.random.default_rng(3)
    pieces = [
        "a",
        "de",
        "The",
        " ",
        " ",
        "  ",
        "0",
        "19",
        "-",
        "'s",
        "/",
        "é",
        "日本",
        "😀",
        "e\u0301",
        "\n",
        "\t",
        "\u00a0",
    ]
    pieces += ["\u2003", "▁", "<s>", "</s>", "<unk>", "<", ">", "x" * 40]
    texts = ["".join(rng.choice(pieces, size)) for size in rng.integers(0, 16, 4000)] + TEXTS
    expected = token_ids(embedder, texts)
    for _ in range(2):  # the second time, the words are known
        assert tokens.inline(tokens.parts(texts)) == expected
        assert tokens.chunk(tokens.parts(texts)) == expected


async def test_no_token_crosses_the_border_of_a_word(embedder):
    """Which makes that so: no token has a space behind something else, and none of more than a digit has one."""
    await embedder.check()
    vocabulary = embedder._loaded.tokens.tokenizer.get_vocab()
    bytes_alone = {f"<0x{byte:02X}>" for byte in range(256)}
    assert bytes_alone < vocabulary.keys()
    for token in vocabulary.keys() - bytes_alone:
        assert "▁" not in token.lstrip("▁")
        assert len(token) == 1 or not any(character in "0123456789" for character in token)


async def test_remembered_words_are_few(embedder, monkeypatch):
    """A full memory is emptied, long words never enter it, and the tokens stay right."""
    await embedder.check()
    monkeypatch.setattr(tokens_module, "REMEMBERED_MAX", 10)
    tokens = adapter.Tokens(embedder._loaded.tokens.tokenizer)
    texts = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)} {'long' * 9} 1 2" for n in range(100)]
    for text in texts:
        assert tokens.inline(tokens.parts([text])) == token_ids(embedder, [text])
        assert len(tokens._known) <= 10
        assert max(map(len, tokens._known)) <= 32


async def test_the_model_keeps_its_meaning(embedder):
    """The name in the database stands for these numbers: other weights or another tokeniser fail here."""
    rows = await embedder.embed(["the user prefers dark mode", "記憶 🎉"])
    expected = [[0.130382, -0.112547, -0.149118, 0.088822], [0.014975, 0.105308, 0.007879, -0.021919]]
    np.testing.assert_allclose(rows[:, [0, 1, 127, 255]], expected, atol=1e-6)


async def test_near_texts_are_nearer_than_far_ones(embedder):
    """The vectors mean something."""
    near, other, far = await embedder.embed(["prefers dark mode", "likes a dark theme", "the invoice is overdue"])
    assert near @ other > 0.3 > near @ far


async def test_the_empty_text_is_the_first_axis(embedder):
    """No tokens: a fixed unit vector, never NaN, alone and in a batch."""
    axis = np.eye(1, 256, dtype=np.float32)[0]
    assert (await embedder.embed([""])).tolist() == [axis.tolist()]
    rows = await embedder.embed(["a" * 3000, "", "b"])
    assert rows[1].tolist() == axis.tolist()
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("text", ["🎉" * 16_384, "word " * 13_107, "é" * 32_768, " " * 65_536], ids=len)
async def test_64_kib_are_embedded_whole_in_bounded_memory(embedder, text):
    """The end of a long text counts, and token vectors are not gathered all at once (that would take 67 MB)."""
    await embedder.check()
    tracemalloc.start()
    try:
        rows = await embedder.embed([text])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert abs(np.linalg.norm(rows[0]) - 1) < 1e-6
    assert peak < 16_000_000
    assert (await embedder.embed([text[:-1] + "Z"])).tobytes() != rows.tobytes()


async def test_small_calls_stay_on_the_loop_and_large_ones_leave_it(embedder, monkeypatch):
    """The prediction goes by bytes, those of words that are new above all: known ones are cheap."""
    calls = []

    def noting(name):
        method = getattr(adapter._Model, name)

        def noted(model, given):
            texts = given if isinstance(given, list) else given.words
            calls.append((name, threading.current_thread() is threading.main_thread(), len(texts)))
            return method(model, given)

        monkeypatch.setattr(adapter._Model, name, noted)

    noting("embed_inline")
    noting("embed_chunk")
    fresh = [" ".join(f"{chr(97 + n)}{chr(97 + m)}w" for m in range(8)) for n in range(20)]
    await embedder.embed(["short"])
    await embedder.embed(["long " * 400])
    await embedder.embed(["🎉" * 300])
    await embedder.embed(fresh)
    await embedder.embed(fresh)
    await embedder.embed(["long " * 4000])
    await embedder.embed([f"text {i}" for i in range(150)])
    await embedder.embed([f"text {i}" for i in range(1000)])
    await embedder.embed(["again"] * 1000)
    assert calls == [
        ("embed_inline", True, 1),
        ("embed_inline", True, 1),
        ("embed_chunk", False, 1),
        ("embed_chunk", False, 20),
        ("embed_inline", True, 20),
        ("embed_chunk", False, 1),
        ("embed_inline", True, 150),
        *(("embed_chunk", False, n) for n in (64,) * 15 + (40,)),
        ("embed_inline", True, 1),
    ]


async def test_the_first_callers_load_the_model_once(embedder, monkeypatch):
    """Twenty first calls at the same time: one load, in a thread, and twenty right answers."""
    loads = counting_loads(monkeypatch)
    rows = await asyncio.gather(*(embedder.embed([TEXTS[i % 4]]) for i in range(20)))
    assert len(loads) == 1
    assert loads[0] != threading.get_ident()
    assert [row.tobytes() for row in rows] == [rows[i % 4].tobytes() for i in range(20)]


async def test_a_cancelled_first_caller_leaves_the_load_to_the_next(embedder, monkeypatch):
    """The load goes on in its thread; the next caller waits for it and does not start another."""
    gate = threading.Event()
    loads = counting_loads(monkeypatch, gate=gate)
    first = asyncio.create_task(embedder.embed(["a"]))
    async with asyncio.timeout(10):
        while not loads:
            await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(embedder.embed(["a"]))
    gate.set()
    assert (await second).shape == (1, 256)
    assert len(loads) == 1


async def test_nobody_overtakes_who_waits_for_the_model(embedder, monkeypatch):
    """Callers of short texts are answered in the order in which they came, those that come after the load too."""
    gate = threading.Event()
    counting_loads(monkeypatch, gate=gate)
    answered = []

    async def ask(number):
        await embedder.embed([f"text {number}"])
        answered.append(number)

    async with asyncio.timeout(30), asyncio.TaskGroup() as asked:
        for number in range(20):
            asked.create_task(ask(number))
        await asyncio.sleep(0)
        gate.set()
        number = 20
        while len(answered) < 20:
            asked.create_task(ask(number))
            number += 1
            await asyncio.sleep(0)
    assert answered == list(range(number))


async def test_a_missing_package_says_what_to_do(embedder, monkeypatch):
    """And the failure is not remembered."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wordllama", None)
        with pytest.raises(EmbedderUnavailable, match="`wordllama` is not installed: install it"):
            await embedder.check()
    await embedder.check()


@pytest.mark.parametrize("damage", ["missing", "cut", "noise"])
async def test_broken_files_say_what_to_do(embedder, monkeypatch, tmp_path, damage):
    """Missing, cut off or random weights: one error that names the directory."""
    (tmp_path / "wordllama" / "weights").mkdir(parents=True)
    (tmp_path / "wordllama" / "tokenizers").mkdir()
    (tmp_path / "wordllama" / "__init__.py").touch()
    real = adapter.importlib.util.find_spec("wordllama").submodule_search_locations[0]
    tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"
    (tmp_path / "wordllama" / tokenizer).symlink_to(f"{real}/{tokenizer}")
    weights = tmp_path / "wordllama" / "weights" / "l2_supercat_256.safetensors"
    if damage == "cut":
        with Path(real, "weights", weights.name).open("rb") as source:
            weights.write_bytes(source.read(1000))
    elif damage == "noise":
        weights.write_bytes(np.random.default_rng(1).bytes(1000))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        with pytest.raises(EmbedderUnavailable, match=r"cannot be read .*reinstall") as caught:
            await embedder.check()
    assert str(tmp_path) in str(caught.value)
    await embedder.check()


@pytest.mark.parametrize("texts", [["ok", "bad \udfff"], ["bad \udfff" * 500]])
async def test_half_a_surrogate_pair_is_the_callers_fault(embedder, texts):
    """Inline or in the thread: an invalid request, not a crash of the service."""
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        await embedder.embed(texts)


async def test_a_closed_embedder_refuses():
    """Closing ends the thread, twice is fine, and later calls say why they fail."""
    embedder = WordLlamaEmbedder()
    await embedder.embed(["long " * 400])
    await embedder.close()
    await embedder.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("memfast-wordllama")]
    with pytest.raises(EmbedderUnavailable, match="closed"):
        await embedder.embed(["a"])
    with pytest.raises(EmbedderUnavailable, match="closed"):
        await embedder.check()


async def test_closing_during_a_long_call_refuses_its_rest():
    """The chunk under way ends, the next one is refused; nothing hangs and nothing is cancelled by surprise."""
    embedder = WordLlamaEmbedder(batch_size=1)
    await embedder.check()
    task = asyncio.create_task(embedder.embed([f"{i} " * 500 for i in range(200)]))
    await asyncio.sleep(0)
    await embedder.close()
    with pytest.raises(EmbedderUnavailable, match="closed"):
        await task


def test_nothing_connects_and_the_root_logger_stays_clean():
    """A fresh interpreter loads and embeds without a look-up or a connection, and without the package's imports."""
    answer = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"
