"""The house stands: imports run downwards, `import polyopt` is light, the wheel holds two packages."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import networkx as nx
import pytest

import formulations
import polyopt

ROOT = Path(__file__).resolve().parents[1]

# Each room may import the rooms below it (later in the list) and none above.
ROOMS = [
    ["__main__"],
    ["cli"],
    ["bench"],
    ["instances"],
    ["surrogate"],
    ["police", "vnnlib"],
    ["verification", "training"],
    ["tighten", "scenarios"],
    ["highs", "gurobi"],
    ["embed", "cut_rounds", "implied"],
    ["layer_rows"],
    ["embedding", "lp_bounds", "expressions", "search"],
    ["program", "live", "copies"],
    ["inputs", "decided", "bounds", "convert"],
    ["affine", "maxima"],
    ["regions", "network", "qp"],
    ["compose", "squares"],
    ["activations"],
    ["layers", "processes", "silent"],
    ["windows"],
]


def imported_modules(path):
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def room(module):
    """How high a module of polyopt lives; those of one package share a room."""
    name = module.split(".")[1]
    heights = [height for height, names in enumerate(reversed(ROOMS)) if name in names]
    assert heights, f"{module} has no place in ROOMS; put it where it belongs"
    return heights[0]


@pytest.mark.parametrize("path", sorted((ROOT / "polyopt").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downwards(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    for module in imported_modules(path):
        if not module.startswith("polyopt.") or module.split(".")[1] == parts[1]:
            continue
        assert parts[1] != "__init__", f"polyopt/__init__.py imports {module} at once"
        assert room(module) < room(".".join(parts)), f"{path.name} imports {module}"


def test_no_module_is_imported_in_a_circle():
    """Within a package too: the graph of all imports at the top of files has an order."""
    graph = nx.DiGraph()
    for path in (ROOT / "polyopt").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph.add_edges_from((name, module) for module in imported_modules(path) if module.startswith("polyopt."))
    assert nx.is_directed_acyclic_graph(graph)


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


def test_the_callback_for_gurobi_is_imported_without_gurobi():
    code = "import sys, polyopt as po; print(po.cut_callback.__name__, 'gurobipy' in sys.modules)"
    assert in_a_fresh_interpreter(code) == "cut_callback False"


def test_public_functions_are_functions_whatever_was_imported_first():
    code = (
        "import polyopt.convert.from_torch, polyopt.bounds.interval, polyopt as po; print(po.from_torch, po.interval)"
    )
    assert in_a_fresh_interpreter(code).count("<function") == 2


def test_the_types_name_what_the_package_exports():
    stub = ast.parse((ROOT / "polyopt" / "__init__.pyi").read_text())
    names = [alias.name for node in stub.body for alias in node.names]
    assert sorted(names) == sorted(polyopt.__all__)


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
