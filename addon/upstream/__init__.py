"""Mirrors and origins: which are asked, in which order, and how."""
