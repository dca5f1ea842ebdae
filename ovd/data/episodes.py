"""Episodes: few-shot tasks over the base classes, one an item, for training what must serve any class.

An episode has n classes; of each, q *query* images to detect the class in and k *support* images with one box each,
from which the class is to be made (Sylph, sec. 3.2; episodes are sampled class by class). A config::

    train_dataloader = dict(
        batch_size=1, collate_fn=dict(type="one_episode"), sampler=dict(type=InfiniteSampler, shuffle=True),
        dataset=dict(type=EpisodeDataset, n_way=3, k_shot=5, n_query=1, dataset=dict(type=OpenVocabDataset, ...)))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from mmdet.registry import DATASETS
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS
from torch.utils.data import Dataset

from ovd.data.dataset import OpenVocabDataset
from ovd.errors import UserError, nearest

ATTEMPTS = 10  # at an augmentation that cuts every box away, before another image is taken


@dataclass(frozen=True)
class Episode:
    """Which images and boxes an episode has.

    Attributes:
        classes: Labels in the split, one a class of the episode.
        queries: ``(class of the episode, image)``, where an image is an index into the dataset.
        supports: ``(class of the episode, image, instance)``, where an instance is an index into the image's.
    """

    classes: tuple[int, ...]
    queries: tuple[tuple[int, int], ...]
    supports: tuple[tuple[int, int, int], ...]


@DATASETS.register_module()
class EpisodeDataset(Dataset):
    """A dataset whose item ``i`` is an episode with the class ``anchors[i]`` and n - 1 others.

    An item is ``{"inputs": [...], "data_samples": [...]}`` with first the n q queries, then the supports, class by
    class. Samples have the metainfo ``role`` (``"query"`` or ``"support"``), ``episode_classes`` (names),
    ``episode_labels`` (labels in the split) and ``others`` (below). A support has exactly one box; its label, and that
    of a query's boxes, is the class' index in the episode. Boxes of other classes on queries are left out, so they
    count as background, or (``others="keep"``) have the label n + label in the split.

    Which images and boxes are drawn depends on numpy's global generator only, which :class:`ReplayableDataset
    <ovd.engine.sampling.ReplayableDataset>` seeds by seed and position: a run that is resumed, or has more workers,
    sees the same episodes.

    An image is used once in an episode where the classes have enough of them. Where a class has fewer than k + q, its
    queries stay apart from its supports as long as there are two images, and images are drawn with replacement (another
    box of theirs, perhaps); the log says once which classes these are.

    Args:
        dataset: The images: an :class:`~ovd.data.dataset.OpenVocabDataset` or its config.
        n_way, k_shot, n_query: As above; ``k_shot`` may be a pair (lowest, highest), drawn evenly per episode.
        classes: Names of the classes that episodes are about; default: the split's base classes.
        held_out: Every ``held_out``-th of these classes is kept for choosing settings; 0 for none.
        part: ``"train"`` for the classes that are not held out, ``"held_out"`` for those that are.
        support_pipeline: The supports' pipeline; default: the dataset's.
        min_support_size: Support boxes have at least so many pixels on their shorter side, in the original image, where
            the class has such boxes.
        oversample_thr: t of repeat factor sampling (LVIS; Gupta et al., 2019, sec. 4.2), over classes: a class that a
            share f < t of the images has is about ``sqrt(t / f)`` times as likely; 0 for equally likely.
        others: ``"drop"`` or ``"keep"``, as above.

    Raises:
        UserError: Sizes that make no episode; an unknown class; fewer than n classes with a box.
    """

    def __init__(self, dataset: dict | OpenVocabDataset, n_way: int = 3, k_shot: int | Sequence[int] = 5,
                 n_query: int = 1, classes: Sequence[str] | None = None, held_out: int = 0, part: str = "train",
                 support_pipeline: Sequence | None = None, min_support_size: float = 0.0, oversample_thr: float = 0.0,
                 others: str = "drop") -> None:
        self.shots = (k_shot, k_shot) if isinstance(k_shot, int) else tuple(k_shot)
        if len(self.shots) != 2 or not 1 <= self.shots[0] <= self.shots[1] or min(n_way, n_query) < 1:
            raise UserError(f"episodes of n_way={n_way}, k_shot={k_shot}, n_query={n_query}: each must be 1 or more "
                            "(and k_shot a number, or a lowest and a highest)")
        if others not in ("drop", "keep") or part not in ("train", "held_out"):
            raise UserError(f"episodes: others={others!r}, part={part!r}: others is drop or keep, part is train or "
                            "held_out")
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.dataset.full_init()
        self.n_way, self.n_query, self.others = n_way, n_query, others
        self.support_pipeline = self.dataset.pipeline if support_pipeline is None else Compose(support_pipeline)
        split = self.dataset.split
        names = episode_classes(classes or split.base, held_out, part)
        if unknown := [name for name in names if name not in split]:
            raise UserError(f"episodes: {unknown[0]!r} is no class of split {split.name}"
                            f"{nearest(unknown[0], split.classes)}")
        self.boxes = _boxes_by_class(self.dataset, [split.label(name) for name in names], min_support_size)
        self.images = {label: np.unique(boxes[:, 0]) for label, boxes in self.boxes.items()}
        if len(self.boxes) < n_way:
            raise UserError(f"{self.dataset.ann_file}: {len(self.boxes)} of {len(names)} classes have a box, and an "
                            f"episode needs {n_way}: lower n_way")
        self._say_what_is_scarce(len(names))
        self.labels = np.array(sorted(self.boxes))
        share = np.array([len(self.images[label]) / len(self.dataset) for label in self.labels])
        self.repeats = np.maximum(1.0, np.sqrt(oversample_thr / share))
        self.anchors = np.repeat(self.labels, np.ceil(self.repeats - 1e-9).astype(int))

    @property
    def metainfo(self) -> dict:
        """That of the images' dataset."""
        return self.dataset.metainfo

    @property
    def ann_file(self) -> str:
        """The images' annotations."""
        return self.dataset.ann_file

    def __len__(self) -> int:
        return len(self.anchors)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng(np.random.randint(0, 2**31, size=4))  # noqa: NPY002 - seeded by the draw's number
        return self.load(self.draw(int(index), rng))

    def draw(self, index: int, rng: np.random.Generator) -> Episode:
        """An episode with class ``anchors[index]``; nothing is read but the index of boxes."""
        first = self.anchors[index]
        classes = [int(first)]
        if self.n_way > 1:
            weights = self.repeats * (self.labels != first)
            classes += rng.choice(self.labels, self.n_way - 1, replace=False, p=weights / weights.sum()).tolist()
        shots = int(rng.integers(self.shots[0], self.shots[1] + 1))
        queries, supports, used = [], [], set()
        for position, label in enumerate(classes):
            images = self.images[label]
            distinct = min(self.n_query, max(1, len(images) - 1))  # one at least is left for the supports
            queries += [(position, image) for image in _pick(rng, images, distinct, self.n_query, used)]
            used.update(image for _, image in queries)
        for position, label in enumerate(classes):
            images, boxes = self.images[label], self.boxes[label]
            own = [image for at, image in queries if at == position]
            images = images[~np.isin(images, own)] if len(images) > 1 else images
            for image in _pick(rng, images, min(shots, len(images)), shots, used):
                supports.append((position, image, int(rng.choice(boxes[boxes[:, 0] == image, 1]))))
                used.add(image)
        return Episode(tuple(classes), tuple(queries), tuple(supports))

    def load(self, episode: Episode) -> dict:
        """The images of an episode, through their pipelines.

        Raises:
            UserError: No box of an image is left after its pipeline, again and again.
        """
        names, n_way = self.dataset.split.classes, len(episode.classes)
        labels = {label: position for position, label in enumerate(episode.classes)}
        if self.others == "keep":
            labels = {**{label: n_way + label for label in range(len(names))}, **labels}
        info = {"episode_classes": tuple(names[label] for label in episode.classes), "episode_labels": episode.classes,
                "others": self.others}
        items = []
        for _, image in episode.queries:
            items.append(self._process(image, {**info, "role": "query"}, self.dataset.pipeline, lambda instances: [
                {**one, "bbox_label": labels[one["bbox_label"]]} for one in instances if one["bbox_label"] in labels]))
        for position, image, chosen in episode.supports:
            box = partial(_only, chosen=chosen, label=position)
            items.append(self._process(image, {**info, "role": "support"}, self.support_pipeline, box))
        return {key: [item[key] for item in items] for key in ("inputs", "data_samples")}

    def _process(self, image: int, info: dict, pipeline: Callable, select: Callable[[list[dict]], list[dict]]) -> dict:
        for _ in range(ATTEMPTS):
            record = self.dataset.get_data_info(image)
            record["instances"] = select(record["instances"])
            item = self.dataset.process(record, pipeline)
            if item is not None and len(item["data_samples"].gt_instances):
                item["data_samples"].set_metainfo(info)
                return item
        raise UserError(f"{record['img_path']}: its {info['role']} pipeline left no box of the episode in {ATTEMPTS} "
                        "attempts: crop less, or set support_pipeline to one without random crops")

    def _say_what_is_scarce(self, count: int) -> None:
        needed = self.shots[1] + self.n_query
        names = self.dataset.split.classes
        scarce = [names[label] for label, images in self.images.items() if len(images) < needed]
        if scarce:
            print_log(f"episodes: {len(scarce)} of {len(self.images)} classes have fewer than {needed} images (k + q); "
                      f"theirs are drawn with replacement: {', '.join(scarce[:10])}{', ...' * (len(scarce) > 10)}",
                      "current")
        if len(self.images) < count:
            print_log(f"episodes: {count - len(self.images)} of {count} classes have no box: left out", "current")


def episode_classes(names: Sequence[str], held_out: int = 0, part: str = "train") -> tuple[str, ...]:
    """The classes that episodes are about: without every ``held_out``-th (``part="train"``), or these alone.

    >>> episode_classes(("a", "b", "c", "d"), held_out=2)
    ('a', 'c')
    """
    if not held_out:
        return tuple(names)
    kept = tuple(names[held_out - 1::held_out])
    return kept if part == "held_out" else tuple(name for name in names if name not in kept)


@FUNCTIONS.register_module()
def one_episode(items: list[dict]) -> dict:
    """Collate function: an episode is a batch.

    Raises:
        UserError: Several at once; the images of several episodes belong to different classes.
    """
    if len(items) != 1:
        raise UserError(f"an episode is a whole batch: set train_dataloader.batch_size=1 instead of {len(items)}, and "
                        "make the episode larger (n_way, n_query)")
    return items[0]


def _pick(rng: np.random.Generator, images: np.ndarray, distinct: int, count: int, avoid: set[int]) -> list[int]:
    """``count`` images, ``distinct`` of them different, those in ``avoid`` only where the others do not suffice."""
    candidates = rng.choice(images, min(len(images), distinct + len(avoid)), replace=False).tolist()
    chosen = sorted(candidates, key=lambda image: image in avoid)[:distinct]  # stable: else in random order
    return chosen + rng.choice(chosen, count - distinct).tolist()


def _only(instances: list[dict], chosen: int, label: int) -> list[dict]:
    return [{**instances[chosen], "bbox_label": label}]


def _boxes_by_class(dataset: OpenVocabDataset, labels: list[int], min_size: float) -> dict[int, np.ndarray]:
    """Per class with a box, ``[boxes, 2]`` of (image, instance), crowds left out."""
    found: dict[int, list[tuple[int, int, float]]] = {label: [] for label in labels}
    for image in range(len(dataset)):
        for position, instance in enumerate(dataset.get_instances(image)):
            if instance["bbox_label"] in found and not instance["ignore_flag"]:
                x1, y1, x2, y2 = instance["bbox"]
                found[instance["bbox_label"]].append((image, position, min(x2 - x1, y2 - y1)))
    kept = {}
    for label, boxes in found.items():
        large = [box for box in boxes if box[2] >= min_size] or boxes
        if large:
            kept[label] = np.array([box[:2] for box in large], dtype=np.int64)
    return kept
