"""Class heads: logits by the formula, columns that others never change, files that are what they say."""

import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead, import_matrix
from ovd.stores.head_forms import Terms
from ovd.stores.manifest import Manifest, fingerprint, require
from ovd.stores.scoring import BLOCK
from ovd.vocabulary.classes import COCO_NAMES, LVIS_NAMES

FORMS = [("cosine", "single"), ("linear", "single"), ("euclid", "single"), ("cosine", "mean_logit"), ("linear", "max"),
         ("euclid", "max"), ("cosine", "max"), ("cosine", "exp_sum"), ("linear", "mean_logit"),
         ("cosine", "log_mean_exp")]


def make_head(classes=3, dim=8, vectors=1, norm="cosine", reduce="single", seed=0, bias=False, ragged=False,
              prefix="class", **kwargs) -> ClassHead:
    rng = torch.Generator().manual_seed(seed)
    vectors = 1 if reduce == "single" else vectors
    return ClassHead(
        tuple(f"{prefix} {i}" for i in range(classes)), torch.randn(classes, vectors, dim, generator=rng), norm=norm,
        reduce=reduce, beta=5.5 if reduce == "exp_sum" else None, scale=kwargs.pop("scale", 20.0),
        bias=torch.randn(classes, generator=rng) if bias else None,
        counts=torch.randint(1, vectors + 1, (classes,), generator=rng) if ragged else None, **kwargs)


def same_bits(a, b) -> bool:
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def slow_logits(head: ClassHead, x: torch.Tensor) -> np.ndarray:
    """By the formula, one region, class and vector at a time, in double precision."""
    x, weights = x.double().numpy(), head.weights.double().numpy()
    result = np.zeros((len(x), len(head)))
    for n, c in np.ndindex(*result.shape):
        used = weights.shape[1] if head.counts is None else int(head.counts[c])
        terms = []
        for m in range(used):
            w = weights[c, m]
            if head.norm == "euclid":
                terms.append(-math.sqrt(sum((x[n] - w) ** 2)))
            elif head.norm == "linear":
                terms.append(sum(x[n] * w))
            else:
                terms.append(sum(x[n] * w) / math.sqrt(sum(x[n] ** 2)) / math.sqrt(sum(w ** 2)))
        if head.reduce == "exp_sum":
            value = sum(math.exp(-head.beta * (1 - t)) for t in terms)
        elif head.reduce == "log_mean_exp":
            value = math.log(sum(math.exp(head.scale * t) for t in terms) / len(terms)) / head.scale
        else:
            value = max(terms) if head.reduce == "max" else sum(terms) / len(terms)
        result[n, c] = head.scale * value + (0 if head.bias is None else float(head.bias[c]))
    return result


@pytest.mark.parametrize("norm, reduce", FORMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_logits_follow_the_formula(norm, reduce, bias, ragged):
    head = make_head(5, 7, 4, norm, reduce, bias=bias, ragged=ragged)
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(9))
    logits = head.logits(x)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), slow_logits(head, x), rtol=2e-5, atol=2e-5)


@settings(max_examples=80, deadline=None)
@given(form=st.sampled_from(FORMS), old=st.integers(1, 2 * BLOCK + 3), new=st.integers(1, BLOCK + 3),
       regions=st.integers(0, 40), dim=st.integers(1, 96), vectors=st.tuples(st.integers(1, 4), st.integers(1, 4)),
       bias=st.tuples(st.booleans(), st.booleans()), ragged=st.booleans(), seed=st.integers(0, 9))
def test_adding_classes_leaves_the_other_logits_bit_identical(form, old, new, regions, dim, vectors, bias, ragged,
                                                              seed):
    a = make_head(old, dim, vectors[0], *form, seed=seed, bias=bias[0], ragged=ragged)
    b = make_head(new, dim, vectors[1], *form, seed=seed + 50, bias=bias[1], prefix="new")
    x = torch.randn(regions, dim, generator=torch.Generator().manual_seed(seed))
    both = a.concat(b)
    assert both.names == a.names + b.names
    assert same_bits(both.logits(x)[:, :old], a.logits(x))
    assert same_bits(both.select(a.names).logits(x), a.logits(x))
    np.testing.assert_allclose(both.logits(x)[:, old:], b.logits(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [64, 128, 512, 768, 1024])
@pytest.mark.parametrize("regions", [1, 2, 7, 300])
def test_a_thousand_classes_more_change_no_bit(dim, regions):
    head = make_head(1203, dim)
    x = torch.randn(regions, dim, generator=torch.Generator().manual_seed(1))
    logits = head.logits(x)
    for classes in (1, 48, 65, 866, 1202):
        assert same_bits(head.select(head.names[:classes]).logits(x), logits[:, :classes])


def test_a_bias_of_other_classes_keeps_even_the_sign_of_zero():
    head, more = make_head(3, norm="euclid"), make_head(2, norm="euclid", prefix="new", bias=True)
    x = head.weights[:, 0]
    assert math.copysign(1, float(head.logits(x)[0, 0])) == -1, "minus a distance of zero"
    assert same_bits(head.concat(more).logits(x)[:, :3], head.logits(x))


@pytest.mark.parametrize("norm, reduce", FORMS)
def test_logits_are_differentiable_in_the_embeddings(norm, reduce):
    head = make_head(3, 5, 2, norm, reduce, bias=True, background=torch.ones(5))
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (gradient,) = torch.autograd.grad(head.logits(x, with_background=True).square().sum(), x)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        rise = (head.logits(x + step, True).square().sum() - head.logits(x - step, True).square().sum()) / 2
    assert float(rise) == pytest.approx(float((gradient * step).sum()), rel=2e-2)


def test_autocast_and_half_embeddings_give_float32_logits():
    head = make_head(70, 32)
    x = torch.nn.functional.normalize(torch.randn(5, 32), dim=-1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head.logits(x)
    assert logits.dtype == torch.float32 and same_bits(logits, head.logits(x.float()))


def test_the_background_is_one_more_column():
    head = make_head(4, 6, background=torch.ones(6))
    x = torch.randn(3, 6)
    logits = head.logits(x, with_background=True)
    assert same_bits(logits[:, :4], head.logits(x))
    cosine = torch.nn.functional.cosine_similarity(x, torch.ones(1, 6), dim=-1)
    torch.testing.assert_close(logits[:, 4], 20 * cosine)
    with pytest.raises(UserError, match="no background row"):
        make_head().logits(torch.ones(1, 8), with_background=True)


def test_select_keeps_everything_by_name():
    head = make_head(5, 8, 3, reduce="max", bias=True, ragged=True, provenance=[{"from": i} for i in range(5)])
    x = torch.randn(4, 8)
    chosen = head.select(["class 3", "class 0"])
    assert chosen.names == ("class 3", "class 0") and chosen.provenance == ({"from": 3}, {"from": 0})
    torch.testing.assert_close(chosen.logits(x), head.logits(x)[:, [3, 0]])
    with pytest.raises(UserError, match=r"no class 'clas 3'; did you mean class 3"):
        head.select(["clas 3"])
    with pytest.raises(UserError, match="'class 1' occurs twice"):
        head.select(["class 1", "class 1"])


def test_select_accepts_both_spellings_of_the_lvis_speaker():
    head = ClassHead(("zebra", "speaker_(stereo_equipment)"), torch.eye(2)[:, None])
    chosen = head.select(["speaker_(stero_equipment)", "zebra"])
    assert chosen.names == ("speaker_(stero_equipment)", "zebra")
    assert torch.equal(chosen.weights[0, 0], torch.tensor([0.0, 1.0]))


def test_a_head_is_immutable_and_independent_of_what_it_was_made_from():
    weights = torch.ones(2, 1, 4)
    head = ClassHead(["a", "b"], weights.double().numpy())
    aliased = ClassHead(["a", "b"], weights)
    weights.zero_()
    assert float(aliased.weights.sum()) == 8
    assert head.names == ("a", "b") and head.weights.dtype == torch.float32
    with pytest.raises(FrozenInstanceError):
        head.scale = 3


def test_concat_pads_lists_and_counts_them():
    shots = make_head(2, 8, 3, reduce="max")
    text = make_head(2, 8, prefix="text", scale=20.0)
    for both in (shots.concat(text), text.concat(shots)):
        assert both.reduce == "max" and both.weights.shape == (4, 3, 8)
        assert sorted(both.counts.tolist()) == [1, 1, 3, 3]
    more = make_head(1, 8, 2, reduce="max", prefix="more")
    assert shots.concat(text).concat(more).counts.tolist() == [3, 3, 1, 1, 2]


@pytest.mark.parametrize("change, message", [
    ({"dim": 9}, "widths 8 and 9 differ"),
    ({"stats": {"clip": "sha256:other"}}, r"different CLIPs \(unknown, sha256:other\)"),
    ({"stats": {"space": "fcos:sha256:1"}}, "different embedding spaces"),
    ({"norm": "linear"}, r"norms cosine and linear differ; .* as_cosine\(\)"),
    ({"scale": 10.0, "background": torch.ones(8)}, "background row is of a head of another form"),
    ({"prefix": "class"}, "'class 0' is in both"),
    ({"background": torch.zeros(8)}, "background rows differ"),
])
def test_heads_that_do_not_fit_are_not_joined(change, message):
    a = make_head(background=torch.ones(8))
    b = make_head(**{"prefix": "new", "seed": 1, **change})
    with pytest.raises(UserError, match=message):
        a.concat(b)
    if "dim" in change or "stats" in change or "norm" in change:
        with pytest.raises(UserError, match=message):
            a.blend(b, 0.5)


@given(st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_blend_mixes_directions_by_name(lam):
    a = make_head(3, provenance=[{"text": i} for i in range(3)], stats={"clip": "sha256:1", "n": 1})
    b = make_head(3, seed=5, stats={"clip": "sha256:1", "n": 2}, provenance=[{"box": i} for i in range(3)])
    b = replace(b, names=("new", "class 2", "class 0"))
    both = a.blend(b, lam)
    assert both.names == ("class 0", "class 1", "class 2", "new") and both.stats == {"clip": "sha256:1"}
    assert torch.equal(both.weights[1], a.weights[1]) and torch.equal(both.weights[3], b.weights[0])
    unit_a, unit_b = (h.weights[:, 0] / h.weights[:, 0].norm(dim=-1, keepdim=True) for h in (a, b))
    mixed = (1 - lam) * unit_a[2] + lam * unit_b[1]
    torch.testing.assert_close(both.weights[2, 0], mixed / mixed.norm())
    assert both.provenance[2] == {"blend": [{"text": 2}, {"box": 1}], "lam": lam}
    assert both.provenance[3] == {"box": 0}


def test_blend_of_linear_heads_is_the_blend_of_their_logits():
    a, b = make_head(3, norm="linear", bias=True), make_head(3, norm="linear", seed=1)
    x = torch.randn(5, 8)
    torch.testing.assert_close(a.blend(b, 0.25).logits(x), 0.75 * a.logits(x) + 0.25 * b.logits(x))
    with pytest.raises(UserError, match="0 to 1"):
        a.blend(b, 1.5)
    with pytest.raises(UserError, match="one vector a class"):
        make_head(reduce="max", vectors=2).blend(make_head(), 0.5)


def test_opposite_vectors_have_no_blend():
    a = ClassHead(("a",), torch.ones(1, 1, 4))
    with pytest.raises(UserError, match="'a' is zero"):
        a.blend(ClassHead(("a",), -torch.ones(1, 1, 4)), 0.5)


W = torch.ones(2, 1, 4)


@pytest.mark.parametrize("kwargs, message", [
    ({"names": ()}, "without classes"),
    ({"names": ("a", "a")}, "'a' occurs twice"),
    ({"names": ("a", " ")}, "' ' is not a class name"),
    ({"names": ("a",)}, r"1 names need weights \[1, M, D\], not \[2, 1, 4\]"),
    ({"weights": W[:, 0]}, r"not \[2, 4\]"),
    ({"weights": torch.full((2, 1, 4), math.nan)}, "weights of class 'a' have NaN"),
    ({"weights": torch.tensor([[[1.0]], [[math.inf]]])}, "weights of class 'b' have NaN or infinity"),
    ({"weights": torch.tensor([[[1.0]], [[0.0]]])}, "vector of class 'b' is zero"),
    ({"weights": torch.ones(2, 2, 4)}, "2 vectors a class need a reduction"),
    ({"bias": torch.ones(3)}, r"bias has shape \[3\], expected \[2\]"),
    ({"bias": torch.tensor([0.0, math.nan])}, "bias of class 'b' have NaN"),
    ({"background": torch.ones(5)}, r"background has shape \[5\]"),
    ({"background": torch.full((4,), math.nan)}, "background row has NaN"),
    ({"norm": "cosin"}, "unknown norm 'cosin'; did you mean cosine"),
    ({"reduce": "mean"}, "unknown reduction 'mean'; did you mean mean_logit"),
    ({"reduce": "exp_sum"}, "needs beta"),
    ({"beta": 1.0}, "the other reductions take none"),
    ({"reduce": "exp_sum", "beta": -1.0}, "beta above 0"),
    ({"reduce": "exp_sum", "beta": 1.0, "norm": "linear"}, "works on cosines"),
    ({"scale": math.nan}, "scale nan"),
    ({"counts": torch.tensor([1, 2])}, "counts must lie between 1 and 1"),
    ({"provenance": ({},)}, "provenance of 1 classes"),
    ({"reduce": "mixed"}, "mixed classes need terms"),
    ({"terms": Terms.of(2, 1, "single", 1.0)}, "the other reductions take none"),
    ({"reduce": "mixed", "norm": "linear", "terms": Terms.of(2, 1, "single", 1.0)}, "by cosine, not linear"),
    ({"reduce": "mixed", "terms": Terms.of(2, 2, "max", 1.0)}, r"mix have shape \[2, 2\], expected \[2, 1\]"),
    ({"reduce": "mixed", "terms": Terms([0, 9], [1, 1], W[:, 0, :1], W[:, 0, :1])}, "'b' has a kind that is none of"),
    ({"reduce": "mixed", "terms": Terms([0, 1], [1, 0], W[:, 0, :1], W[:, 0, :1])}, "'b' has a scale that is not"),
    ({"reduce": "mixed", "terms": Terms([0, 1], [1, math.nan], W[:, 0, :1], W[:, 0, :1])}, "scales of class 'b' have"),
    ({"reduce": "mixed", "terms": Terms([0, 1], [1, 1], W[:, 0, :1], -W[:, 0, :1])}, "'a' has a beta below 0"),
    ({"reduce": "mixed", "terms": Terms([0, 3], [1, 1], W[:, 0, :1], 0 * W[:, 0, :1])}, "'b' has log_mean_exp without"),
])
def test_parts_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(UserError, match=message):
        ClassHead(**{"names": ("a", "b"), "weights": W, **kwargs})


def test_another_width_or_clip_is_refused_naming_both():
    head = make_head(stats={"clip": "sha256:abc"})
    assert head.check(dim=8, clip="sha256:abc") is head
    with pytest.raises(UserError, match="width 8, needed is 512"):
        head.check(dim=512)
    with pytest.raises(UserError, match="CLIP sha256:abc, needed is sha256:def"):
        head.check(clip="sha256:def")
    with pytest.raises(UserError, match="embedding space sha256:abc, needed is fcos:1"):
        head.check(space="fcos:1")
    other = make_head(stats={"space": "fcos:1"})
    assert (head.check(space="sha256:abc").space, other.check(space="fcos:1").space) == ("sha256:abc", "fcos:1")
    with pytest.raises(UserError, match="CLIP unknown, needed"):
        other.check(clip="sha256:abc")
    with pytest.raises(UserError, match=r"shape \[2, 9\] for a class head of width 8"):
        head.logits(torch.ones(2, 9))


@settings(max_examples=25, deadline=None)
@given(form=st.sampled_from(FORMS), bias=st.booleans(), ragged=st.booleans(), background=st.booleans(),
       scale=st.floats(1e-3, 1e3))
def test_a_saved_head_is_loaded_as_it_was(tmp_path_factory, form, bias, ragged, background, scale):
    head = make_head(4, 6, 3, *form, bias=bias, ragged=ragged, scale=scale, stats={"clip": "sha256:1", "shots": 3},
                     background=torch.ones(6) if background else None,
                     provenance=[{"text": ["a", i]} for i in range(4)])
    path = tmp_path_factory.mktemp("head") / "sub" / "head.safetensors"
    head.save(path, config={"templates": "vild63"}, inputs={"clip": "sha256:1"}, flags={"untrained": True})
    again = ClassHead.load(path)
    for name in ("names", "scale", "norm", "reduce", "beta", "provenance", "stats"):
        assert getattr(again, name) == getattr(head, name), name
    x = torch.randn(3, 6)
    assert same_bits(again.logits(x, background), head.logits(x, background))
    manifest = require(path, kind="class_head", clip="sha256:1")
    assert manifest.stage == "class-embeddings" and manifest.flags == {"untrained": True}
    assert manifest.counts["classes"] == 4 and manifest.content == fingerprint(path)


def test_the_same_head_gives_the_same_bytes_in_another_process(tmp_path):
    code = """if True:
        import sys
        sys.path.insert(0, sys.argv[1])
        from test_class_heads import make_head
        head = make_head(4, 6, 3, reduce="max", bias=True, ragged=True, stats={"b": 1, "a": 2})
        head.save(sys.argv[2] + ".safetensors")
        make_head().export(sys.argv[2] + ".pth")
    """
    for name, seed in (("a", "1"), ("b", "2")):
        subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__), tmp_path / name], check=True,
                       env={**os.environ, "PYTHONHASHSEED": seed})
    for suffix in (".safetensors", ".pth"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_files_that_are_no_class_head_are_named(tmp_path):
    path = tmp_path / "head.safetensors"
    make_head().save(path)
    whole = path.read_bytes()
    for data in (b"", b"not a head", whole[:20], whole[:-4]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"head\.safetensors: is not a class head file"):
            ClassHead.load(path)
    for metadata in (None, {"class_head": "{}"}, {"class_head": '{"schema": 2}'}, {"class_head": '{"schema": 1}'},
                     {"class_head": '{"schema": 1, "names": ["a"], "more": 1}'}, {"class_head": "[]"}):
        safetensors.torch.save_file({"weights": torch.ones(1, 1, 3)}, path, metadata)
        with pytest.raises(UserError, match=r"head\.safetensors: is not a class head file"):
            ClassHead.load(path)
    safetensors.torch.save_file({"weights": torch.full((1, 1, 3), math.nan)}, path,
                                {"class_head": '{"schema": 1, "names": ["a"]}'})
    with pytest.raises(UserError, match=r"head\.safetensors: class head: the weights of class 'a' have NaN"):
        ClassHead.load(path)
    with pytest.raises(UserError, match=r"none\.safetensors: no such file; make it with ovd class-embeddings"):
        ClassHead.load(tmp_path / "none.safetensors")
    assert Manifest.path(path).exists()


def test_names_that_contradict_the_files_own_are_refused(tmp_path):
    torch.save({"embeddings": torch.eye(3), "names": ["cat", "dog", "cow"]}, tmp_path / "vild.pth")
    with pytest.raises(UserError, match=r"vild\.pth: its row 1 is 'dog' by its own names, but 'cow' was given"):
        import_matrix(tmp_path / "vild.pth", ["cat", "cow", "dog"])
    assert import_matrix(tmp_path / "vild.pth", ["cat", "dog", "cow"]).names == ("cat", "dog", "cow")


def test_multi_label_prompts_bring_their_scaler_and_bias(tmp_path):
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    prompts = {"embeddings": rows, "names": ["cat", "dog", "cow"], "scaler": torch.tensor(13.5), "bias": 4.25}
    torch.save(prompts, tmp_path / "ml_coco.pth")
    head = import_matrix(tmp_path / "ml_coco.pth")
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    cosines = [[float(torch.cosine_similarity(a, b, dim=0)) for b in rows] for a in x]
    torch.testing.assert_close(head.logits(x), torch.tensor(cosines) * 13.5 - 4.25)
    head.save(tmp_path / "ml.safetensors", "class-embeddings", {}, {})
    again = ClassHead.load(tmp_path / "ml.safetensors").select(["cow"])
    assert (again.scale, again.bias.tolist()) == (13.5, [-4.25])
    torch.save({**prompts, "bias": torch.zeros(2)}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth: its scaler or bias is not one number"):
        import_matrix(tmp_path / "odd.pth")


def test_export_and_import_of_the_published_dict(tmp_path):
    head = make_head(4, 6)
    head.export(tmp_path / "vild.pth")
    data = torch.load(tmp_path / "vild.pth", weights_only=True)
    assert data["names"] == list(head.names) and torch.equal(data["embeddings"], head.weights[:, 0])
    again = import_matrix(tmp_path / "vild.pth", clip="sha256:1")
    assert again.names == head.names and torch.equal(again.weights, head.weights)
    assert again.stats == {"clip": "sha256:1"} and again.provenance[2] == {"imported": "vild.pth", "row": 2}
    with pytest.raises(UserError, match="this head has 2 vectors"):
        make_head(reduce="max", vectors=2).export(tmp_path / "many.pth")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("form", ["npy", "pth", "dict"])
@pytest.mark.parametrize("names", ["list", "txt", "json", "records"])
def test_matrices_are_imported_by_the_number_of_names(tmp_path, transposed, form, names):
    matrix = torch.randn(3, 5).half()
    stored = matrix.T.contiguous() if transposed else matrix
    if form == "npy":
        np.save(tmp_path / "m.npy", stored.numpy())
    else:
        torch.save(stored if form == "pth" else {"embeddings": stored}, tmp_path / "m.pth")
    (tmp_path / "n.txt").write_text("traffic light\nzebra\nü\n\n", encoding="utf-8")
    (tmp_path / "n.json").write_text('["traffic light", "zebra", "ü"]', encoding="utf-8")
    (tmp_path / "r.json").write_text('[{"name": "traffic light", "id": 1}, {"name": "zebra"}, {"name": "ü"}]',
                                     encoding="utf-8")
    source = {"list": ["traffic light", "zebra", "ü"], "txt": tmp_path / "n.txt", "json": str(tmp_path / "n.json"),
              "records": tmp_path / "r.json"}[names]
    head = import_matrix(tmp_path / ("m.npy" if form == "npy" else "m.pth"), source)
    assert head.names == ("traffic light", "zebra", "ü") and head.norm == "cosine" and head.scale == 100
    assert torch.equal(head.weights[:, 0], matrix.float())


class Payload:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_matrices_that_cannot_be_used_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", np.ones((3, 5), np.float32))
    np.save("nan.npy", np.full((3, 5), np.nan, np.float32))
    np.save("ints.npy", np.ones((3, 5), int))
    np.save("cube.npy", np.ones((3, 5, 2), np.float32))
    np.save("objects.npy", np.array([Payload()] * 3), allow_pickle=True)
    torch.save([torch.ones(3, 5)], "list.pth")
    torch.save({"weights": torch.ones(3, 5)}, "other.pth")
    torch.save(Payload(), "evil.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:100])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-9])
    (tmp_path / "text.csv").write_text("1,2")
    (tmp_path / "names.json").write_text("{")
    (tmp_path / "numbers.json").write_text("[1, 2, 3]")
    (tmp_path / "garbage.pth").write_bytes(b"hello")
    names = ["a", "b", "c"]
    for file, source, message in [
            ("good.npy", names[:2], r"good\.npy: a matrix of 3 x 5 for 2 names"),
            ("good.npy", None, r"good\.npy: has no class names; give a names file"),
            ("good.npy", ["a", "b", "a"], r"good\.npy: class head: the class 'a' occurs twice"),
            ("good.npy", "none.txt", r"none\.txt: cannot read the class names"),
            ("good.npy", "names.json", r"names\.json: not a list of class names"),
            ("good.npy", "numbers.json", r"numbers\.json: not a list of class names"),
            ("nan.npy", names, r"nan\.npy: class head: the weights of class 'a' have NaN"),
            ("ints.npy", names, r"ints\.npy: torch.int64 of shape \[3, 5\], expected floats"),
            ("cube.npy", names, r"cube\.npy: .* of shape \[3, 5, 2\]"),
            ("objects.npy", names, r"objects\.npy: .* holds more than tensors"),
            ("list.pth", names, r"list\.pth: holds list"),
            ("other.pth", names, r"other\.pth: holds a dict of \['weights'\]"),
            ("evil.pth", names, r"evil\.pth: .* holds more than tensors"),
            ("garbage.pth", names, r"garbage\.pth: is truncated"),
            ("cut.pth", names, r"cut\.pth: is truncated"), ("cut.npy", names, r"cut\.npy: is truncated"),
            ("text.csv", names, r"text\.csv: is neither"), ("none.npy", names, r"none\.npy: no such file")]:
        with pytest.raises(UserError, match=message) as caught:
            import_matrix(file, source)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("dataset, names", [("lvis_v1", LVIS_NAMES), ("coco", COCO_NAMES)])
def test_published_clip_text_embeddings_are_imported(shared, dataset, names):
    head = import_matrix(shared / "data" / "clip_text" / f"detic_{dataset}_clip_a+cname.npy", names)
    assert head.weights.shape == (len(names), 1, 512)
    cosine = head.logits(head.weights[:, 0]) / head.scale
    assert torch.equal(cosine.argmax(1), torch.arange(len(names))), "each class is nearest to itself"
    dog = cosine[names.index("dog")]
    assert float(dog[names.index("cat")]) > float(dog[names.index("banana")])
    chosen = head.select(["zebra", "dog"])
    assert float(chosen.weights.norm(dim=-1).max()) > 1.5, "kept as published, not normalised"
