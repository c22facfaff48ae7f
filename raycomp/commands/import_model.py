# SPDX-License-Identifier: Apache-2.0
"""`raycomp import`: take a model of another framework. torch is imported late."""

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
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, if the file does not tell.")] = None,
    image: Annotated[str | None, typer.Option(help="Input size HxW in pixels, if not the file's.")] = None,
    normalization: Annotated[
        str | None, typer.Option(help="Pixel mean and std: vit, deit or clip, if the file does not tell.")
    ] = None,
    names_map: Annotated[Path | None, typer.Option("--map", help="YAML of tensor names, for other layouts.")] = None,
    factory: Annotated[str | None, typer.Option(help="module:function that returns the original, to compare.")] = None,
    names: Annotated[
        bool, typer.Option("--names", help="Print the names in the file and those raycomp wants.")
    ] = False,
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
    from raycomp.models.readers import Given

    source = open_model(file)
    if names:
        _print_names(source, names_map)
        return
    check_outputs(f"--out {out}", [out] if out else [], [source.path, names_map])
    made = import_model(source, Given(heads=heads, image=size, normalization=normalization), names_map, factory)
    if out is not None and not made.found.has_head:
        raise UserError(f"{file}: an encoder without a segmentation head; train one, with it as model.backbone_file")
    if out is not None:
        checkpoints.save(made.model, out, {"imported": made.found.family})
    _print(made, out, as_json)


def _size(text: str) -> Size:
    if (found := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)) is None or "0" in found.groups():
        raise UserError(f"--image {text}: expected height and width in pixels, as in 512x512")
    return int(found[1]), int(found[2])


def _print(made: "Imported", out: Path | None, as_json: bool) -> None:
    """Print what was read, what was rewritten, and how far it is from the original."""
    found = made.found
    fields = found.shape.model_dump(mode="json", exclude_defaults=True)
    if not found.has_head:  # those of its head are not the file's
        fields = {name: value for name, value in fields.items() if name not in ("classes", "decoder", "decoder_depth")}
    if as_json:
        notes = {name: list(getattr(found, name)) for name in ("folded", "left", "inferred")}
        shape = {"family": found.family, "shape": fields, "has_head": found.has_head}
        print_json({**shape, **notes, "difference": made.difference, "compared": made.compared, "out": out})
        return
    tables.say(f"{found.family}: {'' if found.has_head else 'an encoder without a segmentation head; '}shape:")
    tables.say("  " + yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=10**6).strip())
    for name in ("folded", "left", "inferred"):
        for line in getattr(found, name):
            tables.say(f"{name}: {line}")
    if made.difference is None:
        tables.say("not compared with the original, which raycomp cannot build; --factory module:function returns it")
    else:
        part = "" if made.compared == "model" else "; only the encoders were compared"
        tables.say(f"equal to the original within {made.difference:.1e} on the same pixels{part}")
    if out is not None:
        tables.say(f"{out}: model.checkpoint of a search space")


def _print_names(source: "Source", names_map: Path | None) -> None:
    """Print the tensors of a file and those of a model that raycomp builds."""
    from raycomp.models.readers import mapped

    if names_map is None:
        shape, what = vit("base", (512, 512), 2, decoder="linear"), "a ViT-B/16 with a linear head"
    else:
        shape, what = mapped.load_map(names_map).shape, f"the shape in {names_map}"
    theirs = {name: tuple(tensor.shape) for name, tensor in source.tensors.items()}
    sides: list[tuple[str, dict[str, Any]]] = [
        (f"tensors of {source.path}:", mapped.collapsed(theirs)),
        (f"tensors that raycomp wants, for {what}:", mapped.collapsed(mapped.wanted_tensors(shape))),
    ]
    for title, sizes in sides:
        print(title)
        for name, size in sizes.items():
            print(f"  {name} {list(size)}")
