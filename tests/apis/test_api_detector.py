"""Vocabularies, sessions, threads, batches: what a detector promises, on the demo model and scenes new to it."""

import threading
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from ovd.apis.loading import DEMO_FILE
from ovd.apis.model_file import ModelFile
from ovd.clip.text import class_embeddings
from ovd.clip.towers import load_clip
from ovd.errors import UserError
from ovd.stores.class_registry import ClassRegistry
from ovd.vocabulary.prompts import get_style

CROWN = "striped green crown"  # novel: the demo model saw no box of it


def same(a, b) -> bool:
    """Whether two results are the same, to the bit."""
    return (a.names == b.names and a.rles == b.rles and np.array_equal(a.boxes, b.boxes)
            and np.array_equal(a.scores, b.scores))


def iou(a, b) -> float:
    x, y = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0, x) * max(0, y)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def of_class(scenes, name, places):
    """(image, box) of the objects of a class in some scenes."""
    return [(scenes[place][0], one.box) for place in places for one in scenes[place][1] if one.category.name == name]


def test_the_demo_model_finds_base_and_novel_classes_at_their_places(detector, scenes):
    pixels, objects = scenes[10]
    found = detector.detect(pixels, threshold=0.5).one_per_object()
    assert sorted(found.names) == sorted(one.category.name for one in objects)
    for one in objects:
        match = found[found.names.index(one.category.name)]
        assert iou(match.box, one.box) > 0.7
    crown = found.names.index(CROWN)
    truth = next(one.mask for one in objects if one.category.name == CROWN)
    assert (found.masks()[crown] & truth).sum() / (found.masks()[crown] | truth).sum() > 0.7


def test_its_own_classes_are_detected_as_a_test_run_does(detector, scenes):
    file = ModelFile.load(DEMO_FILE)
    model = file.build(DEMO_FILE)
    model.set_class_head(file.head)
    model.roi_head.test_cfg["diagnostics"] = False
    prepared, _ = detector._looker.prepare(scenes[3][0])
    inputs, samples = detector._looker.collate([prepared])
    with torch.inference_mode():
        expected = model.predict(inputs, samples)[0].pred_instances
    found = detector.detect(scenes[3][0], threshold=0.05)
    expected = expected[expected.scores >= 0.05]
    assert len(found) == len(expected) > 5
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.boxes, expected.bboxes.numpy(), atol=1e-3)
    assert [detector.names[label] for label in found.labels] == [model.class_names[i] for i in expected.labels]


def test_a_vocabulary_is_what_is_detected_and_nothing_else(detector, scenes):
    detector.set_vocabulary([CROWN, "plain blue ring"])
    assert detector.names == (CROWN, "plain blue ring")
    assert sorted(detector.detect(scenes[10][0], threshold=0.5).names) == sorted(detector.names)
    detector.reset_vocabulary()
    assert detector.names == detector.own_names and len(detector.own_names) == 102


def test_words_become_the_rows_that_the_text_tower_gives(detector):
    names = ["small green crown", "a blue ring"]
    detector.set_vocabulary([*names, "plain blue ring"], rivals=None)
    clip = load_clip("shapes")
    head = detector._vocabulary.chosen
    assert head.names == (*names, "plain blue ring") and head.stats["clip"] == clip.fingerprint
    expected = class_embeddings(clip, ["small green crown", "blue ring"], get_style("vild")).weights
    assert torch.equal(head.weights[:2], expected)
    own = detector._parts.own.select(["plain blue ring"])
    assert torch.equal(head.weights[2:], own.weights)


def test_rivals_compete_and_are_not_reported(detector, scenes):
    evidence = detector.look([pixels for pixels, _ in scenes], masks=False)
    present = [one.category.name for _, objects in scenes for one in objects]
    counts, names = [], sorted(set(present))[::4]
    for rivals in (None, ["plain red star", "dotted red diamond", "striped blue tee"], "own"):
        count = 0
        for name in names:
            detector.set_vocabulary([name], rivals)
            found = detector.name(evidence, threshold=0.3)
            assert {name for one in found for name in one.names} <= {name} == set(detector.names)
            count += sum(map(len, found))
        counts.append(count)
    truth = sum(name in names for name in present)
    assert truth <= counts[2] < 0.8 * counts[0] and counts[2] < counts[1] < counts[0], counts


@pytest.mark.parametrize("start", ["own", ["dotted red arrow", CROWN], ["plain red triangle"]])
def test_added_classes_leave_the_others_as_they_are_to_the_bit(detector, scenes, start):
    if start != "own":
        detector.set_vocabulary(start)
    images = [scenes[10][0], scenes[9][0]]
    before = detector.detect(images, threshold=0.05)
    detector.add_class("wiggly thing")
    detector.add_class("gizmo", boxes=of_class(scenes, "plain blue ring", [10]))
    if start != "own":
        detector.add_class("dotted blue heart", text=False, boxes=of_class(scenes, "dotted blue heart", [10]))
        assert "dotted blue heart" in detector.detect(images[0], threshold=0.5).names  # though a rival has that name
    after = detector.detect(images, threshold=0.05)
    assert sum(map(len, after)) > sum(map(len, before)) > 0
    for one, other in zip(before, after):
        assert same(one, other[np.isin(other.labels, np.arange(len(detector.names) - len(detector.added)))])
    for name in detector.added:
        detector.remove_class(name)
    assert all(map(same, before, detector.detect(images, threshold=0.05)))


def test_a_class_of_boxes_is_found_elsewhere_whatever_it_is_called(detector, scenes):
    examples = of_class(scenes, CROWN, [8])
    target = of_class(scenes, CROWN, [10])[0][1]
    for name, text in (("gizmo", False), ("blonavik", None), ("plain blue ring", None)):
        detector.set_vocabulary([])
        detector.add_class(name, text=text, boxes=examples)
        found = detector.detect(scenes[10][0], threshold=0.3)
        assert found.names and iou(found[0].box, target) > 0.7, name
    by_words = detector.session()
    by_words.set_vocabulary([])
    by_words.add_class("gizmo", text="striped green crown")
    assert iou(by_words.detect(scenes[10][0])[0].box, target) > 0.7


def test_boxes_of_what_the_model_knows_by_another_name_do_not_compete_with_it(detector, scenes):
    trained = set(detector._parts.trained.names)
    there = Counter(one.category.name for _, objects in scenes for one in objects if one.category.name in trained)
    for name, _ in there.most_common(5):
        examples, scores = of_class(scenes, name, range(len(scenes)))[:3], {"own": [], None: []}
        for rivals, mine in scores.items():
            detector.set_vocabulary([], rivals=rivals)
            detector.add_class("gadget", text=False, boxes=examples)
            for image, box in examples:
                found = detector.detect(image, threshold=0.05, masks=False)
                mine.append(max((one.score for one in found if iou(box, one.box) > 0.5), default=0))
        np.testing.assert_allclose(scores["own"], scores[None], atol=0.1, err_msg=name)


def test_boxes_keep_their_images_whatever_their_order(detector, scenes):
    (image, crown), = of_class(scenes, CROWN, [8])
    (other, ring), = of_class(scenes, "plain blue ring", [10])
    (_, heart), = of_class(scenes, "dotted blue heart", [10])
    detector.set_vocabulary([])
    for name, boxes in (("mixed", [(other, ring), (image, crown), (other, heart)]),
                        ("sorted", [(image, crown), (other, ring), (other, heart)])):
        detector.add_class(name, text=False, boxes=boxes, method="tip")
    mixed, in_order = (detector._vocabulary.added.select([name]).weights for name in ("mixed", "sorted"))
    np.testing.assert_allclose(mixed[0, [1, 0, 2]], in_order[0], atol=1e-6)


def test_ways_that_nothing_was_learned_of_are_said(detector, scenes):
    boxes = of_class(scenes, CROWN, [8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.add_class("one", boxes=boxes)
    with pytest.warns(UserWarning, match="nothing was learned of how matching"):
        detector.add_class("two", boxes=boxes, method="matching", text=False)


def test_naming_again_needs_no_other_look(detector, scenes, monkeypatch):
    images = [pixels for pixels, _ in scenes[:3]]
    evidence = detector.look(images)
    expected = detector.detect(images, threshold=0.5)
    monkeypatch.setattr(detector._parts.model.backbone, "forward", None)
    assert all(map(same, expected, detector.name(evidence, threshold=0.5)))
    low = detector.name(evidence, threshold=0.05)
    assert all(same(one, other.above(0.5)) for one, other in zip(expected, low))
    other = detector.session()
    other.set_vocabulary(["plain blue ring"])
    assert {name for found in other.name(evidence) for name in found.names} <= {"plain blue ring"}


def test_ten_threads_with_vocabularies_of_their_own_find_what_each_finds_alone(loaded, scenes):
    images = [pixels for pixels, _ in scenes[:4]]
    names = [one.category.name for _, objects in scenes for one in objects][:10]

    def work(place: int, results: dict) -> None:
        session = loaded.session()
        for turn in range(2):
            session.set_vocabulary([names[place], f"thing number {place}"])
            session.add_class("gadget", text=False, boxes=[(images[place % 4], (20, 20, 90 + 5 * place, 90))])
            results[place, turn] = session.detect(images, threshold=1e-4)

    alone, together = {}, {}
    for place in range(10):
        work(place, alone)
    threads = [threading.Thread(target=work, args=(place, together)) for place in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together.keys() == alone.keys() and sum(len(one) for found in alone.values() for one in found) > 50
    assert all(same(a, b) for key in alone for a, b in zip(alone[key], together[key]))


def test_sessions_share_weights_and_nothing_else(loaded):
    one, other = loaded.session(), loaded.session()
    one.set_vocabulary(["zebra"])
    assert other.names == loaded.names != one.names
    ours, theirs = (dict(session._model.named_parameters()) for session in (one, loaded))
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    assert one.session().names == ("zebra",)


def test_images_in_a_batch_are_detected_as_alone(detector, scenes):
    """Boxes within 0.01 pixels and scores within 1e-4; masks within a handful of pixels at their edges."""
    images = []
    for index, (width, height) in enumerate(((192, 192), (300, 200), (192, 192), (150, 400), (640, 480), (300, 200))):
        images.append(np.asarray(Image.fromarray(scenes[index][0]).resize((width, height))))
    together = detector.detect(images, threshold=0.3, batch_size=6)
    assert sum(map(len, together)) > 10
    for image, found in zip(images, together):
        alone = detector.detect(image, threshold=0.3)
        assert alone.names == found.names and found.image_size == image.shape[:2]
        np.testing.assert_allclose(alone.boxes, found.boxes, atol=0.01)
        np.testing.assert_allclose(alone.scores, found.scores, atol=1e-4)
        for a, b in zip(alone.masks(), found.masks()):
            assert (a != b).sum() <= 0.001 * a.size


def test_large_photos_go_through_one_by_one(detector):
    small, large = {"inputs": torch.zeros(3, 192, 192)}, {"inputs": torch.zeros(3, 192, 180)}
    sizes = [(3000, 4000), (192, 192), (3000, 4000), (3000, 2800), (192, 192), (100, 90), (192, 192)]
    groups = detector._looker.groups([small, small, small, large, small, {"inputs": torch.zeros(3, 192, 100)}, small],
                                     sizes, batch_size=3)
    assert groups == [[0, 1], [2], [3, 4, 6], [5]]


def test_boxes_are_in_pixels_of_the_image_as_it_is(detector, scenes):
    large = np.asarray(Image.fromarray(scenes[10][0]).resize((576, 576), Image.Resampling.BICUBIC))
    detector.set_vocabulary([CROWN])
    found, truth = detector.detect(large), of_class(scenes, CROWN, [10])[0][1]
    assert iou(found[0].box, 3 * np.array(truth)) > 0.7 and found.masks().shape == (len(found), 576, 576)


def test_colours_stay_with_their_classes(detector):
    detector.set_vocabulary(["zebra", "horse"])
    before = dict(detector.palette)
    detector.set_vocabulary(["cow", "horse"])
    detector.add_class("zebra")
    assert {name: detector.palette[name] for name in before} == before
    assert len(set(detector.palette.values())) == 3


def test_nothing_to_detect_and_nothing_to_look_at(detector, scenes):
    detector.set_vocabulary([])
    assert len(detector.detect(scenes[0][0], threshold=0)) == 0 and detector.names == ()
    assert detector.detect([]) == []
    blank = np.zeros((64, 64, 3), np.uint8)
    detector.reset_vocabulary()
    found = detector.detect(blank, threshold=1.0)
    assert len(found) == 0 and found.masks().shape == (0, 64, 64)


def test_vocabularies_come_from_heads_files_and_registries(detector, scenes, tmp_path):
    head = detector._parts.own.select([CROWN, "plain blue ring"])
    head.save(tmp_path / "head.safetensors")
    ClassRegistry(tmp_path / "classes").add(head)
    expected = None
    for given in (head, tmp_path / "head.safetensors", str(tmp_path / "classes"), [CROWN, "plain blue ring"]):
        detector.set_vocabulary(given)
        found = detector.detect(scenes[10][0])
        expected = expected or found
        assert detector.names == (CROWN, "plain blue ring") and found.names == expected.names
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_fewer_detections_are_the_best_ones(detector, scenes):
    every = detector.detect(scenes[9][0], threshold=0.01, masks=False)
    few = detector.detect(scenes[9][0], threshold=0.01, masks=False, max_per_image=3)
    assert len(few) == 3 and few.rles is None and same(few, every[:3])


def test_what_is_wrong_is_said_in_one_line_and_changes_nothing(detector, scenes, tmp_path):
    image = scenes[0][0]
    detector.set_vocabulary(["zebra"])
    wrong = [
        ("one name", lambda: detector.set_vocabulary(["traffic light", "Traffic_Light"])),
        ("twice", lambda: detector.set_vocabulary(["cow", "cow"])),
        ("as a list", lambda: detector.set_vocabulary("cow")),
        ("rivals 'base'", lambda: detector.set_vocabulary(["cow"], rivals="base")),
        ("there is a class 'zebra' already", lambda: detector.add_class("Zebra")),
        ("did you mean zebra", lambda: detector.remove_class("zebro")),
        ("neither is given", lambda: detector.add_class("cow", text=False)),
        ("boxes is empty", lambda: detector.add_class("cow", boxes=[])),
        ("unknown rule 'mean'", lambda: detector.add_class("cow", boxes=[(image, (0, 0, 9, 9))], rule="mean")),
        ("prototype", lambda: detector.add_class("cow", boxes=[(image, (0, 0, 9, 9))], method="prototip")),
        ("outside its image of 192 x 192", lambda: detector.add_class("cow", boxes=[(image, (0, 0, 300, 9))])),
        ("x1 < x2", lambda: detector.add_class("cow", boxes=[(image, (20, 0, 10, 9))])),
        ("box 1 of 'cow'", lambda: detector.add_class("cow", boxes=[image])),
        ("scores go from 0 to 1", lambda: detector.detect(image, threshold=30)),
        ("a batch of 0", lambda: detector.detect(image, batch_size=0)),
        ("at most -1 detections", lambda: detector.detect(image, max_per_image=-1)),
        ("the words for 'cow' are []", lambda: detector.add_class("cow", text=[])),
        ("none of them empty", lambda: detector.add_class("cow", text=["cow", " "])),
        ("nothing.png: no such image", lambda: detector.detect(tmp_path / "nothing.png")),
    ]
    for said, mistake in wrong:
        with pytest.raises(UserError) as error:
            mistake()
        assert said in str(error.value) and "\n" not in str(error.value), said
        assert detector.names == ("zebra",), said
