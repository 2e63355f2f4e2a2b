"""``python -m gitmerge_eval`` is the script ``gitmerge-eval``."""

import sys

from gitmerge_eval.cli import main

sys.exit(main())
