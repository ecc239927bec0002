"""What can be proven of a network on a region; a verdict is a promise, and where none can be given it is "unknown"."""
