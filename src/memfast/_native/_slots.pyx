"""Epochs that the workers of one host share, counted atomically; contracts stand in `_slots_reference.py`."""

import fcntl

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from posix.unistd cimport close as close_file

from memfast._native._slots_reference import (
    CELLS_AT,
    CHANGES_AT,
    CLOSED,
    HEADER_BYTES,
    ID_BYTES,
    LINEAGE_TRIES,
    check_lineage,
    create_table,
    no_such_slot,
    open_table,
)

__all__ = ["SlotTable"]

cdef extern from "slots.h" nogil:
    uint64_t mf_load(const uint64_t *counter)
    void mf_store(uint64_t *counter, uint64_t value)
    uint64_t mf_bump(uint64_t *counter)
    void mf_fence()
    uint64_t mf_siphash16(const unsigned char *key, const unsigned char *message)

cdef enum:
    ID = 16

cdef Py_ssize_t c_cells_at = CELLS_AT
cdef Py_ssize_t c_changes_at = CHANGES_AT
cdef Py_ssize_t c_header_bytes = HEADER_BYTES
cdef int c_lineage_tries = LINEAGE_TRIES
assert ID == ID_BYTES


cdef class SlotTable:
    """Shared counters, mapped from a file; see `_slots_reference.SlotTable`."""

    cdef unsigned char *start       # NULL: closed
    cdef uint64_t *counters
    cdef uint64_t slots
    cdef unsigned char[ID] key
    cdef unsigned char[::1] view
    cdef object mapping
    cdef int file

    def __cinit__(self, path):
        file, mapping, count, salt = open_table(path)
        self.file = file
        self.mapping = mapping
        self.view = mapping
        self.slots = count
        self.start = &self.view[0]
        self.counters = <uint64_t *> (self.start + c_header_bytes)
        memcpy(self.key, PyBytes_AS_STRING(salt), ID)

    def __dealloc__(self):
        if self.start != NULL:
            close_file(self.file)

    @classmethod
    def create(cls, path, count, salt):
        """Make the file, allocated in full, and open it; see `_slots_reference.SlotTable.create`."""
        create_table(path, count, salt)
        return cls(path)

    @classmethod
    def open(cls, path):
        """Open a table that exists."""
        return cls(path)

    @property
    def count(self):
        """Counters in the table, the global one included."""
        return self.slots

    @property
    def salt(self):
        """The key of the hash."""
        return PyBytes_FromStringAndSize(<char *> self.key, ID)

    def epoch(self, Py_ssize_t index):
        """Return a counter; an acquiring load."""
        self.check(index)
        return mf_load(self.counters + index)

    def bump(self, Py_ssize_t index):
        """Add one to a counter atomically and return what it is now."""
        self.check(index)
        return mf_bump(self.counters + index)

    def index_of(self, bytes scope_id not None):
        """Return the slot of a scope, 1 to count - 1."""
        if PyBytes_GET_SIZE(scope_id) != ID:
            raise ValueError(f"scope_id has {len(scope_id)} bytes; {ID} are wanted")
        cdef uint64_t hashed = mf_siphash16(self.key, <const unsigned char *> PyBytes_AS_STRING(scope_id))
        return 1 + ((hashed >> 32) * (self.slots - 1) >> 32)

    def lineage(self):
        """Return the lineage, 16 bytes, all zero until one was set."""
        cdef unsigned char[ID] found
        cdef uint64_t *changes
        cdef uint64_t before
        cdef int _
        self.check(0)
        changes = <uint64_t *> (self.start + c_changes_at)
        for _ in range(c_lineage_tries):
            before = mf_load(changes)
            memcpy(found, self.start + c_cells_at + ID * (before & 1), ID)
            mf_fence()
            if mf_load(changes) == before:
                break
        return PyBytes_FromStringAndSize(<char *> found, ID)

    def set_lineage(self, lineage):
        """Set the lineage for every worker; see `_slots_reference.SlotTable.set_lineage`."""
        cdef bytes wanted = bytes(lineage)
        cdef uint64_t *changes
        check_lineage(wanted)
        self.check(0)
        # Held for two stores only; the lock of a dead process is released by the kernel.
        fcntl.lockf(self.file, fcntl.LOCK_EX)
        try:
            changes = <uint64_t *> (self.start + c_changes_at)
            memcpy(self.start + c_cells_at + ID * ((changes[0] + 1) & 1), PyBytes_AS_STRING(wanted), ID)
            mf_store(changes, changes[0] + 1)
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN)

    def close(self):
        """Unmap the file; a second time does nothing."""
        if self.start == NULL:
            return
        self.start = NULL
        self.counters = NULL
        self.view = None
        self.mapping.close()
        close_file(self.file)

    cdef inline int check(self, Py_ssize_t index) except -1:
        """Raise unless the table is open and has this slot."""
        if self.start == NULL:
            raise ValueError(CLOSED)
        if not 0 <= index < <Py_ssize_t> self.slots:
            raise IndexError(no_such_slot(index, self.slots))
        return 0
