"""The hypernetwork over ViLD's RoI head: what codes are and learn from, and that the detector stays as it was."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from detector_steps import detect, losses, step, test_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from small_vocabulary import NAMES, WIDTH, make_head
from tiny_world import write_caches, write_world

from ovd.engine.checkpoints import read_checkpoint
from ovd.errors import UserError
from ovd.fewshot.hypernetworks import Codes
from ovd.models.hyper_roi import EpisodeLoss, ResidualCodes
from ovd.models.hyper_roi.codes import prototypes
from ovd.models.hyper_roi.episode_loss import detector_targets
from ovd.stores.class_heads import ClassHead
from pipelines.test import evaluate
from pipelines.train import train

CONVOLUTIONAL = {"type": "ConvolutionalCodeGenerator", "in_channels": 16, "out_channels": WIDTH, "norm_groups": 4,
                 "post_norm": False, "l2_norm": False, "scale": None, "bias": False}


def hyper(**changes):
    def adapt(config) -> None:
        config.type = "HyperViLD"
        config.update(changes)
    return adapt


@pytest.fixture
def hyper_vild(build):
    """Function that builds a small detector with fixed weights, in evaluation mode."""
    return lambda mode="both", **changes: build(mode, adapt=hyper(**changes)).eval()


@pytest.fixture
def episode(batch):
    """Function that returns an episode of the classes d and a: two queries, and of each class the number of shots."""

    def make(shots=(2, 1), others="keep") -> dict:
        data = batch(regions=[None] * (2 + sum(shots)))
        info = {"episode_classes": ("class d", "class a"), "episode_labels": (3, 0), "others": others}
        own = torch.tensor([1, 0, 2 + 1])  # of the boxes of classes a, d and b
        supports = [label for label, count in enumerate(shots) for _ in range(count)]
        for number, sample in enumerate(data["data_samples"]):
            sample.set_metainfo({**info, "role": "query" if number < 2 else "support"})
            sample.gt_instances.labels = own.clone()
            if number >= 2:
                label = supports[number - 2]
                sample.gt_instances = sample.gt_instances[own == label]
        return data

    return make


def supports_of(detector, episode: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """RoI features and labels of an episode's supports."""
    data = detector.data_preprocessor(episode, False)
    chosen = [i for i, sample in enumerate(data["data_samples"]) if sample.role == "support"]
    samples = [data["data_samples"][i] for i in chosen]
    return (detector.support_features(data["inputs"][chosen], samples),
            torch.cat([sample.gt_instances.labels for sample in samples]))


def move(detector) -> None:
    """Weights as training might leave them."""
    torch.manual_seed(3)
    for parameter in detector.code_generator.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("generator", [None, CONVOLUTIONAL])
def test_training_starts_at_the_prototypes_of_the_detectors_embeddings(hyper_vild, episode, generator):
    detector = hyper_vild(code_generator={"type": "ResidualCodes", "generator": generator})
    data = detector.data_preprocessor(episode(), False)
    features, class_of_S = supports_of(detector, episode())
    with torch.no_grad():
        embedded = detector.embed_boxes(data["inputs"][2:], data["data_samples"][2:])
    head = detector.code_head(features, class_of_S, ("x", "y"))
    expected = torch.stack([F.normalize(embedded[:2].mean(0), dim=0), embedded[2]])
    torch.testing.assert_close(head.weights[:, 0], expected)


def test_a_code_is_the_normalised_sum_of_prototype_correction_and_generated_code():
    torch.manual_seed(0)
    codes = ResidualCodes(WIDTH, generator=CONVOLUTIONAL, hidden=5)
    for parameter in codes.parameters():
        parameter.data.normal_()
    features, class_of_S = torch.randn(5, 16, 7, 7), torch.tensor([1, 0, 1, 1, 0])
    embeddings = F.normalize(torch.randn(5, WIDTH), dim=1)
    found = codes(features, embeddings, class_of_S, 2)
    first, _, last = codes.correction
    for label in range(2):
        mean = sum(embeddings[i] for i in range(5) if class_of_S[i] == label)
        prototype = mean / mean.norm()
        correction = last.weight @ torch.relu(first.weight @ prototype + first.bias) + last.bias
        generated = codes.generator(features[class_of_S == label], torch.zeros(int((class_of_S == label).sum())).long(),
                                    1).weights_CD[0]
        code = prototype + correction + generated
        torch.testing.assert_close(found.weights_CD[label], code / code.norm())
    assert found.bias_C is None


def test_without_residual_a_code_is_what_is_generated():
    torch.manual_seed(0)
    codes = ResidualCodes(WIDTH, generator=CONVOLUTIONAL, residual=False)
    features, class_of_S = torch.randn(3, 16, 7, 7), torch.tensor([0, 0, 1])
    found = codes(features, F.normalize(torch.randn(3, WIDTH), dim=1), class_of_S, 2).weights_CD
    expected = codes.generator(features, class_of_S, 2).weights_CD
    assert codes.correction is None
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_classes_of_a_few_boxes_stand_beside_those_of_names(hyper_vild, episode, batch):
    detector = hyper_vild()
    move(detector)
    text = ClassHead(NAMES, make_head().weights, scale=100.0, stats={"clip": "sha256:x"})
    detector.set_class_head(text)
    features, class_of_S = supports_of(detector, episode())
    head = detector.code_head(features, class_of_S, ("gadget", "gizmo"), [{"seed": 1}, {"seed": 2}])
    torch.testing.assert_close(head.weights.norm(dim=-1), torch.ones(2, 1))
    assert head.bias is None and head.scale == 100.0 and head.stats["clip"] == "sha256:x"
    assert [(one["shots"], one["seed"]) for one in head.provenance] == [(2, 1), (1, 2)]
    assert {one["weights"] for one in head.provenance} == {detector.code_generator.digest()}
    regions = F.normalize(torch.randn(9, WIDTH), dim=1)
    before = detector.roi_head.classifier(regions)
    detector.set_class_head(text.concat(head))
    assert torch.equal(detector.roi_head.classifier(regions)[:, :len(NAMES)], before[:, :len(NAMES)])
    found = torch.cat([sample.pred_instances.labels for sample in detect(detector, test_batch(batch))])
    assert detector.class_names[-2:] == ("gadget", "gizmo") and int(found.max()) >= len(NAMES)


def test_a_class_is_the_same_to_the_bit_whatever_is_made_with_it(hyper_vild, episode):
    detector = hyper_vild(code_generator={"type": "ResidualCodes", "generator": CONVOLUTIONAL})
    move(detector)
    features, class_of_S = supports_of(detector, episode(shots=(3, 2)))
    both = detector.code_head(features, class_of_S, ("x", "y"))
    alone = detector.code_head(features[class_of_S == 1], torch.zeros(2, dtype=torch.long), ("y",))
    assert torch.equal(both.weights[1], alone.weights[0])


def test_only_the_code_generator_learns(hyper_vild, episode):
    detector = hyper_vild(distillation=0.5)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], 0.1)
    first = step(detector, episode())
    optimiser.step()
    assert {"loss_cls", "loss_distill", "code_accuracy"} == first.keys() and 0 <= first["code_accuracy"] <= 100
    changed = {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("code_generator.") for name in changed)
    assert "trained: 4 parameters" in str(detector.freezing)


@pytest.mark.parametrize("mode", ["both", "image"])
@pytest.mark.parametrize("kind", ["softmax", "focal"])
def test_training_lowers_the_loss(hyper_vild, episode, mode, kind):
    detector = hyper_vild(mode, episode_loss={"type": "EpisodeLoss", "kind": kind})
    optimiser = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], 1e-2)
    first = step(detector, episode())
    for _ in range(20):
        optimiser.step()
        last = step(detector, episode())
    assert last["loss_cls"] < 0.8 * first["loss_cls"]


def test_the_distance_from_text_rows_is_that_of_the_episodes_classes(hyper_vild, episode):
    detector = hyper_vild(distillation=2.0)
    features, class_of_S = supports_of(detector, episode())
    codes = detector.code_head(features, class_of_S, ("d", "a")).weights[:, 0]
    cosines = [codes[0] @ make_head().weights[3, 0], codes[1] @ make_head().weights[0, 0]]
    found = losses(detector, episode())["loss_distill"]
    torch.testing.assert_close(found.detach(), 2 * (1 - sum(cosines) / 2), rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(-1, 6), min_size=1, max_size=8), columns=st.permutations(range(5)))
def test_labels_of_an_episode_become_columns(labels, columns):
    columns = columns[:2]
    found = detector_targets(torch.tensor(labels), torch.tensor(columns), background=5)
    assert found.tolist() == [5 if label < 0 else columns[label] if label < 2 else label - 2 for label in labels]


def test_softmax_is_over_codes_other_rows_and_background():
    torch.manual_seed(0)
    codes, known = torch.randn(6, 2), torch.randn(6, 5)
    targets, columns = torch.tensor([0, 3, 4, 4, 1, 3]), torch.tensor([3, 0])
    total = 0
    for row in range(6):
        logits = known[row].clone()
        logits[3], logits[0] = codes[row]
        total -= torch.log(torch.exp(logits[targets[row]]) / torch.exp(logits).sum())
    torch.testing.assert_close(EpisodeLoss()(codes, known, targets, columns), total / 6)


def test_focal_loss_is_a_yes_or_no_to_each_code():
    torch.manual_seed(0)
    codes, columns = torch.randn(4, 2) * 3 + 15, torch.tensor([3, 0])
    targets = torch.tensor([0, 3, 4, 1])
    total = 0
    for row in range(4):
        for code in range(2):
            p = torch.sigmoid(codes[row, code] - 15)
            own = targets[row] == columns[code]
            total -= 0.25 * (1 - p) ** 2 * p.log() if own else 0.75 * p ** 2 * (1 - p).log()
    found = EpisodeLoss(kind="focal")(codes, torch.zeros(4, 5), targets, columns)
    torch.testing.assert_close(found, total / 2)


def test_prototypes_are_means_of_any_number_of_shots():
    rows = F.normalize(torch.randn(4, WIDTH), dim=1)
    found = prototypes(rows, torch.tensor([1, 0, 1, 1]), 2)
    torch.testing.assert_close(found, torch.stack([rows[1], F.normalize(rows[[0, 2, 3]].mean(0), dim=0)]))


def test_mistakes_are_refused_in_a_line(hyper_vild, episode, batch, build):
    detector = hyper_vild()
    with pytest.raises(UserError, match="learns from episodes"):
        losses(detector, batch(regions=(None, None)))
    with pytest.raises(UserError, match="others='keep'"):
        losses(detector, episode(others="drop"))
    features, class_of_S = supports_of(detector, episode())
    with pytest.raises(UserError, match="'z' has no support box"):
        detector.code_head(features, class_of_S, ("x", "y", "z"))
    with pytest.raises(UserError, match="one box head"):
        build("ensemble", base="vild_ensemble_mask_rcnn_r50_fpn", adapt=hyper())
    with pytest.raises(UserError, match="set out_channels=8"):
        ResidualCodes(WIDTH, generator={**CONVOLUTIONAL, "out_channels": 4})
    with pytest.raises(UserError, match="nothing to learn"):
        ResidualCodes(WIDTH, hidden=None)
    with pytest.raises(UserError, match="'softmx' is no loss; did you mean softmax"):
        MODELS.build({"type": "EpisodeLoss", "kind": "softmx"})


def test_a_resumed_run_equals_one_that_was_never_interrupted_and_is_tested(root, tmp_path):
    world = write_world(tmp_path / "data", ["red", "green", "blue"], ["yellow"])
    write_caches(world)
    config = root / "tests" / "tiny_hyper.py"
    whole = train(config, data_root=world, work_dir=tmp_path / "whole", device="cpu")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("final.pth", "final.pth.manifest.json", "iter_4.pth"):
        (tmp_path / "cut" / name).unlink()
    again = train(config, data_root=world, work_dir=tmp_path / "cut", device="cpu", resume="auto")
    assert whole.read_bytes() == again.read_bytes()
    assert any(name.startswith("code_generator.") for name in read_checkpoint(whole)["state_dict"])
    figures = evaluate(config, whole, data_root=world, work_dir=tmp_path / "tested", device="cpu")
    assert "novel/ap50" in figures


def test_logits_of_codes_have_full_precision_under_autocast(hyper_vild, episode, monkeypatch):
    detector, seen = hyper_vild(), []
    forward = EpisodeLoss.forward
    monkeypatch.setattr(EpisodeLoss, "forward", lambda self, *args: seen.append(args[0].dtype) or forward(self, *args))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses(detector, episode())
    assert seen == [torch.float32]  # as the classifier's, beside which they stand


def test_features_that_were_kept_on_the_cpu_follow_the_detector(hyper_vild, episode, monkeypatch):
    detector, seen = hyper_vild(), []
    features, class_of_S = supports_of(detector, episode())
    detector.set_class_head(ClassHead(NAMES, make_head().weights, stats={"clip": "sha256:x"}))
    detector.to("meta")  # stands for a GPU: what is computed there has no values, so they are made up
    monkeypatch.setattr(type(detector), "_embed", lambda self, own: seen.append(own.device.type) or own)
    monkeypatch.setattr(ResidualCodes, "digest", lambda self: "")
    monkeypatch.setattr(ResidualCodes, "forward", lambda self, *args: Codes(torch.ones(1, WIDTH)))
    detector.code_head(features, class_of_S, ("x", "y"))
    assert seen == ["meta", "meta"]
