"""The tensors of a plain ResNet of any depth, by torchvision's names, to check a backbone against.

Counts with the counters of batch normalisation: ResNet-18 has 120 tensors, -50 has 318 (53 convolutions and 5 tensors
in each of 53 normalisations), -101 has 624; without the counters, as frozen normalisation is saved, 100, 265 and 520.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ovd.errors import UserError

# blocks a stage, whether they are bottlenecks -> depth
DEPTHS = {((2, 2, 2, 2), False): 18, ((3, 4, 6, 3), False): 34, ((3, 4, 6, 3), True): 50,
          ((3, 4, 23, 3), True): 101, ((3, 8, 36, 3), True): 152}
COUNTER = "num_batches_tracked"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A plain ResNet.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        width: channels of the stem (64).
        counters: whether its normalisations count batches.
    """

    depth: int
    width: int = 64
    counters: bool = True

    @property
    def shapes(self) -> dict[str, Shape]:
        """All tensors by name."""
        (blocks, bottleneck), = (key for key, depth in DEPTHS.items() if depth == self.depth)
        shapes = self._conv("conv1", "bn1", self.width, 3, 7)
        inputs = self.width
        for layer, count in enumerate(blocks, 1):
            inner = self.width * 2 ** (layer - 1)
            outputs = inner * 4 if bottleneck else inner
            sizes = [(inner, inputs, 1), (inner, inner, 3), (outputs, inner, 1)] if bottleneck else \
                [(inner, inputs, 3), (inner, inner, 3)]
            for block in range(count):
                stem = f"layer{layer}.{block}."
                for i, (into, of, kernel) in enumerate(sizes, 1):
                    of = outputs if block and i == 1 else of
                    shapes |= self._conv(f"{stem}conv{i}", f"{stem}bn{i}", into, of, kernel)
                if block == 0 and (layer > 1 or bottleneck):
                    shapes |= self._conv(f"{stem}downsample.0", f"{stem}downsample.1", outputs, inputs, 1)
            inputs = outputs
        return shapes

    def _conv(self, conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> dict[str, Shape]:
        statistics = ("weight", "bias", "running_mean", "running_var")
        return {f"{conv}.weight": (outputs, inputs, kernel, kernel),
                **{f"{norm}.{name}": (outputs,) for name in statistics},
                **({f"{norm}.{COUNTER}": ()} if self.counters else {})}


def recognise(shapes: Mapping[str, Shape], source: str) -> Architecture:
    """Which ResNet tensors with these names and shapes are of, by the numbers of blocks; some may be missing.

    Raises: UserError when there is no such ResNet.
    """
    blocks = _blocks(shapes)
    bottleneck = any(re.fullmatch(r"layer\d+\.\d+\.conv3\.weight", name) for name in shapes)
    fitting = [depth for (known, kind), depth in DEPTHS.items()
               if kind == bottleneck and all(have in (0, want) for have, want in zip(blocks, known))]
    if len(fitting) != 1 or not any(blocks):
        raise UserError(f"{source}: its backbone has {', '.join(map(str, blocks))} "
                        f"{'bottleneck' if bottleneck else 'basic'} blocks a stage, which is none of ResNet-18, -34, "
                        "-50, -101 and -152 (or stages are missing)")
    stem = next((shapes[name] for name in ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight") if shapes.get(name)),
                (64,))
    return Architecture(fitting[0], stem[0], any(name.endswith(COUNTER) for name in shapes))


def _blocks(names: Iterable[str]) -> tuple[int, int, int, int]:
    found = [0] * 4
    for name in names:
        match = re.match(r"layer([1-4])\.(\d+)\.", name)
        if match:
            found[int(match[1]) - 1] = max(found[int(match[1]) - 1], int(match[2]) + 1)
    return tuple(found)
