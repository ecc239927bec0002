from formulations import GDP as GDP
from formulations import SOS1 as SOS1
from formulations import BigM as BigM
from formulations import Complementarity as Complementarity
from formulations import CuttingPlanes as CuttingPlanes
from formulations import Extended as Extended
from formulations import Hull as Hull
from formulations import Partition as Partition
from formulations import PiecewiseLinear as PiecewiseLinear
from formulations import ReducedSpace as ReducedSpace
from formulations import Smooth as Smooth
from formulations import Triangle as Triangle
from formulations import auto as auto
from polyopt import police as police
from polyopt import qp as qp
from polyopt.bounds import Bounds as Bounds
from polyopt.bounds import Interval as Interval
from polyopt.bounds import interval as interval
from polyopt.bounds.alpha import alpha_crown as alpha_crown
from polyopt.bounds.alpha import beta_crown as beta_crown
from polyopt.bounds.crown import crown as crown
from polyopt.convert.from_onnx import from_onnx as from_onnx
from polyopt.convert.from_sklearn import from_sklearn as from_sklearn
from polyopt.convert.from_torch import from_torch as from_torch
from polyopt.convert.to_onnx import to_onnx as to_onnx
from polyopt.convert.to_torch import to_torch as to_torch
from polyopt.cut_rounds import separate as separate
from polyopt.embed import add_network as add_network
from polyopt.embedding import (
    Summary as Summary,
)
from polyopt.embedding import (
    replay_error as replay_error,
)
from polyopt.embedding import (
    set_point as set_point,
)
from polyopt.embedding import (
    summary as summary,
)
from polyopt.gurobi import cut_callback as cut_callback
from polyopt.highs import Result as Result
from polyopt.highs import solve as solve
from polyopt.network import Network as Network
from polyopt.network import UnsupportedLayer as UnsupportedLayer
from polyopt.regions import Box as Box
from polyopt.regions import Ellipsoid as Ellipsoid
from polyopt.regions import HPolytope as HPolytope
from polyopt.regions import Product as Product
from polyopt.regions import Region as Region
from polyopt.regions import VPolytope as VPolytope
from polyopt.regions import Zonotope as Zonotope
from polyopt.regions.subdivide import subdivide as subdivide
from polyopt.scenarios import solve_many as solve_many
from polyopt.search.optimize import Optimum as Optimum
from polyopt.search.optimize import optimize as optimize
from polyopt.surrogate.add import add_surrogate as add_surrogate
from polyopt.surrogate.cells import add_cells as add_cells
from polyopt.surrogate.ensemble import ensemble as ensemble
from polyopt.surrogate.ensemble import fit_ensemble as fit_ensemble
from polyopt.surrogate.fit import fit_surrogate as fit_surrogate
from polyopt.surrogate.refine import Refinement as Refinement
from polyopt.surrogate.refine import refine as refine
from polyopt.surrogate.surrogate import Surrogate as Surrogate
from polyopt.tighten.obbt import obbt as obbt
from polyopt.tighten.whole_model import ModelBounds as ModelBounds
from polyopt.verification.affinity import AffineCertificate as AffineCertificate
from polyopt.verification.affinity import affine_on as affine_on
from polyopt.verification.property import Property as Property
from polyopt.verification.property import robust as robust
from polyopt.verification.verdict import Verdict as Verdict
from polyopt.verification.verdict import verify as verify
from polyopt.vnnlib.reader import read_vnnlib as read_vnnlib
