"""polyopt: trained piecewise-linear networks as mathematical programs.

Everything public is named here and imported when it is first used, so that ``import polyopt`` costs nothing: torch,
onnx, and scipy's statistics, which Pyomo loads as soon as anyone imports scipy, wait until they are needed. The types
are in ``__init__.pyi``.
"""

from importlib import import_module

_HOME = {
    "AffineCertificate": "polyopt.verification.affinity",
    "BigM": "formulations",
    "Bounds": "polyopt.bounds",
    "Box": "polyopt.regions",
    "Complementarity": "formulations",
    "CuttingPlanes": "formulations",
    "Ellipsoid": "polyopt.regions",
    "Extended": "formulations",
    "GDP": "formulations",
    "HPolytope": "polyopt.regions",
    "Hull": "formulations",
    "Interval": "polyopt.bounds",
    "ModelBounds": "polyopt.tighten.whole_model",
    "Network": "polyopt.network",
    "Optimum": "polyopt.search.optimize",
    "Partition": "formulations",
    "PiecewiseLinear": "formulations",
    "Product": "polyopt.regions",
    "Property": "polyopt.verification.property",
    "ReducedSpace": "formulations",
    "Refinement": "polyopt.surrogate.refine",
    "Region": "polyopt.regions",
    "Result": "polyopt.highs",
    "SOS1": "formulations",
    "Smooth": "formulations",
    "Summary": "polyopt.embedding",
    "Surrogate": "polyopt.surrogate.surrogate",
    "Triangle": "formulations",
    "UnsupportedLayer": "polyopt.network",
    "VPolytope": "polyopt.regions",
    "Verdict": "polyopt.verification.verdict",
    "Zonotope": "polyopt.regions",
    "add_cells": "polyopt.surrogate.cells",
    "add_network": "polyopt.embed",
    "add_surrogate": "polyopt.surrogate.add",
    "affine_on": "polyopt.verification.affinity",
    "alpha_crown": "polyopt.bounds.alpha",
    "auto": "formulations",
    "beta_crown": "polyopt.bounds.alpha",
    "crown": "polyopt.bounds.crown",
    "cut_callback": "polyopt.gurobi",
    "ensemble": "polyopt.surrogate.ensemble",
    "fit_ensemble": "polyopt.surrogate.ensemble",
    "fit_surrogate": "polyopt.surrogate.fit",
    "from_onnx": "polyopt.convert.from_onnx",
    "from_sklearn": "polyopt.convert.from_sklearn",
    "from_torch": "polyopt.convert.from_torch",
    "interval": "polyopt.bounds",
    "obbt": "polyopt.tighten.obbt",
    "optimize": "polyopt.search.optimize",
    "read_vnnlib": "polyopt.vnnlib.reader",
    "refine": "polyopt.surrogate.refine",
    "replay_error": "polyopt.embedding",
    "robust": "polyopt.verification.property",
    "separate": "polyopt.cut_rounds",
    "set_point": "polyopt.embedding",
    "solve": "polyopt.highs",
    "solve_many": "polyopt.scenarios",
    "subdivide": "polyopt.regions.subdivide",
    "summary": "polyopt.embedding",
    "to_onnx": "polyopt.convert.to_onnx",
    "to_torch": "polyopt.convert.to_torch",
    "verify": "polyopt.verification.verdict",
}

_PACKAGES = ("police", "qp")  # public as they are

__all__ = [*_HOME, *_PACKAGES]


def __getattr__(name: str):
    if name in _PACKAGES:
        return import_module(f"polyopt.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'polyopt' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__():
    return __all__
