"""A registry of classes: a folder to which classes are added one by one, each a class head file of its own.

The folder's manifest lists the classes in the order in which they were added. A class's file never changes: its name
has a digest of what is in it, so a class that is replaced gets another file. Files that the manifest does not list do
not count; so whoever is killed at any moment leaves the registry as it was before, or as it was to become.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ovd.errors import UserError, nearest
from ovd.stores.atomic import refusal
from ovd.stores.class_heads import ClassHead
from ovd.stores.lock import StoreLock
from ovd.stores.manifest import PASSING, Manifest, canonical_json, fingerprint, fingerprint_json
from ovd.vocabulary.classes import spelling

KIND = "class_registry"
STAGE = "classes"

_FILE = re.compile(r"[a-z0-9-]+-[0-9a-f]{16}\.safetensors(\.manifest\.json)?")
_NO_FACTS: dict[str, Any] = {"settings": {}, "scale": None}  # of a registry without classes
_WORDS = 40  # letters of a class's name in its file's name


def load_classes(path: str | os.PathLike) -> ClassHead:
    """The classes of a class head file or of a registry's folder.

    Raises:
        UserError: neither; a registry without classes, or with a damaged file.
    """
    path = Path(path)
    return ClassRegistry(path).head() if path.is_dir() else ClassHead.load(path)


class ClassRegistry:
    """The classes in the folder ``path``; one that does not exist is a registry without classes.

    Names are looked up by :func:`spelling`. Reading takes no lock; a second writer is refused in one line.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in the order in which they were added."""
        return tuple(entry["name"] for entry in _entries(self._manifest()))

    @property
    def settings(self) -> dict[str, Any]:
        """How its classes were made, as the first :meth:`add` said that said it."""
        return dict(self._manifest().config["settings"])

    def head(self) -> ClassHead:
        """All classes, in the order in which they were added.

        Raises:
            UserError: there are none; a damaged file.
        """
        while True:
            manifest = self._manifest()
            if not _entries(manifest):
                raise self._empty()
            try:
                return _joined([self._load(manifest, entry) for entry in _entries(manifest)])
            except UserError:
                if self._manifest().content == manifest.content:
                    raise  # else a writer removed a file in this moment

    def get(self, name: str) -> ClassHead:
        """The head of one class; UserError with the nearest names for an unknown one."""
        while True:
            manifest = self._manifest()
            try:
                return self._load(manifest, self._entry(manifest, name))
            except UserError:
                if self._manifest().content == manifest.content:
                    raise

    def check_new(self, names: Iterable[str], replace: bool = False) -> None:
        """Refuse names that cannot be added, before work is spent on them.

        Raises:
            UserError: two spellings of one name among them; a name, or another spelling of it, that is there already
                (with ``replace`` only the other spelling); a name that is blank or no line of text.
        """
        self._check_new(self._manifest(), tuple(names), replace)

    def add(self, head: ClassHead, replace: bool = False, *, settings: Mapping[str, Any] | None = None,
            flags: Mapping[str, Any] | None = None) -> None:
        """Add all classes of a head, or none of them; with ``replace`` those that are there keep their place.

        The head's background row is left out: what stands for no class is the detector's. Linear heads of a CLIP become
        cosine ones, so that all sources go beside each other. The scale of the first head stays that of the registry,
        for a detector to divide by, whichever classes are removed.

        Args:
            settings: how they were made; kept where no classes before them said it.
            flags: marks of their files, such as ``{"untrained": True}``.

        Raises:
            UserError: names as in :meth:`check_new`; another embedding space or width than that of the classes that are
                there; a form that does not go beside theirs; another process that writes.
        """
        self._check_new(self._manifest(), head.names, replace)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(self.path, error) from error
        with StoreLock(self.path):
            before = self._manifest()
            self._check_new(before, head.names, replace)
            new = {spelling(name) for name in head.names}
            kept = [entry for entry in _entries(before) if spelling(entry["name"]) not in new]
            facts = {"settings": (kept and before.config["settings"]) or dict(settings or {}),
                     "scale": before.config["scale"] if kept else head.scale}
            head = _stored(head, facts["scale"])
            if kept:  # all files go beside each other, so one of them stands for all
                self._check_fits(self._load(before, kept[0]), head)
            entries, files = _entries(before), dict(before.files)
            place = {spelling(entry["name"]): index for index, entry in enumerate(entries)}
            for name in head.names:
                entry = self._write(head.select([name]), files, dict(flags or {}))
                index = place.get(spelling(name))
                if index is None:
                    entries.append(entry)
                else:
                    entries[index] = entry
            self._publish(entries, files, facts)

    def remove(self, *names: str) -> None:
        """Remove classes, all or none; UserError with the nearest names for an unknown one."""
        if not names:
            return
        self._entry(self._manifest(), names[0])  # no lock in a folder that is not there
        with StoreLock(self.path):
            before = self._manifest()
            gone = [self._entry(before, name) for name in names]
            self._publish([entry for entry in _entries(before) if entry not in gone], before.files,
                          {key: before.config[key] for key in ("settings", "scale")})

    def _manifest(self) -> Manifest:
        path = Manifest.path(self.path)
        if path.exists() and self.path.is_dir():
            try:
                manifest = Manifest.read(self.path)
            except UserError:
                raise UserError(f"{path}: the list of the classes is damaged; their files are still there: put a copy "
                                "of the list back, or take them over into another registry (ovd classes add --registry "
                                f"NEW --from {self.path}/CLASS.safetensors)") from None
            if manifest.kind != KIND:
                raise UserError(f"{self.path}: is of kind {manifest.kind!r}, no registry of classes; name another "
                                "folder")
            return manifest
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; a registry of classes is a folder")
        for file in sorted(self.path.iterdir()) if self.path.exists() else ():
            if not file.name.startswith(PASSING) and not _FILE.fullmatch(file.name):
                raise UserError(f"{self.path}: is no registry of classes (it has {file.name}); name another folder")
        return Manifest(KIND, STAGE, {"classes": [], **_NO_FACTS})

    def _entry(self, manifest: Manifest, name: str) -> dict[str, Any]:
        for entry in _entries(manifest):
            if spelling(entry["name"]) == spelling(name):
                return entry
        known = [entry["name"] for entry in _entries(manifest)]
        if not known:
            raise self._empty()
        raise UserError(f"{self.path}: has no class {name!r}{nearest(name, known)}")

    def _empty(self) -> UserError:
        return UserError(f"{self.path}: a registry without classes; add one with ovd classes add NAME")

    def _check_new(self, manifest: Manifest, names: Sequence[str], replace: bool) -> None:
        present = {spelling(entry["name"]): entry["name"] for entry in _entries(manifest)}
        seen: dict[str, str] = {}
        for name in names:
            if not name.strip() or not name.isprintable():
                raise UserError(f"{name!r} is not a class name: it needs letters, in one line")
            if spelling(name) in seen:
                raise UserError(f"the classes {seen[spelling(name)]!r} and {name!r} are one name; leave one out")
            seen[spelling(name)] = name
            known = present.get(spelling(name))
            if known is not None and known != name:
                raise UserError(f"{self.path}: has the class {known!r}, another spelling of {name!r}: use that, or "
                                "remove it first")
            if known is not None and not replace:
                raise UserError(f"{self.path}: has a class {name!r} already; pass --replace to put another in its "
                                "place")

    def _check_fits(self, ours: ClassHead, new: ClassHead) -> None:
        try:
            ours.concat(new)
        except UserError as error:
            raise UserError(f"{self.path}: does not go beside its class {ours.names[0]!r}: {error}") from error

    def _write(self, head: ClassHead, files: dict[str, dict[str, Any]], flags: dict[str, Any]) -> dict[str, Any]:
        """Write the file of one class, put it into ``files``; its entry in the manifest."""
        name = head.names[0]
        words = re.sub(r"[^a-z0-9]+", "-", name.casefold())[:_WORDS].strip("-") or "class"
        file = self.path / f"{words}-{_digest(head)[:16]}.safetensors"
        manifest = head.save(file, STAGE, {"class": name}, {"clip": clip} if (clip := head.stats.get("clip")) else {},
                             flags)
        files[file.name] = manifest.files[file.name]
        return {"name": name, "file": file.name, **({"flags": flags} if flags else {})}

    def _publish(self, entries: list[dict[str, Any]], files: Mapping[str, dict[str, Any]],
                 facts: Mapping[str, Any]) -> None:
        """Make ``entries`` the registry, then remove the files that are no longer listed."""
        files = {entry["file"]: files[entry["file"]] for entry in entries}
        flags: dict[str, Any] = {}
        for entry in entries:
            flags |= entry.get("flags", {})
        content = fingerprint_json([[entry["name"], files[entry["file"]]["sha256"]] for entry in entries])
        Manifest(KIND, STAGE, {"classes": entries, **(facts if entries else _NO_FACTS)}, content=content,
                 counts={"classes": len(entries)}, flags=flags, files=files).write(self.path)
        for file in self.path.iterdir():
            if _FILE.fullmatch(file.name) and file.name.removesuffix(".manifest.json") not in files:
                file.unlink(missing_ok=True)

    def _load(self, manifest: Manifest, entry: Mapping[str, Any]) -> ClassHead:
        file = self.path / entry["file"]
        remedy = f"add the class again (ovd classes add --replace), or remove it (ovd classes remove {entry['name']!r})"
        if not _FILE.fullmatch(entry["file"]) or not file.is_file():
            raise UserError(f"{file}: the file of class {entry['name']!r} is missing; {remedy}")
        if fingerprint(file) != manifest.files[entry["file"]]["sha256"]:
            raise UserError(f"{file}: the file of class {entry['name']!r} was changed after it was added; {remedy}")
        return ClassHead.load(file)


def _entries(manifest: Manifest) -> list[dict[str, Any]]:
    return list(manifest.config["classes"])


def _stored(head: ClassHead, scale: float) -> ClassHead:
    """What the registry keeps of a head."""
    head = replace(head, background=None)
    if head.norm == "linear" and "space" not in head.stats:
        head = head.as_cosine()
    return head.as_cosine(scale) if head.norm == "cosine" else head


def _joined(heads: list[ClassHead]) -> ClassHead:
    """The concatenation, halves first: each class is copied a few times, however many there are."""
    if len(heads) == 1:
        return heads[0]
    half = len(heads) // 2
    return _joined(heads[:half]).concat(_joined(heads[half:]))


def _digest(head: ClassHead) -> str:
    """Hexadecimal sha256 of all that is in a head."""
    sha = hashlib.sha256()
    for name, value in _parts(head):
        shape = list(value.shape) if isinstance(value, Tensor) else value
        sha.update(canonical_json([name, shape]).encode())
        if isinstance(value, Tensor):
            sha.update(value.numpy().tobytes())
    return sha.hexdigest()


def _parts(record: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            yield from ((f"{field.name}.{name}", part) for name, part in _parts(value))
        else:
            yield field.name, value
