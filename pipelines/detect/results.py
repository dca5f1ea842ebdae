"""The folder of results: a line for each image as soon as it is looked at, and a COCO file of all at the end."""

import errno
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovd.errors import UserError
from ovd.stores.atomic import atomic_write, refusal, write_bytes

Stamp = tuple[int, int] | None


class Results:
    """Records by image and number of the frame, on disk; a run that was interrupted finds its own again.

    A record has ``image``, ``stamp`` (see :class:`ovd.data.frames.Frame`), of a video ``number`` and ``seconds``, and
    either ``height``, ``width`` and ``detections`` or, where the image could not be read, ``error``.

    Args:
        folder: Made where it is not there.
        settings: What decides results.
        overwrite: Begin anew where the folder has results of other settings.

    Raises:
        UserError: Results of other settings; a folder that cannot be written to, that holds something else, or that
            another run writes to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.folder = folder
        self.lines = folder / "detections.jsonl"
        self.coco = folder / "detections.json"
        self.pictures = folder / "pictures"
        self._places: dict[tuple[str, int | None], tuple[int, int]] = {}  # first byte and length of a record
        self._stamps: dict[str, Stamp] = {}
        self._frames: dict[str, int] = {}  # of videos that were looked at to their end
        self._order: list[tuple[str, int | None]] = []
        self.dropped = 0
        self._folder: int | None = _held(folder)
        try:
            self._begin(json.loads(json.dumps(settings)), overwrite)
            self._file = self.lines.open("r+b")
            self._read()
        except BaseException:
            self._let_go()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def is_done(self, image: str, stamp: Stamp, picture: bool) -> bool:
        """Whether all of a file has been looked at and, with ``picture``, drawn, and it is still the same."""
        if self._stamps.get(image, ()) != stamp or (picture and not self.picture_of(image).exists()):
            return False
        return (image, None) in self._places or image in self._frames

    def keep(self, image: str) -> int:
        """Take over the records of a file that is done; returns how many they are."""
        keys = [(image, None)] if (image, None) in self._places else \
            sorted(key for key in self._places if key[0] == image)
        self._order += keys
        return len(keys)

    def known(self, image: str, number: int | None, stamp: Stamp) -> dict[str, Any] | None:
        """The record of a frame that was looked at before, and is still the same."""
        if self._stamps.get(image, ()) != stamp or (image, number) not in self._places:
            return None
        return self._record((image, number))

    def keep_frame(self, image: str, number: int | None) -> None:
        """Take over the record of a frame that is :meth:`known`."""
        self._order.append((image, number))

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a record: it is on disk when this returns."""
        key = record["image"], record.get("number")
        self._write(record)
        if "error" not in record:
            self._order.append(key)

    def end_video(self, image: str, frames: int, stamp: Stamp) -> None:
        """Keep that a video was looked at to its end."""
        self._write({"image": image, "stamp": stamp, "frames": frames})

    def picture_of(self, image: str) -> Path:
        """Where the picture of an image goes, or the video of a video."""
        from ovd.data.frames import is_video

        suffixes, added = ((".mp4",), ".mp4") if is_video(image) else ((".jpg", ".jpeg"), ".jpg")
        return self.pictures / (image if image.lower().endswith(suffixes) else image + added)

    def finish(self, names: Sequence[str]) -> Counter[str]:
        """Write all records of this run in order, and the COCO file; returns the number of detections of each class.

        Records of pictures that are not among its inputs any more are ``dropped``.

        Args:
            names: All classes; their ids in the COCO file begin at 1.
        """
        self.dropped = len(self._places) - len(self._order)
        places: list[tuple[int, int]] = []
        with atomic_write(self.lines) as temporary, open(temporary, "wb") as file:
            for key in self._order:
                first, length = self._places[key]
                self._file.seek(first)
                file.write(self._file.read(length))
                places.append((file.tell() - length, length))
            kept = {image for image, _ in self._order}
            for image, frames in sorted((image, frames) for image, frames in self._frames.items() if image in kept):
                file.write(_line({"image": image, "stamp": self._stamps[image], "frames": frames}))
        self._file.close()
        self._file = self.lines.open("r+b")
        self._places = dict(zip(self._order, places))
        return self._write_coco(names)

    def close(self) -> None:
        """Close the file of records, and let others write to the folder; nothing is lost without it."""
        self._file.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def _begin(self, settings: dict[str, Any], overwrite: bool) -> None:
        about = self.folder / "settings.json"
        try:
            before = json.loads(about.read_bytes()) if about.exists() else None
        except OSError as error:
            raise refusal(self.folder, error) from None
        except ValueError:
            before = {}
        if before is None and not overwrite and any(self.folder.iterdir()):
            raise UserError(f"{self.folder}: holds something else than detections; pass another --out, or --overwrite")
        changed = [] if before is None else [key for key in {**settings, **before}
                                             if settings.get(key) != before.get(key)]
        if changed and not overwrite:
            raise UserError(f"{self.folder}: has detections with another {', '.join(changed)}; pass --overwrite to "
                            "begin anew, or another --out")
        if before is None or changed or overwrite:
            write_bytes(self.lines, b"")
            self.coco.unlink(missing_ok=True)
            write_bytes(about, (json.dumps(settings, indent=1) + "\n").encode())
        elif not self.lines.exists():
            write_bytes(self.lines, b"")

    def _read(self) -> None:
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # cut off when the run was ended
            try:
                self._enter(json.loads(line), whole, len(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{self.lines}: damaged at byte {whole}; pass --overwrite to begin anew") from None
            whole += len(line)
        self._file.seek(whole)
        self._file.truncate()

    def _enter(self, record: dict[str, Any], first: int, length: int) -> None:
        image, stamp = record["image"], record["stamp"]
        stamp = None if stamp is None else (int(stamp[0]), int(stamp[1]))
        if self._stamps.setdefault(image, stamp) != stamp:  # the file has changed since
            self._frames.pop(image, None)
            for key in [key for key in self._places if key[0] == image]:
                del self._places[key]
            self._stamps[image] = stamp
        if "frames" in record:
            self._frames[image] = record["frames"]
        elif "error" not in record:
            self._places[image, record.get("number")] = first, length

    def _write(self, record: Mapping[str, Any]) -> None:
        line = _line(record)
        self._file.seek(0, os.SEEK_END)
        first = self._file.tell()
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise refusal(self.lines, error) from None
        self._enter(json.loads(json.dumps({key: record[key] for key in record if key != "detections"})), first,
                    len(line))

    def _record(self, key: tuple[str, int | None]) -> dict[str, Any]:
        first, length = self._places[key]
        self._file.seek(first)
        return json.loads(self._file.read(length))

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of this run, in order."""
        return map(self._record, self._order)

    def _write_coco(self, names: Sequence[str]) -> Counter[str]:
        ids = {name: number for number, name in enumerate(names, 1)}
        counts: Counter[str] = Counter()
        with atomic_write(self.coco) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write('{"categories": ')
            file.write(json.dumps([{"id": number, "name": name} for name, number in ids.items()], ensure_ascii=False))
            file.write(',\n"images": [')
            for number, record in enumerate(self.records(), 1):
                file.write(",\n" if number > 1 else "\n")
                file.write(json.dumps({"id": number, "file_name": record["image"], "height": record["height"],
                                       "width": record["width"], **{key: record[key] for key in ("number", "seconds")
                                                                    if key in record}}, ensure_ascii=False))
            file.write('\n],\n"annotations": [')
            written = 0
            for number, record in enumerate(self.records(), 1):
                for one in record["detections"]:
                    counts[one["name"]] += 1
                    written += 1
                    file.write(",\n" if written > 1 else "\n")
                    file.write(json.dumps(_annotation(one, written, number, ids[one["name"]])))
            file.write("\n]}\n")
        return counts


def _held(folder: Path) -> int:
    """A descriptor of a folder, made where it is not there, that is locked until it is closed: two runs would write
    over each other's records."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise refusal(folder, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            raise UserError(f"{folder}: another run writes its detections there; wait until it ends, or pass another "
                            "--out") from None
    return descriptor  # without a lock where the file system has none


def _annotation(one: Mapping[str, Any], number: int, image_id: int, category_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = one["box"]
    width, height = round(x2 - x1, 3), round(y2 - y1, 3)
    found = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [x1, y1, width, height],
             "area": round(width * height, 3), "iscrowd": 0, "score": one["score"]}
    return {**found, "segmentation": one["mask"]} if "mask" in one else found


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()
