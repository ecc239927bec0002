"""VNN-LIB, the language in which the verification competitions state properties of networks.

`tokens` splits a text into s-expressions, `expressions` reads what they say of the variables, `normal_form` keeps it as
rows and alternatives with numbers that floats hold, and `reader` makes a `Property` of it.
"""

from polyopt.vnnlib.reader import VNNLIBError, read_vnnlib

__all__ = ["VNNLIBError", "read_vnnlib"]
