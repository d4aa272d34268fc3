"""Where each kind of builder looks for a CA, and putting it there.

A target (system, docker, containers, ...) is a pure function from what is wanted to a plan: the files to put, the
program that takes notice of them, and what is left for a person to do. `apply` carries plans out, and takes them back.
"""
