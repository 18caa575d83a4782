"""Epochs that the workers of one host share, counted atomically; contracts stand in `_slots_reference.py`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from posix.unistd cimport close as close_file

from memfast._native._slots_reference import (
    CLOSED,
    HEADER_BYTES,
    ID_BYTES,
    create_table,
    no_such_slot,
    open_table,
)

__all__ = ["SlotTable"]

cdef extern from "slots.h" nogil:
    uint64_t mf_load(const uint64_t *counter)
    uint64_t mf_bump(uint64_t *counter)
    uint64_t mf_siphash16(const unsigned char *key, const unsigned char *message)

cdef enum:
    ID = 16

cdef Py_ssize_t c_header_bytes = HEADER_BYTES
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
