"""Faults of a dataset, found before they cost a training.

Reading order: ``finding`` (what can be found), ``source`` (what to look at), ``run`` (the pass), then one check a
file: ``categories``, ``records``, ``segments``, ``files``, ``pixels``, ``overlap``. ``report`` and ``plot`` show the
result, ``repair`` writes what can be mended, ``training`` runs it all before a training.
"""
