#!/usr/bin/env python
"""Time each stage of a config: ``python tools/benchmark.py --config-file configs/...``."""

import sys

from panoptic_plugin.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
