"""Loops that NumPy would need many passes for, as machine code that LLVM makes when asked.

Here is how a loop is written and compiled; what it computes is defined, and tested, elsewhere.
"""
