"""The finished trials of a study on disk, one JSON a line: a killed study goes on where it was."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.tuning.trial import FAILED, Record

logger = logging.getLogger(__name__)

FILE_NAME = "journal.jsonl"


class Journal:
    """Records by key; the file begins with what the study is, so that no other study goes on in it.

    Args:
        path: the file; None keeps the records in memory.
        identity: what must be equal for records to count: space, data, seeds, config.
        resume: go on with a file that is there.

    Raises:
        ConfigError: there is a file and ``resume`` is False, or it is of another study.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], *, resume: bool = False) -> None:
        self.records: dict[str, Record] = {}
        self._path = path
        if path is None:
            return
        identity = json.loads(json.dumps(identity))  # as it will be read
        if path.exists():
            if not resume:
                raise ConfigError(
                    f"{path} holds a study already; go on with it by --resume, or choose another --output"
                )
            self._read(path, identity)
            logger.info("%d trials of %s are finished already", len(self.records), path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"study": identity})

    def add(self, record: Record) -> None:
        """Write a finished trial; it is on the disk when this returns."""
        self.records[record.key] = record
        if self._path is not None:
            self._append(record.as_json())

    def _append(self, content: Mapping[str, Any]) -> None:
        assert self._path is not None
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path, identity: Mapping[str, Any]) -> None:
        text = path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # killed while it wrote: that trial is made again
            path.write_text(whole, encoding="utf-8")
        lines = whole.splitlines()
        try:
            content = [json.loads(line) for line in lines]
            before = content[0]["study"]
            records = {one["key"]: Record.from_json(one) for one in content[1:]}
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ConfigError(f"{path} is no journal of a study ({error}); choose another --output") from None
        self.records = {key: record for key, record in records.items() if not _is_tried_again(record)}
        changed = [name for name in sorted({*before, *identity}) if before.get(name) != identity.get(name)]
        if changed:
            raise ConfigError(
                f"{path} is of another study: {', '.join(changed)} differ; resume with the same command and files, "
                "or choose another --output"
            )


def _is_tried_again(record: Record) -> bool:
    """Failed trainings that a study cannot do without: the reason may be mended. A search goes on without its own."""
    return record.status == FAILED and (record.phase != "search" or record.key.endswith("-000"))
