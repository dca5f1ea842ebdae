"""The prompted text tower: a context of words is that sentence; gradient to the context only; others are refused."""

from dataclasses import replace

import open_clip
import pytest
import torch

from ovd.clip.prompts.tower import PromptTower, spoken
from ovd.clip.towers import ClipModel, load_clip
from ovd.errors import UserError

CONFIG = {"embed_dim": 16,
          "vision_cfg": {"layers": 1, "width": 16, "head_width": 16, "image_size": 16, "patch_size": 8},
          "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}}
NAMES = ["striped red star", "bow_(decorative_ribbons)", "t-shirt", "blue semicircle"]


def wrapped(model) -> ClipModel:
    torch.manual_seed(3)
    for parameter in model.parameters():  # open_clip's initial values leave most of a text out of its embedding
        torch.nn.init.normal_(parameter, std=0.1)
    return ClipModel("tiny", model.eval().requires_grad_(False), open_clip.SimpleTokenizer(context_length=24), 16,
                     (0.5,) * 3, (0.5,) * 3, "sha256:tiny", False, torch.device("cpu"))


def with_text(**text) -> dict:
    return {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], **text}}


@pytest.fixture(scope="module")
def clips() -> dict[str, ClipModel]:
    return {
        "shapes": load_clip("shapes"),
        "CLIP": wrapped(open_clip.CLIP(**CONFIG)),
        "CLIP, quick GELU, pooled at a named token": wrapped(open_clip.CLIP(
            **with_text(pool_type="eos", eos_id=49407), quick_gelu=True)),
        "CustomTextCLIP": wrapped(open_clip.CustomTextCLIP(**CONFIG)),
        "CustomTextCLIP with a biased projection": wrapped(open_clip.CustomTextCLIP(**with_text(proj_bias=True))),
    }


KINDS = ["shapes", "CLIP", "CLIP, quick GELU, pooled at a named token", "CustomTextCLIP",
         "CustomTextCLIP with a biased projection"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("position", "sentence"), [
    ("end", "a photo of the {}."), ("front", "{} a photo of the."), ("middle", "a photo {} of the.")])
def test_a_context_of_words_gives_the_embedding_of_that_sentence(clips, kind, position, sentence):
    clip = clips[kind]
    tower = PromptTower(clip)
    words = tower.words("a photo of the")
    assert words.shape == (4, tower.width)
    found = tower(tower.sentences(NAMES, 4, position), words)
    wanted = clip.encode_text([sentence.format(spoken(name)) for name in NAMES])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    others = clip.encode_text([sentence.format(spoken(name)) for name in NAMES[::-1]])
    assert (found - others).abs().max() > 1e-2  # the comparison can fail


def test_names_are_spoken_without_underscores_and_parentheses():
    assert spoken("bow_(decorative_ribbons)") == "bow decorative ribbons"
    assert spoken("speaker_(stero_equipment)") == "speaker stero equipment"


def test_gradient_flows_to_the_context_and_to_nothing_else(clips):
    clip = clips["CLIP"]
    for parameter in clip.model.parameters():
        assert not parameter.requires_grad
    tower = PromptTower(clip)
    context = torch.randn(8, tower.width).requires_grad_()
    tower(tower.sentences(NAMES, 8), context).square().sum().backward()
    assert (context.grad.abs().amax(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in clip.model.parameters())


def test_chunks_change_neither_embeddings_nor_gradient(clips):
    results = []
    for chunk in (256, 3):
        tower = PromptTower(clips["CLIP"], chunk)
        torch.manual_seed(0)
        context = torch.randn(4, tower.width).requires_grad_()
        found = tower(tower.sentences(NAMES, 4), context)
        found[:, 0].sum().backward()
        results.append((found.detach(), context.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_towers_of_another_kind_are_refused(clips):
    siglip_like = wrapped(open_clip.CustomTextCLIP(**with_text(no_causal_mask=True, pool_type="last")))
    with pytest.raises(UserError, match="not causal"):
        PromptTower(siglip_like)
    with pytest.raises(UserError, match="tokenizer"):
        PromptTower(replace(clips["CLIP"], tokenizer=lambda texts: torch.zeros(len(texts), 24)))
    with pytest.raises(UserError, match="not causal"):
        PromptTower(wrapped(open_clip.CustomTextCLIP(**with_text(embed_cls=True))))
    with pytest.raises(UserError, match="fp32"):
        PromptTower(replace(clips["CLIP"], dtype=torch.float16))


@pytest.mark.parametrize(("names", "vectors", "position", "message"), [
    (["()"], 4, "end", "has no words"), (["red star", "red star"], 4, "end", "twice"),
    (["star " * 20], 8, "end", "shorten the name"), (["star"], 4, "start", "end, middle, front")])
def test_wrong_sentences_are_refused(clips, names, vectors, position, message):
    with pytest.raises(UserError, match=message):
        PromptTower(clips["CLIP"]).sentences(names, vectors, position)
