"""The encoders of the paper, written from scratch, and their published checkpoints."""
