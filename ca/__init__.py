"""A small certificate authority that can speak for a fixed set of DNS names and no others."""
