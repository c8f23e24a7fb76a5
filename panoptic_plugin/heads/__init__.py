"""Heads that more than one system uses."""
