"""What the training loop stands on: which rows, which checkpoints, which history. Imports torch."""
