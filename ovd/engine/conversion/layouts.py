"""The key layouts, each a table of its names beside ours.

Ours are mmdet 3's names of a two-stage detector, with ``projection`` and ``classifier`` in the box head and an
``image_head``. A row is a rule in both directions; names that a layout is known to have and that stand for nothing
elsewhere are listed with the reason why they stay behind. Sources are the projects' own model code and converters;
facts of a layout that a user must know are in its ``about``.

The layouts agree on what the numbers mean, so no tensor is permuted: the first fully connected layer takes RoI features
flattened as (channel, row, column); the background is the last class; box deltas are (dx, dy, dw, dh) of one class
after the other; anchors at a place are ordered by aspect ratio (h/w 0.5, 1, 2), one scale a level.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ovd.engine.conversion.conventions import DETECTOR_RGB, IMAGENET_RGB, MSRA_BGR, Convention
from ovd.engine.conversion.renaming import Rule, pairs, same
from ovd.errors import UserError, nearest

# --- names, ours -------------------------------------------------------------------------------------------------

RESNET = ("conv1.weight", "bn1.{stat}", "layer{l}.{b}.conv{i}.weight", "layer{l}.{b}.bn{i}.{stat}",
          "layer{l}.{b}.downsample.0.weight", "layer{l}.{b}.downsample.1.{stat}")
NECK = ("lateral_convs.{i}.conv.{w}", "lateral_convs.{i}.{norm}.{stat}", "fpn_convs.{i}.conv.{w}",
        "fpn_convs.{i}.{norm}.{stat}")
RPN = ("rpn_conv.{w}", "rpn_conv.{i}.conv.{w}", "rpn_cls.{w}", "rpn_reg.{w}")
TRUNK = ("shared_convs.{i}.conv.{w}", "shared_convs.{i}.{norm}.{stat}", "shared_fcs.{i}.{w}")
BRANCHES = ("{branch}_convs.{i}.conv.{w}", "{branch}_convs.{i}.{norm}.{stat}", "{branch}_fcs.{i}.{w}")
MASK = ("convs.{i}.conv.{w}", "convs.{i}.{norm}.{stat}", "upsample.{w}", "conv_logits.{w}")
STAGES = ("", "{s}.")  # a single head, or one for each stage of a cascade


def _inside(prefix: str, templates: Iterable[str]) -> tuple[str, ...]:
    return tuple(prefix + template for template in templates)


def _heads(box: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for stage in STAGES for name in (
        *_inside(f"roi_head.bbox_head.{stage}", box), *_inside(f"roi_head.mask_head.{stage}", MASK)))


BODY = (*_inside("backbone.", RESNET), *_inside("neck.", NECK))
DETECTOR = (*BODY, *_inside("rpn_head.", RPN), *_heads((*TRUNK, *BRANCHES, "fc_reg.{w}")))
MMDET = (*DETECTOR, *(f"roi_head.bbox_head.{stage}fc_cls.{{w}}" for stage in STAGES))
OURS = (*DETECTOR, *(name for stage in STAGES for name in (
    f"roi_head.bbox_head.{stage}projection.{{w}}", f"roi_head.bbox_head.{stage}classifier.background",
    *_inside(f"roi_head.image_head.{stage}", (*TRUNK, "projection.{w}")),
    f"roi_head.distillation.{stage}iterations")),
    "roi_head.block_head.layers.{i}.{w}", "roi_head.global_head.projection.{w}",
    "roi_head.{level}_head.{loss}.iterations")


@dataclass(frozen=True)
class Computed:
    """A tensor of ours that is not one of theirs under another name.

    Attributes:
        theirs: names that it is computed from, all or none of which must be there.
        ours: its name.
        to_ours, to_theirs: the computation and its inverse, up to what the layout's tensors have in excess.
        staged: its name in a cascade (field ``s``), all stages of which share it in the layout; None if they do not.
    """

    theirs: tuple[str, ...]
    ours: str
    to_ours: Callable[..., Tensor]
    to_theirs: Callable[[Tensor], tuple[Tensor, ...]]
    staged: str | None = None

    def names(self, stages: Sequence[int]) -> list[str]:
        """Its names in a detector whose cascade has these ``stages`` (none in one without)."""
        return [self.staged.format(s=stage) for stage in stages] if self.staged and stages else [self.ours]


@dataclass(frozen=True)
class Layout:
    """How a project names the tensors of a backbone or a detector.

    Attributes:
        about: one line, for users.
        rules: the table.
        computed: what the table cannot say.
        prefixes: cut from the names, one after the other in this order, where any name has it and none without it is
            in the table; tensors without it are then none of the model's.
        left_out: patterns (``fnmatch``) of the layout's names that have no place elsewhere, with the reason.
        no_place: patterns of *our* names that have no place in this layout, with the reason.
        sizes: patterns of our names and the length of the first axis that this layout has there, with the reason.
        refused: patterns of names that show another architecture, with the reason.
        convention: how the backbones of all files of this layout are used; None where that differs.
        usual: how they are used where nothing about a file says otherwise.
        spell: from the names of a file to those of the table, given all of them; and back.
        writable: whether a checkpoint can be written in this layout.
        one_mask_head: whether all stages of a cascade share a mask head (elsewhere each has its own).
        added: tensors that the layout leaves out because they are constant, from ours (name -> tensor).
    """

    about: str
    rules: tuple[Rule, ...]
    computed: tuple[Computed, ...] = ()
    prefixes: tuple[str, ...] = ("module.",)
    left_out: Mapping[str, str] = field(default_factory=dict)
    no_place: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    convention: Convention | None = None
    usual: Convention | None = None
    spell: Callable[[Iterable[str]], dict[str, str]] | None = None
    unspell: Callable[[Iterable[str]], dict[str, str]] | None = None
    writable: bool = True
    one_mask_head: bool = False
    added: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None

    def knows(self, name: str) -> bool:
        """Whether ``name`` is one of the table's, as files spell it."""
        return self.to_ours(self.spell([name])[name] if self.spell else name) is not None

    def to_ours(self, name: str) -> str | None:
        """Our name for one of the table's, or None."""
        return next((ours for rule in self.rules if (ours := rule.to_ours(name)) is not None), None)

    def to_theirs(self, name: str) -> str | None:
        """The table's name for one of ours, or None."""
        return next((theirs for rule in self.rules if (theirs := rule.to_theirs(name)) is not None), None)


def reason(patterns: Mapping[str, str], name: str) -> str | None:
    """The reason that goes with the first pattern that fits ``name``."""
    return next((why for pattern, why in patterns.items() if fnmatchcase(name, pattern)), None)


# --- ResNets -----------------------------------------------------------------------------------------------------

_DEEP = "has a stem of three convolutions (timm's \"d\" and \"t\" variants, mmdet's ResNetV1d), unlike plain ResNets"
_VARIANTS = {"conv1.0.*": _DEEP, "stem.[0-9]*": _DEEP, "*.stem.[0-9].*": _DEEP, "*.conv1.0.weight": _DEEP,
             "*downsample.2.*": "averages before a shortcut's convolution (a \"d\" variant), unlike plain ResNets",
             "*.se.*": "is a squeeze-and-excitation network, not a plain ResNet",
             "*attnpool.*": "is a CLIP ResNet (ModifiedResNet), not a plain one"}
_CLASSIFIER = {"fc.*": "ImageNet classifier"}
_BACKBONES = dict(prefixes=("module.encoder_q.", "module.", "sparse_encoder.sp_cnn.", "backbone.body.", "backbone."),
                  refused=_VARIANTS)
_MOMENTUM = {"module.encoder_k.*": "momentum copy", "module.queue*": "queue of negatives",
             "module.predictor.*": "predictor of the pretraining"}
_TORCHVISION = Layout("a bare ResNet with torchvision's names (also mmdet's and timm's)", same(RESNET, "backbone."),
                      left_out=_CLASSIFIER | _MOMENTUM, usual=IMAGENET_RGB, **_BACKBONES)
_SPARK = Layout(
    "SparK's pre-trained ResNets, timm style or with the decoder", same(RESNET, "backbone."),
    left_out=_CLASSIFIER | {
        "*dense_decoder.*": "decoder", "*densify_*": "decoder", "*mask_tokens.*": "decoder", "decoder.*": "decoder",
        "imn_[ms]": "constant of the pre-training", "norm_black": "constant of the pre-training"},
    convention=IMAGENET_RGB, **_BACKBONES)


def _msra_statistics(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Running statistics of batch normalisation that was folded into scale and shift: normalising by them does nothing
    (the variance is 1 less PyTorch's epsilon)."""
    added = {}
    for name, value in weights.items():
        if name.endswith(".bias") and name.removesuffix(".bias") + ".weight" in weights:
            stem = name.removesuffix("bias")
            added[stem + "running_mean"] = torch.zeros_like(value)
            added[stem + "running_var"] = torch.full_like(value, 1 - 1e-5)
    return added


_MSRA = Layout(
    "detectron2's ImageNetPretrained/MSRA/R-*.pkl, Caffe2's names",
    pairs((("conv1_w", "conv1.weight"), ("res_conv1_bn_s", "bn1.weight"), ("res_conv1_bn_b", "bn1.bias"),
           ("res{l+1}_{b}_branch1_w", "layer{l}.{b}.downsample.0.weight"),
           ("res{l+1}_{b}_branch1_bn_s", "layer{l}.{b}.downsample.1.weight"),
           ("res{l+1}_{b}_branch1_bn_b", "layer{l}.{b}.downsample.1.bias"),
           *((f"res{{l+1}}_{{b}}_branch2{letter}{theirs}", f"layer{{l}}.{{b}}.{ours}")
             for i, letter in enumerate("abc", 1)
             for theirs, ours in (("_w", f"conv{i}.weight"), ("_bn_s", f"bn{i}.weight"), ("_bn_b", f"bn{i}.bias")))),
          ours="backbone."),
    prefixes=(), convention=MSRA_BGR, writable=False, added=_msra_statistics,
    left_out={"fc1000_[wb]": "ImageNet classifier", "conv1_b": "bias of zeros before a normalisation",
              "*_momentum": "state of the optimiser", "lr": "state of the optimiser"})

# --- detectron2 --------------------------------------------------------------------------------------------------

_D2_BODY = pairs((
    ("bottom_up.stem.conv1.weight", "backbone.conv1.weight"), ("bottom_up.stem.conv1.bn.{stat}", "backbone.bn1.{stat}"),
    ("bottom_up.res{l+1}.{b}.conv{i}.weight", "backbone.layer{l}.{b}.conv{i}.weight"),
    ("bottom_up.res{l+1}.{b}.conv{i}.bn.{stat}", "backbone.layer{l}.{b}.bn{i}.{stat}"),
    ("bottom_up.res{l+1}.{b}.shortcut.weight", "backbone.layer{l}.{b}.downsample.0.weight"),
    ("bottom_up.res{l+1}.{b}.shortcut.bn.{stat}", "backbone.layer{l}.{b}.downsample.1.{stat}"),
    ("fpn_lateral{i+2}.{w}", "neck.lateral_convs.{i}.conv.{w}"),
    ("fpn_lateral{i+2}.{norm}.{stat}", "neck.lateral_convs.{i}.{norm}.{stat}"),
    ("fpn_output{i+2}.{w}", "neck.fpn_convs.{i}.conv.{w}"),
    ("fpn_output{i+2}.{norm}.{stat}", "neck.fpn_convs.{i}.{norm}.{stat}")), theirs="backbone.")
_D2_RPN = pairs((("conv.{w}", "rpn_conv.{w}"), ("conv.conv{i}.{w}", "rpn_conv.{i}.conv.{w}"),
                 ("objectness_logits.{w}", "rpn_cls.{w}"), ("anchor_deltas.{w}", "rpn_reg.{w}")),
                theirs="proposal_generator.rpn_head.", ours="rpn_head.")
_D2_TRUNK = (("conv{i+1}.{w}", "shared_convs.{i}.conv.{w}"),
             ("conv{i+1}.{norm}.{stat}", "shared_convs.{i}.{norm}.{stat}"), ("fc{i+1}.{w}", "shared_fcs.{i}.{w}"))
_D2_HEADS = tuple(rule for stage in STAGES for rule in (
    *pairs(_D2_TRUNK, f"roi_heads.box_head.{stage}", f"roi_head.bbox_head.{stage}"),
    *pairs((("cls_score.{w}", "fc_cls.{w}"), ("bbox_pred.{w}", "fc_reg.{w}")), f"roi_heads.box_predictor.{stage}",
           f"roi_head.bbox_head.{stage}")))
_D2_MASK = pairs((("mask_fcn{i+1}.{w}", "convs.{i}.conv.{w}"),
                  ("mask_fcn{i+1}.{norm}.{stat}", "convs.{i}.{norm}.{stat}"), ("deconv.{w}", "upsample.{w}"),
                  ("predictor.{w}", "conv_logits.{w}")), "roi_heads.mask_head.", "roi_head.mask_head.")
# names that detectron2 completes by matching ends, and what stands before them in a detector with an FPN
_D2_SHORT = {"stem.": "backbone.bottom_up.", "res2.": "backbone.bottom_up.", "res3.": "backbone.bottom_up.",
             "res4.": "backbone.bottom_up.", "res5.": "backbone.bottom_up.", "fpn_": "backbone.",
             "rpn_head.": "proposal_generator.", "box_head.": "roi_heads.", "box_predictor.": "roi_heads.",
             "mask_head.": "roi_heads."}


def _d2_spell(names: Iterable[str]) -> dict[str, str]:
    """Full names, with ``bn`` (has running statistics) or ``gn`` for ``norm``."""
    full = {name: next((add + name for start, add in _D2_SHORT.items() if name.startswith(start)), name)
            for name in names}
    batch = {name.rpartition(".norm.")[0] for name in full.values() if name.endswith(".norm.running_mean")}

    def kind(name: str) -> str:
        stem, norm, stat = name.rpartition(".norm.")
        return f"{stem}.{'bn' if stem in batch else 'gn'}.{stat}" if norm else name

    return {name: kind(value) for name, value in full.items()}


def _d2_unspell(names: Iterable[str]) -> dict[str, str]:
    """``norm`` for every kind of normalisation; a backbone alone has short names, which fit any detector."""
    spelled = {name: name.replace(".bn.", ".norm.").replace(".gn.", ".norm.") for name in names}
    bottom = "backbone.bottom_up."
    if all(name.startswith(bottom) for name in spelled):
        spelled = {name: value.removeprefix(bottom) for name, value in spelled.items()}
    return spelled


_D2_LEFT_OUT = {
    **dict.fromkeys(("fc.*", "stem.fc.*", "backbone.bottom_up.stem.fc.*"), "ImageNet classifier"),
    "pixel_mean": "constant of the input", "pixel_std": "constant of the input",
    "*anchor_generator.cell_anchors.*": "anchors, which follow from the config"}

# --- detectors ---------------------------------------------------------------------------------------------------

_MMDET_LEFT_OUT = {"ema_*": "moving average", "data_preprocessor.*": "constant of the input"}
_MMDET_1 = dict.fromkeys(
    ("bbox_head.fc_cls.*", "bbox_head.shared_fcs.*", "mask_head.*"),
    "has mmdet 1's names (no roi_head.), whose background comes first: upgrade it with mmdet's own "
    "tools/model_converters/upgrade_model_version.py")
_NO_CLASSES = {f"roi_head.bbox_head.{stage}fc_cls.*": "classes come from a class head, not from the checkpoint"
               for stage in ("", "[0-9].")}
_ONE_BOX, _ONE_MASK = (f"{what} are class-agnostic here; those of classes are of no use for others"
                       for what in ("boxes", "masks"))
_AGNOSTIC = {"roi_head.bbox_head.*fc_reg.*": (4, _ONE_BOX), "roi_head.mask_head.*conv_logits.*": (1, _ONE_MASK)}
_RPN_ONLY = (*same(BODY), *pairs(((name, name) for name in RPN), "bbox_head.", "rpn_head."))
_RPN_LAYOUT = Layout("a proposal network alone in mmdet 3 (its head is called bbox_head), ours too", _RPN_ONLY,
                     left_out=_MMDET_LEFT_OUT, refused=_MMDET_1 | _VARIANTS,
                     no_place={"roi_head.*": "a proposal network has no second stage"})

# SoCo's own training checkpoint: encoder, neck and head, and their momentum copies
_SOCO_RAW = (*pairs(((name, name) for name in RESNET), "encoder.", "backbone."),
             *pairs(((name, name) for name in NECK), "neck.", "neck."),
             *pairs((("conv{i+1}.weight", "shared_convs.{i}.conv.weight"),
                     ("bn{i+1}.{stat}", "shared_convs.{i}.bn.{stat}"), ("fc{i+1}.{w}", "shared_fcs.{i}.{w}")),
                    "head.", "roi_head.bbox_head."))

_DETPRO_HEADS = tuple(rule for stage in STAGES for rule in (
    *pairs(((f"{stage}{name.replace('.', '_for_image.', 1)}", f"{stage}{name}") for name in TRUNK),
           "roi_head.bbox_head.", "roi_head.image_head."),
    Rule(f"roi_head.projection.{stage}{{w}}", f"roi_head.bbox_head.{stage}projection.{{w}}"),
    Rule(f"roi_head.projection_for_image.{stage}{{w}}", f"roi_head.image_head.{stage}projection.{{w}}")))
_DETPRO_BACKGROUND = Computed(
    ("roi_head.bg_embedding.weight", "roi_head.bg_embedding.bias"), "roi_head.bbox_head.classifier.background",
    # a linear layer whose one input is always 1
    lambda weight_D1, bias_D: weight_D1[:, 0] + bias_D,
    lambda row_D: (row_D[:, None].clone(), torch.zeros_like(row_D)),
    staged="roi_head.bbox_head.{s}.classifier.background")
_OADP_HEADS = (
    *same(_inside("roi_head.bbox_head.", (*TRUNK, "fc_reg.{w}"))), *same(_inside("roi_head.mask_head.", MASK)),
    *pairs(((name, name) for name in TRUNK), "roi_head._object_head.", "roi_head.image_head."),
    Rule("roi_head.bbox_head.fc_cls._linear.{w}", "roi_head.bbox_head.projection.{w}"),
    Rule("roi_head._object_head.fc_cls._linear.{w}", "roi_head.image_head.projection.{w}"),
    Rule("roi_head._block_head.shared_fcs.0.{w}", "roi_head.block_head.layers.0.{w}"),
    Rule("roi_head._block_head.shared_fcs.1.{w}", "roi_head.block_head.layers.2.{w}"),
    Rule("roi_head._block_head.fc_cls._linear.{w}", "roi_head.block_head.layers.4.{w}"),
    Rule("_global_head._classifier._linear.{w}", "roi_head.global_head.projection.{w}"))
_OADP_BACKGROUND = Computed(
    ("roi_head.bbox_head.fc_cls._bg_embedding",), "roi_head.bbox_head.classifier.background",
    lambda row_1D: row_1D[0], lambda row_D: (row_D[None].clone(),))
_STEPS = {"roi_head.*iterations": "counts the warm-up of a loss"}

LAYOUTS: dict[str, Layout] = {
    "torchvision": _TORCHVISION,
    "timm": _TORCHVISION,
    "spark": _SPARK,
    "msra": _MSRA,
    "detectron2": Layout(
        "detectron2's ResNets (short names) and Faster / Mask / Cascade R-CNN with FPN",
        (*_D2_BODY, *_D2_RPN, *_D2_HEADS, *_D2_MASK), left_out=_D2_LEFT_OUT, spell=_d2_spell, unspell=_d2_unspell,
        one_mask_head=True, refused={"*stem.conv1_[23].*": _DEEP}),
    "mmdet2": Layout("detectors of mmdet 2 (a proposal network's head is rpn_head)", same(MMDET),
                     left_out=_MMDET_LEFT_OUT, refused=_MMDET_1 | _VARIANTS),
    "mmdet3": Layout("two-stage detectors of mmdet 3", same(MMDET), left_out=_MMDET_LEFT_OUT,
                     refused=_MMDET_1 | _VARIANTS),
    "mmdet3-rpn": _RPN_LAYOUT,
    "soco": Layout(
        "SoCo: exported for mmdet (current_mmdetection_Head.pth) or its training checkpoint",
        (*same((*BODY, *_inside("roi_head.bbox_head.", TRUNK))), *_SOCO_RAW), convention=IMAGENET_RGB,
        left_out={**{f"{part}_k.*": "momentum copy" for part in ("encoder", "neck", "head", "projector")},
                  "projector.*": "projector of the pretraining", "predictor.*": "predictor of the pretraining"}),
    "detpro": Layout(
        "DetPro and ViLD* (backbone of caffe style, RGB images), also with a cascade",
        (*same(DETECTOR), *_DETPRO_HEADS), (_DETPRO_BACKGROUND,), convention=DETECTOR_RGB, no_place=_STEPS,
        left_out=_MMDET_LEFT_OUT | {
            "roi_head.clip_model.*": "the CLIP that training used",
            "roi_head.bbox_head.*fc_cls.*": "not used: the projection and the text embeddings classify"}),
    "oadp": Layout(
        "OADP and its ViLD ensemble (backbone of caffe style, RGB images)",
        (*same((*BODY, *_inside("rpn_head.", RPN))), *_OADP_HEADS), (_OADP_BACKGROUND,), convention=DETECTOR_RGB,
        no_place=_STEPS,
        left_out=_MMDET_LEFT_OUT | {
            "roi_head._object_head.fc_cls._bg_embedding": "never trained: the object head has no background",
            "*_head.*._bg_embedding": "not used: blocks and images are classified without a background",
            **dict.fromkeys(("_distiller.*", "*_head._loss.*", "*_topk_recall.*"), "state of the training"),
            **dict.fromkeys(("*._lambda", "*._cal_lambda"), "constant")}),
    "ovd": Layout("this project's two-stage detectors", same(OURS), no_place=_NO_CLASSES, sizes=_AGNOSTIC,
                  left_out=_MMDET_LEFT_OUT, refused=_MMDET_1 | _VARIANTS),
    "ovd-rpn": _RPN_LAYOUT,
}


def get_layout(name: str) -> Layout:
    """The layout called ``name``; UserError with the known ones if there is none."""
    if name not in LAYOUTS:
        raise UserError(f"no key layout named {name!r}{nearest(name, LAYOUTS)}")
    return LAYOUTS[name]
