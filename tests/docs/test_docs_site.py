"""The site: built without a broken link, complete, and without anything from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import STAGES

ROOT = Path(__file__).resolve().parents[2]
BUILDING = ROOT / "docs" / "building"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, as ``make docs`` builds it: a warning, such as a broken link or anchor, is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
                          cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_comes_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*src=[\"']?([^\"' >]+)", page.read_text())
        loaded += re.findall(r"<link[^>]*href=[\"']?([^\"' >]+)", page.read_text())
        assert [name for name in loaded if re.match(r"(\w+:)?//", name)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_every_stage_has_a_page_with_all_its_options(site):
    assert {page.stem for page in (site / "commands").glob("*.html")} == {"index", *STAGES}
    assert "<code>--class-head FILE</code>" in (site / "commands" / "test.html").read_text()
    assert 'id="ovd-store-verify"' in (site / "commands" / "store.html").read_text()


def test_names_of_commands_lead_to_their_pages(site):
    page = (site / "stores.html").read_text()
    assert '<a href="commands/proposals.html"><code>ovd proposals</code></a>' in page
    assert re.search(r'<a href="commands/embed-regions.html"><code>ovd\s+embed-regions</code></a>', page)


def test_links_out_of_the_folder_lead_to_pages(site):
    assert 'href="data.html"' in (site / "your_photos.html").read_text()
    assert "class ViLD(MaskRCNN)" in re.sub(r"<[^>]+>", "", (site / "files/ovd/models/vild.py.html").read_text())
    assert 'src="images/demo.png"' in (site / "overview.html").read_text()


def test_no_list_or_command_became_a_paragraph(site):
    """Markdown of GitHub's kind that another reader takes for text: lists right below text, code within items."""
    for page in site.glob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        for paragraph in re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", text, re.DOTALL):
            assert not re.search(r"^\s*(ovd|tools/\S+|python) [a-z]|\n\s*(\d\.|[-*]) |\*\*|\]\(", paragraph), \
                f"{page.name}: {paragraph}"


def test_the_search_works_from_disk(site):
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = {")
    assert 'src="assets/iframe-worker.js"' in (site / "index.html").read_text()


def test_the_references_do_not_depend_on_the_terminal():
    code = ("import sys; sys.path.insert(0, 'docs/building'); import command_pages, python_pages; "
            "print(command_pages.pages() | python_pages.pages())")
    printed = {subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                              timeout=300, env={**os.environ, "COLUMNS": columns}).stdout for columns in ("40", "200")}
    assert len(printed) == 1 and "Detector.set_vocabulary" in printed.pop()


def test_figures_are_drawn(tmp_path):
    names = ("class_sources", "distillation", "prompts")  # the others are of pages whose code runs in test_docs_run.py
    done = subprocess.run([sys.executable, BUILDING / "figures.py", tmp_path, *names], cwd=tmp_path, text=True,
                          capture_output=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (ROOT / "docs" / "images" / f"{name}.png").is_file()
