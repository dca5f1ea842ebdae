"""Puts what the code needs beside it into wheels: configs, recipes and the small pretrained models (ovd/shipped.py)."""

from pathlib import Path
from shutil import copy, copytree, ignore_patterns, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithFiles(build_py):
    """A checkout that is installed as it is (editable) needs no copies."""

    def run(self) -> None:
        """Copy the packages, and then the files."""
        super().run()
        if not self.editable_mode:
            shipped = Path(self.build_lib, "ovd", "_shipped")
            rmtree(shipped, ignore_errors=True)  # of an earlier build
            copytree("configs", shipped / "configs", ignore=ignore_patterns("__pycache__"))
            (shipped / "pretrained").mkdir()
            for file in Path("pretrained").glob("shapes_*"):  # and not what was downloaded there
                copy(file, shipped / "pretrained")


setup(cmdclass={"build_py": BuildWithFiles})
