# SPDX-License-Identifier: Apache-2.0
"""Generate the reference pages of the fields of search space files and the columns of results.

`make docs` runs this; `tests/test_docs.py` checks that the pages are up to date.
"""

import ast
import inspect
import json
import textwrap
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raycomp.config import SweepConfig
from raycomp.results.row import SCHEMA
from raycomp.settings.amounts import Amount
from raycomp.shape import ModelShape

_REFERENCE = Path(__file__).parent / "reference"
_KINDS = {Amount: "amount", int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}

_SPACE = """# Search space

A search space file is YAML. It names a checkpoint, images, and what may vary; `search_spaces/` has four. Missing fields
have the defaults below. An unknown field or a value out of range is rejected, with the nearest valid name.
[Your own model and data](../guides/own.md) shows a complete file.

This page is generated from `raycomp/settings/` by `make docs`.
"""
_COLUMNS = """# Columns

A row is one recipe measured at one stage of one sweep. Rows are Parquet files in `results/NAME/trials`; reading them
needs no raycomp. With the duckdb package:

```
duckdb.sql("select recipe_id, gflops_share, clean_miou from 'results/*/trials/*.parquet' where stage = 'full'")
```

[Metrics](metrics.md) explains the figures. This page is generated from `raycomp/results/row.py` by `make docs`.
"""


def pages() -> dict[Path, str]:
    """Return the text of every generated page."""
    return {_REFERENCE / "search_space.md": _search_space(), _REFERENCE / "columns.md": _columns()}


def _search_space() -> str:
    sections = {name: field.annotation for name, field in SweepConfig.model_fields.items() if name != "name"}
    parts = [_wrapped(_SPACE), "## name\n\nThe name of the space, and by default of its sweeps; required.\n"]
    parts += [_section(name, model) for name, model in sections.items() if model is not None]
    nested: dict[type[BaseModel], None] = {ModelShape: None}
    for model in sections.values():
        nested |= dict.fromkeys(part for part in _models_in(model) if part is not model)
    parts += [_section(model.__name__, model) for model in nested]
    return "\n".join(parts)


def _section(title: str, model: type[BaseModel]) -> str:
    documented = _docstrings(model)
    rows = [(f"`{n}`", _kind(f.annotation), _default(f), documented.get(n, "")) for n, f in model.model_fields.items()]
    about = _wrapped(" ".join((model.__doc__ or "").split("\n\n")[0].split()))
    return f"## {title}\n\n{about}\n{_table(('field', 'values', 'default', 'meaning'), rows)}"


def _columns() -> str:
    rows = [(f"`{field.name}`", _stored(field.type), (field.metadata or {})[b"doc"].decode()) for field in SCHEMA]
    return _wrapped(_COLUMNS) + "\n" + _table(("column", "type", "meaning"), rows)


def _stored(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0].body  # type: ignore[attr-defined]
    docstrings = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docstrings[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return docstrings


def _kind(annotation: Any) -> str:
    """Describe the values of a field."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(one) for one in inner if one is not type(None)))
    if origin is tuple:
        kinds = [_kind(one) for one in inner if one is not Ellipsis]
        return f"list of {kinds[0]}" if Ellipsis in inner else f"[{', '.join(kinds)}]"
    if origin is dict:
        return f"{_kind(inner[0])}: {_kind(inner[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _KINDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, BaseModel):
        changed = value.model_dump(mode="json", exclude_unset=True)
        return f"`{json.dumps(changed)}`" if changed else ""
    return f"`{json.dumps(value)}`"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the section types in a field's type, and those of their fields."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation, *(m for f in annotation.model_fields.values() for m in _models_in(f.annotation))]
    return [model for one in get_args(annotation) for model in _models_in(one)]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _wrapped(text: str) -> str:
    """Wrap prose at 100 columns; headings and code blocks do not change."""
    parts = []
    for part in text.strip().split("\n\n"):
        prose = " ".join(part.split())
        parts.append(part if part.startswith(("#", "```")) else textwrap.fill(prose, 100, break_on_hyphens=False))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
