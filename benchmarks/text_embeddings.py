"""Class embeddings of a large vocabulary: ``class_embeddings`` against the loop of ViLD's and DetPro's notebooks.

The loop tokenises the prompts of a class to the tower's full length (77 tokens), encodes them as one batch in fp32 and
takes their mean, class after class. Because it takes hours on a CPU, it is timed on a sample of classes spread over the
list (``--sample``), each taken in turn by all ways, and its median time is scaled to all classes; it does not depend on
the class, since all texts are padded. Ours is timed on ``--classes`` of them as one call, scaled to all by prompts.
The lines say what was scaled. The ways between the two show what each measure brings. Weights are random (speed does
not depend on them); the rows of the sample are compared before figures are printed, and its rows among all classes
with those alone, which have to be the same to the bit.

    python benchmarks/text_embeddings.py [--classes 1203] [--sample 12] [--device cuda]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from figures import print_figure
from torch import Tensor

from ovd.clip.text import average, class_embeddings
from ovd.clip.text_tower import project, text_module
from ovd.clip.towers import ClipModel, load_clip
from ovd.vocabulary.classes import LVIS_NAMES
from ovd.vocabulary.prompts import STYLES, PromptStyle, prompts


def padded(clip: ClipModel, texts: list[str]) -> Tensor:
    """The peer's way: all tokens, padding too, as one batch."""
    return clip.model.encode_text(clip.tokenizer(texts).to(clip.device)).float().cpu()


def cut(clip: ClipModel, texts: list[str]) -> Tensor:
    """Without the padding that no text of the class needs."""
    tokens_TL = clip.tokenizer(texts)
    return cut_to(clip, tokens_TL, int(tokens_TL.argmax(dim=1).max()) + 1)


def by_length(clip: ClipModel, texts: list[str]) -> Tensor:
    """Without any padding: texts of the same length together."""
    tokens_TL = clip.tokenizer(texts)
    lengths = tokens_TL.argmax(dim=1) + 1
    found = torch.empty(len(texts), clip.embed_dim)
    for length in lengths.unique().tolist():
        found[lengths == length] = cut_to(clip, tokens_TL[lengths == length], length)
    return found


def cut_to(clip: ClipModel, tokens_TL: Tensor, length: int) -> Tensor:
    """Embeddings of texts that have so many tokens at most."""
    text, ends_T = text_module(clip.model), tokens_TL.argmax(dim=1)
    x_TLW = text.token_embedding(tokens_TL[:, :length].to(clip.device)) + text.positional_embedding[:length]
    x_TLW = text.transformer(x_TLW, attn_mask=text.attn_mask[:length, :length])
    return project(text, x_TLW[torch.arange(len(ends_T)), ends_T]).float().cpu()


def spread(count: int) -> list[str]:
    """So many names of LVIS, evenly over its list."""
    return [LVIS_NAMES[index * len(LVIS_NAMES) // count] for index in range(count)]


@torch.inference_mode()
def by_class(clip: ClipModel, names: Sequence[str], style: PromptStyle) -> tuple[dict[str, float], Tensor]:
    """Median seconds of a class by each way, and the peer's rows ``[C, D]``."""
    shared = clip.text_encoder(prompts("", style))
    ways: dict[str, Callable[[list[str]], Tensor]] = {
        "peer": lambda texts: padded(clip, texts), "padding cut to the longest": lambda texts: cut(clip, texts),
        "no padding, groups of one length": lambda texts: by_length(clip, texts),
        "a tree, beginnings shared within a class": clip.text_encoder(),
        "a tree, beginnings shared by all classes": shared}
    for way in list(ways.values())[1:]:  # first calls are slower; the shared beginnings are computed
        way(prompts(names[0], style))
    times: dict[str, list[float]] = {what: [] for what in ways}
    rows = []
    for name in names:
        for what, way in ways.items():
            start = time.perf_counter()
            raw_TD = way(prompts(name, style))
            times[what].append(time.perf_counter() - start)
            row = average(raw_TD, style.normalize_texts, style.normalize_mean)
            if what == "peer":
                rows.append(row)
            elif F.cosine_similarity(row.double(), rows[-1].double(), dim=0) <= 0.999999:
                raise SystemExit(f"{name}: {what}: another row than the peer's")
    return {what: statistics.median(found) for what, found in times.items()}, torch.stack(rows)


def measure(pretrained: str, device: str, style_name: str, classes: int, sample: int) -> None:
    """Print a json line for each way."""
    clip = load_clip(pretrained, device=device, allow_untrained=True)
    style, names = STYLES[style_name], spread(classes)
    each, peer_rows = by_class(clip, names[::max(1, classes // sample)][:sample], style)
    start = time.perf_counter()
    head = class_embeddings(clip, names, style)
    ours = time.perf_counter() - start
    alone = class_embeddings(clip, names[::max(1, classes // sample)][:sample], style)
    if not torch.equal(alone.weights, head.select(alone.names).weights):
        raise SystemExit("rows depend on the other classes")
    if F.cosine_similarity(alone.weights[:, 0].double(), peer_rows.double()).min() <= 0.999999:
        raise SystemExit("other rows than the peer's")
    prompts_each, peer = len(style.templates), each.pop("peer")
    what = f"{prompts_each} prompts, {pretrained.removeprefix('untrained:')}, {device}"
    for way, seconds in each.items():
        print_figure(f"text embeddings, a class x {what}: {way} (medians of {sample} classes)", seconds, "s",
                     "padded to the full length", peer)
    total = len(LVIS_NAMES)
    told = "" if classes == total else f", scaled from {classes}"
    print_figure(f"text embeddings, {total} classes x {what} (ours{told or ' all'}; peer scaled from {sample})",
                 ours * total / classes, "s", "padded, a class after the other", peer * total)


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="untrained:ViT-B-32-quickgelu", help="CLIP (%(default)s)")
    parser.add_argument("--style", choices=("vild", "detpro"), default="vild", help="(%(default)s)")
    parser.add_argument("--classes", type=int, default=60, help="that ours is timed on, 1203 for all (%(default)s)")
    parser.add_argument("--sample", type=int, default=6, help="of them, that the loop is timed on (%(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s: all)")
    args = parser.parse_args()
    if not 0 < args.sample <= args.classes <= len(LVIS_NAMES):
        parser.error(f"0 < --sample <= --classes <= {len(LVIS_NAMES)}")
    wanted = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])] if args.device == "auto" else [args.device]
    for device in wanted:
        measure(args.pretrained, device, args.style, args.classes, args.sample)


if __name__ == "__main__":
    main()
