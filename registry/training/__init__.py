"""Runs, epochs, order, shards and batches: what a trainer sees, without TensorFlow."""
