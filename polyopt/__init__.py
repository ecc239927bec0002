"""polyopt."""
