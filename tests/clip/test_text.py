"""Class embeddings: the mean over prompts and synonyms, against the formula text by text."""

import numpy as np
import open_clip
import pytest
import torch

from ovd.clip.text import average, class_embeddings
from ovd.clip.towers import ClipModel
from ovd.errors import UserError
from ovd.vocabulary.prompts import STYLES, PromptStyle, prompts

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
NAMES = ["cat", "egg_roll", "bow_(decorative_ribbons)"]


@pytest.fixture(scope="module")
def clip() -> ClipModel:
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG).eval().requires_grad_(False)
    return ClipModel("tiny", model, open_clip.SimpleTokenizer(context_length=40), 16, open_clip.OPENAI_DATASET_MEAN,
                     open_clip.OPENAI_DATASET_STD, "sha256:tiny", True, torch.device("cpu"))


def plain_row(clip, texts, normalize_texts=True, normalize_mean=True):
    """One text at a time, in double precision, from the formula."""
    total = np.zeros(24)
    for text in texts:
        with torch.no_grad():
            vector = clip.model.encode_text(clip.tokenizer([text]))[0].double().numpy()
        total += vector / np.linalg.norm(vector) if normalize_texts else vector
    total /= len(texts)
    return total / np.linalg.norm(total) if normalize_mean else total


@pytest.mark.parametrize("style", ["vild", "detpro", "oadp", "single"])
def test_rows_follow_the_formula(clip, style):
    style = STYLES[style]
    head = class_embeddings(clip, NAMES, style)
    assert head.names == tuple(NAMES) and head.weights.shape == (3, 1, 24)
    for name, row in zip(NAMES, head.weights[:, 0].numpy()):
        expected = plain_row(clip, prompts(name, style), style.normalize_texts, style.normalize_mean)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_a_head_of_unit_rows_is_cosine_and_carries_the_clip(clip):
    head = class_embeddings(clip, NAMES, STYLES["vild"])
    assert (head.norm, head.reduce) == ("cosine", "single")
    assert head.scale == pytest.approx(clip.logit_scale)
    assert head.stats["clip"] == clip.fingerprint
    assert head.provenance[1] == {"text": "egg_roll", "prompts": 63}
    torch.testing.assert_close(head.weights.norm(dim=-1), torch.ones(3, 1))


def test_oadps_shorter_rows_scale_the_logits(clip):
    unit, short = (class_embeddings(clip, NAMES, STYLES[style]) for style in ("detpro", "oadp"))
    assert short.norm == "linear"
    lengths = short.weights.norm(dim=-1)[:, 0]
    assert (lengths < 1).all()
    x = torch.nn.functional.normalize(torch.randn(5, 24, generator=torch.Generator().manual_seed(1)), dim=-1)
    torch.testing.assert_close(short.logits(x), unit.logits(x) * lengths)


def test_without_normalising_texts_longer_embeddings_count_for_more():
    raw = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(average(raw, normalize_texts=False), torch.tensor([3.0, 1.0]) / 10**0.5)
    torch.testing.assert_close(average(raw), torch.tensor([1.0, 1.0]) / 2**0.5)
    torch.testing.assert_close(average(raw, normalize_mean=False), torch.tensor([0.5, 0.5]))


def test_synonyms_are_averaged_with_the_prompts(clip):
    style = PromptStyle(("a photo of {article} {}.", "the {}."))
    head = class_embeddings(clip, ["cab", "dog"], style, synonyms={"cab": ["cab", "taxi"]})
    texts = prompts("cab", style) + prompts("taxi", style)
    np.testing.assert_allclose(head.weights[0, 0].numpy(), plain_row(clip, texts), atol=1e-5)
    assert head.provenance[0]["synonyms"] == ["cab", "taxi"] and "synonyms" not in head.provenance[1]


def test_a_class_does_not_depend_on_its_company(clip):
    alone = class_embeddings(clip, ["dog"], STYLES["single"]).weights
    among = class_embeddings(clip, [*NAMES, "dog"], STYLES["single"]).select(["dog"]).weights
    assert torch.equal(alone, among)


def test_progress_counts_texts(clip):
    seen = []
    class_embeddings(clip, NAMES, STYLES["single"], progress=seen.append)
    assert seen == [1, 1, 1]


@pytest.mark.parametrize("names", [[], ["cat", "cat"], [""]])
def test_bad_names_are_refused(clip, names):
    with pytest.raises(UserError):
        class_embeddings(clip, names, STYLES["single"])
