#!/usr/bin/env python
"""Draw the panoptic segmentation of images: ``python demo.py --config-file F --input a.jpg --output out/``."""

import sys

from panoptic_plugin.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
