"""Shared epochs: time of a call, the loop around it included.

python bench/micro/slots.py [--calls 300000]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from memfast._native import _slots, _slots_reference


def nanoseconds(call, argument, calls: int) -> float:
    """Time a call five times; return the median."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            call(argument)
        taken.append((time.perf_counter() - start) / calls * 1e9)
    return statistics.median(taken)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=300_000)
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slots"
        _slots.SlotTable.create(path, 2**20, os.urandom(16)).close()
        for name, module, share in (("c", _slots, 1), ("py", _slots_reference, 20)):
            table = module.SlotTable.open(path)
            scope_id = os.urandom(16)
            for call, argument in ((table.epoch, 77), (table.bump, 77), (table.index_of, scope_id)):
                print(f"{name:3} {call.__name__:10} {nanoseconds(call, argument, calls // share + 1):8.0f} ns")
            table.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
