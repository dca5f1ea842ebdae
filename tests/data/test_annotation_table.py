"""Annotation files as text and columns: what is written is what was read, to the byte, or as the records say."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.data import annotation_table
from ovd.data.annotation_table import read_table
from ovd.data.annotations import load_annotations
from ovd.errors import UserError

KEYS = ("images", "annotations", "categories")


def annotation(number: int, **fields) -> dict:
    return {"id": number, "category_id": 2 + 3 * (number % 2), "bbox": [1.5, 2, 3, 1e1], "area": 6.0, "image_id": 7,
            "segmentation": [[1, 2.50, 3, 4, 5, 6.25]]} | fields


def file_of(annotations: list[dict]) -> dict:
    return {"info": {"about": "annotations"}, "images": [{"id": 7, "file_name": "7.jpg", "height": 100, "width": 200}],
            "annotations": annotations, "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]}


def written(folder, text: str):
    path = folder / "source.json"
    path.write_text(text)
    return path


def is_copied(table) -> bool:
    return not isinstance(table.text, bytes)


def with_new_ids(path, chosen: list[int], new: dict[int, int]) -> dict:
    """What must be written, on plain json."""
    file = json.loads(path.read_text())
    annotations = [file["annotations"][i] for i in chosen]
    return {**{key: file[key] for key in KEYS},
            "annotations": [{**one, "category_id": new[one["category_id"]]} for one in annotations]}


def rewrite(table, chosen: list[int], new: dict[int, int], path) -> dict:
    columns = table.columns[np.array(chosen, np.int64)]
    columns.category_id[:] = [new[number] for number in columns.category_id.tolist()]
    replace(table, columns=columns).save(path)
    return json.loads(path.read_text())


LAYOUTS = {"blanks": {}, "compact": {"separators": (",", ":")}, "one blank": {"separators": (", ", ":")},
           "lines": {"indent": 1}}
SPECIAL = [{}, {"note": 'a "category_id": 5, {"'}, {"note": "}, {"}, {"note": "category_id"}, {"neg_category_id": 2},
           {"more": [{"a": 1}, {"b": 2}]}, {"more": {"category_id": 9}}, {"caty_id": 3}, {"text": "ä_y_"},
           {"segmentation": {"counts": [5, 9], "size": [100, 200]}}]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_chosen_records_are_written_with_other_ids(tmp_path_factory, data):
    special = data.draw(st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=12))
    file = file_of([annotation(i + 1, **fields) for i, fields in enumerate(special)])
    if data.draw(st.booleans()):  # LVIS's order: annotations first
        file = {key: file[key] for key in ("info", "annotations", "images", "categories")}
    layout = LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))]
    folder = tmp_path_factory.mktemp("table")
    path = written(folder, json.dumps(file, **layout, ensure_ascii=data.draw(st.booleans())))
    chosen = [i for i in range(len(special)) if data.draw(st.booleans())]
    new = {2: data.draw(st.integers(0, 12)), 5: data.draw(st.integers(0, 1500))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotation_table, "_PIECE", data.draw(st.sampled_from([1, 150, 1 << 18])))
        patch.setattr(annotation_table, "_BATCH", data.draw(st.sampled_from([1, 3, 2048])))
        table = read_table(path)
    assert rewrite(table, chosen, new, folder / "result.json") == with_new_ids(path, chosen, new)


@pytest.mark.parametrize("layout", ["blanks", "compact", "one blank"])
@pytest.mark.parametrize("order", [KEYS, ("annotations", "images", "categories")])
def test_records_of_usual_files_are_copied_to_the_byte(tmp_path, layout, order, monkeypatch):
    monkeypatch.setattr(annotation_table, "_PIECE", 300)
    records = [annotation(i + 1, segmentation=SPECIAL[-1]["segmentation"] if i % 3 else [[i]]) for i in range(20)]
    file = {key: file_of(records)[key] for key in order}
    path = written(tmp_path, json.dumps(file, **LAYOUTS[layout]).replace("10.0", "1.0e+1"))
    table = read_table(path)
    assert is_copied(table)
    table.save(tmp_path / "result.json")
    source, result = path.read_text(), (tmp_path / "result.json").read_text()
    begin = source.index('{"id"', source.index('"annotations"'))
    assert source[begin : source.index("}]", begin)] in result
    assert list(json.loads(result)) == list(KEYS)


def test_columns_are_those_of_the_records(shared):
    path = shared / "data/coco128/instances_train2017.json"
    columns, records = read_table(path).columns, load_annotations(path).annotations
    assert columns.id.tolist() == [record.id for record in records]
    assert columns.box.tolist() == [list(record.bbox) for record in records]
    assert columns.area.tolist() == [record.area for record in records]
    assert columns.row.tolist() == list(range(len(records)))


def test_several_processes_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation_table, "_STRETCH", 8000)
    for order in (KEYS, ("annotations", "images", "categories")):
        file = {key: file_of([annotation(i + 1) for i in range(700)])[key] for key in order}
        file["images"] += [{"id": 10 + i, "file_name": "x.jpg", "height": 9, "width": 9} for i in range(500)]
        path = written(tmp_path, json.dumps(file))
        one, two = read_table(path), read_table(path, processes=2)
        assert is_copied(one) and is_copied(two) and len(one.images) == 501
        for name, values in vars(one.columns).items():
            assert np.array_equal(values, getattr(two.columns, name)), name


def test_keys_that_only_seem_to_be_the_list_are_not_taken_for_it(tmp_path):
    inner = [annotation(9)]
    for file in ({**file_of([annotation(1)]), "info": {"annotations": inner}},
                 {"other": {"annotations": inner}, **file_of([])}):
        table = read_table(written(tmp_path, json.dumps(file)))
        assert table.columns.id.tolist() == [record["id"] for record in file["annotations"]]


@pytest.mark.parametrize("text", ["5.0", "-0", "05", "5e0", '"5"', "5 5", "null"])
def test_a_category_id_that_is_no_plain_number_is_refused_or_read(tmp_path, text):
    path = written(tmp_path, json.dumps(file_of([annotation(1), annotation(2)])).replace('"category_id": 5', "$", 1)
                   .replace("$", f'"category_id": {text}'))
    try:
        expected = load_annotations(path)
    except UserError as error:
        with pytest.raises(UserError, match=re.escape(str(error))):
            read_table(path)
    else:
        assert read_table(path).columns.category_id.tolist() == [one.category_id for one in expected.annotations]


def test_mistakes_are_said_as_for_records(tmp_path):
    mistakes = [{"image_id": 8}, {"bbox": [1, 2, 0, 4]}, {"bbox": [float("nan"), 2, 3, 4]}, {"category_id": 3},
                {"id": 1}, {"area": "x"}, {"segmentation": "x"}, {"id": 10**30}]
    for mistake in mistakes:
        path = written(tmp_path, json.dumps(file_of([annotation(1), annotation(2, **mistake), annotation(3)])))
        for on_error in ("stop", "skip"):
            try:
                expected = load_annotations(path, on_error=on_error)
            except UserError as error:
                with pytest.raises(UserError, match=re.escape(str(error))):
                    read_table(path, on_error)
            else:
                table = read_table(path, on_error)
                assert table.skipped == expected.skipped and len(table.skipped) == 1
                assert table.columns.id.tolist() == [1, 3]
                table.save(tmp_path / "result.json")
                result = json.loads((tmp_path / "result.json").read_text())
                assert [one["id"] for one in result["annotations"]] == [1, 3]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 500), st.integers(32, 126))
def test_a_changed_byte_changes_what_is_read_as_for_records(tmp_path_factory, position, byte):
    content = bytearray(json.dumps(file_of([annotation(1), annotation(2)])).encode())
    content[min(position, len(content) - 1)] = byte
    path = tmp_path_factory.mktemp("byte") / "source.json"
    path.write_bytes(content)
    try:
        expected = load_annotations(path)
    except UserError as error:
        with pytest.raises(UserError, match=re.escape(str(error))):
            read_table(path)
        return
    table = read_table(path)
    assert [record.category_id for record in expected.annotations] == table.columns.category_id.tolist()
    table.save(path.with_name("result.json"))
    expected.save(path.with_name("expected.json"))
    result, expected = (json.loads(path.with_name(f"{name}.json").read_text()) for name in ("result", "expected"))
    assert result == expected
