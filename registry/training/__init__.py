"""What a trainer sees, without TensorFlow: runs, epochs, order, batches."""
