"""A frozen CLIP's opinion in a detector: which images it sees, what it says of boxes, how the score is fused."""

from dataclasses import replace

import pytest
import torch
from detector_steps import detect, diagnose, test_batch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from open_clip.model import CLIP
from small_vocabulary import NAMES, WIDTH, make_head
from torch.nn import functional as F

from ovd.clip.dense import DenseEncoder, normalised
from ovd.clip.tokenizer import used_bpe_ids
from ovd.clip.towers import load_clip, save_described
from ovd.errors import UserError
from ovd.models.dense_clip import DenseClipScore, rgb_images

CONFIG = {"embed_dim": WIDTH, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32},
          "text_cfg": {"context_length": 12, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}}
ROIS = torch.tensor([[0.0, 5, 5, 60, 60], [1, 20, 10, 90, 70], [0, 30, 30, 50, 80], [1, 0, 0, 120, 96]])


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    ids = used_bpe_ids(["a photo of a red star."])[:7]
    save_described(path, CLIP(**CONFIG), CONFIG, ids, {})
    return str(path)


@pytest.fixture(scope="module")
def clip(clip_file):
    return load_clip(clip_file)


def head_of(clip, names=NAMES, stats=None, **changes):
    return replace(make_head(names), scale=20.0, stats={"clip": clip.fingerprint, **(stats or {})}, **changes)


def images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 256, (3, *size), generator=generator).float() for size in sizes]


def test_probabilities_are_a_softmax_of_cosines_over_the_temperature(clip_file, clip):
    pictures = images((96, 128), (96, 128))
    head = head_of(clip)
    score = DenseClipScore(clip_file, scales=(1.0,))
    embeddings = F.normalize(DenseEncoder(clip)(torch.stack(pictures), ROIS), dim=1)
    cosines = embeddings @ head.weights[:, 0].T
    torch.testing.assert_close(score.probabilities(pictures, ROIS, head), (20 * cosines).softmax(1))
    score = DenseClipScore(clip_file, scales=(1.0,), temperature=0.5)
    torch.testing.assert_close(score.probabilities(pictures, ROIS, head), (cosines / 0.5).softmax(1))


def test_a_sigmoid_clip_judges_each_class_by_itself(clip_file, clip):
    pictures = images((96, 128), (96, 128))
    head = head_of(clip, stats={"scores": "sigmoid"}, bias=[-3.0] * len(NAMES))
    cosines = F.normalize(DenseEncoder(clip)(torch.stack(pictures), ROIS), dim=1) @ head.weights[:, 0].T
    found = DenseClipScore(clip_file, scales=(1.0,)).probabilities(pictures, ROIS, head)
    torch.testing.assert_close(found, 1 / (1 + torch.exp(3 - 20 * cosines)))
    with pytest.raises(UserError, match="leave the temperature out"):
        DenseClipScore(clip_file, temperature=0.01).head_for(head)


def test_images_of_different_sizes_are_scored_as_they_are_alone(clip_file, clip):
    pictures = images((64, 96), (96, 128), (64, 96))
    rois = torch.tensor([[2.0, 4, 4, 40, 40], [0, 3, 9, 50, 60], [1, 20, 10, 90, 70], [2, 0, 0, 96, 64]])
    score = DenseClipScore(clip_file)
    together = score.probabilities(pictures, rois, head_of(clip))
    for row, roi in zip(together, rois):
        alone = score.probabilities([pictures[int(roi[0])]], torch.cat([torch.zeros(1), roi[1:]])[None], head_of(clip))
        torch.testing.assert_close(row, alone[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bgr_to_rgb", [True, False])
def test_the_detectors_normalisation_and_padding_are_undone(bgr_to_rgb):
    """The mean and standard deviation are in the order of the channels after the conversion."""
    loaded = [image.byte() for image in images((30, 40), (24, 50))]  # BGR, as mmcv loads them
    preprocessor = DetDataPreprocessor(mean=[123.7, 116.3, 103.5], std=[58.4, 1.0, 57.4], bgr_to_rgb=bgr_to_rgb,
                                       pad_size_divisor=32)
    samples = [DetDataSample(metainfo={"img_shape": tuple(image.shape[1:])}) for image in loaded]
    data = preprocessor({"inputs": loaded, "data_samples": samples}, False)
    assert data["inputs"].shape == (2, 3, 32, 64)
    for image, found in zip(loaded, rgb_images(preprocessor, data["inputs"], data["data_samples"]), strict=True):
        torch.testing.assert_close(found, image.flip(0).float(), rtol=0, atol=1e-4)


def test_an_image_box_through_the_detectors_preprocessing_has_clips_own_embedding(clip_file, clip):
    preprocessor = DetDataPreprocessor(mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4], bgr_to_rgb=True,
                                       pad_size_divisor=64)
    loaded = images((32, 32))[0].byte()
    sample = DetDataSample(metainfo={"img_shape": (32, 32)})
    data = preprocessor({"inputs": [loaded], "data_samples": [sample]}, False)
    expected = clip.encode_image(normalised(loaded.flip(0)[None].float(), clip))
    found = DenseEncoder(clip)(torch.stack(rgb_images(preprocessor, data["inputs"], data["data_samples"])),
                               torch.tensor([[0.0, 0, 0, 32, 32]]))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_its_own_class_head_serves_where_the_detector_has_another_clips(clip_file, clip, tmp_path):
    own = head_of(clip, ("x", *reversed(NAMES)))
    own.save(tmp_path / "own.safetensors")
    score = DenseClipScore(clip_file, class_embeddings="own.safetensors", data_root=str(tmp_path))
    pictures, detectors = images((96, 128), (96, 128)), make_head()
    expected = DenseClipScore(clip_file).probabilities(pictures, ROIS, own.select(NAMES))
    torch.testing.assert_close(score.probabilities(pictures, ROIS, detectors), expected)
    with pytest.raises(UserError, match="no class 'y'"):
        score.head_for(make_head(("y",)))


def with_dense_clip(clip_file, head, **rcnn):
    def adapt(config):
        config.dense_clip = {"type": "DenseClipScore", "pretrained": clip_file}
        config.roi_head.bbox_head.classifier.class_head = head
        config.test_cfg.rcnn.update(score_thr=0.0, max_per_img=3000, **rcnn)
        diagnose(config)
    return adapt


def test_it_adds_nothing_to_the_detectors_weights_or_its_random_draws(build, clip_file, clip):
    plain = build("both").state_dict()
    dense = build("both", adapt=with_dense_clip(clip_file, head_of(clip))).state_dict()
    assert plain.keys() == dense.keys()
    assert all(torch.equal(plain[name], dense[name]) for name in plain)


def test_detections_are_scored_by_both(build, batch, clip_file, clip):
    """p_det^(1-a) p_clip^a, with a = alpha for base classes (the first four) and beta for the others."""
    head = head_of(clip)
    detector = build("both", temperature_test=0.2,
                     adapt=with_dense_clip(clip_file, head, rescore_alpha=0.25, rescore_beta=0.8))
    data = test_batch(batch)
    detector.eval()
    with torch.no_grad():
        prepared = detector.data_preprocessor(test_batch(batch), False)
        features = detector.extract_feat(prepared["inputs"])
        rescore = detector.rescorer(prepared["inputs"], prepared["data_samples"])
        fused, _ = detector.roi_head.region_probabilities(features, ROIS, prepared["data_samples"], rescore)
        alone, _ = detector.roi_head.region_probabilities(features, ROIS, prepared["data_samples"])
    pictures = [image.flip(0).float() for image in data["inputs"]]
    opinion = DenseClipScore(clip_file).probabilities(pictures, ROIS, head)
    weight = torch.tensor([0.25] * 4 + [0.8] * 2)
    torch.testing.assert_close(fused, alone ** (1 - weight) * opinion ** weight, rtol=1e-3, atol=1e-6)
    found = detect(detector, data)
    assert sum(len(sample.pred_instances) for sample in found) > 0
    assert all(len(sample.gt_pred_labels) == 3 for sample in found)


def test_a_class_head_of_another_clip_is_refused_when_the_detector_is_built(build, clip_file, clip):
    with pytest.raises(UserError, match="made with another CLIP"):
        build("both", adapt=with_dense_clip(clip_file, make_head()))
    detector = build("both", adapt=with_dense_clip(clip_file, head_of(clip)))
    with pytest.raises(UserError, match="made with another CLIP"):
        detector.set_class_head(make_head(("new",)))
    assert detector.class_names == NAMES  # it still detects what it did


def test_with_independent_scores_what_is_added_changes_no_base_detection(build, batch, clip_file, clip):
    detector = build("both", temperature_test=0.2,
                     adapt=with_dense_clip(clip_file, head_of(clip), scores="independent"))
    results = []
    for added in ((), NAMES[4:], tuple(f"made up {number}" for number in range(70))):
        detector.set_class_head(head_of(clip, (*NAMES[:4], *added)))
        results.append([sample.pred_instances for sample in detect(detector, test_batch(batch))])
    alone = results.pop(0)
    for found in results:
        for before, after in zip(alone, found):
            base = after[after.labels < 4]
            assert len(base) and all(torch.equal(base[key], before[key]) for key in ("bboxes", "scores", "labels"))
            assert (after.labels >= 4).any()
