"""Series that follow what others count."""

from memfast.metrics import Board, Meter


def test_a_mirror_never_goes_back():
    """It adds what its keeper has counted since; a keeper that begins anew, or a second one, is added too."""
    meter = Meter(Board.private())
    hits = meter.counter("memfast_cache_hits", "search")
    first, second = (meter.mirror("memfast_cache_hits", "search") for _ in range(2))
    shown = []
    for mirror, value in ((first, 3), (first, 5), (second, 2), (first, 1), (first, 1), (second, 2)):
        mirror.show(value)
        shown.append(hits.value)
    assert shown == [3, 5, 7, 8, 8, 8]


def test_a_mirrored_histogram_has_every_cell():
    """Each bucket, what is above all, and the sum."""
    meter = Meter(Board.private())
    for mirror, value in zip(meter.cell_mirrors("memfast_flush_changes"), range(9), strict=True):
        mirror.show(value)
    family, place = meter.layout.place("memfast_flush_changes", ())
    assert meter.row.cells[place : place + family.cells].tolist() == list(range(9))
