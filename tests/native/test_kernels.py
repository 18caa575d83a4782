"""The door: what `MEMFAST_NATIVE` asks for is what is bound, and a fallback is never silent."""

import os
import subprocess
import sys

import pytest

SHOW = "from memfast import kernels as k; print(k.IMPL, k.top_k.__module__, k.FALLBACK_REASON)"
HIDE = "import sys; sys.modules['memfast._native._vectors'] = None; "


def run(code: str, wanted: str | None) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter under a choice of kernels."""
    environ = {key: value for key, value in os.environ.items() if key != "MEMFAST_NATIVE"}
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    if wanted is not None:
        environ["MEMFAST_NATIVE"] = wanted
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, "c memfast._native._vectors None"),
        ("", "c memfast._native._vectors None"),
        ("c", "c memfast._native._vectors None"),
        ("py", "py memfast._native._vectors_reference None"),
    ],
)
def test_choice_is_obeyed(wanted, expected):
    """Unset and `c` bind the compiled kernels, `py` the twins."""
    assert run(SHOW, wanted).stdout.strip() == expected


def test_missing_extension_falls_back_with_a_reason():
    """Without an extension and without a choice the twins serve, and say why and what to do."""
    done = run(HIDE + SHOW, None)
    assert done.stdout.startswith("py memfast._native._vectors_reference the compiled kernels cannot")
    assert "build_ext --inplace" in done.stdout


def test_forced_choice_raises_when_missing():
    """`MEMFAST_NATIVE=c` without an extension does not start, and says how to build it."""
    done = run(HIDE + SHOW, "c")
    assert done.returncode != 0
    assert "ImportError: MEMFAST_NATIVE=c, but" in done.stderr
    assert "build_ext --inplace" in done.stderr


def test_unknown_choice_raises():
    """Any other value is a mistake, and named."""
    done = run(SHOW, "rust")
    assert done.returncode != 0
    assert "MEMFAST_NATIVE is 'rust'" in done.stderr
