"""The detector's classifier: cosine to the rows of a class head, and a learned background.

Shapes: N regions, D embedding width, C classes (base first), M vectors a class, K = C + 1 with background last.
"""

from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import load_classes
from ovd.stores.head_forms import Terms
from ovd.stores.scoring import class_logits, independent_probabilities, sigmoid
from ovd.vocabulary.classes import canonical
from ovd.vocabulary.splits import Split, get_split

# how the classes of a head become logits that a plain reduction does not cover; None for a head that it does
_FORM = ("kinds_C", "scales_C", "mix_CM", "betas_CM", "shifts_CM", "bias_C")


@MODELS.register_module()
class CosineClassifier(nn.Module):
    """``cos(region, class) / T`` for each class of a class head and for a learned background row (ViLD, sec. 3.2).

    In training, classes that are not base are masked: no annotation of theirs exists, so they must neither gain nor
    lose probability from the softmax.

    The class embeddings are not part of the state dict: a checkpoint loads whatever the vocabulary of the model that
    it is loaded into. The background row is.

    Args:
        class_head: File or object. None for a classifier that gets its vocabulary later, by :meth:`set_class_head`
            (``embed_dim`` is needed then).
        split: Name, file or object; label ``i`` is class ``split.classes[i]``. None takes the class head's own order,
            all of them base.
        data_root: Folder that relative paths of ``class_head`` and ``split`` are relative to.
        temperature_train, temperature_test: T above (0.01 and 0.007 in DetPro).
        background: Whether there is a background row; without one (ViLD-image) the logits are ``[N, C]``.

    Attributes:
        base_names: The classes whose annotations the detector learns from: the split's base, or all of the first class
            head where there is no split, in the spelling of :func:`~ovd.vocabulary.classes.canonical`. They stay what
            they are when the vocabulary is replaced.
        is_base: bool ``[C]``: which classes of the current vocabulary have such a name.
        is_added: bool ``[C]``: which classes do not compete with each other where scores are independent; those that
            are not base, unless :meth:`arrange` says otherwise.
        num_shown: Of the first so many classes there are detections; all, unless :meth:`arrange` says otherwise.
        namesakes: Column of an added class -> columns of the rivals that are the same thing.
        head: The class head of the current vocabulary; None before there is one.

    Raises:
        UserError: The class head lacks classes of the split, or is not a cosine head.
    """

    def __init__(self, class_head: str | PathLike | ClassHead | None = None,
                 split: str | PathLike | Split | None = None, data_root: str = "", embed_dim: int | None = None,
                 temperature_train: float = 0.01, temperature_test: float = 0.007, background: bool = True) -> None:
        super().__init__()
        self.temperature_train = temperature_train
        self.temperature_test = temperature_test
        if class_head is not None and not isinstance(class_head, ClassHead):
            class_head = load_classes(Path(data_root, class_head))
        if class_head is None and embed_dim is None:
            raise UserError("a classifier needs a class head, or embed_dim to get one later: set class_head to the "
                            "file that ovd class-embeddings wrote")
        if split is not None and not isinstance(split, Split):
            path = Path(data_root, split)
            split = get_split(str(path) if path.is_file() else str(split))
        self.embed_dim = embed_dim or class_head.weights.shape[-1]
        self.background = nn.Parameter(torch.empty(self.embed_dim)) if background else None
        self.register_buffer("classes_CMD", torch.zeros(0, 1, self.embed_dim), persistent=False)
        self.register_buffer("counts_C", torch.zeros(0, dtype=torch.long), persistent=False)
        for name in _FORM:
            self.register_buffer(name, None, persistent=False)
        self.register_buffer("is_base", torch.zeros(0, dtype=torch.bool), persistent=False)
        self.register_buffer("is_added", torch.zeros(0, dtype=torch.bool), persistent=False)
        self.reduce = "single"
        self.head: ClassHead | None = None
        self.names: tuple[str, ...] = ()
        self.base_names: frozenset[str] = frozenset()
        self.num_base = self.num_shown = 0
        self.namesakes: dict[int, list[int]] = {}
        if split is not None or class_head is not None:
            self.base_names = frozenset(map(canonical, class_head.names if split is None else split.base))
        if class_head is not None:
            self.set_class_head(class_head if split is None else class_head.select(split.classes))
            self.num_base = len(self.names) if split is None else split.num_base
        self.reset_parameters()

    @property
    def num_classes(self) -> int:
        """C, which is also the label of the background."""
        return len(self.names)

    def reset_parameters(self) -> None:
        """Background row from N(0, 0.01): a random direction once normalised."""
        if self.background is not None:
            nn.init.normal_(self.background, std=0.01)

    def set_class_head(self, head: ClassHead) -> None:
        """Replace the vocabulary; from now on label ``i`` is class ``head.names[i]``.

        The logit is the head's over its ``scale`` and the detector's temperature, so a bias or a factor of a class is
        in units of ``scale`` cosines. The detector's background row takes the place of the head's. A bias that comes
        from the CLIP, the same for its classes, is left out (see :func:`_own_bias`).

        Raises:
            UserError: Another embedding width, another space than a CLIP's, or a head that does not go by cosines.
        """
        head.check(dim=self.embed_dim)
        if head.norm != "cosine":
            raise UserError(f"class head with norm {head.norm}: the detector compares with its background by cosine, "
                            "so it takes cosine heads; a linear head for unit embeddings becomes one by as_cosine()")
        if "space" in head.stats:
            raise UserError(f"class head of the embedding space {head.space[:20]}: the detector's is a CLIP's; make "
                            "the classes again with that CLIP")
        device = self.classes_CMD.device
        counts = torch.full((len(head),), head.weights.shape[1]) if head.counts is None else head.counts
        bias_C = _own_bias(head)
        own = None
        if bias_C is not None or head.reduce not in ("single", "mean_logit", "max"):
            terms = head.as_terms()
            bias_C = torch.full((len(head),), -0.0, dtype=torch.float64) if bias_C is None else bias_C / head.scale
            own = terms.kinds, terms.scales / head.scale, terms.mix, terms.betas, terms.shifts, bias_C
        for name, value in zip(_FORM, own or (None,) * len(_FORM)):
            setattr(self, name, None if value is None else value.to(device))
        self.classes_CMD = F.normalize(head.weights, dim=-1).to(device)
        self.counts_C = counts.to(device)
        self.head = head
        self.reduce = head.reduce
        self.names = head.names
        self.num_base = len(self.names)
        self.is_base = torch.tensor([canonical(name) in self.base_names for name in self.names], dtype=torch.bool,
                                    device=device)
        self.is_added = ~self.is_base
        self.num_shown = self.num_classes
        self.namesakes = {}

    def arrange(self, added: Collection[str], rivals: Mapping[str, str] = MappingProxyType({}),
                alike: Mapping[str, str] = MappingProxyType({})) -> None:
        """Say what part the classes of the current vocabulary have.

        Args:
            added: Those that count as added, for independent scores; the others compete with each other.
            rivals: The last classes, which compete and have no detections themselves, and the name that each stands
                for. It does not compete with an added class of that name.
            alike: Added class -> another name of a rival with which it does not compete.

        Raises:
            ValueError: Rivals that are not the last classes.
        """
        self.num_shown = self.num_classes - len(rivals)
        if list(self.names[self.num_shown:]) != list(rivals):
            raise ValueError("rivals are the last classes of the vocabulary, in their order")
        device = self.is_base.device
        meant = [rivals.get(name, name) for name in self.names]
        self.is_base = torch.tensor([canonical(name) in self.base_names for name in meant], device=device)
        self.is_added = torch.tensor([name in added for name in self.names], device=device)
        places = {canonical(name): place for place, name in enumerate(meant) if place >= self.num_shown}
        self.namesakes = {}
        for place, name in enumerate(self.names):
            same = {canonical(name), canonical(alike.get(name, name))} if name in added else ()
            if columns := sorted(places[one] for one in same if one in places):
                self.namesakes[place] = columns

    def forward(self, embeddings_ND: Tensor) -> Tensor:
        """Logits, float32 ``[N, K]``, background last (``[N, C]`` without one); also under autocast.

        A class's logits do not depend on the other classes of the vocabulary, to the bit on a CPU.

        Args:
            embeddings_ND: Unit rows.
        """
        temperature = self.temperature_train if self.training else self.temperature_test
        visible = self.num_base if self.training else self.num_classes
        columns = []
        if visible:  # all rows are unit rows, so inner products are the cosines
            columns.append(self._class_columns(embeddings_ND, visible, 1 / temperature))
        if visible < self.num_classes:
            hidden = (len(embeddings_ND), self.num_classes - visible)
            columns.append(torch.full(hidden, torch.finfo(torch.float32).min, device=embeddings_ND.device))
        if self.background is not None:
            with torch.autocast(embeddings_ND.device.type, enabled=False):
                row = F.normalize(self.background.float(), dim=-1)
                columns.append((embeddings_ND.float() @ row / temperature)[:, None])
        return torch.cat(columns, dim=1)

    def _class_columns(self, embeddings_ND: Tensor, visible: int, scale: float) -> Tensor:
        """Logits of the first ``visible`` classes, float32."""
        vectors = self.classes_CMD[:visible], self.counts_C[:visible]
        if self.kinds_C is None:
            return class_logits(embeddings_ND, *vectors, norm="linear", reduce=self.reduce, scale=scale)
        terms = Terms(self.kinds_C, self.scales_C * scale, self.mix_CM, self.betas_CM, self.shifts_CM)
        logits_NC = class_logits(embeddings_ND, *vectors, norm="linear", reduce="mixed",
                                 terms=terms.rows(slice(visible)))
        return logits_NC + (self.bias_C[:visible] * scale).float()

    def probabilities(self, logits: Tensor, independent: bool = False) -> Tensor:
        """Class probabilities ``[N, C]``: softmax over all columns, the background's then left out.

        Float32, or float64 where the logits are.

        Args:
            independent: Softmax over background and the classes that are not ``is_added`` (base classes); each added
                class c by itself against these, ``exp(l_c) / (exp(l_c) + sum of theirs)``. Then no class that is added
                changes the score of another, to the bit on a CPU. Where all are added and there is no background, as
                usual.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not independent:
            return logits.softmax(dim=-1)[:, :self.num_classes]
        is_reference = torch.cat([~self.is_added, self.is_added.new_ones(logits.shape[1] - self.num_classes)])
        result = independent_probabilities(logits, is_reference)
        for column, rivals in self.namesakes.items():
            others = is_reference.clone()
            others[rivals] = False
            result[:, column] = sigmoid(logits[:, column] - logits[:, others].logsumexp(dim=-1))
        return result[:, :self.num_classes]


def _own_bias(head: ClassHead) -> Tensor | None:
    """What the biases of a head say about one class against others, float64 ``[C]``; None for nothing.

    A CLIP trained with sigmoids (SigLIP) has one bias for all names (:attr:`ClassHead.clip_bias`): it belongs to that
    CLIP's yes or no to one class, and changes nothing between classes. Where others that were given their own stand
    beside these, theirs is counted from it, so that adding them changes no other logit.
    """
    if head.bias is None:
        return None
    bias_C = head.bias.double() - head.clip_bias
    if not bias_C.any():
        return None
    return torch.where(bias_C == 0, -0.0, bias_C)  # adding -0 changes no bit
