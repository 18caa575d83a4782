# cython: freethreading_compatible=True
"""CRC-32 at four times zlib's speed; contracts stand in `_checksum_reference.py`."""

import zlib

from libc.stdint cimport uint32_t

__all__ = ["crc32"]

cdef extern from "crc32.h" nogil:
    enum:
        MF_CRC32_BLOCK
        MF_CRC32_LEAST
    bint mf_crc32_supported()
    uint32_t mf_crc32_fold(const unsigned char *data, Py_ssize_t size, uint32_t crc)

cdef bint supported = mf_crc32_supported()


def crc32(data):
    """Return the CRC-32 of contiguous bytes, as zlib does."""
    cdef const unsigned char[::1] view = data
    cdef Py_ssize_t folded = view.shape[0] - view.shape[0] % MF_CRC32_BLOCK
    cdef uint32_t crc
    if not supported or folded < MF_CRC32_LEAST:
        return zlib.crc32(data)
    with nogil:
        crc = ~mf_crc32_fold(&view[0], folded, ~<uint32_t> 0)
    return zlib.crc32(view[folded:], crc) if folded < view.shape[0] else crc
