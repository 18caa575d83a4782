"""What a client may send: exactly up to the bound, and a word with the path beyond it."""

import base64
import math
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from memfast.config import LimitsConfig
from memfast.errors import InvalidRequest
from memfast.service.limits import NAME_CHARS, Limits

CONFIG = LimitsConfig(
    text_bytes=10,
    tags=3,
    tag_chars=4,
    entities=2,
    entity_chars=5,
    metadata_bytes=40,
    metadata_depth=3,
    user_id_bytes=6,
    batch_items=5,
    page_items=7,
)
LIMITS = Limits(CONFIG, 4)
SAFE = 2**53 - 1

GOOD = [
    ("text", "x" * 10),
    ("text", "é" * 5),
    ("text", " x "),
    ("user_id", "x" * 6),
    ("user_id", " "),
    ("user_id", "🥜ab"),
    ("name", "x"),
    ("name", "é" * NAME_CHARS),
    ("tags", []),
    ("tags", ["abcd", "é🥜bc", "x"]),
    ("entities", ["abcde", "x"]),
    ("importance", 0),
    ("importance", 1),
    ("page", 1),
    ("page", 7),
    ("items", 1),
    ("items", 5),
]
BAD = [
    ("text", "", "$.x"),
    ("text", "\u2003\n\t", "$.x"),
    ("text", "x" * 11, "$.x"),
    ("text", "é" * 6, "$.x"),
    ("text", "a\0b", "$.x"),
    ("user_id", "", "$.x"),
    ("user_id", "x" * 7, "$.x"),
    ("user_id", "🥜abc", "$.x"),
    ("user_id", "\0", "$.x"),
    ("name", "", "$.x"),
    ("name", "x" * (NAME_CHARS + 1), "$.x"),
    ("name", "\0", "$.x"),
    ("tags", ["a", "b", "c", "d"], "$.x"),
    ("tags", ["a", "abcde"], "$.x[1]"),
    ("tags", [""], "$.x[0]"),
    ("tags", ["a\0"], "$.x[0]"),
    ("entities", ["a", "b", "c"], "$.x"),
    ("entities", ["abcdef"], "$.x[0]"),
    ("importance", -0.000001, "$.x"),
    ("importance", 1.000001, "$.x"),
    ("importance", math.nan, "$.x"),
    ("importance", math.inf, "$.x"),
    ("page", 0, "$.x"),
    ("page", 8, "$.x"),
    ("page", 10**40, "$.x"),
    ("items", 0, "$.x"),
    ("items", 6, "$.x"),
    ("metadata", {"a": {"b": {"c": {}}}}, "$.x.a.b.c"),
    ("metadata", {"a": [[[]]]}, "$.x.a[0][0]"),
    ("metadata", {"a": "x" * 40}, "$.x"),
    ("metadata", {"a": SAFE + 1}, "$.x.a"),
    ("metadata", {"a": [0, -SAFE - 1]}, "$.x.a[1]"),
    ("metadata", {"a": math.nan}, "$.x.a"),
    ("metadata", {"a": [math.inf]}, "$.x.a[0]"),
    ("metadata", {"a\0": 1}, "$.x"),
    ("metadata", {"a": {"\0": 1}}, "$.x.a"),
    ("metadata", {"a": "\0"}, "$.x.a"),
    ("metadata", {"a": {1: 2}}, "$.x.a"),
    ("metadata", {"a": b"x"}, "$.x.a"),
    ("metadata", {"a": datetime(2025, 1, 1, tzinfo=UTC)}, "$.x.a"),
    ("vector", [1.0, 2.0, 3.0], "$.x"),
    ("vector", [1.0] * 5, "$.x"),
    ("vector", [], "$.x"),
    ("vector", [0.0] * 4, "$.x"),
    ("vector", [1e-31] * 4, "$.x"),
    ("vector", [1.0, 2.0, 3.0, math.nan], "$.x"),
    ("vector", [1.0, 2.0, 3.0, -math.inf], "$.x"),
    ("vector", b"", "$.x"),
    ("vector", bytes(15), "$.x"),
    ("vector", bytes(17), "$.x"),
    ("vector", bytes(16), "$.x"),
    ("vector", np.array([1, 2, 3, np.nan], "<f4").tobytes(), "$.x"),
    ("vector", np.array([1, 2, 3, np.inf], "<f4").tobytes(), "$.x"),
    ("time", datetime(2025, 1, 1), "$.x"),  # noqa: DTZ001 - the missing offset is the point
    ("time", datetime.min.replace(tzinfo=UTC), "$.x"),
    ("time", datetime.max.replace(tzinfo=UTC), "$.x"),
    ("time", datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "$.x"),
    ("time", datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), "$.x"),
]


@pytest.mark.parametrize(("check", "value"), GOOD, ids=str)
def test_what_is_on_the_bound_is_taken(check, value):
    """And comes back as it was."""
    found = getattr(LIMITS, check)(value, "$.x")
    assert found == (None if check == "items" else value)


@pytest.mark.parametrize(
    ("check", "value", "path"), BAD, ids=[f"{check}-{number}" for number, (check, *_) in enumerate(BAD)]
)
def test_what_is_beyond_is_refused_with_its_path(check, value, path):
    """The error and its detail name the place."""
    with pytest.raises(InvalidRequest) as refused:
        getattr(LIMITS, check)(value, "$.x")
    assert refused.value.path == path
    assert str(refused.value).startswith(f"{path}: ")
    assert len(str(refused.value)) < 300


def test_words_are_kept_once_each_in_order():
    """Tags and entities; the number is counted before."""
    assert LIMITS.tags(["b", "a", "b"], "$.x") == ["b", "a"]
    assert LIMITS.entities(("y", "y"), "$.x") == ["y"]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-SAFE, SAFE)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text('aé🥜"\\', max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("aé", max_size=2), inner, max_size=2),
        max_leaves=6,
    )
)
def test_metadata_comes_back_as_it_was_sent(value):
    """Whatever fits is stored as JSON that means the same."""
    roomy = Limits(LimitsConfig(metadata_bytes=100_000, metadata_depth=64), 4)
    assert msgspec.json.decode(roomy.metadata({"a": value}, "$.x")) == {"a": value}


def test_metadata_is_measured_as_json_in_bytes():
    """Exactly the bound is taken, one byte more is not."""
    exact = {"a": "é" * 16}  # 8 bytes around 32
    assert len(LIMITS.metadata(exact, "$.x")) == 40
    with pytest.raises(InvalidRequest, match="40 bytes as JSON, it is 41"):
        LIMITS.metadata({"a": "é" * 16 + "x"}, "$.x")


def test_deep_metadata_is_refused_without_descending():
    """A thousand levels end at the bound."""
    value: dict = {}
    for _ in range(1000):
        value = {"a": value}
    with pytest.raises(InvalidRequest, match="3 levels deep"):
        LIMITS.metadata(value, "$.x")


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE, min_size=4, max_size=4))
def test_every_finite_vector_becomes_a_unit_vector(numbers):
    """From the smallest to the largest float64, without a warning; only the zero vector has no direction."""
    if max(map(abs, numbers)) < 1e-30:
        with pytest.raises(InvalidRequest, match="zero vector"):
            LIMITS.vector(numbers, "$.x")
        return
    vector = LIMITS.vector(numbers, "$.x")
    assert vector.dtype == np.float32
    assert vector.shape == (4,)
    assert vector.flags.c_contiguous
    assert abs(np.linalg.norm(vector.astype(np.float64)) - 1) < 1e-6
    largest = int(np.argmax(np.abs(numbers)))
    assert np.sign(vector[largest]) == np.sign(numbers[largest])


@given(
    arrays.arrays("<f4", 4, elements=st.floats(-(2.0**100), 2.0**100, width=32)).filter(
        lambda row: np.abs(row).max() > 1e-20
    )
)
def test_numbers_and_bytes_give_the_same_vector(row):
    """To the last bit, whichever way it came."""
    from_numbers = LIMITS.vector(row.astype(float).tolist(), "$.x")
    from_bytes = LIMITS.vector(base64.b64decode(base64.b64encode(row.tobytes())), "$.x")
    assert from_numbers.tobytes() == from_bytes.tobytes()


def test_times_are_turned_into_utc():
    """The same moment, with UTC as its offset."""
    moment = datetime(2025, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    found = LIMITS.time(moment, "$.x")
    assert (found, found.tzinfo) == (moment, UTC)
    edge = datetime.max.replace(microsecond=999998, tzinfo=UTC)
    assert LIMITS.time(edge, "$.x") == edge
