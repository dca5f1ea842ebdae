"""OADP's block and global heads: losses as in their formulas, labels of blocks, a detector that trains with them."""

import math

import pytest
import torch
import torch.nn.functional as F
from detector_steps import detect, losses, step, test_batch, with_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.structures import InstanceData
from small_vocabulary import NAMES, SPLIT, WIDTH, make_head

from ovd.errors import UserError
from ovd.models.oadp import AsymmetricLoss, ImageDistillationLoss, MultiLabelClassifier, RelationDistillationLoss
from ovd.models.oadp.multi_label import labels_of_blocks
from ovd.stores.class_heads import ClassHead

BASE = "oadp_mask_rcnn_r50_fpn"
LOSSES = ("loss_block_distill", "loss_block_relation", "loss_block_cls", "loss_global_distill", "loss_global_cls")


def unit_rows(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 7), classes=st.integers(1, 5), seed=st.integers(0, 999), clip=st.sampled_from([0.0, 0.05]),
       gamma_pos=st.sampled_from([0.0, 1.0]))
def test_the_asymmetric_loss_is_its_formula(count, classes, seed, clip, gamma_pos):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * 4
    labels = torch.rand(count, classes, generator=generator) < 0.4
    total = 0.0
    for z, y in zip(logits.flatten().tolist(), labels.flatten().tolist()):
        p = 1 / (1 + math.exp(-z))
        q = max(p - clip, 0)
        total += -((1 - p) ** gamma_pos) * math.log(p) if y else -(q ** 4) * math.log(1 - q)
    loss = AsymmetricLoss(weight=3.0, gamma_neg=4.0, gamma_pos=gamma_pos, clip=clip)(logits, labels)
    assert math.isclose(float(loss), 3 * total / logits.numel(), rel_tol=1e-4, abs_tol=1e-7)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_the_asymmetric_loss_bears_certain_logits(clip):
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    loss = AsymmetricLoss(clip=clip)(logits, torch.tensor([[True, False, False, True]]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_relations_are_compared_pair_by_pair():
    student, teacher = unit_rows(5, 0), unit_rows(5, 1)
    pairs = [(float(student[i] @ student[j]) - float(teacher[i] @ teacher[j])) ** 2 for i in range(5) for j in range(5)]
    loss = RelationDistillationLoss(weight=8.0, warmup=0)(student, teacher.half())
    assert math.isclose(float(loss), 8 * sum(pairs) / 25, rel_tol=1e-2)
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2)))[0]
    assert float(RelationDistillationLoss()(student, student @ turned)) < 1e-9


def test_images_are_compared_by_the_sum_over_entries():
    student, teacher = unit_rows(3, 0), unit_rows(3, 1)
    distances = [sum((a - b) ** 2 for a, b in zip(s, t)) for s, t in zip(student.tolist(), teacher.tolist())]
    loss = ImageDistillationLoss(weight=0.5, warmup=0)(student, teacher)
    assert math.isclose(float(loss), 0.5 * sum(distances) / 3, rel_tol=1e-5)


@pytest.mark.parametrize("kind", [RelationDistillationLoss, ImageDistillationLoss])
def test_weights_rise_linearly_and_the_count_is_saved(kind):
    loss = kind(weight=2.0, warmup=4)
    student, teacher = unit_rows(3, 0), unit_rows(3, 1)
    full = float(kind(weight=2.0, warmup=0)(student, teacher))
    factors = [float(loss(student, teacher)) / full for _ in range(6)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    resumed = kind(weight=2.0, warmup=4)
    resumed.load_state_dict(kind(weight=2.0, warmup=4).state_dict() | {"iterations": torch.tensor(1)})
    assert float(resumed(student, teacher)) / full == pytest.approx(0.5)
    resumed.eval()
    assert [float(resumed(student, teacher)) / full for _ in range(2)] == pytest.approx([0.75, 0.75])


@settings(max_examples=30, deadline=None)
@given(blocks=st.integers(0, 6), boxes=st.integers(0, 6), seed=st.integers(0, 9999))
def test_a_block_has_the_classes_of_all_boxes_that_overlap_it(blocks, boxes, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        corners = torch.randint(0, 20, (count, 2), generator=generator)
        return torch.cat([corners, corners + torch.randint(1, 9, (count, 2), generator=generator)], 1).float()

    blocks_R4, boxes_G4 = draw(blocks), draw(boxes)
    labels_G = torch.randint(0, 4, (boxes,), generator=generator)
    found = labels_of_blocks(blocks_R4, boxes_G4, labels_G, 4)
    for row, block in zip(found, blocks_R4.tolist()):
        expected = {int(label) for label, box in zip(labels_G, boxes_G4.tolist())
                    if min(block[2], box[2]) > max(block[0], box[0]) and min(block[3], box[3]) > max(block[1], box[1])}
        assert set(row.nonzero()[:, 0].tolist()) == expected
    assert found.shape == (blocks, 4) and found.dtype == torch.bool


def test_the_multi_label_classifier_asks_for_base_classes_only():
    classifier = MultiLabelClassifier(make_head(), SPLIT, scaler=7.0, bias=2.0)
    rows = unit_rows(3, 0)
    expected = 7 * rows @ F.normalize(make_head().weights[:4, 0], dim=-1).T - 2
    torch.testing.assert_close(classifier(rows), expected)
    assert classifier.state_dict() == {}


def test_scaler_and_bias_come_from_a_head_that_has_them():
    head = make_head()
    prompts = ClassHead(names=NAMES, weights=head.weights, scale=20.0, bias=torch.full((len(NAMES),), -4.0))
    assert (lambda c: (c.scaler, c.bias))(MultiLabelClassifier(prompts, SPLIT)) == (20.0, 4.0)
    assert (lambda c: (c.scaler, c.bias))(MultiLabelClassifier(prompts, SPLIT, scaler=3.0)) == (3.0, 4.0)
    assert (lambda c: (c.scaler, c.bias))(MultiLabelClassifier(head, SPLIT)) == (100.0, 25.0)


@pytest.fixture
def oadp(build):
    def adapt(config):
        config.roi_head.block_head.update(in_channels=16, fc_out_channels=32)
        config.roi_head.global_head.update(in_channels=16)

    return lambda: build("ensemble", base=BASE, adapt=adapt)


@pytest.fixture
def pyramid(batch):
    """Function that returns a batch with blocks (so many an image) and image embeddings."""

    def make(blocks=(4, 2)) -> dict:
        data = batch()
        for number, (sample, count) in enumerate(zip(data["data_samples"], blocks)):
            boxes = torch.tensor([[0.0, 0, 96, 96], [0, 0, 64, 64], [32, 32, 96, 96], [60, 60, 124, 96]])[:count]
            sample.blocks = InstanceData(bboxes=boxes, embeddings=unit_rows(4, number)[:count].half())
            sample.image_embedding = unit_rows(1, 10 + number)[0].half()
        return data

    return make


def test_a_step_has_the_losses_of_all_three_levels_and_trains_all_parts(oadp, pyramid):
    detector = oadp()
    found = step(detector, pyramid())
    assert {"loss_cls", "loss_distill", *LOSSES} <= set(found)
    assert all(found[name] > 0 for name in LOSSES)
    trained = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    assert trained <= with_gradient(detector)


def test_losses_of_blocks_are_those_of_the_head_alone(oadp, pyramid):
    detector, data = oadp(), pyramid()
    found = losses(detector, data)
    head, prepared = detector.roi_head, detector.data_preprocessor(data, True)
    x = detector.extract_feat(prepared["inputs"])
    rois = torch.cat([F.pad(sample.blocks.bboxes, (1, 0), value=number)
                      for number, sample in enumerate(prepared["data_samples"])])
    student = head.block_head(head.bbox_roi_extractor(x[:4], rois))
    teacher = torch.cat([sample.blocks.embeddings for sample in prepared["data_samples"]]).float()
    first = 0.25 / 200  # the first iteration of the warm-up
    distance = (student - teacher).abs().sum() / len(teacher)
    assert float(found["loss_block_distill"]) == pytest.approx(first * distance.item(), rel=1e-4)
    pooled = F.normalize(head.global_head.projection(x[-1].mean(dim=(2, 3))), dim=-1)
    teacher = torch.stack([sample.image_embedding for sample in prepared["data_samples"]]).float()
    expected = (pooled - teacher).square().sum() / 2 / 200
    assert float(found["loss_global_distill"]) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("blocks", [(0, 3), (0, 0)])
def test_images_without_blocks_leave_the_graph_as_it_is(oadp, pyramid, blocks):
    detector = oadp()
    found = step(detector, pyramid(blocks))
    assert all(math.isfinite(value) for value in found.values())
    assert (found["loss_block_distill"] == 0) == (sum(blocks) == 0)
    assert {name for name, _ in detector.named_parameters() if "block_head" in name} <= with_gradient(detector)


def test_half_precision_leaves_the_losses_in_full(oadp, pyramid):
    expected = step(oadp(), pyramid())
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(oadp(), pyramid())
    for name in LOSSES:
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(expected[name], rel=0.1)


def test_an_image_without_objects_has_no_classes(oadp, pyramid):
    detector, data = oadp(), pyramid()
    for sample in data["data_samples"]:
        sample.gt_instances = sample.gt_instances[:0]
    assert all(math.isfinite(value) for value in step(detector, data).values())


def test_at_test_the_pyramid_is_not_used(oadp, build, batch):
    detector = oadp()
    plain = build("ensemble", base="vild_ensemble_mask_rcnn_r50_fpn")
    plain.load_state_dict({name: value for name, value in detector.state_dict().items()
                           if "block_head" not in name and "global_head" not in name})
    for found, expected in zip(detect(detector, test_batch(batch)), detect(plain, test_batch(batch))):
        assert torch.equal(found.pred_instances.scores, expected.pred_instances.scores)
        assert torch.equal(found.pred_instances.bboxes, expected.pred_instances.bboxes)


@pytest.mark.parametrize(("key", "store"), [("blocks", "block_store"), ("image_embedding", "global_store")])
def test_data_without_a_level_are_refused(oadp, pyramid, key, store):
    data = pyramid()
    for sample in data["data_samples"]:
        delattr(sample, key)
    with pytest.raises(UserError, match=f"set the dataset's {store}"):
        losses(oadp(), data)
