"""Grids of tasks and how a checkpoint is evaluated on them; knows no Git."""
