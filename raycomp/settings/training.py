"""Settings of every training: sections `train`, `policy`, `elastic`, `recovery` and `refine`."""

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from raycomp.merging import METHODS
from raycomp.shape import Side

if TYPE_CHECKING:
    MergeName: TypeAlias = str
    BenchmarkName: TypeAlias = str
else:  # what is allowed follows from the methods there are
    MergeName = Literal[tuple(METHODS)]
    BenchmarkName = Literal[(*METHODS, "nvit", *(f"nvit+{name}" for name in METHODS))]

from raycomp.settings.section import Distinct, Section, Share


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
