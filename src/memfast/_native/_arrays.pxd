"""What an array must be so that a kernel can read it where it lies."""

cimport numpy as cnp

cdef extern from "numpy/arrayobject.h":
    bint PyArray_ISCARRAY_RO(cnp.ndarray array)


cdef inline bint is_array(object array, int kind, int dimensions):
    """Say whether this is an aligned, C-contiguous NumPy array in native byte order of this type and rank."""
    return (
        cnp.PyArray_Check(array)
        and cnp.PyArray_TYPE(array) == kind
        and cnp.PyArray_NDIM(array) == dimensions
        and PyArray_ISCARRAY_RO(array)
    )
