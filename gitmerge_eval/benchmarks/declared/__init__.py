"""Benchmarks that a repository's ``benchmark.toml`` declares, without code, for the user's data.

A declaration is data that may come from anybody: it names files of the user's data folder and
nothing beside them, its templates are filled in without attributes or formats, and what evaluates
is the package's own.
"""
