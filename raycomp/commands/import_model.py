# SPDX-License-Identifier: Apache-2.0
"""`raycomp import`: translate a model of another framework. torch is imported late."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
import yaml

from raycomp.commands.inputs import Json, check_suffix, check_writable, print_json
from raycomp.errors import UserError, nearest
from raycomp.files import check_outputs
from raycomp.report import tables
from raycomp.shape import ModelShape, Size, vit

if TYPE_CHECKING:
    from raycomp.models.importing import Imported
    from raycomp.models.readers import Source


def import_command(
    file: Annotated[str, typer.Argument(help="Checkpoint, folder of transformers, or OWNER/NAME on the hub.")],
    out: Annotated[Path | None, typer.Option(help="Checkpoint to write (.safetensors).")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, if the file does not state them.")] = None,
    image: Annotated[str | None, typer.Option(help="Input size HxW in pixels, if not the file's.")] = None,
    normalization: Annotated[
        str | None, typer.Option(help="Pixel mean and std, if the file does not state them: vit, deit or clip.")
    ] = None,
    names_map: Annotated[
        Path | None, typer.Option("--map", help="YAML file of tensor names, for unknown model families.")
    ] = None,
    factory: Annotated[
        str | None, typer.Option(help="module:function that returns the original model, for comparison.")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Print the tensor names in the file and in raycomp.")] = False,
    as_json: Json = False,
) -> None:
    """Import a segmentation model, and check it against the original; without --out, check only."""
    if out is not None:
        check_suffix("--out", out, ".safetensors")
        check_writable("--out", out)
    size = None if image is None else _size(image)
    known = get_args(ModelShape.model_fields["normalization"].annotation)
    if normalization is not None and normalization not in known:
        raise UserError(f"--normalization {normalization}: {nearest(normalization, known)}")
    from raycomp.models import checkpoints
    from raycomp.models.importing import import_model, open_model
    from raycomp.models.readers import UserFacts

    source = open_model(file)
    if names:
        _print_names(source, names_map)
        return
    check_outputs(f"--out {out}", [out] if out else [], [source.path, names_map])
    imported = import_model(source, UserFacts(heads=heads, image=size, normalization=normalization), names_map, factory)
    if out is not None and not imported.translation.has_head:
        raise UserError(f"{file}: has no segmentation head; train one, with this file as model.backbone_file")
    if out is not None:
        checkpoints.save(imported.model, out, {"imported": imported.translation.family})
    _print(imported, out, as_json)


def _size(text: str) -> Size:
    if (match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)) is None or "0" in match.groups():
        raise UserError(f"--image {text}: expected height and width in pixels, as in 512x512")
    return int(match[1]), int(match[2])


def _print(imported: "Imported", out: Path | None, as_json: bool) -> None:
    """Print what was read and rewritten, and the difference from the original."""
    translation = imported.translation
    fields = translation.shape.model_dump(mode="json", exclude_defaults=True)
    if not translation.has_head:  # the fields of the head are placeholders
        fields = {name: value for name, value in fields.items() if name not in ("classes", "decoder", "decoder_depth")}
    if as_json:
        notes = {name: list(getattr(translation, name)) for name in ("folded", "left", "inferred")}
        shape = {"family": translation.family, "shape": fields, "has_head": translation.has_head}
        print_json({**shape, **notes, "difference": imported.difference, "compared": imported.compared, "out": out})
        return
    tables.say(
        f"{translation.family}: {'' if translation.has_head else 'an encoder without a segmentation head; '}shape:"
    )
    tables.say("  " + yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=10**6).strip())
    for name in ("folded", "left", "inferred"):
        for line in getattr(translation, name):
            tables.say(f"{name}: {line}")
    if imported.difference is None:
        tables.say("not compared with the original, which raycomp cannot build; --factory module:function can")
    else:
        part = "" if imported.compared == "model" else "; only the encoders were compared"
        tables.say(f"equal to the original within {imported.difference:.1e} on the same pixels{part}")
    if out is not None:
        tables.say(f"written to {out}; use it as model.checkpoint of a search space")


def _print_names(source: "Source", names_map: Path | None) -> None:
    """Print the tensors of a file, and those of a raycomp model."""
    from raycomp.models.readers import mapped

    if names_map is None:
        shape, what = vit("base", (512, 512), 2, decoder="linear"), "a ViT-B/16 with a linear head"
    else:
        shape, what = mapped.load_map(names_map).shape, f"the shape in {names_map}"
    sizes = {name: tuple(tensor.shape) for name, tensor in source.tensors.items()}
    sides: list[tuple[str, dict[str, Any]]] = [
        (f"tensors of {source.path}:", mapped.collapsed(sizes)),
        (f"tensors that raycomp expects for {what}:", mapped.collapsed(mapped.expected_tensors(shape))),
    ]
    for title, tensors in sides:
        print(title)
        for name, size in tensors.items():
            print(f"  {name} {list(size)}")
