#!/usr/bin/env python3
"""Convert third-party backbone weights for Detectron2: ``convert-pretrain-model-to-d2.py IN OUT``."""

import sys

from panoptic_plugin.cli.convert_weights import main

if __name__ == "__main__":
    sys.exit(main())
