"""Cutting batches, the one training loop, optimisers, checkpoints."""
