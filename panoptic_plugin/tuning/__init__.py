"""Tuning of loss weights and of post-processing, with a verdict that noise cannot buy; see docs/tuning.md.

Reading order: ``space`` (what is searched), ``trial`` (one training), ``study`` (the method), ``statistics`` (what
counts as an effect), ``halving`` (which trials are stopped early), ``local_engine`` and ``ray_engine`` (who runs the
trials), ``split`` (on which images), ``training`` (a trial of a real network), ``postprocessing`` (its own, cheaper
method).
"""
