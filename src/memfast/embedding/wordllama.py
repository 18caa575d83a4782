"""WordLlama l2_supercat, 256 dimensions, offline, from the files that the `wordllama` wheel carries.

A vector is the normalised mean of the vectors of a text's tokens (Llama 2 tokeniser, no special tokens),
which is what `WordLlama.embed(norm=True)` computes. The package itself is not imported: that would put a
handler of level INFO on the root logger and load an HTTP client and a validation library, and its `load()`
looks for the tokeniser in a directory that the wheel does not have, then tries to download it. Its tokeniser
and its matrix are all that is needed, and reading them opens no connection. Pooling is one native pass
over the vectors: no padding, no mask, no copies.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memfast import kernels
from memfast.embedding.batch import chunks, distinct, require_unicode, spread, text_cost
from memfast.embedding.tokens import Parts, Tokens
from memfast.errors import EmbedderUnavailable

__all__ = ["WordLlamaEmbedder"]

_DIMENSIONS = 256
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"
_WEIGHTS = "weights/l2_supercat_256.safetensors"
_MATRIX = "embedding.weight"

_INLINE_COST = 12_288
"""Predicted bytes that are embedded on the event loop where their words are known: 0.04 µs a byte, so about 500 µs."""
_INLINE_UNKNOWN = 1024
"""Predicted bytes of unknown words that are tokenised there: 0.2 to 0.3 µs a byte, so about 300 µs."""
_TEXT_OVERHEAD = 32
"""What a text costs besides its bytes, in bytes: about 1 µs."""
_CHUNK_COST = 65_536
"""Predicted bytes of one job of the thread: about 40 ms where no word is known, and 4 MB of tokens."""


@dataclass(frozen=True, slots=True)
class _Model:
    tokens: Tokens
    matrix: NDArray[np.float32]
    """(tokens, 256)"""

    def embed_inline(self, parts: Parts) -> NDArray[np.float32]:
        """Embed in the calling thread alone."""
        return kernels.unit_sums(self.matrix, self.tokens.inline(parts))

    def embed_chunk(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed with the GIL released while unknown words are tokenised."""
        return kernels.unit_sums(self.matrix, self.tokens.chunk(self.tokens.parts(texts)))


class WordLlamaEmbedder:
    """WordLlama in the process: no network, no GPU, about 10 µs for a short text, 40 where its words are new.

    Texts are never truncated: one of 64 KiB is embedded whole, in bounded memory. A text without tokens (the
    empty one) gets the first axis, (1, 0, 0, …): a unit vector that resembles nothing in particular, always
    the same. Whitespace has tokens of its own and needs no such rule.

    The model (34 MB) is loaded by the first `embed` or `check`, in the embedder's one thread, once. What takes
    less than a millisecond runs on the event loop: texts of 12 KiB in all of which no more than 1 KiB is words that
    did not come lately. More goes to the thread a chunk at a time, so callers take turns and a cancelled call stops
    at its next chunk.
    """

    model = "wordllama/l2_supercat_256"
    dimensions = _DIMENSIONS

    def __init__(self, *, batch_size: int = 64) -> None:
        """Prepare; nothing is loaded. `batch_size`: texts of one chunk, at least 1."""
        self._batch_size = batch_size
        self._loaded: _Model | None = None
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="memfast-wordllama")
        self._closed = False

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Returns:
            float32 (len(texts), 256), C-contiguous, unit rows. A text's bytes are the same in every call.

        Raises:
            EmbedderUnavailable: the model cannot be loaded, or the embedder is closed.
            InvalidRequest: a text holds a lone surrogate.
        """
        if not texts:
            return np.empty((0, _DIMENSIONS), dtype=np.float32)
        model = await self._model()
        unique, positions = distinct(texts)
        try:
            rows = await self._rows(model, unique)
        except TypeError:  # what the tokeniser says of a string that has no UTF-8 form
            require_unicode(texts)
            raise
        return spread(rows, positions)

    async def check(self) -> None:
        """Load the model.

        Raises:
            EmbedderUnavailable: with what to do about it.
        """
        await self._model()

    async def close(self) -> None:
        """End the thread after its current work; waiting callers are refused. Safe to call twice."""
        self._closed = True
        await asyncio.to_thread(self._executor.shutdown)

    async def _rows(self, model: _Model, texts: list[str]) -> NDArray[np.float32]:
        if sum(map(text_cost, texts)) + _TEXT_OVERHEAD * len(texts) <= _INLINE_COST:
            parts = model.tokens.parts(texts)
            if parts.cost <= _INLINE_UNKNOWN:
                return model.embed_inline(parts)
        loop = asyncio.get_running_loop()
        rows = np.empty((len(texts), _DIMENSIONS), dtype=np.float32)
        for start, part in chunks(texts, max_texts=self._batch_size, max_cost=_CHUNK_COST):
            self._require_open()
            rows[start : start + len(part)] = await loop.run_in_executor(self._executor, model.embed_chunk, part)
        return rows

    async def _model(self) -> _Model:
        self._require_open()
        if self._loaded is None or self._waiting:  # who comes while others wait for the load goes after them
            self._waiting += 1
            try:
                async with self._lock:
                    self._require_open()
                    if self._loaded is None:
                        await asyncio.get_running_loop().run_in_executor(self._executor, self._load)
            finally:
                self._waiting -= 1
        assert self._loaded is not None
        return self._loaded

    def _load(self) -> None:
        """Runs in the only thread: a caller that was cancelled meanwhile leaves the model to the next one."""
        if self._loaded is None:
            self._loaded = _load_model()

    def _require_open(self) -> None:
        if self._closed:
            raise EmbedderUnavailable("the embedder is closed: the service is stopping")


def _load_model() -> _Model:
    """Read tokeniser and matrix from the wheel: 0.2 s.

    Raises:
        EmbedderUnavailable: the package or a file is missing or broken.
    """
    spec = importlib.util.find_spec("wordllama")  # finds, does not import
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderUnavailable(
            "the package `wordllama` is not installed: install it, or choose another embedding.provider"
        )
    root = Path(spec.submodule_search_locations[0])
    try:
        model = _read_model(root / _TOKENIZER, root / _WEIGHTS)
    except Exception as error:  # the native readers raise bare Exception for a file that is missing or broken
        raise EmbedderUnavailable(
            f"the WordLlama model in {root} cannot be read ({type(error).__name__}: {error}): "
            "reinstall the package `wordllama`"
        ) from error
    if model.matrix.shape != (model.tokens.tokenizer.get_vocab_size(), _DIMENSIONS):
        raise EmbedderUnavailable(
            f"the WordLlama matrix in {root} has shape {model.matrix.shape}, the tokeniser "
            f"{model.tokens.tokenizer.get_vocab_size()} tokens: reinstall the package `wordllama`"
        )
    return model


def _read_model(tokenizer_file: Path, weights_file: Path) -> _Model:
    # Imported here, at first use and in a thread: a service with another embedder never pays for the native
    # libraries.
    from safetensors.numpy import load_file  # noqa: PLC0415 the reason stands above
    from tokenizers import Tokenizer  # noqa: PLC0415 the reason stands above

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    matrix = load_file(weights_file)[_MATRIX]
    return _Model(Tokens(tokenizer), np.ascontiguousarray(matrix, dtype=np.float32))
