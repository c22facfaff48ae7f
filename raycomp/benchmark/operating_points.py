"""Find each method's setting at a target GFLOPs: the strength of its merging, NViT's threshold, or both."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch

from raycomp.benchmark.conditions import Level
from raycomp.compress.apply import compress, let_merge, remerge
from raycomp.compress.nvit import nvit
from raycomp.compress.pruning import prune
from raycomp.compress.saliency import Saliency
from raycomp.context import Base, score
from raycomp.data.evalset import CLEAN
from raycomp.data.samples import NORMALIZATIONS, Samples
from raycomp.errors import UserError
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.evaluate.miou import enlarged, normalised, windows
from raycomp.evaluate.token_counts import recorded
from raycomp.files import fetched, written
from raycomp.flops import gflops, profile
from raycomp.match_cost import bisect
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.objectives import mean_accuracy
from raycomp.recipe import Recipe, dense
from raycomp.recover import retraining
from raycomp.results.row import Row, present
from raycomp.storage import AnyPath

TOLERANCE = 0.01
"""How near to the target a setting must come, relative to it."""
_CLOSE = 0.002  # near enough to stop where a cost takes seconds to measure


@dataclass(frozen=True)
class Setting:
    """A method's recipe at a target."""

    recipe: Recipe
    gflops: float
    """For adaptive merging the mean over the evaluation images."""
    target: float
    text: str
    """The setting in the paper's terms: `r = 9.5`, `T = 0.88`, `R = 0.42`."""
    pruned: Segmenter | None = None
    """The pruned model, without merging, where the base's scores alone do not give it."""

    @property
    def reached(self) -> bool:
        """Whether the method comes within 1 % of the target, or stays below it."""
        return self.gflops <= self.target * (1 + TOLERANCE)

    def save(self, folder: AnyPath, level: Level, mark: str) -> None:
        """Write the setting, its model first: a setting that can be read is whole.

        Args:
            mark: of the weights and images it was found with; see `mark_of`.
        """
        if self.pruned is not None:
            checkpoints.save(self.pruned, folder / f"{level.slug}.safetensors")
        facts = {"recipe": self.recipe.model_dump(mode="json"), "gflops": self.gflops, "target": self.target}
        with written(folder / f"{level.slug}.json") as temporary:
            temporary.write_text(json.dumps({**facts, "text": self.text, "mark": mark}, indent=1))

    @classmethod
    def load(cls, folder: AnyPath, level: Level, mark: str) -> "Setting | None":
        """Read a setting; None where it is not found yet.

        Raises:
            UserError: for one that was found with other weights, images or scores.
        """
        path, weights = folder / f"{level.slug}.json", folder / f"{level.slug}.safetensors"
        if not path.is_file():
            return None
        held = json.loads(path.read_text())
        if held["mark"] != mark:
            raise UserError(f"{path}: found with other weights, images or scores than now; choose another --name")
        pruned = None
        if weights.is_file():
            with fetched(weights) as local:
                pruned = checkpoints.load(local)
        return cls(Recipe.model_validate(held["recipe"]), held["gflops"], held["target"], held["text"], pruned)


def mark_of(base: Base, level: Level) -> str:
    """Changes when the weights, the policy network, the images or the scores behind a level's setting do."""
    merging = level.merging
    behind = (
        base.config.nvit.criterion if level.prunes else "",
        base.policy_checkpoint if level.needs_policy else "",
        merging.revision if merging else "",
    )
    return " ".join(filter(None, (base.checkpoint, base.evalset.fingerprint, *behind)))


def built(base: Base, setting: Setting) -> Segmenter:
    """The compressed model of a setting, before recovery."""
    if setting.pruned is None:
        return compress(base.model, setting.recipe, base.saliency, base.policy)
    model = deepcopy(setting.pruned)
    let_merge(model, setting.recipe, base.policy)
    return model


def find(
    base: Base,
    level: Level,
    device: torch.device,
    latency: LatencyTable | None = None,
    samples: Samples | None = None,
) -> Setting:
    """The setting of a level's method nearest to its GFLOPs; `Setting.reached` says whether it is near enough.

    Args:
        latency: for NViT's latency term, where it is on.
        samples: training images for NViT's training between rounds; None opens the data set's own.
    """
    shape, window = base.shape, base.config.data.window_for(base.shape)
    whole = dense(shape)
    full = gflops(shape, whole, window)
    target = full / level.speedup

    if level.method == "dense":
        return Setting(whole, full, full, "")
    if level.merging is None:
        return find_nvit(base, target, device, latency, samples)
    pruned = find_nvit(base, full / level.speedup**0.5, device, latency, samples) if level.prunes else None
    widths = whole if pruned is None else pruned.recipe
    start = level.merging.standard(shape, base.config.policy.kind)
    if start.adaptive:
        begun = Setting(widths.merging(start), full, target, "", None if pruned is None else pruned.pruned)
        setting = find_adaptive(base, built(base, begun), target, device)
    else:
        matched = bisect(
            lambda s: widths.merging(start.at(s, shape, window)), lambda r: gflops(shape, r, window), target
        )
        recipe, found = matched.nearest(target, TOLERANCE)
        setting = Setting(recipe, found, target, (recipe.merge or start.at(0.0, shape, window)).setting(shape, window))
    if pruned is None:
        return setting
    return replace(setting, text=f"NViT to {pruned.gflops / full:.0%}, {setting.text}", pruned=pruned.pruned)


def from_front(members: Sequence[Row], scores: Saliency, base: Base, level: Level) -> Setting:
    """The best recipe of a finished sweep's front, by clean plus corrupted mIoU, that costs at most the target.

    Args:
        scores: those that the sweep cuts by.
    """
    shape, window = base.shape, base.config.data.window_for(base.shape)
    target = gflops(shape, dense(shape), window) / level.speedup
    affordable = [row for row in members if present(row.gflops) <= target * (1 + TOLERANCE)]
    row = max(affordable, key=mean_accuracy, default=None) or min(members, key=lambda row: present(row.gflops))
    recipe = row.recipe
    model = prune(base.model, recipe, scores)
    return Setting(recipe, gflops(shape, recipe, window), target, f"recipe {row.recipe_id}", model)


def find_adaptive(base: Base, model: Segmenter, target: float, device: torch.device) -> Setting:
    """The strength at which a model's adaptive merging, as it is now, costs the target on average."""
    shape, window, recipe = base.shape, base.config.data.window_for(base.shape), model.recipe
    start, model = recipe.merge, model.to(device)
    assert start is not None
    matched = bisect(
        lambda s: recipe.merging(start.at(s, shape, window)),
        lambda tried: measured_gflops(base, model, tried, device),
        target,
        _CLOSE,
    )
    found, cost = matched.nearest(target, TOLERANCE)
    return Setting(found, cost, target, (found.merge or start).setting(shape, window))


def measured_gflops(base: Base, model: Segmenter, recipe: Recipe, device: torch.device) -> float:
    """Mean GFLOPs of a model with a recipe's merging over all windows of the clean evaluation images, one at a time."""
    remerge(model, recipe)
    last = base.shape.depth if recipe.merge is None else recipe.merge.last_block(base.shape.depth)
    data, window = base.config.data, base.config.data.window_for(base.shape)
    pixels = NORMALIZATIONS[base.shape.normalization]
    images = base.evalset.images.views()
    dtype = getattr(torch, base.config.evaluation.dtype)
    model = model.to(dtype)
    with recorded(model) as passes, torch.inference_mode():
        for index in np.flatnonzero(base.evalset.variants == CLEAN):
            x = normalised(torch.from_numpy(images[index][None]).to(device), pixels.mean, pixels.std, dtype)
            for _, crop in windows(enlarged(x, window), window, data.stride_for(base.shape)):
                model.encoder(crop, depth=last)
    whole = [[*tokens, *[tokens[-1]] * (base.shape.depth - last)] for tokens in passes]
    return float(np.mean([profile(base.shape, recipe, window, tokens).gflops for tokens in whole]))


def find_nvit(
    base: Base, target: float, device: torch.device, latency: LatencyTable | None, samples: Samples | None
) -> Setting:
    """NViT's model at a target, pruned as `base.config.nvit` says; see `find`."""
    shape, window, config = base.shape, base.config.data.window_for(base.shape), base.config.nvit
    found = nvit(
        base.model,
        base.saliency,
        lambda small: score(small, base.config, device, config.criterion),
        target,
        lambda recipe: gflops(shape, recipe, window),
        config,
        None if latency is None else latency.latency_ms,
        retraining(base, samples, device),
    )
    recipe = found.model.recipe
    heads = sum(block.heads for block in recipe.blocks) / shape.depth
    mlp = sum(block.mlp for block in recipe.blocks) / shape.depth
    text = f"EMB {recipe.embed}, H {heads:.1f}, MLP {mlp:.0f}"
    return Setting(recipe, found.cost, target, text, found.model)
