"""What a .pyi promises is what the reference declares and what the compiled module exports."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import memfast._native

FOLDER = Path(memfast._native.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.pyx"))


def declarations(path: Path) -> dict[str, str]:
    """Map each public function, and each public method of a class, to its signature as text."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = signature_text(node)
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or method.name[0] != "_"):
                    found[f"{node.name}.{method.name}"] = signature_text(method)
    return found


def signature_text(node: ast.FunctionDef) -> str:
    """Write decorators, arguments and result of a function in one way."""
    marks = " ".join(ast.unparse(mark) for mark in node.decorator_list)
    return f"{marks} ({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"


@pytest.mark.parametrize("name", MODULES)
def test_stub_repeats_the_reference(name):
    """Every signature of a .pyi stands in the reference, word for word."""
    promised = declarations(FOLDER / f"{name}.pyi")
    declared = declarations(FOLDER / f"{name}_reference.py")
    assert promised
    assert promised == {key: declared.get(key) for key in promised}


@pytest.mark.parametrize("name", MODULES)
def test_compiled_module_keeps_the_promise(name):
    """The compiled module exports the names of its .pyi, with the same arguments."""
    compiled = importlib.import_module(f"memfast._native.{name}")
    reference = importlib.import_module(f"memfast._native.{name}_reference")
    promised = {key.partition(".")[0] for key in declarations(FOLDER / f"{name}.pyi")}
    assert sorted(compiled.__all__) == sorted(promised)
    assert promised <= set(reference.__all__)
    for export in promised:
        if inspect.isfunction(getattr(reference, export)):
            assert arguments(getattr(compiled, export)) == arguments(getattr(reference, export)), export


def arguments(function) -> list[tuple]:
    """List name, kind and default of every argument."""
    return [(a.name, a.kind, a.default) for a in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.p[yx][xd]*")), ids=lambda path: path.name)
def test_native_code_is_a_leaf(path):
    """A native module knows nothing of memfast but its own folder, and stays under 500 lines."""
    lines = path.read_text().splitlines()
    assert len(lines) < 500
    imports = [line for line in lines if "import " in line and "memfast." in line]
    assert all("memfast._native." in line for line in imports)
