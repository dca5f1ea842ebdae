"""Texts as a tree of tokens: embeddings as of the padded tower, whatever is shared; other towers keep their padding."""

from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.coca_model import CoCa, MultimodalCfg

from ovd.clip import text_tower
from ovd.clip.text import class_embeddings
from ovd.clip.text_tower import CausalTower, TextEncoder
from ovd.clip.token_tree import TokenTree
from ovd.clip.towers import ClipModel, load_clip
from ovd.vocabulary.classes import COCO_NAMES, LVIS_NAMES
from ovd.vocabulary.prompts import STYLES, prompts

VISION = {"layers": 1, "width": 16, "head_width": 16, "image_size": 16, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
NAMES = ["cat", "egg_roll", "bow_(decorative_ribbons)", "apple", "cat flap", "Christmas_tree", "t-shirt"]


class HubTower(torch.nn.Module):
    """A text tower that is none of open_clip's, as those of the Hugging Face hub: the mean over tokens and padding."""

    output_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(49408, 16)

    def forward(self, tokens):
        return self.embedding(tokens).mean(dim=1)


def custom(**text):
    return open_clip.CustomTextCLIP(16, VISION, {**TEXT, **text})


def with_hub_tower():
    model = custom()
    model.text = HubTower()
    return model


CAUSAL = {
    "CLIP": lambda: open_clip.CLIP(16, VISION, TEXT),
    "quick GELU, pooled at a named token": lambda: open_clip.CLIP(
        16, VISION, {**TEXT, "pool_type": "eos", "eos_id": 49407}, quick_gelu=True),
    "CustomTextCLIP, biased projection": lambda: custom(proj_bias=True),
    "CustomTextCLIP, layer scale, no projection": lambda: custom(ls_init_value=0.5, proj_type="none"),
}
PADDED = {
    "SigLIP: not causal, pooled at the last token": lambda: custom(no_causal_mask=True, pool_type="last"),
    "not causal, pooled at end-of-text": lambda: custom(no_causal_mask=True),
    "causal, pooled at the last token": lambda: custom(pool_type="last"),
    "causal, other blocks": lambda: custom(qk_norm=True, scale_attn_inner=True),
    "class token": lambda: custom(embed_cls=True),
    "CoCa": lambda: CoCa(16, MultimodalCfg(context_length=24, vocab_size=49408, width=32, heads=2, layers=1),
                         {**TEXT, "embed_cls": True, "output_tokens": True}, VISION),
    "a tower of the hub": with_hub_tower,
}


def wrapped(model) -> ClipModel:
    torch.manual_seed(3)
    for parameter in model.parameters():  # open_clip's initial values leave most of a text out of its embedding
        torch.nn.init.normal_(parameter, std=0.2)
    return ClipModel("tiny", model.eval().requires_grad_(False), open_clip.SimpleTokenizer(context_length=24), 16,
                     (0.5,) * 3, (0.5,) * 3, "sha256:tiny", False, torch.device("cpu"))


@pytest.fixture(scope="module")
def clip() -> ClipModel:
    return wrapped(CAUSAL["CLIP"]())


def plain(clip, texts):
    """The whole tower, padding and all."""
    with torch.inference_mode():
        return clip.model.encode_text(clip.tokenizer(texts).to(clip.device), normalize=False).float()


def least_cosine(a, b):
    return torch.cosine_similarity(a.double(), b.double()).min().item()


def check_against_plain(clip):
    style = STYLES["vild"]
    texts = prompts("egg_roll", style) + prompts("apple", style)
    expected = plain(clip, texts)
    assert least_cosine(expected[:60], expected[-60:]) < 0.999  # the comparison can fail
    for shared in ((), prompts("", style), texts[:3], ["something else"]):
        found = clip.text_encoder(shared)(texts)
        assert least_cosine(found, expected) > 0.999999
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    torch.testing.assert_close(clip.encode_text(texts[:1]), expected[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_tree_gives_the_embeddings_of_the_padded_tower(kind):
    clip = wrapped(CAUSAL[kind]())
    assert clip.text_encoder().tower is not None
    check_against_plain(clip)


@pytest.mark.parametrize("name", ["shapes", "untrained:ViT-B-32-quickgelu"])
def test_a_tree_gives_the_embeddings_of_a_whole_model(name):
    clip = load_clip(name, allow_untrained=True)
    assert clip.text_encoder().tower is not None
    texts = ["a photo of a striped red star", "a blue circle", "a photo of a red star"]
    assert least_cosine(clip.text_encoder(["a photo of a"])(texts), plain(clip, texts)) > 0.999999


@pytest.mark.parametrize("kind", PADDED)
def test_other_towers_keep_their_padding(kind):
    clip = wrapped(PADDED[kind]())
    assert clip.text_encoder().tower is None
    check_against_plain(clip)


def test_cutting_the_padding_of_such_a_tower_would_change_its_embeddings():
    clip = wrapped(PADDED["not causal, pooled at end-of-text"]())
    tower = CausalTower(clip.model.text, clip.device)
    tokens = clip.tokenizer(["a red star"])
    with torch.inference_mode():
        cut = tower(tower.sequences(tokens), tower.grow_trunk([]))
    assert least_cosine(cut, plain(clip, ["a red star"])) < 0.99


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near(clip, precision):
    texts = prompts("egg_roll", STYLES["vild"])
    half = replace(clip, model=wrapped(CAUSAL["CLIP"]()).model.to(precision), dtype=precision)
    assert least_cosine(half.text_encoder(prompts("", STYLES["vild"]))(texts), plain(clip, texts)) > 0.995


def test_texts_longer_than_the_tower_and_more_than_a_tree_holds(clip, monkeypatch):
    texts = ["red star " * 30, "a red star", "red star " * 31, "", "a red circle", "a red star"]
    expected = plain(clip, texts)
    for most in (1024, 30, 1):
        monkeypatch.setattr(text_tower, "TREE_TOKENS", most)
        assert least_cosine(clip.encode_text(texts), expected) > 0.999999


ODD = ["", " ", "日本語 テスト", "é" * 60, "a" * 300, "red star " * 40, "🙂🙂", "a <end_of_text> b", "<start_of_text>",
       "\x00\x01", "&amp; x", "İstanbul ﬁ", "\ud800", "cat", "Cat"]


@pytest.mark.parametrize("kind", ["CLIP", "quick GELU, pooled at a named token"])
def test_whatever_the_texts_embeddings_are_those_of_the_padded_tower(kind):
    clip = wrapped(CAUSAL[kind]())
    texts = st.tuples(st.sampled_from(["", "a ", "a photo of "]), st.sampled_from(ODD)).map("".join)

    @settings(deadline=None, max_examples=15)
    @given(texts=st.lists(texts, min_size=1, max_size=12), shared=st.lists(texts, max_size=2))
    def check(texts, shared):
        expected = plain(clip, texts)
        torch.testing.assert_close(clip.text_encoder(shared)(texts), expected, rtol=1e-4,
                                   atol=1e-4 * expected.abs().max().item())

    check()


@settings(deadline=None, max_examples=30)
@given(texts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), min_size=1, max_size=8,
                      unique=True),
       beginnings=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), max_size=4))
def test_nodes_are_the_different_beginnings_and_see_what_leads_to_them(texts, beginnings):
    def told(path):
        return tuple((trunk.tokens + tree.tokens)[node] for node in path)

    def starts(sequences):
        return {tokens[:end] for tokens in sequences for end in range(1, len(tokens) + 1)}

    trunk = TokenTree()
    for tokens in beginnings:
        trunk.add(tokens)
    tree = TokenTree(trunk)
    ends = [tree.add(tokens) for tokens in texts]
    assert [told(tree.paths[end]) for end in ends] == texts
    assert sorted(map(told, trunk.paths)) == sorted(starts(beginnings))
    assert sorted(map(told, tree.paths)) == sorted(starts(texts) - (starts(beginnings) - set(texts)))
    assert tree.positions == [len(told(path)) - 1 for path in tree.paths]
    for row, (path, seen) in enumerate(zip(tree.paths, tree.visible())):
        assert path[-1] == len(trunk) + row
        assert sorted(np.flatnonzero(seen)) == sorted(path)
        assert [told((trunk.paths + tree.paths)[node]) for node in path] == [told(path[:end + 1])
                                                                            for end in range(len(path))]


@pytest.mark.parametrize("kind", ["CLIP", "SigLIP: not causal, pooled at the last token"])
def test_rows_do_not_depend_on_the_other_classes_to_the_bit(kind):
    clip = wrapped({**CAUSAL, **PADDED}[kind]())
    style = STYLES["vild"]
    synonyms = {"cat": ["cat", "apple", "kitty"], "apple": ["apple", "Apple"]}
    everything = class_embeddings(clip, NAMES, style, synonyms=synonyms)

    @settings(deadline=None, max_examples=6)
    @given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    def check(names):
        found = class_embeddings(clip, names, style, synonyms=synonyms)
        assert torch.equal(found.weights, everything.select(names).weights)

    check()


def test_equal_texts_are_computed_once_also_of_different_classes(clip, monkeypatch):
    seen = []
    monkeypatch.setattr(TextEncoder, "__call__", lambda self, texts: seen.append(texts) or torch.ones(len(texts), 16))
    style = STYLES["vild"]
    class_embeddings(clip, ["taxi", "Cab", "car"], style, synonyms={"taxi": ["taxi", "cab"], "car": ["car", "taxi"]})
    assert seen == [prompts(word, style) for word in ("taxi", "cab", "car")]


def test_equal_texts_of_a_list_are_computed_once(clip, monkeypatch):
    seen = []
    run = CausalTower.__call__

    def spy(tower, texts, trunk):
        seen.extend(texts)
        return run(tower, texts, trunk)

    monkeypatch.setattr(CausalTower, "__call__", spy)
    found = clip.encode_text(["a cat", "A  cat", "a dog", "a cat"])
    assert len(seen) == 2 and torch.equal(found[0], found[1]) and torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[2])


def test_texts_of_the_same_tokens_and_no_others_have_the_same_embedding_in_a_real_clip(shared):
    def rows(file):
        matrix = np.load(shared / "data" / "clip_text" / file).astype(np.float32)
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    tokenizer = open_clip.SimpleTokenizer()
    lvis, coco = ([tuple(tokenizer.encode(f"a {name}")) for name in names] for names in (LVIS_NAMES, COCO_NAMES))
    same = np.array([[one == other for other in lvis] for one in coco])
    cosines = rows("detic_coco_clip_a+cname.npy") @ rows("detic_lvis_v1_clip_a+cname.npy").T
    assert same.sum() > 40
    assert cosines[same].min() > 0.9999 and cosines[~same].max() < 0.99
