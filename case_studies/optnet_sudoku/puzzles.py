"""4x4 Sudoku: all 288 grids, and puzzles with exactly one solution.

A grid is 16 digits 0 to 3, row by row; in a puzzle -1 stands where nothing is given. Networks see both as tensors
(4, 4, 4) of row, column and digit: one-hot, and zeros where nothing is given.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

GIVENS = range(4, 9)  # with fewer than 4 givens no puzzle has one solution
DRAWN = 2000  # candidates at a time
ONE_HOT = np.eye(5, 4)  # of digits, and zeros for -1


class Puzzles(NamedTuple):
    """Puzzles and their solutions, both (count, 4, 4, 4), and how many cells of each are given, (count,)."""

    shown: Tensor
    solved: Tensor
    givens: Tensor

    def take(self, index) -> Puzzles:
        return Puzzles(*(part[index] for part in self))


@functools.cache
def grids() -> np.ndarray:
    """All grids: (288, 16)."""
    rows = np.array(list(itertools.permutations(range(4))))
    bands = rows[np.indices((24, 24)).reshape(2, -1).T]  # (24^2, 2, 4): pairs of complete rows
    boxes = bands.reshape(-1, 2, 2, 2).swapaxes(1, 2).reshape(-1, 2, 4)
    bands = bands[_complete(boxes)]
    stacks = bands[np.indices((len(bands),) * 2).reshape(2, -1).T].reshape(-1, 4, 4)
    return stacks[_complete(stacks.swapaxes(1, 2))].reshape(-1, 16)


def _complete(groups: np.ndarray) -> np.ndarray:
    """Whether all groups (count, some, 4) have each digit once: (count,)."""
    return (np.sort(groups, 2) == np.arange(4)).all((1, 2))


def rules() -> np.ndarray:
    """The rules as rows of A z = 1 for a one-hot z, of rank 40: each cell has one digit, each group each digit once."""
    cells = np.arange(64).reshape(4, 4, 4)
    boxes = cells.reshape(2, 2, 2, 2, 4).swapaxes(1, 2).reshape(4, 4, 4)
    groups = [
        cells.reshape(16, 4),
        *(g.transpose(0, 2, 1).reshape(16, 4) for g in (cells, cells.swapaxes(0, 1), boxes)),
    ]
    return np.eye(64)[np.concatenate(groups)].sum(1)


def agreeing(puzzles: np.ndarray) -> np.ndarray:
    """Which grids are solutions of puzzles (count, 16): (count, 288)."""
    shown, solved = (ONE_HOT[digits].reshape(-1, 64) for digits in (puzzles, grids()))
    return shown @ solved.T == (puzzles >= 0).sum(1, keepdims=True)


def draw(each: int, among: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``each`` different puzzles with one solution for every number of givens, cells of grids ``among``, shuffled."""
    found = []
    for givens in GIVENS:
        pool = np.empty((0, 16), int)
        while len(pool) < each:
            chosen = among[rng.integers(len(among), size=DRAWN)]
            given = rng.permuted(np.tile(np.arange(16) < givens, (DRAWN, 1)), axis=1)
            puzzles = np.where(given, chosen, -1)
            pool = np.unique(np.concatenate([pool, puzzles[agreeing(puzzles).sum(1) == 1]]), axis=0)
        found.append(rng.permutation(pool)[:each])
    return rng.permutation(np.concatenate(found))


def encode(puzzles: np.ndarray) -> Puzzles:
    """The tensors of puzzles (count, 16) with one solution each."""
    answers = grids()[agreeing(puzzles).argmax(1)]
    shown, solved = (torch.tensor(ONE_HOT[digits].reshape(-1, 4, 4, 4)) for digits in (puzzles, answers))
    return Puzzles(shown, solved, torch.tensor((puzzles >= 0).sum(1)))


def split(kind: str, train: int, test: int, seed: int) -> tuple[Puzzles, Puzzles]:
    """Puzzles to train on and others to test on: of the same grids ("puzzles") or of others ("grids")."""
    rng, sizes = np.random.default_rng(seed), [count // len(GIVENS) for count in (train, test)]
    if kind == "puzzles":
        drawn = encode(draw(sum(sizes), grids(), rng))
        held_out = torch.cat([torch.where(drawn.givens == givens)[0][: sizes[1]] for givens in GIVENS])
        kept = torch.ones(len(drawn.givens), dtype=torch.bool)
        kept[held_out] = False
        return drawn.take(kept), drawn.take(held_out)
    order = rng.permutation(grids())
    unseen = len(order) // 10
    return encode(draw(sizes[0], order[unseen:], rng)), encode(draw(sizes[1], order[:unseen], rng))
