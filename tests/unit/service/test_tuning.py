"""Settings that are changed while the service runs: shared by workers, checked before, taken up in steps."""

import pytest

from memfast.config import load
from memfast.errors import ConfigError
from memfast.service.tuning import LIVE, Orders, Tuning


@pytest.fixture
def path(tmp_path):
    """A file of orders, without one."""
    Orders.create(tmp_path / "orders")
    return tmp_path / "orders"


@pytest.fixture
def new_worker(path):
    """Function: another worker's tuning, and the configurations that it resized to."""
    opened = []

    def make(steps=1):
        orders, resized = Orders.open(path), []
        opened.append(orders)

        def resize(config):
            resized.append(config)
            return len(resized) % steps == 0

        return Tuning(orders, load({}).config, resize), resized

    yield make
    for orders in opened:
        orders.close()


def test_nothing_ordered_changes_nothing(new_worker):
    """A worker that starts without orders leaves everything as it was made."""
    tuning, resized = new_worker()
    tuning.look()
    assert resized == []
    assert all(value == configured for value, configured in tuning.values().values())
    assert list(tuning.values()) == list(LIVE)


def test_every_worker_takes_an_order_up(new_worker):
    """Also one that starts later; taken back, all is as it was configured."""
    (first, _), (second, resized) = new_worker(), new_worker()
    first.order({"cache.memory_mb": 300, "cache.search_share": 0.5})
    second.look()
    second.look()
    assert [config.cache.memory_mb for config in resized] == [300]
    assert second.values()["cache.memory_mb"] == (300, 128)
    later, own = new_worker()
    later.look()
    assert own[0].cache.search_share == 0.5
    second.order({"cache.memory_mb": None})
    first.look()
    assert first.values()["cache.memory_mb"] == (128, 128)
    assert first.values()["cache.search_share"] == (0.5, 0.65)


def test_a_step_that_is_not_enough_is_followed_by_others(new_worker):
    """What does not fit into one step of the event loop is gone on with, and then left alone."""
    tuning, resized = new_worker(steps=3)
    tuning.order({"index.memory_mb": 1})
    for _ in range(5):
        tuning.look()
    assert len(resized) == 3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cache.memory_mb": -1}, "cache.memory_mb = -1"),
        ({"cache.search_share": 0.8}, "leave -0.05 of the memory"),
        ({"server.port": 80}, "server.port"),
    ],
)
def test_an_order_that_will_not_do_changes_nothing(new_worker, values, says):
    """Refused before anybody sees it, alone or with what stands beside it."""
    tuning, resized = new_worker()
    with pytest.raises((ConfigError, KeyError), match=says):
        tuning.order({"cache.entries": 5} | values)
    tuning.look()
    assert resized == []
