#!/usr/bin/env python
"""One page about one or several runs: ``python tools/report.py RUN [RUN2 ...]``."""

import sys

from panoptic_plugin.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
