#!/usr/bin/env python
"""Tune loss weights, or post-processing: ``python tools/tune_params.py --cfg configs/...``."""

import sys

from panoptic_plugin.cli.tune import main

if __name__ == "__main__":
    sys.exit(main())
