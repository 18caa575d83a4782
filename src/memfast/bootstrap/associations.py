"""Links that come by themselves: the settings as what `service` takes."""

from __future__ import annotations

from memfast.config import Config
from memfast.service.associations import AssociationSettings

__all__ = ["build_association_settings"]


def build_association_settings(config: Config) -> AssociationSettings:
    """Which links memories get by themselves, and when."""
    links = config.links
    return AssociationSettings(
        similar=links.similar,
        similar_min=links.similar_min,
        entities=links.entities,
        entity_memories=links.entity_memories,
        pause_s=links.pause_ms / 1000,
        batch_items=links.batch_items,
        queue_items=links.queue_items,
    )
