"""What models cost. It counts encoders and heads alike, so it stands above both stages."""
