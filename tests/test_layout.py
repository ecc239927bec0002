"""The house stands: imports run downwards, `import polyopt` is light, the wheel holds two packages."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import formulations
import polyopt

ROOT = Path(__file__).resolve().parents[1]

# Each room may import the rooms below it (later in the list) and none above.
ROOMS = [
    ["__init__"],
    ["highs"],
    ["embed"],
    ["program", "embedding"],
    ["bounds.crown"],
    ["bounds.backward"],
    ["bounds.relaxation"],
    ["inputs", "affine", "bounds"],
    ["from_torch", "from_onnx", "from_sklearn", "to_torch", "to_onnx"],
    ["torch_graph", "onnx_graph"],
    ["torch_ops", "onnx_ops"],
    ["onnx_windows"],
    ["regions", "network"],
    ["compose", "activations"],
    ["layers"],
]


def imported_modules(path):
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def room(module):
    """How high a module of polyopt lives; the most specific name counts."""
    places = {name: height for height, names in enumerate(reversed(ROOMS)) for name in names}
    parts = module.split(".")[1:] or ["__init__"]
    while parts and ".".join(parts) not in places:
        parts.pop()
    assert parts, f"{module} has no place in ROOMS; put it where it belongs"
    return places[".".join(parts)]


@pytest.mark.parametrize("path", sorted((ROOT / "polyopt").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for module in imported_modules(path):
        if module.split(".")[0] != "polyopt" or module == name:
            continue
        same_package = module.rpartition(".")[0] == name.rpartition(".")[0] != "polyopt"
        assert room(module) < room(name) or same_package, f"{name} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "formulations").rglob("*.py")), ids=lambda p: p.name)
def test_formulations_stand_on_numpy_scipy_and_pyomo(path):
    outside = {module.split(".")[0] for module in imported_modules(path)} - set(sys.stdlib_module_names)
    assert outside <= {"numpy", "scipy", "pyomo", "formulations"}


def in_a_fresh_interpreter(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


def test_importing_polyopt_loads_no_framework():
    heavy = in_a_fresh_interpreter(
        "import sys, polyopt; print([m for m in ('torch', 'onnx', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    assert heavy == "[]"


def test_readers_are_the_functions_whatever_was_imported_first():
    assert in_a_fresh_interpreter("import polyopt.from_torch, polyopt; print(callable(polyopt.from_torch))") == "True"


def test_every_public_name_exists_and_is_documented():
    for package in (polyopt, formulations):
        for name in package.__all__:
            assert getattr(getattr(package, name), "__doc__", None), name


def test_the_wheel_holds_the_two_packages_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel needs setuptools >= 77")
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"polyopt", "formulations"}
    assert {"polyopt/py.typed", "formulations/py.typed"} <= set(names)
