"""The sections of a search space file: every setting, its type and its default."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from raycomp.errors import nearest
from raycomp.merging import METHODS
from raycomp.shape import BACKBONES, ModelShape, Scale, Side, Size, vit_fields


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _share(value: object) -> object:
    """Read `60%` as 0.6."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(%?)\s*", value) if isinstance(value, str) else None
    share = float(match[1]) / (100 if match[2] else 1) if match else value
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError("wanted is a share of dense, as in 40% or 0.4")
    return share


Share = Annotated[float, BeforeValidator(_share)]

Criterion = Literal["nvit", "taylor"]
"""How prunable units are scored; `raycomp.compress.saliency` defines both."""


if TYPE_CHECKING:
    MergeName: TypeAlias = str
    BenchmarkName: TypeAlias = str
else:  # what is allowed follows from the methods there are
    MergeName = Literal[tuple(METHODS)]
    BenchmarkName = Literal[(*METHODS, "nvit", *(f"nvit+{name}" for name in METHODS))]


def _distinct(values: tuple[object, ...]) -> tuple[object, ...]:
    if len(set(values)) < len(values):
        raise ValueError("expected distinct values")
    return values


_Item = TypeVar("_Item")
Distinct = Annotated[tuple[_Item, ...], AfterValidator(_distinct)]


class ModelConfig(Section):
    """Which dense model is compressed."""

    checkpoint: str
    """A file of ours (.safetensors), an official Segmenter checkpoint.pth, or `package:NAME`."""
    shape: ModelShape | None = None
    """Dimensions; needed for training and for `profile` before a checkpoint exists."""
    elastic: str | None = None
    """The same model trained for all recipes of the space (`raycomp train --elastic`), named likewise."""
    backbone: str | None = None
    """For training: timm model whose ImageNet weights the encoder starts from."""
    backbone_file: Path | None = None
    """For training: a local safetensors or .pth file with those weights."""

    @model_validator(mode="before")
    @classmethod
    def _named_shape(cls, values: Any) -> Any:
        """`shape: {vit: base, image: ..., classes: ...}` names one of the four ViT sizes."""
        shape = values.get("shape") if isinstance(values, dict) else None
        if isinstance(shape, dict) and "vit" in shape:
            rest = {str(key): value for key, value in shape.items()}
            name = rest.pop("vit")
            if not isinstance(name, str) or name not in BACKBONES:
                raise ValueError(f"shape.vit is {name!r}: {nearest(name, BACKBONES)}")
            return {**values, "shape": vit_fields(name, rest)}
        return values


class DataConfig(Section):
    """Which images, and how they are put through the model."""

    dataset: Literal["streetscenes", "camvid", "ade20k", "cityscapes", "folders"]
    """`folders`: your own, pairs of `images/SPLIT/NAME.jpg` or .png and `labels/SPLIT/NAME.png`."""
    root: Path | None = None
    """Folder of the data set; streetscenes needs none."""
    classes: Distinct[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=2, max_length=255)
    """Of `folders`: names of the label values 0, 1, ...; 255 is not labelled. The other data sets know theirs."""
    ignore: Distinct[Annotated[int, Field(ge=0, le=255)]] = ()
    """Of `folders`: label values that are no classes, beside 255; those pixels are not labelled."""
    train_split: str = "train"
    """The split that models are trained and units are scored on."""
    eval_split: str = "val"
    """The split that recipes are measured on."""
    short_side: Side | None = None
    """Images are resized, keeping their ratio, to this short side, in pixels; training varies their size from there."""
    long_side: Side | None = None
    """The long side is at most this, in pixels, even where the short side then is shorter than `short_side`."""
    window: tuple[Side, Side] | None = None
    """Sliding window; by default the size the model was made for."""
    stride: Side | None = None
    """Step of the sliding window, pixels; by default the window's shorter side."""

    @model_validator(mode="after")
    def _long_side_of_short(self) -> Self:
        if self.long_side is not None and (self.short_side is None or self.long_side < self.short_side):
            raise ValueError(f"long_side is {self.long_side}: expected at least short_side, {self.short_side}")
        return self

    @model_validator(mode="after")
    def _classes_of_folders(self) -> Self:
        if (self.dataset == "folders") != (self.classes is not None):
            raise ValueError(f"classes are for dataset folders, which needs them; the dataset is {self.dataset}")
        if self.ignore and self.classes is None:
            raise ValueError(f"ignore is for dataset folders; the dataset is {self.dataset}, which knows its own")
        for value in self.ignore:
            if self.classes is not None and value < len(self.classes):
                raise ValueError(f"ignore has {value}, which is the value of class {self.classes[value]!r}")
        return self

    @property
    def scale(self) -> Scale:
        """The size that images are brought to."""
        return Scale(self.short_side, self.long_side)

    def window_for(self, shape: ModelShape) -> Size:
        """Height and width of what one forward pass sees, pixels."""
        return self.window or shape.image

    def stride_for(self, shape: ModelShape) -> int:
        """Step of that window, down and across, pixels."""
        return self.stride or min(self.window_for(shape))


class StageConfig(Section):
    """How much is measured: so many clean images, so many of every corrupted variant."""

    clean: int = Field(gt=0)
    """Clean images."""
    corrupted: int = Field(gt=0)
    """Images of each (type, severity); different variants take different images."""
    severities: Distinct[Annotated[int, Field(ge=1, le=5)]] = Field(default=(1, 2, 3, 4, 5), min_length=1)
    """Which severities are measured, 1 the mildest."""


class EvaluationConfig(Section):
    """How a recipe is measured."""

    first: StageConfig | None = None
    """The images of the search stage that come first: a recipe that cannot reach the front any more stops there. By
    default all are measured."""
    search: StageConfig = StageConfig(clean=64, corrupted=2)
    """Every trial."""
    full: StageConfig = StageConfig(clean=128, corrupted=16)
    """The dense model, the baselines and the front, at the end."""
    batch: int = Field(default=32, gt=0)
    """Windows of a forward pass, halved where a GPU has no room for them; adaptive merging takes one at a time."""
    at: Literal["original", "resized"] = "original"
    """Size at which the full set is measured, where `data.short_side` resizes images. original: labels at their stored
    size, as in published figures. resized: labels at the size of the images, which is faster. The search stage always
    uses resized labels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model while it is measured."""
    seed: int = 0
    """Seed of the corruptions."""

    @model_validator(mode="after")
    def _first_is_part_of_search(self) -> Self:
        if self.first is not None:
            for name in ("clean", "corrupted"):
                if getattr(self.first, name) > getattr(self.search, name):
                    most = getattr(self.search, name)
                    raise ValueError(f"first.{name} is {getattr(self.first, name)}; at most search.{name}, {most}")
            if more := set(self.first.severities) - set(self.search.severities):
                raise ValueError(f"first.severities has {min(more)}, which search.severities has not")
        return self


class WidthRange(Section):
    """Range of one width; the dense width is its upper end."""

    low: int = Field(gt=0)
    """The narrowest width: the dense one minus a whole number of steps."""
    step: int = Field(default=8, gt=0)
    """Distance between two widths."""


class SpaceConfig(Section):
    """What may vary. A width left out keeps its dense value."""

    embed: WidthRange | None = None
    """Embedding, the same in the whole model."""
    heads: WidthRange | None = None
    """Attention heads of each block."""
    qk: WidthRange | None = None
    """Queries and keys of each block, per head."""
    v: WidthRange | None = None
    """Values of each block, per head."""
    mlp: WidthRange | None = None
    """Hidden channels of each block's MLP."""
    merge: MergeName = "tome"
    """The merge method whose settings vary."""
    merge_high: float = Field(default=0.5, ge=0, le=0.5)
    """Highest merge ratio of a block; 0 turns merging off, 0.5 is the most that the method can."""
    merge_step: float = Field(default=1 / 64, gt=0, le=0.5)
    """Distance between two merge ratios."""


class SearchConfig(Section):
    """How the space is searched."""

    limit: Literal["gflops", "latency"] = "gflops"
    """What is limited, and as low as it can be beside accuracy: GFLOPs, or the time of a batch on this device."""
    budget: Share = 0.6
    """The limit as a share of the dense model's."""
    latency_batch: int = Field(default=1, gt=0)
    """For limit latency: images timed together. Set it to the batch that the model is to run at: what a width saves
    depends on it."""
    trials: int = Field(default=60, gt=0)
    """Recipes that the search measures, the known ones included; dense, and what the full set adds, do not count."""
    sampler: Literal["gp", "tpe", "nsga2", "random"] = "gp"
    """What proposes recipes after the known ones: gp: Gaussian processes (BoTorch); tpe, nsga2: Optuna's."""
    criterion: Criterion = "taylor"
    """The score that decides which units a trial keeps, and their order in an elastic model."""
    seed: int = 0
    """Seed of the proposals, and of a trial's fine-tuning."""
    workers: int | None = Field(default=None, gt=0)
    """Trials at a time; by default one a CPU, or as many as the GPUs hold."""
    gpus_per_trial: float | None = Field(default=None, ge=0)
    """By default one where the cluster has GPUs; 0.25 packs four trials on one."""
    memory_per_trial: float | None = Field(default=None, gt=0)
    """GiB that a node must have free for each trial it runs; by default nobody counts."""
    known: Distinct[Share] = (0.6, 0.5, 0.4, 0.3)
    """Shares of the dense cost at which known recipes are measured first; they take half of the trials at most."""
    max_failures: int = Field(default=2, ge=0)
    """How often a trial whose worker died is tried again."""
    trial_seconds: float | None = Field(default=None, gt=0)
    """A trial that takes longer counts as failed; by default they may take as long as they do."""


class AugmentConfig(Section):
    """Training augmentation; the defaults are the paper's."""

    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    """Images are resized by a random factor between these two."""
    flip: bool = True
    """Half of the images are mirrored."""
    photometric: bool = True
    """Brightness, contrast, saturation and hue are changed, each half of the time."""

    @model_validator(mode="after")
    def _low_before_high(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}: expected the least factor, then the largest")
        return self


class TrainConfig(Section):
    """How the dense model is trained; the defaults are the paper's optimiser."""

    steps: int = Field(default=160_000, gt=0)
    """Steps of the optimiser, one batch each."""
    batch: int = Field(default=8, gt=0)
    """Images of a step; workers that train together share them evenly."""
    crop: tuple[Side, Side] | None = None
    """Height and width of what is cut from an image, pixels; by default the size the model is made for. Set it where
    `data.window` is another size, to train a model on windows like those it is measured on."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: with Nesterov momentum 0.9."""
    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate, after the warm-up; from there it falls to `min_lr`."""
    min_lr: float = Field(default=1e-5, ge=0)
    """Learning rate at the end."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of matrices alone, not of biases, norms and embeddings."""
    warmup: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises to `lr`."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """How often a residual branch of the last block is left out; none of the first, evenly more in between."""
    decoder_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the mask decoder's attention and MLPs."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the averaged weights that are kept in the end."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: forward passes under autocast; the weights stay float32."""
    images: int | None = Field(default=None, gt=0)
    """Size of the training split, for a data set that makes its own."""
    eval_images: int = Field(default=500, gt=0)
    """Images of `data.eval_split` that the trained model is measured on, at most."""
    augment: AugmentConfig = AugmentConfig()
    """How training images are varied."""
    workers: int = Field(default=0, ge=0)
    """Processes that load images; 0: the training does it itself."""
    seed: int = 0
    """Of new weights, batches and augmentation."""


class FinetuneConfig(Section):
    """Fine-tuning of a compressed model, with the optimiser, batch, crop and augmentation of the `train` section."""

    steps: int = Field(default=0, ge=0)
    """0 measures the model as cut."""
    lr: float | None = Field(default=None, gt=0)
    """Highest learning rate; by default `train.lr`."""
    distill: float = Field(default=0.0, ge=0)
    """Weight of the agreement with the dense model, beside the cross-entropy."""


class NvitConfig(Section):
    """How NViT prunes: group sizes of the paper, rounds, and the latency term."""

    embed: int = Field(default=16, gt=0)
    """Embedding channels that go together, as a group."""
    heads: int = Field(default=2, gt=0)
    """The same of heads."""
    qk: int = Field(default=8, gt=0)
    """The same of query and key channels."""
    v: int = Field(default=8, gt=0)
    """The same of value channels."""
    mlp: int = Field(default=16, gt=0)
    """The same of MLP channels."""
    criterion: Criterion = "nvit"
    """The score of a unit, for `raycomp prune` and `raycomp benchmark`; sweeps have `search.criterion`."""
    rounds: int = Field(default=8, gt=0)
    """Rounds of pruning; the smaller model is scored anew before each but the first."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Share of the earlier scores in those of a round. NViT's 0.9 is for its 1,200 rounds: with 8, the scores of
    the dense model would decide nearly alone."""
    train_between: FinetuneConfig = FinetuneConfig()
    """Training after each round but the last, before the model is scored anew. By default there is none; its learning
    rate is by default that of `benchmark.recovery`."""
    tolerance: float = Field(default=0.99, gt=0, le=1)
    """The least cost, relative to the target, that a removal may lead to. Lower it where pruning ends above its
    target, as the groups of a small model may each be more than 1 % of its cost."""
    latency_weight: float = Field(default=0.0, ge=0)
    """eta: score per millisecond that a removal saves."""
    images: int = Field(default=64, gt=0)
    """Training images that saliency is averaged over."""
    batch: int = Field(default=8, gt=0)
    """Images of a batch; saliency is the mean over batches."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the scoring."""

    @property
    def training_steps(self) -> int:
        """Steps of the training between all rounds."""
        return (self.rounds - 1) * self.train_between.steps


class PolicyConfig(Section):
    """The policy network of CTS, which says where tokens may be shared; trained by `raycomp train --policy`."""

    kind: Literal["efficientnet_lite0", "small"] = "efficientnet_lite0"
    """efficientnet_lite0: the paper's; small: a few convolutions."""
    checkpoint: str | None = None
    """Its weights: a file of ours (.safetensors), or `package:NAME`."""
    pretrained: bool = False
    """For training: start from timm's ImageNet weights."""
    ignore_border: bool = True
    """For training: do not judge a superpatch at the border of a crop that is of one class but for unlabelled pixels.
    The authors' code does this for ADE20K, and not for Cityscapes."""
    train: TrainConfig = TrainConfig(
        steps=20_000, optimizer="adamw", lr=1e-3, weight_decay=0.01, warmup=200, drop_path=0.0, clip=1.0
    )
    """How it is trained. A file that gives this section starts from the defaults of `TrainConfig`, not from these."""


class ElasticConfig(Section):
    """How an elastic model is trained over random recipes of the space, by `raycomp train --elastic`."""

    least: Share = 0.2
    """The cheapest recipes trained, as a share of the dense GFLOPs; costs are drawn log-uniformly from there up."""
    recipes: int = Field(default=2, gt=0)
    """Random recipes a step, beside the full model and the narrowest."""
    distill: float = Field(default=1.0, ge=0)
    """Weight of the agreement with the dense model, beside the cross-entropy."""
    train: TrainConfig = TrainConfig()
    """What a file does not say is as in its `train` section, but without drop path and dropout."""


class RecoveryConfig(Section):
    """How a trial recovers what cutting lost."""

    mode: Literal["none", "elastic", "finetune", "reconstruct"] = "none"
    """none: measured as cut; elastic: cut from `model.elastic`, which needs no more; finetune: trained on, as the
    `train` section says; reconstruct: output projections refitted on the calibration images of `nvit`."""
    steps: int = Field(default=0, ge=0)
    """Of fine-tuning."""
    lr: float | None = Field(default=None, gt=0)
    """Highest learning rate of fine-tuning; by default `train.lr`."""
    distill: float = Field(default=1.0, ge=0)
    """Weight of the agreement with the dense model in fine-tuning, beside the cross-entropy."""

    @model_validator(mode="after")
    def _steps_of_finetuning(self) -> Self:
        if (self.mode == "finetune") != (self.steps > 0):
            raise ValueError(f"steps is {self.steps} and mode {self.mode}: finetune needs steps, and nothing else does")
        return self


class RefineConfig(Section):
    """How `raycomp refine` fine-tunes the front of a finished sweep."""

    distill: float = Field(default=1.0, ge=0)
    """Weight of the agreement with the dense model, beside the cross-entropy."""
    seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(default=(0,), min_length=1)
    """A recipe is fine-tuned once with each."""
    workers: int | None = Field(default=None, gt=0)
    """Processes that train a recipe together; by default one a GPU, or one a CPU where there is none."""
    train: TrainConfig = TrainConfig()
    """What a file does not say is as in its `train` section."""


class BenchmarkConfig(Section):
    """What `raycomp benchmark` compares; the defaults are the paper's methods and compression levels."""

    methods: Distinct[BenchmarkName] = Field(default=("algm", "cts", "tome", "nvit", "nvit+tome"), min_length=1)
    """Which methods are compared."""
    speedups: Distinct[Annotated[float, Field(gt=1)]] = Field(default=(1.4, 2.5, 3.7), min_length=1)
    """Dense GFLOPs over the recipe's: mild, moderate, aggressive."""
    seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(default=(0,), min_length=1)
    """Of the recovery, whose batches they draw."""
    recovery: FinetuneConfig = FinetuneConfig()
    """Fine-tuning of every model, dense included."""
