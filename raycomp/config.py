# SPDX-License-Identifier: Apache-2.0
"""A search space file: its sections and how it is read; `raycomp.settings` has the settings."""

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from raycomp.errors import UserError, first_line, logger, nearest, shown
from raycomp.renamed import renamed_fields
from raycomp.settings.comparison import BenchmarkConfig, NvitConfig
from raycomp.settings.evaluation import EvaluationConfig
from raycomp.settings.model_and_data import DataConfig, ModelConfig
from raycomp.settings.section import Section
from raycomp.settings.space_and_search import SearchConfig, SpaceConfig, metric_of
from raycomp.settings.training import ElasticConfig, PolicyConfig, RecoveryConfig, RefineConfig, TrainConfig

NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
"""Regular expression for names of search spaces and sweeps."""
LONGEST_NAME = 255
"""Maximum length of a folder name on common file systems, characters."""


class SweepConfig(Section):
    """A search space file."""

    name: str = Field(pattern=f"^{NAME}$", max_length=LONGEST_NAME)
    model: ModelConfig
    data: DataConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    space: SpaceConfig = SpaceConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    search: SearchConfig = SearchConfig()
    train: TrainConfig = TrainConfig()
    policy: PolicyConfig = PolicyConfig()
    elastic: ElasticConfig = ElasticConfig()
    refine: RefineConfig = RefineConfig()
    nvit: NvitConfig = NvitConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    @model_validator(mode="before")
    @classmethod
    def _trained_alike(cls, data: Any) -> Any:
        """Fill missing training fields of elastic and compressed models with those of the dense model."""
        if not isinstance(data, dict) or not isinstance(dense := data.get("train", {}), dict):
            return data
        filled = dict(data)
        for section, other in (("elastic", {"drop_path": 0.0, "decoder_dropout": 0.0}), ("refine", {})):
            given = data.get(section, {})
            if isinstance(given, dict) and isinstance(train := given.get("train", {}), dict):
                filled[section] = {**given, "train": {**dense, **other, **train}}
        return filled

    @model_validator(mode="after")
    def _classes_of_the_model(self) -> Self:
        names, shape = self.data.classes, self.model.shape
        if names is not None and shape is not None and len(names) != shape.classes:
            raise ValueError(f"data.classes names {len(names)}, model.shape.classes is {shape.classes}")
        return self

    @model_validator(mode="after")
    def _int8_is_timed(self) -> Self:
        if "int8" not in self.space.precision:
            return self
        search = self.search
        if search.latency_engine != "onnxruntime":
            raise ValueError(
                f"space.precision int8 is timed in onnxruntime alone; expected search.latency_engine onnxruntime, not "
                f"{search.latency_engine}"
            )
        if not search.needs_times:
            raise ValueError(
                "space.precision int8 saves no GFLOPs, so time must count: set search.cost_metric latency, or "
                "search.limits.ms"
            )
        if search.gpus_per_trial:
            raise ValueError(
                "space.precision int8 is measured on CPUs alone; expected search.gpus_per_trial 0, not "
                f"{search.gpus_per_trial:g}"
            )
        if self.evaluation.dtype != "float32":
            raise ValueError(
                f"space.precision int8 needs exact sums; expected evaluation.dtype float32, not {self.evaluation.dtype}"
            )
        return self

    @model_validator(mode="after")
    def _windows_cover_images(self) -> Self:
        window = self.data.window or (self.model.shape.image if self.model.shape else None)
        if window and self.data.stride and self.data.stride > min(window):
            size = f"{window[0]}x{window[1]}"
            raise ValueError(f"data.stride is {self.data.stride}, the window {size}: windows would not cover the image")
        return self

    def changed(self, section: str, **values: object) -> Self:
        """Return the configuration with some fields of a section set, except to None; raise a UserError if invalid.

        A mapping changes only the fields of the nested section that it names.
        """
        data = self.model_dump()
        data[section] = _merged(data[section], values)
        try:
            return self.model_validate(data)
        except ValidationError as error:
            raise UserError(explain(error, SweepConfig)) from None


def _merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in changes.items() if value is not None}
    nested = {
        key: _merged(before, value)
        for key, value in given.items()
        if isinstance(value, dict) and isinstance(before := settings.get(key), dict)
    }
    return settings | given | nested


def load(path: Path, **search: object) -> SweepConfig:
    """Read a search space file, with changes to its `search` section; raise a UserError if it cannot be used."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        folder = path.parent if path.parent.is_dir() else Path()
        near = nearest(path.name, sorted(p.name for p in folder.glob("*.yaml")) or ["a search space file"])
        raise UserError(f"{path}: cannot read the search space ({error.strerror}); {near}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: a search space is a YAML file; this is not text") from None
    try:
        raw = parsed(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or first_line(error)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a search space is a mapping of sections, not {type(raw).__name__}")
    raw, old = renamed_fields(raw)
    if old:
        logger.warning("%s: %s", path, ", ".join(old))
    if search.get("cost_metric") is None:  # the unit of a budget decides
        search["cost_metric"] = metric_of(search.get("budget"))
    try:
        config = SweepConfig.model_validate(raw)
    except ValidationError as error:
        try:  # what is wrong with the file may be what the changes set right
            given = {name: value for name, value in search.items() if value is not None}
            return SweepConfig.model_validate(raw | {"search": raw.get("search", {}) | given})
        except (ValidationError, TypeError):
            raise UserError(f"{path}: {explain(error, SweepConfig)}") from None
    return config.changed("search", **search)


class _Loader(yaml.SafeLoader):
    """Safe YAML that rejects duplicate keys; PyYAML would keep the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping. Keys that `<<` merges in are added later, because the mapping may override them."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (first := lines.get((key.tag, key.value))) is not None:
                problem = f"key {key.value!r} is already in line {first + 1}"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[key.tag, key.value] = key.start_mark.line
        return node

    def construct_tuple(self, node: yaml.SequenceNode) -> tuple[object, ...]:
        """Construct a tuple: the only Python tag in files of official Segmenter runs."""
        return tuple(self.construct_sequence(node))


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.construct_tuple)


def parsed(text: str) -> Any:
    """Parse a YAML text; raise a YAMLError if it is not YAML or has a duplicate key."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:  # PyYAML raises many types for a value that does not fit its tag, such as 31 June
        logger.debug("reading YAML", exc_info=True)
        raise yaml.YAMLError(f"a value cannot be read ({first_line(error)})") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the first validation error in one line: field, problem, value, nearest field."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    field = ".".join(place)
    if first["type"] == "extra_forbidden":
        return f"unknown field {field!r}: {nearest(place[-1], _fields(model, place[:-1]))}"
    if first["type"] == "missing":
        return f"field {field!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    no_value = isinstance(first["input"], dict) or first["type"] in ("too_long", "too_short")
    value = "" if no_value else f", not {shown(first['input'])}"
    return (f"field {field!r}: " if field else "") + f"{message[0].lower()}{message[1:]}{value}"


def _fields(model: type[BaseModel], place: list[str]) -> list[str]:
    """Return the names of the fields of the section at `place`."""
    for part in place:
        field = model.model_fields.get(part)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            break
        model = inner[0]
    return list(model.model_fields)
