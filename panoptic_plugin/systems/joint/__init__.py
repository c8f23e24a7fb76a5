"""The joint network: a semantic branch of its own guides the instance branch of Panoptic-DeepLab."""
