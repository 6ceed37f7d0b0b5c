"""The encoders of the paper, written anew, and their published checkpoints."""
