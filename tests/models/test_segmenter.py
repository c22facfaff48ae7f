# SPDX-License-Identifier: Apache-2.0
"""The model against timm's, and its decoder against the steps of REFERENCE 3 written out."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from raycomp.models.checkpoints import load_backbone
from raycomp.models.encoder import linear_embedding
from raycomp.models.segmenter import Segmenter, init_weights
from raycomp.recipe import dense
from raycomp.shape import vit
from tests.conftest import TINY, seeded_images, seeded_model, shared


@pytest.mark.parametrize(("name", "prefix"), [("deit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2)])
def test_encoder_equals_timm(name, prefix, tmp_path):
    from timm import create_model  # torchvision is fit for it once raycomp is imported

    shape = vit("tiny", (224, 224), 5, prefix=prefix)
    reference = create_model(name, pretrained=False).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    model = Segmenter(shape, dense(shape)).eval()
    load_backbone(model, None, tmp_path / "weights.pth")
    images = seeded_images(shape)
    with torch.inference_mode():
        torch.testing.assert_close(model.encoder(images)[0], reference.forward_features(images), rtol=1e-4, atol=1e-5)


def test_imagenet_weights_load_from_a_local_file():
    shape = vit("tiny", (128, 128), 11)
    model = Segmenter(shape, dense(shape)).eval()
    load_backbone(model, None, shared("weights/vit_tiny_patch16_224.safetensors"))
    features, _ = model.encoder(seeded_images(shape))
    assert features.shape == (2, 65, 192)
    assert model.encoder.pos_embed.abs().sum() > 0


def test_linear_decoder_upsamples_patch_scores_bilinearly():
    shape = TINY.model_copy(update={"decoder": "linear"})
    model, images = seeded_model(shape), seeded_images(shape)
    patches = model.encoder(images)[0][:, 2:]
    scores = model.decoder.head(patches).transpose(1, 2).reshape(2, 5, 6, 8)
    expected = F.interpolate(scores, size=(48, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("size", [(32, 48), (24, 16)])
def test_patches_are_embedded_alike_by_convolution_and_by_matrix_product(size):
    torch.manual_seed(0)
    images = torch.randn(2, *size, 3, dtype=torch.float64).permute(0, 3, 1, 2)  # strided, as normalised images are
    projection = torch.nn.Conv2d(3, 10, 8, 8, dtype=torch.float64)
    expected = projection(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(linear_embedding(images, projection), expected, rtol=0, atol=1e-12)


def test_mask_decoder_is_normalised_products_of_patches_and_classes(model, shape):
    decoder = model.decoder
    patches = torch.randn(2, 48, 32, generator=torch.Generator().manual_seed(0))
    x = torch.cat([decoder.proj_dec(patches), decoder.cls_emb.repeat(2, 1, 1)], dim=1)
    for block in decoder.blocks:
        qkv = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)  # one head
        attention = (qkv[0] @ qkv[1].transpose(1, 2) * 32**-0.5).softmax(-1)
        x = x + block.attn.proj(attention @ qkv[2])
        x = x + block.mlp(block.norm2(x))
    x = decoder.decoder_norm(x)
    p, c = x[:, :48] @ decoder.proj_patch, x[:, 48:] @ decoder.proj_classes
    masks = (p / p.norm(dim=-1, keepdim=True)) @ (c / c.norm(dim=-1, keepdim=True)).transpose(1, 2)
    torch.testing.assert_close(decoder(patches), decoder.mask_norm(masks), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (40, 72), (50, 61)])
def test_any_grid_gives_logits_of_the_image_size(model, size):
    assert model(torch.randn(1, 3, *size)).shape == (1, 5, *size)


def test_position_embedding_of_the_models_own_grid_is_untouched(model):
    grown = model.encoder(torch.zeros(1, 3, 48, 64))[0]
    again = model.encoder(torch.zeros(1, 3, 48, 64))[0]
    assert torch.equal(grown, again)


def test_initialisation_is_seeded(shape):
    first, second = Segmenter(shape, dense(shape)), Segmenter(shape, dense(shape))
    for model in (first, second):
        init_weights(model, torch.Generator().manual_seed(7))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_dropout_acts_in_the_decoder_in_training_alone(model, shape):
    images, own = seeded_images(shape), deepcopy(model)
    own.regularise(0.0, 0.5)
    assert torch.equal(own(images), model(images))
    own.train()
    assert torch.equal(own.encoder(images)[0], model.encoder(images)[0])
    assert not torch.equal(own(images), own(images))
    own.regularise(0.0, 0.0)
    torch.testing.assert_close(own(images), model(images))


def test_everything_dropped_leaves_a_block_its_residual(model, shape):
    """Attention weights and the outputs of both linear maps of its MLP and of its projection are dropped."""
    block = deepcopy(model.decoder.blocks[0]).train()
    block.set_dropout(1.0)
    x = torch.randn(2, 5, shape.width)
    assert torch.equal(block.feed(block.attend(x)[0]), x)
    block.mlp.drop2.p = block.attn.dropout = 0.0
    bias = block.mlp.fc2.bias  # drop1 still empties the hidden layer
    torch.testing.assert_close(block.feed(x), x + bias.expand_as(x))
