"""What stands on the wire of the settings that can be changed while the service runs."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from memfast.service.tuning import LIVE

__all__ = ["LiveSetting", "LiveSettings", "SettingsAnswer"]

_Count = Annotated[int, Meta(ge=1, le=1_000_000_000)] | None | UnsetType
_MiB = Annotated[int, Meta(ge=0, le=1024 * 1024)] | None | UnsetType
_Share = Annotated[float, Meta(ge=0.01, le=0.95)] | None | UnsetType


class LiveSettings(
    Struct, kw_only=True, forbid_unknown_fields=True, rename={key.replace(".", "_"): key for key in LIVE}
):
    """Values from now on, until the service stops; null = what was configured; what is left out stays as it is."""

    cache_memory_mb: _MiB = UNSET
    cache_search_share: _Share = UNSET
    cache_list_share: _Share = UNSET
    cache_get_share: _Share = UNSET
    cache_entries: _Count = UNSET
    cache_embedding_entries: _Count = UNSET
    index_memory_mb: _MiB = UNSET

    def ordered(self) -> dict[str, float | None]:
        """What is said, by the names of the settings."""
        values = {key: getattr(self, key.replace(".", "_")) for key in LIVE}
        return {key: value for key, value in values.items() if value is not UNSET}


class LiveSetting(Struct):
    """What is used now, and what the service was started with."""

    value: float
    configured: float


class SettingsAnswer(Struct):
    """Settings that can be changed while the service runs, by their names."""

    settings: dict[str, LiveSetting]
