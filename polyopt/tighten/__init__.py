"""Tightening of a network's bounds by linear programs over its relaxation, certified by weak duality, and by MILPs."""
