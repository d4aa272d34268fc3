"""What the operator said, as one model."""
