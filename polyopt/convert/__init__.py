"""Readers from and writers to torch, ONNX and scikit-learn; each imports its framework when it is called."""
