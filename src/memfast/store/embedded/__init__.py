"""The PostgreSQL that memfast brings along, for a data directory instead of an address.

All of it is synchronous: it runs before the event loop, or in a command.
"""

from memfast.store.embedded.backup import backup, restore
from memfast.store.embedded.binaries import available_majors
from memfast.store.embedded.cluster import Cluster, Endpoint
from memfast.store.embedded.keeper import Keeper
from memfast.store.embedded.lock import DataDirLock, holder_pids
from memfast.store.embedded.upgrade import upgrade

__all__ = [
    "Cluster",
    "DataDirLock",
    "Endpoint",
    "Keeper",
    "available_majors",
    "backup",
    "holder_pids",
    "restore",
    "upgrade",
]
