"""ovd store: verify, info, merge, export and import, as a user meets them."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from ovd.stores.per_image import file_name
from ovd.stores.shards import Regions, RegionStore
from pipelines.cli import main
from pipelines.store.exporting import export
from pipelines.store.importing import import_files
from pipelines.store.merging import merge

ROOT = Path(__file__).resolve().parents[2]
STAGE, CONFIG, CLIP = "embed-regions", {"recipe": {"kind": "clip", "scales": [1.0, 1.5]}}, {"clip": "sha256:1"}
IDS = [*range(3, 40, 2), 2**33]
SIZE = 640


def make(image_id, dim=16, count=None):
    rng = np.random.default_rng(image_id)
    count = int(rng.integers(0, 7)) if count is None else count
    corner = rng.uniform(0, 400, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 200, (count, 2))], 1).astype(np.float32)
    scores = rng.uniform(size=count).astype(np.float32)  # in no order
    raw = rng.normal(size=(count, dim or 1))
    return Regions(boxes, scores,
                   (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16) if dim else None)


def write(path, ids=IDS, per_shard=5, dim=16, rows="float16", config=CONFIG, inputs=CLIP, **marks):
    writer = RegionStore.create(path, "regions" if dim else "proposals", ids, per_shard, dim, rows=rows,
                                config=[config, inputs])
    for shard in writer.missing():
        writer.write(shard, {image_id: make(image_id, dim) for image_id in writer.image_ids(shard)})
    writer.finish(STAGE, {**config, "images_per_shard": per_shard}, inputs, counts={"crops_per_region": 2}, **marks)
    return path


def contents(path):
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in sorted(path.rglob("*"))
            if f.is_file() and f.name != "manifest.json"}


def assert_holds(path, ids=IDS, boxes_within=0.0, cosine=None, dim=16):
    store = RegionStore(path)
    assert store.image_ids.tolist() == sorted(ids)
    for image_id in ids:
        found, expected = store[image_id], make(image_id, dim)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=boxes_within, rtol=0)
        np.testing.assert_allclose(found.scores, expected.scores, atol=boxes_within, rtol=0)
        if cosine is None:
            np.testing.assert_array_equal(found.embeddings, expected.embeddings)
        else:
            a, b = (rows.astype(float) for rows in (found.embeddings, expected.embeddings))
            assert ((a * b).sum(1) > cosine * np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).all()


@pytest.fixture
def store(tmp_path):
    return write(tmp_path / "store")


@pytest.fixture
def annotations(tmp_path):
    file = tmp_path / "instances.json"
    images = [{"id": image_id, "width": SIZE, "height": SIZE, "file_name": f"{image_id}.jpg"} for image_id in IDS[::-1]]
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}))
    return file


def test_damage_is_listed_and_repaired_from_the_command_line(store):
    def ovd(*words):
        return subprocess.run([sys.executable, ROOT / "tools/store.py", *words], capture_output=True, text=True,
                              cwd=ROOT)

    assert ovd("verify", store).returncode == 0
    before = contents(store)
    names = ["shard-00000-of-00004.h5", "shard-00002-of-00004.h5"]
    for name in names:
        data = bytearray((store / name).read_bytes())
        data[-3] ^= 1
        (store / name).write_bytes(data)
    done = ovd("verify", store)
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stdout.splitlines()[:2]] == [str(store / name) for name in names]
    assert "pass --delete-damaged) and run ovd embed-regions again" in done.stdout
    assert ovd("verify", store, "--delete-damaged").returncode == 2
    done = ovd("verify", store)
    assert done.returncode == 1 and "2 of 4 shards are missing: shard-00000-of-00004.h5, shard-00002" in done.stdout
    write(store)
    assert contents(store) == before and ovd("verify", store).returncode == 0


def test_all_stores_are_verified_and_a_folder_that_is_none_is_refused_first(store, tmp_path, capsys):
    other = write(tmp_path / "other", dim=None)
    (store / "shard-00001-of-00004.h5").unlink()
    assert main(["store", "verify", str(store), str(other)]) == 2
    said = capsys.readouterr().out
    assert "1 of 4 shards are missing" in said and f"{other}: 4 shards" in said
    assert main(["store", "verify", str(other), str(tmp_path)]) == 2
    assert "is not a store" in capsys.readouterr().err


def test_info_says_what_a_store_is(store, capsys):
    assert main(["store", "info", str(store)]) == 0
    said = capsys.readouterr().out
    for part in ("16 wide, float16", "embed-regions", '"kind": "clip"', "sha256:1", "4 of 4, of 5 images"):
        assert part in said
    assert main(["store", "info", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["regions"] == sum(len(make(i)) for i in IDS) and found["clip"] == "sha256:1"


def parts_of(tmp_path, count=3, **options):
    return [write(tmp_path / f"part{k}", IDS[k::count], 4 + k, inputs=CLIP | {"annotations": f"sha256:{k}"}, **options)
            for k in range(count)]


def test_merged_parts_are_the_whole(tmp_path, store):
    parts = parts_of(tmp_path, skipped=[{"image_id": 1}])
    out = merge(parts, tmp_path / "out", 5)
    assert_holds(out)
    manifest = Manifest.read(out)
    assert manifest.config == CONFIG | {"images_per_shard": 5, "merged": STAGE} and len(manifest.skipped) == 3
    assert manifest.inputs["clip"] == "sha256:1" and manifest.inputs["part 3"] == Manifest.read(parts[2]).content
    assert manifest.counts["crops_per_region"] == 2
    whole, merged = RegionStore(store), RegionStore(out)
    assert merged.manifest.counts == whole.manifest.counts
    assert_holds(merge([merge(parts[:2], tmp_path / "two"), parts[2]], tmp_path / "again", 7))


def test_a_merge_goes_on_where_it_was_and_notices_new_parts(tmp_path, capsys):
    parts = parts_of(tmp_path)
    out = merge(parts, tmp_path / "out", 4)
    before, stamp = contents(out), (out / "shard-00001-of-00005.h5").stat().st_mtime_ns
    (out / "manifest.json").unlink()
    (out / "shard-00003-of-00005.h5").unlink()
    merge(parts, out, 4)
    assert contents(out) == before and (out / "shard-00001-of-00005.h5").stat().st_mtime_ns == stamp
    capsys.readouterr()
    merge(parts, out, 4)
    assert "is up to date" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite"):
        merge(parts[:2], out, 4)
    assert_holds(merge(parts[:2], out, 4, overwrite=True), IDS[0::3] + IDS[1::3])


def test_a_merge_changes_the_type_of_rows(tmp_path):
    direct = write(tmp_path / "direct", rows="int8")
    parts = parts_of(tmp_path)
    out = merge(parts, tmp_path / "small", 5, rows="int8")
    assert RegionStore(out).rows == "int8"
    assert_holds(out, cosine=0.9998)
    for image_id in IDS:  # as if they had been written so
        np.testing.assert_array_equal(RegionStore(out)[image_id].embeddings, RegionStore(direct)[image_id].embeddings)
    mixed = [direct, write(tmp_path / "more", [1])]
    with pytest.raises(UserError, match=r"rows is float16, but int8 in .*--rows"):
        merge(mixed, tmp_path / "mixed")
    assert RegionStore(merge(mixed, tmp_path / "mixed", rows="float16")).rows == "float16"


@pytest.mark.parametrize(("options", "message"), [
    ({"ids": [3, 5]}, r"image id 3 \(and 1 more\) is in .*store and in .*other"),
    ({"dim": None}, "other: kind is proposals, but regions in .*store"),
    ({"dim": 8}, "other: width is 8, but 16 in"),
    ({"config": {"recipe": {"kind": "warp", "scales": [1.0, 1.5]}}}, "other: config.recipe.kind is warp, but clip in"),
    ({"inputs": {"clip": "sha256:2"}}, "other: input.clip is sha256:2, but sha256:1 in"),
    ({"flags": {"untrained": True}}, "other: mark.untrained is true, but none in"),
])
def test_parts_that_do_not_fit_are_told_apart(tmp_path, store, options, message):
    other = write(tmp_path / "other", **{"ids": [4, 6], **options})
    with pytest.raises(UserError, match=message):
        merge([store, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def flip_a_bit(shard, dataset):
    with h5py.File(shard) as file:
        place = file[dataset].id.get_offset()
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)


def test_damage_does_not_get_into_files_or_into_a_store_of_them(tmp_path, store, annotations):
    export(store, "detpro", tmp_path / "files")
    proposals = write(tmp_path / "proposals", dim=None)
    for folder, dataset in ((store, "embedding"), (proposals, "boxes")):
        flip_a_bit(folder / "shard-00000-of-00004.h5", dataset)
    for layout in ("oadp", "detpro"):
        with pytest.raises(UserError, match=r"store/shard-00000-of-00004\.h5: the checksum does not match"):
            export(store, layout, tmp_path / layout)
    with pytest.raises(UserError, match=r"proposals/shard-00000-of-00004\.h5: the checksum does not match"):
        import_files(tmp_path / "files", "detpro", annotations, tmp_path / "back", proposals)
    assert not (tmp_path / "back").exists()


def test_damage_in_a_part_does_not_get_a_new_checksum(tmp_path):
    parts = parts_of(tmp_path)
    flip_a_bit(parts[1] / "shard-00000-of-00002.h5", "embedding")
    with pytest.raises(UserError, match=r"part1/shard-00000-of-00002\.h5: the checksum does not match"):
        merge(parts, tmp_path / "out", 4)
    assert not (tmp_path / "out/manifest.json").exists()
    assert not list((tmp_path / "out").glob(".*")), "no leftovers"


@pytest.mark.parametrize("rows", ["float16", "int8"])
@pytest.mark.parametrize("layout", ["detpro", "oadp"])
def test_what_is_exported_is_imported(tmp_path, annotations, layout, rows, capsys):
    store = write(tmp_path / "store", rows=rows)
    export(store, layout, tmp_path / "files")
    assert "note: these files " in capsys.readouterr().out
    boxes = {"proposals": tmp_path / "files/proposals.pkl", "order": "sorted"} if layout == "detpro" else {}
    options = {**boxes, "images_per_shard": 4, "rows": rows}
    out = import_files(tmp_path / "files", layout, annotations, tmp_path / "back", **options)
    assert "stored as they were" in capsys.readouterr().out
    source, back = RegionStore(store), RegionStore(out)
    assert back.rows == rows
    for image_id in IDS:
        np.testing.assert_array_equal(back[image_id].embeddings, source[image_id].embeddings)
    assert_holds(out, boxes_within=0.25 if layout == "oadp" else 0.0, cosine=0.999)
    import_files(tmp_path / "files", layout, annotations, out, **options)
    assert "is up to date" in capsys.readouterr().out


def test_exported_proposals_are_in_the_order_of_the_rows(tmp_path, store):
    export(store, "detpro", tmp_path / "files")
    entries = pickle.loads((tmp_path / "files/proposals.pkl").read_bytes())
    assert len(entries) == len(IDS)
    for image_id, entry in zip(sorted(IDS), entries):
        rows = torch.load(tmp_path / "files" / file_name(image_id), weights_only=True)
        np.testing.assert_array_equal(rows, make(image_id).embeddings)
        np.testing.assert_array_equal(entry[:, :4], make(image_id).boxes)
        np.testing.assert_array_equal(entry[:, 4], make(image_id).scores)


def test_an_export_goes_on_and_never_mixes_stores(tmp_path, store):
    folder = tmp_path / "files"
    assert export(store, "oadp", folder) == len(IDS)
    before = contents(folder)
    cut = folder / file_name(IDS[2])
    cut.write_bytes(cut.read_bytes()[:-10])
    (folder / file_name(IDS[4])).unlink()
    assert export(store, "oadp", folder) == 2 and contents(folder) == before
    other = write(tmp_path / "other", IDS[:4], config={"other": True})
    for arguments in ((other, "oadp"), (store, "detpro")):
        with pytest.raises(UserError, match="holds files of another store or layout"):
            export(*arguments, folder)
    assert contents(folder) == before
    export(other, "oadp", folder, overwrite=True)
    assert sorted(contents(folder)) == sorted([*(file_name(i) for i in IDS[:4]), "export.json"])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_text("")
    with pytest.raises(UserError, match="exists and is not an export"):
        export(store, "oadp", tmp_path / "photos", overwrite=True)
    with pytest.raises(UserError, match="a store of proposals has no embeddings"):
        export(write(tmp_path / "boxes", dim=None), "oadp", tmp_path / "more")


def test_raw_rows_are_brought_to_unit_length(tmp_path, store, annotations, capsys):
    export(store, "detpro", tmp_path / "files")
    for image_id in IDS:
        file = tmp_path / "files" / file_name(image_id)
        torch.save(torch.load(file, weights_only=True) * 11.5, file)
    proposals = write(tmp_path / "boxes", dim=None)
    out = import_files(tmp_path / "files", "detpro", annotations, tmp_path / "back", proposals)
    total = sum(len(make(i)) for i in IDS)
    assert f"rows were of length 11.5 to 11.5: {total} of {total} were brought" in capsys.readouterr().out.replace(
        "11.49", "11.5").replace("11.51", "11.5")
    assert_holds(out, cosine=0.99999)
    assert Manifest.read(out).inputs["proposals"] == Manifest.read(proposals).content


def test_boxes_that_float16_made_flat_are_left_out_with_their_rows(tmp_path, annotations, capsys):
    folder = tmp_path / "files"
    export(write(tmp_path / "store"), "oadp", folder)
    image_id = next(i for i in IDS if len(make(i)) > 2)
    content = torch.load(folder / file_name(image_id), weights_only=True)
    content["bboxes"][1, 2] = content["bboxes"][1, 0]
    torch.save(content, folder / file_name(image_id))
    out = import_files(folder, "oadp", annotations, tmp_path / "back")
    assert "1 boxes without area were left out" in capsys.readouterr().out
    found, expected = RegionStore(out)[image_id], make(image_id)
    np.testing.assert_array_equal(found.embeddings, np.delete(expected.embeddings, 1, axis=0))


def spoil(change):
    def apply(file):
        content = torch.load(file, weights_only=True)
        torch.save(change(content), file)
    return apply


def put(content, key, row, value):
    content[key][row] = value
    return content


BIG = next(i for i in IDS[1:] if len(make(i)) > 2)


@pytest.mark.parametrize(("change", "message"), [
    (lambda file: file.unlink(), "missing; give the annotation file"),
    (lambda file: file.write_bytes(file.read_bytes()[:-20]), "cannot be read .* cut"),
    (spoil(lambda c: c | {"embeddings": c["embeddings"][:, :8]}), "width 8, but 16 in the first file"),
    (spoil(lambda c: c | {"bboxes": c["bboxes"][:1]}), "1 bboxes and"),
    (spoil(lambda c: put(c, "embeddings", 1, torch.nan)), "embedding 1 is not finite or is zero"),
    (spoil(lambda c: put(c, "embeddings", 1, 0)), "embedding 1 is not finite or is zero"),
    (spoil(lambda c: put(c, "bboxes", (1, 0), torch.inf)), "box 1 .* is not finite"),
    (spoil(lambda c: put(c, "bboxes", (1, 2), SIZE + 9)), rf"box 1 .* is outside image {BIG} \(640 x 640\)"),
    (spoil(lambda c: put(c, "bboxes", (1, 2), 0)), "box 1 .* is inverted"),
])
def test_a_file_that_cannot_be_used_is_named(tmp_path, annotations, change, message):
    folder = tmp_path / "files"
    export(write(tmp_path / "store"), "oadp", folder)
    change(folder / file_name(BIG))
    with pytest.raises(UserError, match=rf"{file_name(BIG)}: .*{message}"):
        import_files(folder, "oadp", annotations, tmp_path / "back")
    assert not (tmp_path / "back/manifest.json").exists()


def test_rows_and_boxes_that_do_not_match_are_refused(tmp_path, store, annotations):
    folder = tmp_path / "files"
    export(store, "detpro", folder)
    with pytest.raises(UserError, match="its files have no boxes; give the --proposals"):
        import_files(folder, "detpro", annotations, tmp_path / "back")
    with pytest.raises(UserError, match=r"--order json .* or --order sorted"):
        import_files(folder, "detpro", annotations, tmp_path / "back", folder / "proposals.pkl")
    with pytest.raises(UserError, match=r"\.pth: has \d+ embeddings, but the proposals have \d+ boxes of image"):
        import_files(folder, "detpro", annotations, tmp_path / "back", folder / "proposals.pkl", "json")
    with pytest.raises(UserError, match="boxes of their own"):
        import_files(folder, "oadp", annotations, tmp_path / "back", folder / "proposals.pkl", "json")


def test_an_import_goes_on_and_notices_other_files(tmp_path, store, annotations):
    folder = tmp_path / "files"
    export(store, "oadp", folder)
    out = import_files(folder, "oadp", annotations, tmp_path / "back", images_per_shard=4)
    before = contents(out)
    (out / "manifest.json").unlink()
    (out / "shard-00003-of-00005.h5").unlink()
    import_files(folder, "oadp", annotations, out, images_per_shard=4)
    assert contents(out) == before
    content = torch.load(folder / file_name(BIG), weights_only=True)
    torch.save(content | {"embeddings": -content["embeddings"]}, folder / file_name(BIG))
    with pytest.raises(UserError, match=r"'files'.*--overwrite"):
        import_files(folder, "oadp", annotations, out, images_per_shard=4)
