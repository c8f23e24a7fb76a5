"""Scalars and pictures of a training to Weights & Biases (https://docs.wandb.ai), an optional package."""

from __future__ import annotations

import importlib.util
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.utils.events import EventWriter, get_event_storage

from panoptic_plugin.engine.class_charts import ClassTable
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

logger = logging.getLogger(__name__)

# "" leaves it to $WANDB_MODE, without which wandb is online.
MODES = ("", "online", "offline", "disabled")
# The id of the run, in OUTPUT_DIR: a resumed training goes on in the same run.
ID_FILE = "wandb_run_id"
# Seconds to wait for the server, or for somebody to log in, before training goes on without.
START_TIMEOUT = 60


def check_wandb(cfg) -> None:
    """Raise ConfigError where ``WANDB`` cannot work, on every process and before anything is made."""
    if not cfg.WANDB.ENABLED:
        return
    if cfg.WANDB.MODE not in MODES:
        raise ConfigError(f"WANDB.MODE is {cfg.WANDB.MODE!r}. {suggestion(cfg.WANDB.MODE, list(MODES[1:]))}")
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "WANDB.ENABLED is True, but wandb is not installed; run 'pip install wandb', or set WANDB.ENABLED False"
        )


class WandbWriter(EventWriter):
    """Logs what TensorBoard gets. Whatever goes wrong with it ends it with a warning, and never the training.

    The run starts with the first write. Scalars are plotted over ``iteration``, not over wandb's own steps, which
    cannot go back: a training that is resumed from an earlier checkpoint writes some iterations again.

    Args:
        output_dir: receives ``wandb/`` and ``wandb_run_id``.
        options: PROJECT, ENTITY, NAME and MODE, as ``cfg.WANDB`` has them; empty ones are left to wandb.
        config: of the training, shown with the run.
        start_iter: the first iteration of this process; above 0 the run of ``wandb_run_id`` goes on.
        window_size: scalars that are to be smoothed are medians of so many iterations.
        tables: scores of classes, which are taken out of this list and shown as a table and as bars.
    """

    def __init__(
        self,
        output_dir: str,
        *,
        options: Mapping[str, Any],
        config: Mapping[str, Any],
        start_iter: Callable[[], int] = lambda: 0,
        window_size: int = 20,
        tables: list[ClassTable] | None = None,
    ) -> None:
        self._folder = Path(output_dir)
        self._options = dict(options)
        self._config = dict(config)
        self._start_iter = start_iter
        self._window_size = window_size
        self._tables = tables if tables is not None else []
        self._last_write = -1
        self._run: Any = None
        self._failed = False

    def write(self) -> None:
        self._try(self._write)

    def close(self) -> None:
        if self._run is not None:
            self._try(self._run.finish)
            self._run = None

    def _try(self, action: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as reason:
            self._failed = True
            lines = str(reason).strip().splitlines() or [type(reason).__name__]
            logger.warning("Weights & Biases failed (%s); training goes on without it", lines[0])

    def _write(self) -> None:
        if self._run is None:
            self._run = self._start()
        storage = get_event_storage()
        by_iteration: dict[int, dict[str, Any]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                by_iteration[iteration][name] = value
        self._last_write = max([self._last_write, *by_iteration])
        for name, picture, iteration in storage._vis_data:
            by_iteration[iteration][name] = _image(picture)
        while self._tables:
            table = self._tables.pop(0)
            by_iteration[table.iteration].update(_charts(table))
        for iteration in sorted(by_iteration):
            self._run.log({"iteration": iteration, **by_iteration[iteration]})

    def _start(self) -> Any:
        import wandb

        run = wandb.init(
            dir=str(self._folder),
            project=self._options["PROJECT"] or None,
            entity=self._options["ENTITY"] or None,
            name=self._options["NAME"] or None,
            mode=self._options["MODE"] or None,
            config=self._config,
            id=self._run_id(),
            resume="allow",
            settings=wandb.Settings(
                init_timeout=START_TIMEOUT, login_timeout=START_TIMEOUT, console="off", silent=True
            ),
        )
        run.define_metric("*", step_metric="iteration")
        logger.info("Weights & Biases: run %s (%s) %s", run.name or "offline", run.id, run.url or run.dir)
        return run

    def _run_id(self) -> str:
        """The id of the run that goes on, or a new one, which is written down."""
        file = self._folder / ID_FILE
        if self._start_iter() > 0 and file.is_file():
            return file.read_text(encoding="utf-8").strip()
        run_id = secrets.token_hex(6)
        file.write_text(run_id + "\n", encoding="utf-8")
        return run_id


def make_wandb_writer(cfg, start_iter: Callable[[], int], tables: list[ClassTable] | None = None) -> WandbWriter:
    """The writer of ``cfg.WANDB``, in ``cfg.OUTPUT_DIR``."""
    config = yaml.safe_load(cfg.dump())
    return WandbWriter(cfg.OUTPUT_DIR, options=cfg.WANDB, config=config, start_iter=start_iter, tables=tables)


def _image(picture: Any) -> Any:
    """A picture of Detectron2's storage, (3, H, W) uint8 or float from 0 to 1, as wandb's."""
    import wandb

    pixels = np.asarray(picture).transpose(1, 2, 0)
    if pixels.dtype != np.uint8:
        pixels = (pixels * 255).round().astype(np.uint8)
    return wandb.Image(pixels, file_type="jpg")


def _charts(scores: ClassTable) -> dict[str, Any]:
    """wandb's table of the classes, and bars of each of its main scores."""
    import wandb

    table = wandb.Table(columns=scores.columns, data=scores.rows)
    bars = {
        f"{scores.name}/{score}": wandb.plot.bar(table, "class", score, title=f"{score} by class")
        for score in scores.scores
    }
    return {f"{scores.name}/table": table, **bars}
