"""Whole systems, one folder each; a system never imports another."""
