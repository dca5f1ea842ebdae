"""The commands that make what a config reads: those that its docstring has, else those that fit its settings."""

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmengine.config import Config

from ovd.engine.preflight import STORES, Input
from ovd.shipped import CONFIGS, shown

ORDER = ("shapes", "#", "voc-to-coco", "build-zsl", "shots", "class-embeddings", "train", "proposals", "embed-regions",
         "learn-prompts", "head-surgery")
WHAT = {"region_store": "", "block_store": " --what blocks", "global_store": " --what globals"}
SUFFIXES = (".json", ".pth", ".safetensors")


@dataclass(frozen=True)
class Makers:
    """Commands for a config.

    Attributes:
        data_root: what the user gave instead of the config's, which commands then name.
    """

    cfg: Config
    config: Path
    data_root: str | Path | None = None

    def commands(self, absent: Sequence[Input], without_images: bool = False) -> list[str]:
        """All that is to be run, in order, without repetitions."""
        found = [command for entry in absent for command in self.of(entry.kind, entry.path)]
        if without_images:
            found += self._sources()
        return sorted(dict.fromkeys(found), key=_rank)

    def of(self, kind: str, path: Path) -> list[str]:
        """What makes one input, after what makes that which is needed for it and is not there either."""
        if written := self._written(path):
            return [*(self._sources() if kind == "ann_file" else []), *written]
        if kind == "ann_file":
            return [*self._sources(), self._build_split()]
        if kind == "class_head":
            return self._class_head()
        if kind in STORES:
            subset = " --subset val" if path == self._path("region_store_val") != self._path("region_store") else ""
            return [*(self._proposals(subset) if kind == "region_store" else []),
                    f"ovd embed-regions {self._named(self.config)}{WHAT[kind]}{subset}"]
        if kind == "images":
            return self._sources()
        return self._training(path)

    def _named(self, config: Path) -> str:
        return f"{shlex.quote(str(shown(config)))}{self._root}"

    @property
    def _root(self) -> str:
        return f" --data-root {shlex.quote(str(self.data_root))}" if self.data_root else ""

    def _path(self, key: str) -> Path | None:
        value = self.cfg.get(key)
        return Path(self.cfg.get("data_root") or "", value) if isinstance(value, str) else None

    @cached_property
    def _docstring(self) -> list[str]:
        """Commands of the config's docstring, on the data root that the user gave."""
        lines = _commands(self.config)
        if not self.data_root:
            return lines
        own = _data_root(self.config)
        return [re.sub(rf"(?<![\w./-]){re.escape(own)}(?=/)", str(self.data_root).rstrip("/"), line) if own else line
                for line in lines]

    def _written(self, path: Path) -> list[str]:
        """The docstring's command whose --out is the file, after those that make what it reads."""
        outs = {words[words.index("--out") + 1]: line for line in self._docstring
                if "--out" in (words := shlex.split(line))[:-1]}
        line = outs.get(str(path))
        if line is None:
            return []
        read = [Path(word) for word in shlex.split(line) if word != str(path) and word.endswith(SUFFIXES)]
        before = [command for word in read if not word.exists() for command in (self._written(word) or
                                                                                self._training(word))]
        return [*before, line]

    def _sources(self) -> list[str]:
        """What the dataset itself comes from; nothing where it is there."""
        root = Path(self.cfg.get("data_root") or "")
        source = self._path("support_ann")
        folders = [self._path(f"{subset}_prefix") for subset in ("train", "val")]
        if (source is None or source.exists()) and all(folder is None or folder.is_dir() for folder in folders):
            return []
        if "shapes" in (root.name, self.config.parent.name):
            return [f"ovd shapes --data-root {shlex.quote(str(root))}"]
        convert = [line for line in self._docstring if line.startswith("ovd voc-to-coco")]
        return [f"# download the dataset into {root}: data/README.md says from where", *convert]

    def _build_split(self) -> str:
        split = str(self.cfg.get("split"))
        if split.endswith((".json", ".txt")) or str(self.cfg.get("train_ann")).endswith(f"_{split}.json"):
            return f"ovd build-zsl {self._named(self.config)}"
        return f"ovd build-zsl --split {split} --data-root {shlex.quote(str(self.cfg.get('data_root')))}"

    def _class_head(self) -> list[str]:
        """By the docstring: of the learned kind, after the store that it is learned from."""
        for line in self._docstring:
            if line.startswith("ovd learn-prompts"):
                before = [other for other in self._docstring if other.startswith(("ovd proposals", "ovd embed-regions"))
                          and "--out" in other and not Path(shlex.split(other)[shlex.split(other).index("--out") + 1])
                          .exists()]
                needed = self.of("region_store", self._path("region_store")) if self._lacks("region_store") else []
                return [*needed, *(self._rooted(other) for other in before), self._rooted(line)]
        style = "vild74" if Path(str(self.cfg.get("class_head"))).name.startswith("vild74") else "vild"
        return [f"ovd class-embeddings {style} --config {self._named(self.config)}"]

    def _rooted(self, line: str) -> str:
        return line if not self.data_root or "--data-root" in line else line + self._root

    def _lacks(self, key: str) -> bool:
        path = self._path(key)
        return path is not None and not path.exists()

    def _proposals(self, subset: str) -> list[str]:
        store = self._path("proposal_store_val" if subset else "proposal_store_train")
        if store is None or store.exists():
            return []
        for network in self._networks():
            checkpoint = f"{_literal(network, 'work_dir') or f'work_dirs/{network.stem}'}/final.pth"
            train = [] if Path(checkpoint).exists() else [f"ovd train {self._named(network)}"]
            return [*train, f"ovd proposals {shlex.quote(str(shown(network)))} {checkpoint}{self._root}"]
        return [f"# make {store}: ovd proposals CONFIG CHECKPOINT, of a proposal network"]

    def _networks(self) -> Iterator[Path]:
        """Configs of proposal networks for the same store and split, those beside the config first."""
        wanted = self.cfg.get("proposal_store_train"), self.cfg.get("split")
        for file in (*sorted(self.config.parent.glob("rpn*.py")), *sorted((CONFIGS / "rpn").glob("*.py"))):
            try:
                other = Config.fromfile(file)
            except Exception:  # not a config
                continue
            if (other.get("proposal_store_train"), other.get("split")) == wanted:
                yield file

    def _training(self, path: Path) -> list[str]:
        """The training of the config whose work directory has the checkpoint."""
        if path.name != "final.pth":
            return []
        named = [file for file in sorted(CONFIGS.rglob("*.py")) if "_base_" not in file.parts
                 and path.parent.name in (file.stem, Path(_literal(file, "work_dir") or "").name)]
        beside = [file for file in named if ("shapes" in str(file)) == ("shapes" in str(self.config))]
        return [f"ovd train {self._named(file)}" for file in (beside or named)[:1]]


def _literal(file: Path, name: str) -> str | None:
    """The text that a config assigns to a name; its code is not run."""
    try:
        body = ast.parse(file.read_text()).body
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) \
                and any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
            return node.value.value
    return None


def _bases(config: Path) -> Iterator[Path]:
    """The files that a config takes everything from."""
    try:
        tree = ast.parse(config.read_text())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            folder = config.parents[node.level - 1]
            if (base := folder.joinpath(*node.module.split(".")).with_suffix(".py")).is_file():
                yield base


def _data_root(config: Path) -> str | None:
    """The data root that a config, or what it is made of, assigns."""
    return _literal(config, "data_root") or next((root for base in _bases(config) if (root := _data_root(base))), None)


def _commands(config: Path) -> list[str]:
    """The commands in the docstrings of a config and of what it is made of, its own first."""
    try:
        text = ast.get_docstring(ast.parse(config.read_text())) or ""
    except (OSError, SyntaxError, UnicodeDecodeError):
        return []
    lines = [" ".join(line.split()) for line in re.sub(r"\\\n\s*", " ", text).splitlines()]
    own = [line for line in lines if re.match(r"ovd [a-z]", line) and "[" not in line]
    return list(dict.fromkeys([*own, *(line for base in _bases(config) for line in _commands(base))]))


def _rank(command: str) -> int:
    """Where a command comes: by its stage, and a class's shots and surgeries in the order in which they were found."""
    stage = command.split()[0 if command.startswith("#") else 1]
    return ORDER.index(stage) if stage in ORDER else len(ORDER)
