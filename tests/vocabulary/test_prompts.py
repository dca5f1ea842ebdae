"""Templates and text rules, against their published lists and counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.vocabulary.prompts import (
    DETPRO_74,
    STYLES,
    TEMPLATES,
    VILD_63,
    PromptStyle,
    add_prefix,
    article,
    class_texts,
    clean_name,
    get_style,
    prompts,
    rewrite_parentheses,
)

# ViLD's list, number by number, for the class name "cat".
VILD_CAT = """
There is a cat in the scene.
There is the cat in the scene.
a photo of a cat in the scene.
a photo of the cat in the scene.
a photo of one cat in the scene.
itap of a cat.
itap of my cat.
itap of the cat.
a photo of a cat.
a photo of my cat.
a photo of the cat.
a photo of one cat.
a photo of many cat.
a good photo of a cat.
a good photo of the cat.
a bad photo of a cat.
a bad photo of the cat.
a photo of a nice cat.
a photo of the nice cat.
a photo of a cool cat.
a photo of the cool cat.
a photo of a weird cat.
a photo of the weird cat.
a photo of a small cat.
a photo of the small cat.
a photo of a large cat.
a photo of the large cat.
a photo of a clean cat.
a photo of the clean cat.
a photo of a dirty cat.
a photo of the dirty cat.
a bright photo of a cat.
a bright photo of the cat.
a dark photo of a cat.
a dark photo of the cat.
a photo of a hard to see cat.
a photo of the hard to see cat.
a low resolution photo of a cat.
a low resolution photo of the cat.
a cropped photo of a cat.
a cropped photo of the cat.
a close-up photo of a cat.
a close-up photo of the cat.
a jpeg corrupted photo of a cat.
a jpeg corrupted photo of the cat.
a blurry photo of a cat.
a blurry photo of the cat.
a pixelated photo of a cat.
a pixelated photo of the cat.
a black and white photo of the cat.
a black and white photo of a cat.
a plastic cat.
the plastic cat.
a toy cat.
the toy cat.
a plushie cat.
the plushie cat.
a cartoon cat.
the cartoon cat.
an embroidered cat.
the embroidered cat.
a painting of the cat.
a painting of a cat.
""".strip().splitlines()


def test_template_lists_have_their_published_sizes_and_no_repeats():
    assert {name: len(templates) for name, templates in TEMPLATES.items()} == {
        "vild63": 63, "detpro74": 74, "single": 1}
    for templates in TEMPLATES.values():
        assert len(set(templates)) == len(templates)


def test_vild_templates_are_the_list_in_order():
    assert [template.format("cat", article="a") for template in VILD_63] == VILD_CAT


def test_vild_article_varies_only_where_the_list_has_it():
    with_article = {number for number, template in enumerate(VILD_63, 1) if "{article}" in template}
    adjective_and_thing_templates = {*range(18, 32), 36, *range(52, 60), 60, 61, 63}
    assert not with_article & adjective_and_thing_templates
    assert with_article == {1, 3, 6, 9, 14, 16, 32, 34, 38, 40, 42, 44, 46, 48, 51}


def test_detpro_templates_are_built_of_their_five_groups():
    groups = {"This is a {}", "There is a {}"}
    sizes = ["", "small ", "medium ", "large "]
    for size in sizes:
        groups |= {f"a photo of a {size}{{}}", f"a photo of a {size}{{}} in the scene"}
        groups |= {f"This is a photo of a {size}{{}}"}
    for which in ["a", "the", "one"]:
        groups |= {f"There is {which} {{}} in the scene", f"This is {which} {{}} in the scene"}
        for size in sizes:
            for verb in ["There is", "This is"]:
                groups |= {f"{verb} {which} {size}{{}} in the photo", f"{verb} {which} {size}{{}} in the picture"}
    for size in sizes[1:]:
        groups |= {f"This is one {size}{{}} in the scene", f"There is a {size}{{}} in the scene"}
    assert set(DETPRO_74) == groups
    assert not any(template.endswith(".") or "{article}" in template for template in DETPRO_74)


@pytest.mark.parametrize(("raw", "words"), [
    ("aerosol_can", "aerosol can"),
    ("apple/Pear", "apple or pear"),
    ("bow_(decorative_ribbons)", "bow (decorative ribbons)"),
    ("Mr.", "mr"),
    ("St. Bernard", "st. bernard"),
])
def test_names_are_cleaned_by_vilds_rules(raw, words):
    assert clean_name(raw) == words


@pytest.mark.parametrize(("raw", "expected"), [
    ("apple", "an"), ("umbrella", "an"), ("cat", "a"), ("Apple", "a"), ("hourglass", "a"), ("unicycle", "an"),
    ("", "a"),
])
def test_article_goes_by_the_raw_first_letter(raw, expected):
    assert article(raw) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("a photo of a cat.", "This is a photo of a cat."),
    ("the toy cat.", "This is the toy cat."),
    ("an embroidered cat.", "This is an embroidered cat."),
    ("There is a cat in the scene.", "There is a cat in the scene."),
    ("itap of my cat.", "itap of my cat."),
    ("aardvark", "This is aardvark"),
])
def test_prefix_makes_sentences_of_phrases(text, expected):
    assert add_prefix(text) == expected


@pytest.mark.parametrize(("how", "expected"), [
    ("keep", "bow_(decorative_ribbons)"), ("unwrap", "bow_decorative_ribbons"), ("drop", "bow"),
])
def test_parentheses(how, expected):
    assert rewrite_parentheses("bow_(decorative_ribbons)", how) == expected


def test_dropping_parentheses_never_leaves_an_empty_name():
    assert rewrite_parentheses("(thing)", "drop") == "(thing)"


def test_vild_texts_of_an_lvis_name():
    texts = prompts("Egg_roll/Spring_roll", STYLES["vild"])
    assert texts[0] == "There is a egg roll or spring roll in the scene."  # the raw first letter is a capital
    assert texts[8] == "This is a photo of a egg roll or spring roll."
    assert prompts("egg_roll", STYLES["vild"])[8] == "This is a photo of an egg roll."
    assert prompts("egg_roll", STYLES["vild"])[17] == "This is a photo of a nice egg roll."


def test_detpro_texts_take_the_raw_name_and_always_a():
    texts = prompts("apple_(Fruit)", STYLES["detpro"])
    assert texts[0] == "This is a apple_(Fruit)"
    assert all("apple_(Fruit)" in text for text in texts)
    assert not any(text.startswith("This is This") or text.endswith(".") for text in texts)


def test_styles_differ_where_the_papers_do():
    assert get_style("vild74") == get_style("detpro")
    assert get_style("detpro").normalize_mean
    assert not get_style("oadp").normalize_mean
    assert prompts("orange", get_style("single")) == ["This is a photo of an orange."]


def test_synonyms_multiply_the_texts_and_repeats_count_once():
    style = PromptStyle(("a {}", "the {}"), prefix=False)
    texts = class_texts(["cab", "dog"], style, {"cab": ["cab", "taxi", "taxi"], "dog": []})
    assert texts == [["a cab", "the cab", "a taxi", "the taxi"], ["a dog", "the dog"]]


@given(st.text(alphabet=st.characters(exclude_categories=["C"]), min_size=1).filter(str.strip))
def test_every_text_holds_the_name_whatever_its_characters(name):
    style = STYLES["detpro"]
    assert all(name in text for text in prompts(name, style))
    assert len(prompts(name, STYLES["vild"])) == 63


@pytest.mark.parametrize(("names", "says"), [
    ([], "empty"), (["cat", "dog", "cat"], "'cat' is there twice (numbers 1 and 3)"), (["cat", " "], "number 2"),
])
def test_bad_lists_of_names_are_refused(names, says):
    with pytest.raises(UserError, match=says.replace("(", r"\(").replace(")", r"\)")):
        class_texts(names, STYLES["vild"])


@pytest.mark.parametrize("templates", [(), ("a photo",), ("a {name}",), ("a {",), ("a {}", "a {}"), ("a {0}",)])
def test_bad_templates_are_refused(templates):
    with pytest.raises(UserError):
        PromptStyle(templates)


def test_unknown_style_names_the_nearest():
    with pytest.raises(UserError, match="did you mean vild"):
        get_style("vilt")
