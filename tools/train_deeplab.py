#!/usr/bin/env python
"""Train or evaluate DeepLabV3+: ``python tools/train_deeplab.py --config-file configs/...SemanticSegmentation/...``."""

import sys

from panoptic_plugin.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
