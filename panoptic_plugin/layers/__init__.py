"""Building blocks of heads and backbones. Whatever Detectron2 or torchvision has right is imported, not rewritten."""
