"""The composition root: the only package that names concrete adapters.

`ground` runs once, in the parent process, and makes everything true that workers rely on; `open_services` runs in each
worker and builds the live objects; commands use the rest.
"""

from memfast.bootstrap.advising import improve_database, look_at_database
from memfast.bootstrap.commands import inspect_external, migrate, with_keyring, with_snapshots
from memfast.bootstrap.embedder import build_embedder
from memfast.bootstrap.forgetting import Finding, forget_alone, look_for_leftovers, rewrite
from memfast.bootstrap.graph import inspect_graph
from memfast.bootstrap.ground import Ground, ground
from memfast.bootstrap.readings import open_meter
from memfast.bootstrap.reembed import inspect_generations, with_reembedding
from memfast.bootstrap.relay import GraphReport, inspect_copy, rebuild_graph, switch_graph_off
from memfast.bootstrap.services import Services, open_services
from memfast.bootstrap.shared import inspect_shared
from memfast.bootstrap.succession import Succession
from memfast.bootstrap.telemetry import open_spans, require_telemetry
from memfast.store.embedded import available_majors, backup, restore, upgrade

__all__ = [
    "Finding",
    "GraphReport",
    "Ground",
    "Services",
    "Succession",
    "available_majors",
    "backup",
    "build_embedder",
    "forget_alone",
    "ground",
    "improve_database",
    "inspect_copy",
    "inspect_external",
    "inspect_generations",
    "inspect_graph",
    "inspect_shared",
    "look_at_database",
    "look_for_leftovers",
    "migrate",
    "open_meter",
    "open_services",
    "open_spans",
    "rebuild_graph",
    "require_telemetry",
    "restore",
    "rewrite",
    "switch_graph_off",
    "upgrade",
    "with_keyring",
    "with_reembedding",
    "with_snapshots",
]
