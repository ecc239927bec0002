"""Arrays that a module needs and does not train, exact in each precision that the module takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class Constants(nn.Module):
    """A module whose arrays are buffers: they follow its device and precision, and no rounding stays behind.

    >>> constants = Constants()
    >>> constants.keep(tenth=np.array([0.1]))
    >>> constants.float().double().tenth.item(), list(constants.state_dict())
    (0.1, [])
    """

    def __init__(self):
        super().__init__()
        self.exact: dict[str, np.ndarray] = {}

    def keep(self, **arrays: np.ndarray) -> None:
        """Keep these arrays under their names; they are no part of the module's state."""
        for name, array in arrays.items():
            self.exact[name] = array
            self.register_buffer(name, torch.tensor(array), persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, array in self.exact.items():
            setattr(self, name, torch.tensor(array).to(getattr(self, name)))
        return self
