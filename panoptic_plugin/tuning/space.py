"""What is searched: parameters with bounds, and how their values become config keys.

Loss weights are searched as ratios to the semantic weight, which stays as it is: Adam does not see a factor that all
losses share, so a search over all three would go over the same trainings again and again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from detectron2.config import CfgNode

from panoptic_plugin.errors import ConfigError
from panoptic_plugin.registry import suggestion

SEMANTIC_WEIGHT = "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"
RELATIONS = ("value", "factor", "ratio")
SCALES = ("log", "linear")
ENTRY_KEYS = ("NAME", "KEY", "LOW", "HIGH", "SCALE", "RELATION")
# The baseline has at least this factor below and above it: at an edge it would be a point that no search proposes.
ROOM = 10.0

Values = dict[str, float]


@dataclass(frozen=True)
class Parameter:
    """One axis of the search.

    Attributes:
        name: short, for tables.
        key: the config key that it sets.
        low, high: bounds of the value.
        log: whether its logarithm is searched evenly.
        relation: "value": the key is the value; "factor": the value times what the config says; "ratio": the value
            times the semantic loss' weight.
    """

    name: str
    key: str
    low: float
    high: float
    log: bool = True
    relation: str = "value"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"parameter {self.name}: LOW {self.low} and HIGH {self.high}; expected LOW below HIGH")
        if self.log and self.low <= 0:
            raise ConfigError(f"parameter {self.name}: LOW is {self.low}, but a log scale needs numbers above 0")
        if self.relation not in RELATIONS:
            raise ConfigError(
                f"parameter {self.name}: RELATION is {self.relation!r}. {suggestion(self.relation, list(RELATIONS))}"
            )

    def at(self, place: float) -> float:
        """The value at a place between 0 (low) and 1 (high)."""
        if not self.log:
            return self.low + place * (self.high - self.low)
        return math.exp(math.log(self.low) + place * math.log(self.high / self.low))

    def place(self, value: float) -> float:
        """The inverse of :meth:`at`."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        return math.log(value / self.low) / math.log(self.high / self.low)


_WEIGHT = "MODEL.PANOPTIC_DEEPLAB.INSTANCE_WEIGHT"
NAMED = {
    "center": Parameter("center", "MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT", 20.0, 2000.0, relation="ratio"),
    "offset": Parameter("offset", "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT", 1e-3, 1e-1, relation="ratio"),
    "learning_rate": Parameter("learning_rate", "SOLVER.BASE_LR", 0.1, 10.0, relation="factor"),
    "beta": Parameter("beta", f"{_WEIGHT}.BETA", 0.2, 20.0),
    "tau": Parameter("tau", f"{_WEIGHT}.TAU", 0.2, 20.0),
}


@dataclass(frozen=True)
class Space:
    """All axes of a search."""

    parameters: tuple[Parameter, ...]

    @property
    def names(self) -> list[str]:
        return [parameter.name for parameter in self.parameters]

    def baseline(self, cfg: CfgNode) -> Values:
        """The values that the config has."""
        return {one.name: _config_value(cfg, one) / _unit(cfg, one) for one in self.parameters}

    def overrides(self, cfg: CfgNode, values: Mapping[str, float]) -> list[Any]:
        """KEY, VALUE, KEY, VALUE, ... that give a config these values.

        Args:
            cfg: the config of the baseline.
            values: of every parameter.
        """
        words: list[Any] = []
        for parameter in self.parameters:
            words += [parameter.key, float(values[parameter.name] * _unit(cfg, parameter))]
        return words

    def extremes(self, baseline: Mapping[str, float]) -> dict[str, Values]:
        """Points that would differ if any did, by a name: the corners of up to two axes, the ends of each of more."""
        ends = {one.name: {"low": one.low, "high": one.high} for one in self.parameters}
        if len(ends) <= 2:
            chosen = [dict(zip(ends, combination, strict=True)) for combination in product(*ends.values())]
        else:
            chosen = [{name: end} for name in ends for end in ("low", "high")]
        return {
            ", ".join(f"{name} {end}" for name, end in one.items()): {
                **baseline, **{name: ends[name][end] for name, end in one.items()}
            }
            for one in chosen
        }  # fmt: skip

    def described(self) -> list[dict[str, Any]]:
        """For reports."""
        return [asdict(parameter) for parameter in self.parameters]


def read_space(cfg: CfgNode, entries: Sequence[Any] = ()) -> Space:
    """The space of the config.

    Args:
        cfg: reads TUNE.PARAMETERS, TUNE.SPACE and what the parameters' keys hold.
        entries: used in the place of TUNE.SPACE, where there are any.

    Raises:
        ConfigError: an unknown name or key, bounds that cannot be, or a baseline that is not between them.
    """
    listed = list(entries) or list(cfg.TUNE.SPACE)
    if listed:
        parameters = [_parse(entry, f"space entry {number}") for number, entry in enumerate(listed)]
        for parameter in parameters:
            _check_inside(cfg, parameter)
    else:
        parameters = [_with_room(cfg, _named(name)) for name in cfg.TUNE.PARAMETERS]
    names = [parameter.name for parameter in parameters]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"the parameters to tune are {names}; expected at least one, each once")
    return Space(tuple(parameters))


def _named(name: str) -> Parameter:
    if name not in NAMED:
        raise ConfigError(f"TUNE.PARAMETERS has {name!r}. {suggestion(name, list(NAMED))}")
    return NAMED[name]


def _parse(entry: Any, where: str) -> Parameter:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is {entry!r}, expected the keys {', '.join(ENTRY_KEYS)}")
    for key in entry:
        if key not in ENTRY_KEYS:
            raise ConfigError(f"{where} has the key {key!r}. {suggestion(str(key), list(ENTRY_KEYS))}")
    missing = [key for key in ENTRY_KEYS[:4] if key not in entry]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    scale = entry.get("SCALE", "log")
    if scale not in SCALES:
        raise ConfigError(f"{where}: SCALE is {scale!r}, expected one of {', '.join(SCALES)}")
    try:
        low, high = float(entry["LOW"]), float(entry["HIGH"])
    except (TypeError, ValueError):
        raise ConfigError(
            f"{where}: LOW and HIGH are {entry['LOW']!r} and {entry['HIGH']!r}, expected numbers"
        ) from None
    relation = str(entry.get("RELATION", "value"))
    return Parameter(str(entry["NAME"]), str(entry["KEY"]), low, high, scale == "log", relation)


def _with_room(cfg: CfgNode, parameter: Parameter) -> Parameter:
    """The parameter, widened where the baseline is closer than :data:`ROOM` to a bound."""
    value = _config_value(cfg, parameter) / _unit(cfg, parameter)
    if value <= 0:
        raise ConfigError(f"{parameter.key} is {value:g}; a search around it needs a number above 0")
    low, high = min(parameter.low, value / ROOM), max(parameter.high, value * ROOM)
    return Parameter(parameter.name, parameter.key, low, high, parameter.log, parameter.relation)


def _check_inside(cfg: CfgNode, parameter: Parameter) -> None:
    value = _config_value(cfg, parameter) / _unit(cfg, parameter)
    if not parameter.low < value < parameter.high:
        raise ConfigError(
            f"parameter {parameter.name}: the baseline {value:g} is not inside {parameter.low:g} to "
            f"{parameter.high:g}; widen the bounds, or what is found cannot be compared with it"
        )


def _unit(cfg: CfgNode, parameter: Parameter) -> float:
    if parameter.relation == "ratio":
        weight = float(_look_up(cfg, SEMANTIC_WEIGHT))
        if weight <= 0:
            raise ConfigError(f"{SEMANTIC_WEIGHT} is {weight:g}; ratios to it need a number above 0")
        return weight
    return float(_look_up(cfg, parameter.key)) if parameter.relation == "factor" else 1.0


def _config_value(cfg: CfgNode, parameter: Parameter) -> float:
    value = _look_up(cfg, parameter.key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"parameter {parameter.name}: {parameter.key} is {value!r}, expected a number")
    return float(value)


def _look_up(cfg: CfgNode, dotted: str) -> Any:
    node: Any = cfg
    for part in dotted.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            raise ConfigError(f"there is no config key {dotted} to tune; the network of this config may not have it")
        node = node[part]
    return node
