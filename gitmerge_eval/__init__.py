"""Collaborative model merging in Git: merge, evaluate and review fine-tuned models as branches.

The package is a house with layers; imports go downwards only (tests/test_layers.py reads them):

    cli/  strategy  driver  filter  hook                  argv, exit codes, stderr
    merging  collecting  evaluating  verifying  reporting  use cases, no terminal
    checkpoints/  benchmarks/  git/                        the outside world
    methods/  statistics/                                  torch only
    compiled/                                              loops in machine code
    records  errors                                        standard library only
"""

__version__ = "0.2.0"
