"""Validation before a training: what would end it, or teach it nothing, is found before it starts."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from panoptic_plugin.data.validate.cache import FILE_NAME, ValidationCache, dataset_digest
from panoptic_plugin.data.validate.finding import WARNING
from panoptic_plugin.data.validate.report import format_report, summary_line
from panoptic_plugin.data.validate.run import Report, validate_together
from panoptic_plugin.data.validate.source import DEPTHS, OFF, Source, settings_of, source_of
from panoptic_plugin.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

MAX_LOGGED = 20
# Wrong in an evaluation, but a way to try things out: train and test on the same pictures.
ALLOWED = {"split-overlap"}


def check_before_training(cfg) -> list[Report]:
    """Validate the panoptic sets of ``DATASETS.TRAIN`` and ``TEST`` as ``DATASETS.VALIDATE`` says.

    A set without errors is remembered in ``OUTPUT_DIR/validated_datasets.json`` and not looked at again before one
    of its files changes. Faults are logged as a table.

    Returns:
        The reports of this time; none where everything was known.

    Raises:
        ConfigError: an unknown value of ``DATASETS.VALIDATE``.
        DatasetError: a set has errors.
    """
    depth = cfg.DATASETS.VALIDATE
    if depth not in DEPTHS:
        raise ConfigError(f"DATASETS.VALIDATE is {depth!r}, expected {', '.join(map(repr, DEPTHS))}")
    sources = [] if depth == OFF else _sources(cfg)
    if not sources:
        return []
    settings = settings_of(cfg, depth)
    cache = ValidationCache(os.path.join(cfg.OUTPUT_DIR, FILE_NAME))
    digests = [dataset_digest(source, settings) for source in sources]
    # Together, because a picture in both of two sets is a property of the pair.
    together = "+".join(digests)
    if together in cache:
        logger.info("%s: validated before, unchanged", ", ".join(source.name for source in sources))
        return []
    reports = [_allow(report) for report in validate_together(sources, settings)]
    for report in reports:
        _log(report)
    _refuse(reports)
    cache.add(together, "; ".join(map(summary_line, reports)))
    return reports


def _sources(cfg) -> list[Source]:
    """Panoptic sets whose files are there; for others the dataset's own loader has the better message."""
    names = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    found = [source for source in map(source_of, names) if source is not None]
    return [
        source
        for source in found
        if os.path.isfile(source.panoptic_json)
        and all(os.path.isdir(root) for root in (source.image_root, source.panoptic_root))
        and (source.semantic_root is None or os.path.isdir(source.semantic_root))
    ]


def _allow(report: Report) -> Report:
    general = [replace(finding, severity=WARNING) if finding.code in ALLOWED else finding for finding in report.general]
    return replace(report, general=general)


def _log(report: Report) -> None:
    if report.num_errors:
        logger.error("%s", format_report(report, MAX_LOGGED))
    elif report.findings:
        logger.warning("%s", format_report(report, MAX_LOGGED))
    else:
        logger.info("%s", summary_line(report))


def _refuse(reports: list[Report]) -> None:
    faulty = [report for report in reports if report.num_errors]
    if not faulty:
        return
    report, first = faulty[0], faulty[0].findings[0]
    raise DatasetError(
        f"dataset {report.source.name!r} has {report.num_errors} errors; the first is {first.code} in {first.file}"
        f"{f' ({first.place})' if first.place else ''}: {first.found}, expected {first.expected}. All are in the log; "
        f"'panoptic data validate' lists and repairs them, DATASETS.VALIDATE {OFF} trains without a look"
    )
