"""Learned context vectors: their file, and the class heads that they give for any vocabulary.

Legend: K vectors of width W, C classes, D embedding width, M contexts of an ensemble.
"""

import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovd.clip.prompts.tower import POSITIONS, PromptTower, spoken
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest, canonical_json, publish

KIND = "prompt_context"
_METADATA = "prompt_context"


@dataclass(frozen=True, eq=False)
class PromptContext:
    """Vectors that stand beside every class name.

    Attributes:
        vectors_KW: float32, on the CPU.
        position: Where the class name stands: ``end``, ``middle`` or ``front``.
        clip: Fingerprint of the CLIP that they were learned with; None where it is not known.
        background_KW: The vectors of the learned background prompt (mode ``learn``), or None.
        notes: How they were learned.
    """

    vectors_KW: Tensor
    position: str = "end"
    clip: str | None = None
    background_KW: Tensor | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise UserError(f"context: the class name stands at one of {', '.join(POSITIONS)}, not {self.position!r}")
        for vectors in (self.vectors_KW, self.background_KW):
            if vectors is not None and (vectors.ndim != 2 or 0 in vectors.shape or not vectors.is_floating_point()):
                raise UserError(f"context: {vectors.dtype} of shape {list(vectors.shape)}, expected floats "
                                "[vectors, width]")
            if vectors is not None and not torch.isfinite(vectors).all():
                raise UserError("context: has NaN or infinity")

    def save(self, path: str | os.PathLike, manifest: Manifest) -> None:
        """Write the vectors (safetensors) and ``manifest``; the same context gives the same bytes."""
        tensors = {"context": self.vectors_KW.contiguous()}
        if self.background_KW is not None:
            tensors["background"] = self.background_KW.contiguous()
        meta = {"schema": 1, "position": self.position, "clip": self.clip, "notes": dict(self.notes)}
        with publish(path, manifest) as (temporary, _):
            temporary.write_bytes(safetensors.torch.save(tensors, {_METADATA: canonical_json(meta)}))

    @classmethod
    def load(cls, path: str | os.PathLike, position: str | None = None) -> "PromptContext":
        """The context in a file that :meth:`save` wrote, or a published ``*_prompt.pth`` (a bare tensor ``[K, W]``).

        Args:
            position: Of a ``.pth``, which does not say it (default: ``end``).

        Raises:
            UserError: Another file, or a position that contradicts it.
        """
        path = Path(path)
        if path.suffix in (".pth", ".pt"):
            vectors = _read_tensor(path)
            try:
                return cls(vectors.float(), position or "end", notes={"imported": path.name})
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {})[_METADATA])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            context = cls(tensors["context"], meta["position"], meta["clip"], tensors.get("background"), meta["notes"])
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; make it with ovd learn-prompts") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: is not a file of learned prompts ({_reason(error)}); make it with ovd "
                            "learn-prompts") from None
        if position not in (None, context.position):
            raise UserError(f"{path}: was learned with the class name at the {context.position}, not {position}; leave "
                            "out --position")
        return context

    def check(self, tower: PromptTower) -> "PromptContext":
        """Itself, or UserError when it is of another CLIP."""
        if self.clip not in (None, tower.fingerprint):
            raise UserError(f"context of the CLIP {self.clip[:15]}, given is {tower.fingerprint[:15]}: name the CLIP "
                            "that it was learned with")
        if self.vectors_KW.shape[1] != tower.width:
            raise UserError(f"context of width {self.vectors_KW.shape[1]}, the CLIP's text tower has {tower.width}: "
                            "name the CLIP that it was learned with")
        return self


@torch.no_grad()
def context_head(tower: PromptTower, contexts: Sequence[PromptContext], names: Sequence[str],
                 progress: Callable[[int], None] = lambda classes: None) -> ClassHead:
    """A class head of the ensemble: each context's embedding at unit length, summed, at unit length (DetPro, sec. 3.4).

    A class's row does not depend on the other classes, to the bit: every class is computed by itself.

    Args:
        names: Any class names; the context is not bound to those that it was learned with.
        progress: Called with 1 after each class.

    Raises:
        UserError: No contexts or names, contexts of another CLIP, names that :meth:`PromptTower.sentences` refuses.
    """
    if not contexts:
        raise UserError("no learned context is given")
    for context in contexts:
        context.check(tower)
    groups: dict[tuple[int, str], list[Tensor]] = {}
    for context in contexts:
        groups.setdefault((len(context.vectors_KW), context.position), []).append(context.vectors_KW)
    for vectors, position in groups:
        tower.sentences(names, vectors, position)  # refuses wrong names before work is spent
    contexts_MKW = {form: torch.stack(of_form).to(tower.device) for form, of_form in groups.items()}
    rows = []
    for name in names:
        parts_MD = [tower(tower.sentences([name], *form).repeated(len(of_form)), of_form)
                    for form, of_form in contexts_MKW.items()]
        rows.append(F.normalize(F.normalize(torch.cat(parts_MD), dim=-1).sum(dim=0), dim=-1).cpu())
        progress(1)
    provenance = [{"text": spoken(name), "learned_contexts": len(contexts)} for name in names]
    return ClassHead(tuple(names), torch.stack(rows)[:, None], scale=tower.logit_scale, provenance=tuple(provenance),
                     stats={"clip": tower.fingerprint})


def _read_tensor(path: Path) -> Tensor:
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, TypeError, RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: is cut, or holds more than a tensor ({_reason(error)})") from None
    if not isinstance(value, Tensor):
        raise UserError(f"{path}: holds {type(value).__name__}, expected a tensor [vectors, width]")
    return value.detach()


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
