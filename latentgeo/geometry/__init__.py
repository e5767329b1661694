"""Riemannian geometry of decoders, in plain PyTorch; imports nothing else of the package."""
