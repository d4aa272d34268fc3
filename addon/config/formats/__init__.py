"""Readers of the formats in which builders have their mirrors already."""
