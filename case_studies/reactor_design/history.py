"""What a plant has on record: operating points that follow its operators' rules, and so a thin band of the window.

Richer feed is run faster, and more throughput is cooled more; both rules are kept up to some scatter.
"""

from __future__ import annotations

import numpy as np
from reactor import LOWER, UPPER


def history(count: int, seed: int) -> np.ndarray:
    """Operating points (count, 3) on record."""
    rng = np.random.default_rng(seed)
    feed = rng.uniform(4.6, 5.6, count)
    dilution = 20.0 + 12.0 * (feed - 5.1) + rng.normal(0.0, 1.5, count)
    cooling = 200.0 + 35.0 * (dilution - 15.0) + rng.normal(0.0, 40.0, count)
    return np.clip(np.column_stack([dilution, feed, cooling]), LOWER, UPPER)
