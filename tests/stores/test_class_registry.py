"""A registry of classes: what is added stays to the bit, whole or not at all, whoever is killed or writes beside."""

import os
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.models.classifier import CosineClassifier
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry, load_classes, spelling
from ovd.stores.lock import StoreLock
from ovd.stores.manifest import Manifest, fingerprint

DIM = 8


def made(*names: str, seed: int = 0, clip: str | None = "sha256:one", vectors: int = 1, **form) -> ClassHead:
    weights = torch.randn(len(names), vectors, form.pop("dim", DIM), generator=torch.Generator().manual_seed(seed))
    return ClassHead(names, weights, scale=form.pop("scale", 100.0), stats={"clip": clip} if clip else {},
                     provenance=tuple({"text": name} for name in names), **form)


def regions(count: int = 50) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(9))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def state(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def registry(tmp_path) -> ClassRegistry:
    registry = ClassRegistry(tmp_path / "classes")
    registry.add(made("red star", "green_drop", "zebra"))
    return registry


def test_classes_come_back_in_the_order_in_which_they_were_added(registry):
    registry.add(made("apple", "Äpfel/Birnen", seed=1, vectors=3, reduce="max"))
    assert registry.names == registry.head().names == ("red star", "green_drop", "zebra", "apple", "Äpfel/Birnen")
    assert registry.head().provenance[3] == {"text": "apple"} == registry.get("apple").provenance[0]
    assert ClassRegistry(registry.path).head().stats == {"clip": "sha256:one"}
    assert len(list(registry.path.glob("*.safetensors"))) == 5


def test_adding_and_removing_leave_every_other_logit_bit_identical(registry):
    x = regions()
    before = registry.head().logits(x)
    wide = made("wide", seed=1, vectors=5, reduce="max")
    registry.add(wide)
    registry.add(made("cache", seed=3, vectors=3, reduce="exp_sum", beta=5.5, scale=50.0))
    registry.add(made("with bias", seed=4, bias=torch.tensor([3.0])))
    registry.add(made(*(f"class {i}" for i in range(70)), seed=2))
    registry.remove("red star")
    after = registry.head()
    kept = [after.names.index(name) for name in ("green_drop", "zebra", "wide")]
    assert same_bits(after.logits(x)[:, kept], torch.cat([before[:, 1:], wide.logits(x)], 1))
    registry.remove("wide", "cache", "with bias", *(f"class {i}" for i in range(70)))
    assert same_bits(registry.head().logits(x), before[:, 1:])


def test_a_detector_gives_the_others_the_same_bits_whatever_is_added_or_removed(registry):
    classifier = CosineClassifier(embed_dim=DIM).eval()
    x = F.normalize(regions(), dim=1)

    def scores(*names: str) -> torch.Tensor:
        classifier.set_class_head(registry.head())
        logits = classifier(x)
        return logits[:, [registry.names.index(name) for name in names]].detach()

    before = scores("green_drop", "zebra")
    registry.add(made("wide", seed=1, vectors=5, reduce="max", scale=20.0))
    registry.add(made("cache", seed=3, vectors=3, reduce="exp_sum", beta=5.5, scale=50.0))
    assert same_bits(scores("green_drop", "zebra"), before)
    added = scores("wide", "cache")
    registry.remove("red star", "green_drop", "zebra")
    assert same_bits(scores("wide", "cache"), added)


def test_linear_rows_of_a_clip_go_beside_cosine_ones(registry):
    head = made("oadp", norm="linear", seed=6)
    registry.add(head)
    x = F.normalize(regions(), dim=1)
    assert torch.allclose(registry.get("oadp").logits(x), head.logits(x), rtol=1e-5, atol=1e-4)
    codes = ClassRegistry(registry.path.with_name("codes"))
    codes.add(replace(head, stats={"space": "fcos:sha256:x"}))
    assert codes.head().norm == "linear" and same_bits(codes.head().logits(regions()), head.logits(regions()))


def test_a_registry_gives_the_same_logits_as_the_head_that_it_was_made_of(registry):
    head = made(*(f"class {i}" for i in range(9)), vectors=4, reduce="mean_logit", seed=3,
                counts=torch.tensor([1, 2, 3, 4, 4, 3, 2, 1, 2]))
    other = ClassRegistry(registry.path.with_name("other"))
    other.add(head)
    assert same_bits(load_classes(other.path).logits(regions()), head.logits(regions()))


def test_the_same_additions_give_the_same_class_files_and_content(registry, tmp_path):
    other = ClassRegistry(tmp_path / "other")
    other.add(made("red star", "green_drop", "zebra"))
    ours, theirs = state(registry.path), state(other.path)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name.endswith(".safetensors"))
    assert ours["manifest.json"] == theirs["manifest.json"]
    assert fingerprint(registry.path) == fingerprint(other.path)
    other.add(made("zebra", seed=5), replace=True)
    assert fingerprint(registry.path) != fingerprint(other.path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4))
def test_no_name_leaves_the_folder_or_takes_the_file_of_another(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("registry") / "inside"
    registry = ClassRegistry(folder)
    try:
        registry.add(made(*names))
    except UserError:
        return
    assert registry.names == tuple(names)
    assert [file.name for file in folder.parent.iterdir()] == ["inside"]
    assert len(list(folder.glob("*.safetensors"))) == len(names)
    for name in names:
        assert registry.get(name).names == (name,)


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/b", ".", "nul\\x", "-rf", "📷" * 80, "a" * 400])
def test_awkward_names_are_files_of_the_folder(tmp_path, name):
    registry = ClassRegistry(tmp_path / "classes")
    registry.add(made(name, name + "2"))
    assert registry.names == (name, name + "2")
    assert [file.name for file in tmp_path.iterdir()] == ["classes"]
    assert all(len(file.name) < 100 and file.name[0] != "-" for file in registry.path.iterdir())


def test_replacing_keeps_the_place_and_leaves_no_old_file(registry):
    new = made("green_drop", seed=4)
    registry.add(new, replace=True)
    assert registry.names == ("red star", "green_drop", "zebra")
    assert torch.equal(registry.get("green_drop").weights, new.weights)
    assert len(list(registry.path.glob("*.safetensors"))) == 3
    assert len(list(registry.path.glob("*.safetensors.manifest.json"))) == 3


@pytest.mark.parametrize(("names", "message"), [
    (["zebra"], "has a class 'zebra' already; pass --replace"),
    (["Zebra"], "has the class 'zebra', another spelling of 'Zebra'"),
    (["green drop"], "has the class 'green_drop', another spelling of 'green drop'"),
    (["new", "NEW"], "the classes 'new' and 'NEW' are one name"),
    (["two\nlines"], "is not a class name"),
])
def test_a_name_that_is_taken_is_refused_and_nothing_is_added(registry, names, message):
    before = state(registry.path)
    with pytest.raises(UserError, match=message):
        registry.add(made("other", *names))
    assert state(registry.path) == before


def test_another_spelling_is_refused_with_replace_too(registry):
    with pytest.raises(UserError, match="another spelling"):
        registry.add(made("ZEBRA"), replace=True)


def test_spellings_of_the_known_vocabularies_do_not_clash():
    from ovd.vocabulary.classes import COCO_NAMES, LVIS_NAMES, OBJECTS365_V2_NAMES, VOC_NAMES

    for names in (COCO_NAMES, LVIS_NAMES, OBJECTS365_V2_NAMES, VOC_NAMES):
        assert len({spelling(name) for name in names}) == len(names)


@pytest.mark.parametrize(("head", "message"), [
    (made("new", clip="sha256:two"), "does not go beside its class 'red star'.*sha256:one.*sha256:two"),
    (made("new", clip=None), "does not go beside"),
    (made("new", dim=12), "does not go beside .* widths 8 and 12"),
    (made("new", norm="euclid"), "does not go beside"),
], ids=["clip", "no-clip", "width", "norm"])
def test_classes_of_another_space_width_or_norm_are_refused(registry, head, message):
    before = state(registry.path)
    with pytest.raises(UserError, match=message) as caught:
        registry.add(head)
    assert "\n" not in str(caught.value) and str(registry.path) in str(caught.value)
    assert state(registry.path) == before


def test_an_emptied_registry_takes_another_space(registry):
    registry.remove("red star", "green_drop", "zebra")
    assert registry.names == ()
    registry.add(made("new", clip="sha256:two"), settings={"pretrained": "two"})
    assert registry.head().stats == {"clip": "sha256:two"} and registry.settings == {"pretrained": "two"}


def test_the_background_row_stays_behind(tmp_path):
    registry = ClassRegistry(tmp_path / "classes")
    registry.add(made("a", background=torch.ones(DIM)))
    registry.add(made("b", background=-torch.ones(DIM)))
    assert registry.head().background is None


def test_settings_are_those_of_the_first_addition(tmp_path):
    registry = ClassRegistry(tmp_path / "classes")
    registry.add(made("a"), settings={"pretrained": "one", "recipe": {"scales": (1.0, 1.5)}})
    registry.add(made("b"), settings={"pretrained": "two"})
    assert registry.settings == {"pretrained": "one", "recipe": {"scales": [1.0, 1.5]}}


def test_settings_may_come_after_classes_of_a_file_that_have_none(tmp_path):
    registry = ClassRegistry(tmp_path / "r")
    registry.add(made("a"))
    registry.add(made("b"), settings={"pretrained": "one"})
    registry.add(made("c"))
    registry.remove("b")
    assert registry.settings == {"pretrained": "one"}


def test_the_mark_of_an_untrained_clip_goes_with_its_class(registry):
    registry.add(made("random"), flags={"untrained": True})
    assert Manifest.read(registry.path).flags == {"untrained": True}
    registry.add(made("later"))
    assert Manifest.read(registry.path).flags == {"untrained": True}
    registry.remove("random")
    assert Manifest.read(registry.path).flags == {}


@pytest.mark.parametrize("read", [ClassRegistry.head, lambda registry: load_classes(registry.path)])
def test_an_empty_registry_is_one_clear_line(tmp_path, read):
    (tmp_path / "classes").mkdir()
    with pytest.raises(UserError, match="a registry without classes; add one with ovd classes add") as caught:
        read(ClassRegistry(tmp_path / "classes"))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused_with_the_nearest(registry):
    for call in (registry.get, registry.remove):
        with pytest.raises(UserError, match=r"has no class 'zebr'; did you mean zebra"):
            call("zebr")
    with pytest.raises(UserError, match="has no class 'lion'"):
        registry.remove("zebra", "lion")
    assert "zebra" in registry.names


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is no registry of classes \(it has notes.txt\)"):
        ClassRegistry(tmp_path).add(made("a"))
    (tmp_path / "notes.txt").unlink()
    Manifest("regions", "embed-regions").write(tmp_path)
    with pytest.raises(UserError, match="is of kind 'regions', no registry"):
        ClassRegistry(tmp_path).add(made("a"))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is a file; a registry of classes is a folder"):
        ClassRegistry(file).add(made("a"))


def test_a_class_file_that_is_missing_or_changed_is_named(registry):
    file = next(registry.path.glob("zebra-*.safetensors"))
    contents = file.read_bytes()
    file.write_bytes(contents[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match=r"zebra-.*was changed after it was added; add the class again"):
        registry.head()
    file.unlink()
    with pytest.raises(UserError, match="the file of class 'zebra' is missing"):
        registry.head()
    assert registry.get("red star").names == ("red star",)  # the others are what they were
    registry.remove("zebra")
    assert registry.head().names == ("red star", "green_drop")


def test_a_second_writer_is_refused_in_one_line_and_readers_are_not(registry):
    with StoreLock(registry.path):
        for write in (lambda: registry.add(made("new")), lambda: registry.remove("zebra")):
            with pytest.raises(UserError, match="another run writes this store") as caught:
                write()
            assert "\n" not in str(caught.value)
        assert registry.head().names == registry.names
    registry.add(made("new"))


@pytest.mark.parametrize("action", ["add", "replace", "remove"])
def test_a_writer_that_is_killed_at_any_step_leaves_the_state_before_or_after(tmp_path, action):
    def act(registry: ClassRegistry) -> None:
        if action == "remove":
            registry.remove("a", "b")
        else:
            registry.add(made(*("xy" if action == "add" else "ab"), seed=1), replace=action == "replace")

    def contents(registry: ClassRegistry) -> list:
        head = registry.head()
        return [head.names, head.logits(regions()).tolist()]

    def begun(number: int) -> ClassRegistry:
        registry = ClassRegistry(tmp_path / str(number))
        registry.add(made("a", "b", "c"))
        return registry

    whole = begun(0)
    before = contents(whole)
    act(whole)
    after = contents(whole)
    assert before != after
    found = []
    for step in range(1, 100):
        registry = begun(step)
        child = os.fork()
        if child == 0:
            _die_at(step)
            act(registry)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        found.append(contents(registry))
        registry.add(made("later", seed=7))  # the next writer is not kept out, and tidies up
        assert len(list(registry.path.glob("*.safetensors"))) == len(registry.names)
        assert not list(registry.path.glob(".*"))
    assert len(found) >= 4 and {str(before), str(after)} == {str(each) for each in found}
    assert contents(registry) == after


def _die_at(step: int) -> None:
    """Kill this process with SIGKILL right before the ``step``-th change of a folder that it makes."""
    counted = 0

    def dying(real):
        def call(*args, **kwargs):
            nonlocal counted
            counted += 1
            if counted == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call

    for name in ("replace", "unlink", "open"):
        setattr(os, name, dying(getattr(os, name)))


def test_a_damaged_list_of_classes_costs_no_class(registry):
    files = sorted(registry.path.glob("*.safetensors"))
    Manifest.path(registry.path).write_text('{"a":')
    for action in (registry.head, lambda: registry.add(made("new")), lambda: registry.remove("zebra")):
        with pytest.raises(UserError, match=r"the list of the classes is damaged.*another registry"):
            action()
    assert files and sorted(registry.path.glob("*.safetensors")) == files
    other = ClassRegistry(registry.path.parent / "other")
    for file in files:
        other.add(ClassHead.load(file))
    assert len(other.names) == len(files)


def test_a_class_of_an_empty_registry_is_not_looked_for(tmp_path):
    for action in ("get", "remove"):
        with pytest.raises(UserError, match="a registry without classes; add one with ovd classes add NAME"):
            getattr(ClassRegistry(tmp_path / "none"), action)("zebra")
