# SPDX-License-Identifier: Apache-2.0
"""Read the Python configuration of an mmsegmentation run without executing it.

The text is in the checkpoint (`meta.cfg`), or in a `.py` or `.json` beside it. Only assignments of literals, of
`dict(...)` and of names assigned before are evaluated; other statements are skipped.
"""

import ast
import json
from collections.abc import Mapping
from typing import Any

from raycomp.errors import UserError, first_line
from raycomp.models.readers.source import Source

_MAX_LENGTH = 1_000_000  # characters


def config_of(source: Source) -> Mapping[str, Any]:
    """Return the configuration of a run; empty without one.

    Raises:
        UserError: if it cannot be parsed.
    """
    meta = source.meta.get("meta")
    for name in ("cfg", "config"):
        if isinstance(meta, dict) and isinstance(text := meta.get(name), str) and "=" in text:
            return _parsed(text, f"{source.path}: its configuration")
    beside = [source.path.with_suffix(suffix) for suffix in (".py", ".json")]
    file = next((path for path in beside if path.is_file()), None)
    folder = sorted(source.path.parent.glob("*.py"))
    if file is None and len(folder) == 1:
        file = folder[0]
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {first_line(error)}") from None
    if file.suffix == ".py":
        return _parsed(text, str(file))
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({first_line(error)})") from None
    return config if isinstance(config, dict) else {}


def _parsed(text: str, where: str) -> dict[str, Any]:
    """Return the values that a Python text assigns at its top level."""
    try:
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"longer than {_MAX_LENGTH} characters")
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where} is not a Python configuration ({first_line(error)})") from None
    values: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = _value(statement.value, values)
            except (ValueError, TypeError, RecursionError):
                continue  # a call or an expression; a missing model setting is reported when it is needed
    if "_base_" in values and "model" not in values:
        raise UserError(
            f"{where} inherits from {values['_base_']}; give the complete one, which mmengine writes to work_dir"
        )
    return values


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """Evaluate a literal, a `dict(...)` or a name assigned before.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {str(keyword.arg): _value(keyword.value, values) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return {str(key): _value(item, values) for key, item in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, values) for item in node.elts]
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    return ast.literal_eval(node)
