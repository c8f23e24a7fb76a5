#!/usr/bin/env python
"""Disturb a small training and show that nothing is lost: ``python tools/chaos.py --minutes 10 --seed 7``."""

import sys

from panoptic_plugin.cli.chaos import main

if __name__ == "__main__":
    sys.exit(main())
