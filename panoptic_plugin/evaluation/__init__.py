"""Evaluation in one pass over the predictions, in memory.

``pq.py`` holds pure counts. A metric (``panoptic.py``, ``semantic.py``, ``instance.py``) turns one image into a small
record and all records into numbers; ``evaluator.py`` brings both to Detectron2's ``DatasetEvaluator`` and makes sure
that each image is counted once. ``build.py`` chooses the metrics of a dataset.
"""
