#!/usr/bin/env python
"""Train or evaluate Panoptic-DeepLab: ``python train_panoptic_deeplab.py --config-file configs/... [--num-gpus 8]``."""

import sys

from panoptic_plugin.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
