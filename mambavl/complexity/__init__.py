"""Parameters, multiply-adds and FLOPs of encoders and heads; it needs both stages, so it stands above them."""
