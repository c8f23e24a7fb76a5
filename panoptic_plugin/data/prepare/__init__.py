"""Datasets made ready: what Detectron2 expects of Cityscapes and COCO, and smaller or divided sets."""
