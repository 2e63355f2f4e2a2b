"""Evaluating models: what a repository declares, who is scored on what, and the note of it."""
