"""The rows of one client as a picture: a line from p50 to p99 for each operation, a dot at p95, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from bench.budget.measure import Row

__all__ = ["draw"]

_LINE, _LEFT, _WIDTH, _TOP, _MARGIN = 18, 400, 440, 34, 20
_COLOURS = {"hot": "#d9480f", "warm": "#e8a317", "redis": "#ae3ec9", "cold": "#1971c2", "": "#2b8a3e"}
_NAMES = {"": "write"}


def draw(rows: Sequence[Row]) -> str:
    """An SVG document; readable on light and on dark ground."""
    shown = [row for row in rows if row.clients == 1]
    low = math.floor(math.log10(min(row.p50_ms for row in shown)))
    high = math.ceil(math.log10(max(row.p99_ms for row in shown)))

    def at(value_ms: float) -> float:
        return _LEFT + _WIDTH * (math.log10(value_ms) - low) / max(1, high - low)

    height = _TOP + _LINE * len(shown) + _MARGIN
    width = _LEFT + _WIDTH + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for power in range(low, high + 1):
        x = at(10.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{height - _MARGIN}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP - 14}" text-anchor="middle" fill="#555555">{10.0**power:g} ms</text>')
    for number, row in enumerate(shown):
        parts += _line(row, _TOP + _LINE * number + _LINE / 2, at)
    return "\n".join([*parts, "</svg>", ""])


def _line(row: Row, y: float, at: Callable[[float], float]) -> list[str]:
    colour = _COLOURS[row.tier]
    label = escape(f"{row.scene}: {row.name} ({_NAMES.get(row.tier, row.tier)})")
    start, end, dot = (f"{at(value_ms):.1f}" for value_ms in (row.p50_ms, row.p99_ms, row.p95_ms))
    across = f'x1="{start}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}"'
    return [
        f'<text x="{_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end" fill="#222222">{label}</text>',
        f'<line {across} stroke="{colour}" stroke-width="5" stroke-linecap="round"/>',
        f'<circle cx="{dot}" cy="{y:.1f}" r="3" fill="#ffffff" stroke="{colour}"/>',
    ]
