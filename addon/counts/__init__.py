"""What is counted while the proxy works, and all that it can tell of itself, as plain values."""
