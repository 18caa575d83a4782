"""Builds the native leaf; everything else about the package stands in pyproject.toml.

Two switches, read from the environment:

* `MEMFAST_BUILD=none`: no extension. The pure twins in `memfast/_native/*_reference.py` serve.
* `MEMFAST_BUILD=debug`: -O0 -g, with bounds checks and assertions.

Unset, or `release`: -O3. Never -march=native: kernels choose their instructions when they run. Changing the
switch for a build in place needs `build_ext --inplace --force`.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("src/memfast/_native")
BUILD = os.environ.get("MEMFAST_BUILD", "release")
PROCESSORS = os.cpu_count() or 1


def native_extensions() -> list[Extension]:
    """Return one cythonized extension for each .pyx of the native leaf."""
    import numpy as np  # noqa: PLC0415 - needed only where something is built
    from Cython.Build import cythonize  # noqa: PLC0415 - the same

    debug = BUILD == "debug"
    flags = ["-O0", "-g", "-UNDEBUG"] if debug else ["-O3", "-fno-math-errno"]
    included = [str(path) for pattern in ("*.h", "*.pxd") for path in sorted(NATIVE.glob(pattern))]
    extensions = [
        Extension(
            f"memfast._native.{path.stem}",
            [str(path)],
            include_dirs=[str(NATIVE), np.get_include()],
            depends=[*included, str(path)],  # what the source distribution has to carry beside the C file
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
            extra_compile_args=flags,
        )
        for path in sorted(NATIVE.glob("*.pyx"))
    ]
    directives = {
        "language_level": 3,
        "binding": True,
        "boundscheck": debug,
        "wraparound": False,
        "initializedcheck": debug,
        "cdivision": True,
    }
    force = debug or "--force" in sys.argv
    processes = PROCESSORS if sys.platform == "linux" else 0  # elsewhere each would run this file again
    return cythonize(extensions, compiler_directives=directives, force=force, nthreads=processes)


if BUILD not in {"none", "debug", "release"}:
    raise SystemExit(f"MEMFAST_BUILD is {BUILD!r}; it must be none, debug or release")

setup(
    ext_modules=[] if BUILD == "none" else native_extensions(),
    options={"build_ext": {"parallel": PROCESSORS}},
)
