"""Merging the checkpoints of several heads: options, decision, plan, computation, landing."""
