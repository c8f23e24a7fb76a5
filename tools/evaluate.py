#!/usr/bin/env python
"""Score saved predictions, or predict and score: ``python tools/evaluate.py --predictions DIR --config-file F``."""

import sys

from panoptic_plugin.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
