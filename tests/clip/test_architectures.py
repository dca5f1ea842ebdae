"""One model of each family that open_clip knows: embeddings, scores and dense features, against open_clip's own."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from ovd.clip.crops import CropRecipe
from ovd.clip.dense import DenseEncoder, normalised
from ovd.clip.regions import RegionEncoder
from ovd.clip.text import class_embeddings
from ovd.clip.towers import ClipModel, load_clip
from ovd.errors import UserError
from ovd.vocabulary.prompts import PromptStyle, class_texts

OPENAI_MEAN, HALF, NONE = 0.48145466, 0.5, 0.0


@dataclass(frozen=True)
class Family:
    """What is known of a model.

    Attributes:
        dense: ``"exact"``: a box around the image has its embedding; ``"values"``: patches attend to themselves, so it
            has not; None: no dense features.
    """

    name: str
    width: int
    side: int
    mean: float
    resize_mode: str
    bias: float | None
    dense: str | None


FAMILIES = [
    Family("ViT-S-32-alt", 256, 224, OPENAI_MEAN, "shortest", None, "values"),
    Family("RN50", 1024, 224, OPENAI_MEAN, "shortest", None, "exact"),
    Family("convnext_tiny", 1024, 224, OPENAI_MEAN, "shortest", None, "exact"),
    Family("coca_ViT-B-32", 512, 224, OPENAI_MEAN, "shortest", None, "exact"),
    Family("ViT-B-16-SigLIP", 768, 224, HALF, "squash", -10.0, "exact"),
    Family("EVA02-B-16", 512, 224, OPENAI_MEAN, "shortest", None, "values"),
    Family("PE-Core-T-16-384", 512, 384, HALF, "squash", None, "exact"),
    Family("MobileCLIP-S1", 512, 256, NONE, "shortest", None, "exact"),
    Family("ViTamin-S", 384, 224, OPENAI_MEAN, "shortest", None, None),
]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def built(request) -> tuple[Family, ClipModel, Tensor]:
    """A family's model with random weights, its tokenizer replaced by one that needs no download, and its embedding
    ``[1, D]`` of :func:`picture`."""
    clip = load_clip(f"untrained:{request.param.name}", allow_untrained=True)
    clip.tokenizer = lambda texts: torch.stack([tokens(clip, text) for text in texts])
    return request.param, clip, clip.encode_image(normalised(picture(request.param.side), clip))


def tokens(clip: ClipModel, text: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, text)))
    row = torch.randint(5, 400, (clip.model.context_length,), generator=generator)
    row[-1] = clip.model.vocab_size - 1 if hasattr(clip.model, "vocab_size") else 49407  # end of text, where it counts
    return row


def picture(side: int) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 255


def test_what_is_known_of_a_model(built):
    family, clip, _ = built
    assert (clip.embed_dim, clip.image_size, clip.resize_mode) == (family.width, family.side, family.resize_mode)
    assert clip.mean[0] == pytest.approx(family.mean) and clip.logit_bias == family.bias
    assert clip.own_crop == ("warp" if family.resize_mode == "squash" else "clip")


@torch.inference_mode()
def test_embeddings_and_scores_are_open_clips(built):
    family, clip, image_1D = built
    pixels = normalised(picture(family.side), clip)
    names, style = ["cat", "dog"], PromptStyle(("{}",))
    texts = [text for [text] in class_texts(names, style)]
    text_2D = clip.encode_text(texts)
    assert image_1D.shape == (1, family.width) and text_2D.shape == (2, family.width)
    torch.testing.assert_close(F.normalize(image_1D, dim=1), clip.model.encode_image(pixels, normalize=True))
    torch.testing.assert_close(F.normalize(text_2D, dim=1), clip.model.encode_text(clip.tokenizer(texts),
                                                                                   normalize=True))
    assert not torch.allclose(image_1D.norm(dim=1), torch.ones(1), atol=1e-3)  # raw, of every kind of model
    head = class_embeddings(clip, names, style)
    expected = clip.logit_scale * F.normalize(image_1D, dim=1) @ F.normalize(text_2D, dim=1).T
    if family.bias is not None:
        expected = expected + family.bias
    torch.testing.assert_close(head.logits(image_1D), expected, rtol=1e-4, atol=1e-4)
    probabilities = expected.softmax(1) if family.bias is None else torch.sigmoid(expected)
    torch.testing.assert_close(head.probabilities(image_1D), probabilities, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_crop_that_is_the_models_own_preprocessing_gives_its_embedding(built):
    _, clip, _ = built
    preprocessing = PreprocessCfg(**clip.model.visual.preprocess_cfg)
    if preprocessing.interpolation != "bicubic":
        pytest.skip("crops are resized bicubically")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((280, 180), Image.Resampling.BICUBIC)
    regions = RegionEncoder(clip, CropRecipe(clip.own_crop, scales=(1.0,)))
    found = torch.from_numpy(regions(image, np.array([[0, 0, 280, 180]])))
    pixels = image_transform_v2(preprocessing, is_train=False)(image)[None]
    expected = F.normalize(clip.model.encode_image(pixels), dim=1)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_dense_embeddings(built):
    family, clip, own = built
    if family.dense is None:
        with pytest.raises(UserError, match="no feature map of images of any size"):
            DenseEncoder(clip)
        return
    side, image = family.side, picture(family.side)
    encoder = DenseEncoder(clip, box_stages=0)
    whole = torch.tensor([[0.0, 0, 0, side, side]])
    found = encoder(image, whole)
    if family.dense == "exact":
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)
    else:
        assert F.cosine_similarity(found, own)[0] < 0.9
    stride = encoder.tower.stride
    wide = F.pad(image, (0, 2 * stride, 0, stride))
    boxes = torch.cat([whole, torch.tensor([[0, side / 3, 20, side + 30, side - 9]])])
    assert torch.isfinite(encoder(wide, boxes)).all()
