"""Cursors open for their own listing, and for nothing else."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfast.errors import InvalidRequest
from memfast.model import Position
from memfast.service.cursors import Cursors

LIFE, OTHER_LIFE = UUID(int=1), UUID(int=2)
CURSORS = Cursors(b"s" * 32, lambda: LIFE)
POSITION = Position(datetime(2025, 1, 1, microsecond=7, tzinfo=UTC), UUID(int=5))
MOMENTS = st.datetimes(timezones=st.just(UTC))


@given(MOMENTS, st.uuids(), st.binary(max_size=40))
def test_a_cursor_opens_to_what_was_sealed(moment, target, binding):
    """Every position, to the microsecond."""
    position = Position(moment, target)
    assert CURSORS.open(CURSORS.seal(position, binding=binding), Position, binding=binding) == position


@given(st.text())
def test_a_text_opens_to_itself(user_id):
    """Cursors of users hold an id, whatever is in it."""
    assert CURSORS.open(CURSORS.seal(user_id, binding=b"users"), str, binding=b"users") == user_id


def test_a_cursor_is_plain_in_an_address():
    """Letters, digits, dash and underscore: nothing to encode."""
    assert CURSORS.seal(POSITION, binding=b"b").replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    "other",
    [Cursors(b"t" * 32, lambda: LIFE), Cursors(b"s" * 32, lambda: OTHER_LIFE)],
    ids=["secret", "life"],
)
def test_another_database_or_another_life_refuses_it(other):
    """A secret or a lineage."""
    with pytest.raises(InvalidRequest):
        other.open(CURSORS.seal(POSITION, binding=b"b"), Position, binding=b"b")


def test_a_cursor_ends_with_the_life_that_made_it():
    """The lineage is asked for each time: after a restore, cursors of before are refused."""
    lives = [LIFE]
    cursors = Cursors(b"s" * 32, lambda: lives[-1])
    sealed = cursors.seal(POSITION, binding=b"b")
    assert cursors.open(sealed, Position, binding=b"b") == POSITION
    lives.append(OTHER_LIFE)
    with pytest.raises(InvalidRequest):
        cursors.open(sealed, Position, binding=b"b")


def test_parts_cannot_be_shifted_into_each_other():
    """The end of the binding and the start of the position are kept apart."""
    sealed = CURSORS.seal("xy", binding=b"ab")
    raw = urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    tag, body = raw[:12], raw[12:]
    shifted = urlsafe_b64encode(tag + b"b" + body).decode().rstrip("=")
    with pytest.raises(InvalidRequest):
        CURSORS.open(shifted, str, binding=b"a")


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_arbitrary_text_is_refused_by_name(text):
    """With the parameter's name and what to do, and no other error."""
    with pytest.raises(InvalidRequest, match="next_cursor") as refused:
        CURSORS.open(text, Position, binding=b"b")
    assert refused.value.path == "cursor"


@given(st.integers(0), st.integers(1, 255))
def test_one_changed_byte_is_refused(place, change):
    """In the seal or in the position."""
    sealed = CURSORS.seal(POSITION, binding=b"b")
    raw = bytearray(urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4)))
    raw[place % len(raw)] ^= change
    with pytest.raises(InvalidRequest):
        CURSORS.open(urlsafe_b64encode(raw).decode(), Position, binding=b"b")


def test_a_position_of_another_kind_is_refused_though_it_is_sealed():
    """A sealed text is no position."""
    for value in ("text", 5, ["2025", 5], msgspec.msgpack.encode(1)):
        with pytest.raises(InvalidRequest):
            CURSORS.open(CURSORS.seal(value, binding=b"b"), Position, binding=b"b")
