"""Benchmarks of the tool itself: one file each, started by ``python -m gitmerge_eval.bench``.

An entry point: it may use every room of the package, and nothing imports it. ``layer`` needs
nothing beside torch and NumPy, so that it runs on a bare GPU machine.
"""
