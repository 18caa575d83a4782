"""Cells that are counted in, and the stopwatch of a request; contracts stand in `_metrics_reference.py`."""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from memfast._native._metrics_reference import BOUNDS_MAX, STAGES_MAX, require_bounds, require_cells

__all__ = ["Counter", "Histogram", "Trace"]

cdef enum:
    BOUNDS = 32
    STAGES = 8

assert BOUNDS == BOUNDS_MAX
assert STAGES == STAGES_MAX


cdef inline double clock_s() noexcept nogil:
    """The clock of `time.perf_counter`."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double> now.tv_sec + <double> now.tv_nsec * 1e-9


cdef class Counter:
    """One cell; see `_metrics_reference.Counter`."""

    cdef double[::1] cells
    cdef double *cell

    def __cinit__(self, cells, Py_ssize_t place):
        require_cells(memoryview(cells), place, 1)
        self.cells = cells
        self.cell = &self.cells[place]

    def add(self, double amount=1.0):
        """Add to it."""
        self.cell[0] += amount

    def set(self, double value):
        """Replace it: for what may also fall."""
        self.cell[0] = value

    @property
    def value(self):
        """What it shows."""
        return self.cell[0]


cdef class Histogram:
    """Cells in a row; see `_metrics_reference.Histogram`."""

    cdef double[::1] cells
    cdef double *counts
    cdef double[BOUNDS] bounds
    cdef int size

    def __cinit__(self, cells, Py_ssize_t place, bounds):
        checked = require_bounds(bounds)
        require_cells(memoryview(cells), place, len(checked) + 2)
        self.cells = cells
        self.counts = &self.cells[place]
        self.size = len(checked)
        for number, bound in enumerate(checked):
            self.bounds[<int> number] = bound

    def observe(self, double value):
        """Count a value; what is below 0 or no number is left out."""
        self.count(value)

    cdef void count(self, double value) noexcept nogil:
        """Count a value. The small ones are the many: they are found first."""
        cdef int place = 0
        if not value >= 0:
            return
        while place < self.size and value > self.bounds[place]:
            place += 1
        self.counts[place] += 1
        self.counts[self.size + 1] += value


cdef class Trace:
    """What one request is called, and where its time goes; see `_metrics_reference.Trace`."""

    cdef readonly object request_id
    cdef readonly object parent
    cdef public object scope_id
    cdef public object degraded
    cdef public object work
    cdef public object whole
    cdef public object span
    cdef double last
    cdef double[STAGES] seconds
    cdef double[STAGES] begins

    def __cinit__(self, request_id, parent=None):
        cdef int stage
        self.request_id = request_id
        self.parent = parent
        self.degraded = ()
        self.work = None
        for stage in range(STAGES):
            self.seconds[stage] = -1
        self.last = clock_s()

    def start(self):
        """Begin a lap: what passed since the last one belongs to no stage."""
        self.last = clock_s()

    def lap(self, Py_ssize_t stage):
        """End a lap, of a stage from 0 to `STAGES_MAX` - 1; of any other nothing is kept."""
        cdef double now = clock_s()
        if 0 <= stage < STAGES:
            if self.seconds[stage] < 0:
                self.seconds[stage] = now - self.last
                self.begins[stage] = self.last
            else:
                self.seconds[stage] += now - self.last
        self.last = now

    def add(self, Py_ssize_t stage, double seconds, double ago=0.0):
        """Add to a stage what was measured beside the laps, and has ended so many seconds ago."""
        if 0 <= stage < STAGES:
            if self.seconds[stage] < 0:
                self.seconds[stage] = seconds
                self.begins[stage] = clock_s() - ago - seconds
            else:
                self.seconds[stage] += seconds

    @property
    def spent(self):
        """Seconds by stage; -1 where there was no lap."""
        return tuple([self.seconds[stage] for stage in range(STAGES)])

    @property
    def begun(self):
        """When each stage began first, by `time.perf_counter`; -1 where there was no lap."""
        return tuple([self.begins[stage] if self.seconds[stage] >= 0 else -1.0 for stage in range(STAGES)])

    def publish(self, tuple stages not None):
        """Count each stage that had a lap in its histogram, where it has one."""
        cdef Py_ssize_t stage
        cdef Histogram histogram
        for stage in range(min(STAGES, len(stages))):
            if self.seconds[stage] >= 0 and stages[stage] is not None:
                histogram = stages[stage]
                histogram.count(self.seconds[stage])
