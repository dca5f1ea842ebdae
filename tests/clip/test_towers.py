"""CLIP by name or file: the embedded model, described files, remapped tokens, and mistakes."""

import json

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch.nn import functional as F

from ovd.clip.tokenizer import PAD, UNKNOWN, RemappedTokenizer, used_bpe_ids
from ovd.clip.towers import OPENAI_ALIASES, OPENAI_NAMES, load_clip, save_described
from ovd.errors import UserError

CONFIG = {"embed_dim": 16, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32},
          "text_cfg": {"context_length": 12, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}}
IDS = used_bpe_ids(["a photo of a red star."])[:7]


@pytest.fixture
def described(tmp_path):
    torch.manual_seed(0)
    clip = CLIP(**{**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": len(IDS) + 2}})
    path = tmp_path / "clip.safetensors"
    save_described(path, clip, {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": len(IDS) + 2}}, IDS, {})
    return path


def test_remapped_tokens_are_the_original_ones_renamed():
    texts = ["a photo of a red star.", "a star", ""]
    ids = used_bpe_ids(texts)
    tokens, original = RemappedTokenizer(ids, 16)(texts), open_clip.SimpleTokenizer(context_length=16)(texts)
    for row, wanted in zip(tokens, original):
        length = int(wanted.argmax()) + 1
        assert [ids[i - 2] for i in row[:length].tolist()] == wanted[:length].tolist()
        assert (row[length:] == PAD).all()


def test_unknown_words_share_one_row_and_end_of_text_stays_highest():
    tokenizer = RemappedTokenizer(used_bpe_ids(["a star"]), 12)
    row = tokenizer(["a zebra star"])[0]
    assert UNKNOWN in row.tolist()
    assert int(row.max()) == tokenizer.vocab_size - 1 == int(row[row.argmax()])


def test_long_texts_end_with_end_of_text():
    tokenizer = RemappedTokenizer(used_bpe_ids(["star"]), 6)
    assert int(tokenizer(["star " * 30])[0, -1]) == tokenizer.vocab_size - 1


def test_a_described_file_loads_by_itself(described):
    clip = load_clip(str(described))
    assert (clip.embed_dim, clip.image_size, clip.untrained) == (16, 32, False)
    assert clip.encode_text(["a star", "red"]).shape == (2, 16)
    assert clip.encode_image(torch.zeros(3, 3, 32, 32)).shape == (3, 16)
    assert not clip.model.training and not any(p.requires_grad for p in clip.model.parameters())


def test_embeddings_are_raw_and_batching_does_not_matter(described):
    clip = load_clip(str(described))
    texts = ["a red star", "star", "photo of a star"]
    together = clip.encode_text(texts)
    assert torch.allclose(together, torch.cat([clip.encode_text([text]) for text in texts]), atol=1e-5)
    assert torch.allclose(together, clip.model.encode_text(clip.tokenizer(texts)), atol=1e-6)
    assert not torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-3)


def test_the_fingerprint_follows_weights_and_activations(described, tmp_path):
    first = load_clip(str(described)).fingerprint
    assert first == load_clip(str(described)).fingerprint
    clip = CLIP(**{**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": len(IDS) + 2}})
    save_described(tmp_path / "b.safetensors", clip, {**CONFIG, "text_cfg": {**CONFIG["text_cfg"],
                                                                            "vocab_size": len(IDS) + 2}}, IDS, {})
    assert load_clip(str(tmp_path / "b.safetensors")).fingerprint != first
    random, again = (load_clip("untrained:ViT-S-32-alt", allow_untrained=True) for _ in range(2))
    assert random.untrained and random.fingerprint == again.fingerprint


def test_openai_names_take_the_quick_gelu_variant():
    for architecture in OPENAI_ALIASES.values():
        variant = OPENAI_NAMES[architecture]
        assert variant.endswith("-quickgelu")
        assert open_clip.get_model_config(variant)["quick_gelu"] is True


@pytest.mark.parametrize(("name", "part"), [
    ("ViT-B-23", "ViT-B-32"), ("nofile.safetensors", "no such file"), ("untrained:ViT-B-32", "--allow-untrained"),
    ("ViT-B-32:laion3b", "laion2b")])
def test_mistakes_are_explained(name, part):
    with pytest.raises(UserError, match=part):
        load_clip(name)


def test_an_unknown_untrained_model_is_explained():
    with pytest.raises(UserError, match="no CLIP named 'ViT-X'"):
        load_clip("untrained:ViT-X", allow_untrained=True)


def test_a_broken_file_is_explained(described, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(described.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cut\.safetensors: not a readable"):
        load_clip(str(cut))
    pickled = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(2)}, pickled)
    with pytest.raises(UserError, match="--model"):
        load_clip(str(pickled))
    with pytest.raises(UserError, match="not weights of RN50"):
        load_clip(str(pickled), model="RN50")


def test_the_precision_of_the_layers_leaves_the_temperature(described):
    full, half = load_clip(str(described)), load_clip(str(described), precision="bf16")
    assert half.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    assert half.logit_scale == full.logit_scale != float(torch.tensor(full.logit_scale).bfloat16())


@pytest.fixture(scope="module")
def small_architecture(tmp_path_factory):
    """The name of an architecture that open_clip knows from now on."""
    path = tmp_path_factory.mktemp("configs") / "test-small-RN.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return path.stem


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_release_file_is_a_torchscript_archive_with_weights(small_architecture, tmp_path):
    """As OpenAI's: traced, in half precision, with numbers beside the weights."""
    torch.manual_seed(5)
    clip = CLIP(**CONFIG).eval()
    clip.load_state_dict({name: value.half().to(value) for name, value in clip.state_dict().items()})
    plain = {name: value.clone() for name, value in clip.state_dict().items()}
    clip.register_buffer("input_resolution", torch.tensor(32))
    clip.attn_mask = clip._buffers.pop("attn_mask")  # a constant of the archive
    open_clip.trace_model(clip, batch_size=1).half().save(tmp_path / "release.pt")
    torch.save(plain, tmp_path / "plain.pt")
    release, same = (load_clip(str(tmp_path / f"{name}.pt"), model=small_architecture) for name in ("release", "plain"))
    assert release.fingerprint == same.fingerprint


def test_precision_is_checked(described):
    with pytest.raises(UserError, match="precision"):
        load_clip(str(described), precision="int4")


def test_the_embedded_clip_knows_words_by_meaning():
    """Descriptions of one shape are closer to each other than to those of other shapes."""
    clip = load_clip("shapes")
    a, b, c = F.normalize(clip.encode_text(["a striped red star", "a stripy red star", "a striped red circle"]), dim=1)
    assert a @ b > 0.9 > a @ c
