# SPDX-License-Identifier: Apache-2.0
"""Settings of all trainings: sections `train`, `policy`, `elastic`, `recovery` and `refine`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raycomp.settings.section import Distinct, Section, Share
from raycomp.shape import Side


class AugmentConfig(Section):
    """Training augmentation; the defaults are the paper's."""

    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 2.0)
    """Range of the random factor that images are resized by."""
    flip: bool = True
    """Mirror half of the images."""
    photometric: bool = True
    """Change brightness, contrast, saturation and hue, each with probability 0.5."""

    @model_validator(mode="after")
    def _low_before_high(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is {list(self.scale)}: expected the smallest factor, then the largest")
        return self


class TrainConfig(Section):
    """How the dense model is trained; the defaults are the paper's optimiser."""

    steps: int = Field(default=160_000, gt=0)
    """Optimiser steps, one batch each."""
    batch: int = Field(default=8, gt=0)
    """Images per step; workers that train together share them evenly."""
    crop: tuple[Side, Side] | None = None
    """Height and width of a crop, pixels; by default the model's input size. Set it if `data.window` differs, to
    train on windows of the size that is measured."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: with Nesterov momentum 0.9."""
    lr: float = Field(default=1e-3, gt=0)
    """Maximum learning rate, reached after the warm-up; it then decays to `min_lr`."""
    min_lr: float = Field(default=1e-5, ge=0)
    """Final learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of matrices; biases, norms and embeddings have none."""
    warmup: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises to `lr`."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth: drop rate of the last block's residual branches; it rises linearly from 0 in the first."""
    decoder_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout rate in the mask decoder's attention and MLPs."""
    clip: float | None = Field(default=None, gt=0)
    """Maximum gradient norm; by default unlimited."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights, which then is the result; by default none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs forward passes under autocast; the weights stay float32."""
    images: int | None = Field(default=None, gt=0)
    """Size of the training split, for a data set that generates its images."""
    eval_images: int = Field(default=500, gt=0)
    """Maximum number of images of `data.eval_split` for measuring the trained model."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of training images."""
    workers: int = Field(default=0, ge=0)
    """Processes that load images; 0 loads them in the training process."""
    seed: int = 0
    """Seed of new weights, batches and augmentation."""


class FinetuneConfig(Section):
    """Fine-tuning of a compressed model, with the optimiser, batch, crop and augmentation of the `train` section."""

    steps: int = Field(default=0, ge=0)
    """Optimiser steps; 0 measures the model as cut."""
    lr: float | None = Field(default=None, gt=0)
    """Maximum learning rate; by default `train.lr`."""
    distill: float = Field(default=0.0, ge=0)
    """Weight of the distillation loss from the dense model, added to the cross-entropy."""


class PolicyConfig(Section):
    """The policy network of CTS, which decides where tokens are shared; trained by `raycomp train --policy`."""

    kind: Literal["efficientnet_lite0", "small"] = "efficientnet_lite0"
    """efficientnet_lite0 is the paper's network; small is a few convolutions."""
    checkpoint: str | None = None
    """Checkpoint of raycomp (.safetensors), or a shipped one: `package:NAME`."""
    pretrained: bool = False
    """For training: initialise with timm's ImageNet weights."""
    ignore_border: bool = True
    """For training: ignore superpatches at the border of a crop that hold one class and unlabelled pixels. The authors'
    code does this for ADE20K, but not for Cityscapes."""
    train: TrainConfig = TrainConfig(
        steps=20_000, optimizer="adamw", lr=1e-3, weight_decay=0.01, warmup=200, drop_path=0.0, clip=1.0
    )
    """How it is trained. In a file with this section, missing fields take the defaults of `TrainConfig`, not these."""


class ElasticConfig(Section):
    """How an elastic model is trained over random recipes of the space, by `raycomp train --elastic`."""

    least: Share = 0.2
    """Minimum cost of a training recipe, as a share of the dense GFLOPs. Costs are drawn log-uniformly above it."""
    recipes: int = Field(default=2, gt=0)
    """Random recipes per step, besides the full model and the narrowest one."""
    distill: float = Field(default=1.0, ge=0)
    """Weight of the distillation loss from the dense model, added to the cross-entropy."""
    train: TrainConfig = TrainConfig()
    """Missing fields default to the file's `train` section, but without drop path and dropout."""


class RecoveryConfig(Section):
    """How a trial recovers the accuracy that cutting loses."""

    mode: Literal["none", "elastic", "finetune", "reconstruct"] = "none"
    """none: measure as cut. elastic: cut from `model.elastic`, which needs no training. finetune: train as the `train`
    section says. reconstruct: refit queries, keys, MLPs and output projections by least squares, on the calibration
    images of `nvit`."""
    steps: int = Field(default=0, ge=0)
    """Steps of fine-tuning."""
    lr: float | None = Field(default=None, gt=0)
    """Maximum learning rate of fine-tuning; by default `train.lr`."""
    distill: float = Field(default=1.0, ge=0)
    """Weight of the distillation loss from the dense model in fine-tuning, added to the cross-entropy."""

    @model_validator(mode="after")
    def _steps_of_finetuning(self) -> Self:
        if (self.mode == "finetune") != (self.steps > 0):
            raise ValueError(f"steps is {self.steps} and mode {self.mode}: only finetune needs steps")
        return self


class RefineConfig(Section):
    """How `raycomp refine` fine-tunes the front of a finished sweep."""

    distill: float = Field(default=1.0, ge=0)
    """Weight of the distillation loss from the dense model, added to the cross-entropy."""
    seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(default=(0,), min_length=1)
    """Seeds; every recipe is fine-tuned once with each."""
    workers: int | None = Field(default=None, gt=0)
    """Processes that train a recipe together; by default one per GPU, or one per CPU without GPUs."""
    train: TrainConfig = TrainConfig()
    """Missing fields default to the file's `train` section."""
