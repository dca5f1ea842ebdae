"""mmcv._ext is provided when it is missing, and only then."""

import subprocess
import sys
import textwrap

import pytest
import torch

from ovd.errors import UserError
from ovd.ops.extension import OPERATORS, OperatorNotCompiled, build_extension


def run_python(code: str, **env: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, env=env or None
    )
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


def without_compiled_operators(code: str) -> str:
    """A program in which a compiled mmcv, if there is one, cannot be found."""
    hide = """
        import sys
        from importlib.machinery import PathFinder

        class HideCompiled(PathFinder):
            @classmethod
            def find_spec(cls, fullname, path=None, target=None):
                return None if fullname == "mmcv._ext" else PathFinder.find_spec(fullname, path, target)

        sys.meta_path[:] = [HideCompiled if finder is PathFinder else finder for finder in sys.meta_path]
    """
    return textwrap.dedent(hide) + textwrap.dedent(code)


def test_importing_ovd_loads_neither_torch_nor_mmcv():
    run_python("""
        import sys
        import ovd
        loaded = {"torch", "torchvision", "mmcv", "mmengine", "numpy"} & set(sys.modules)
        assert not loaded, loaded
    """)


def test_mmdet_models_import_without_a_word_about_missing_operators():
    output = run_python(
        without_compiled_operators("""
        import ovd
        import mmdet.models
        import mmcv.ops
        import mmcv._ext
        assert mmcv._ext.__spec__.origin == "ovd.ops"
        assert "ovd.ops" in mmcv.ops.get_compiler_version()
    """)
    )
    assert "Fail to import" not in output
    assert "not compiled" not in output


def test_a_compiled_extension_is_preferred(tmp_path):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_ext.py").write_text("compiled = True\n")
    run_python(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import ovd
        import mmcv._ext
        assert mmcv._ext.compiled
    """)


def test_a_broken_compiled_extension_is_not_replaced_in_silence(tmp_path):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_ext.py").write_text("raise ImportError('undefined symbol')\n")
    run_python(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import ovd
        try:
            import mmcv._ext
        except ImportError as error:
            assert "undefined symbol" in str(error)
        else:
            raise AssertionError("imported")
    """)


def test_installing_twice_adds_one_finder():
    from ovd.ops import extension

    extension.install()
    assert sum(type(finder).__module__ == extension.__name__ for finder in sys.meta_path) == 1


def test_an_operator_without_replacement_is_named_with_the_remedy():
    from mmcv.ops import box_iou_rotated

    with pytest.raises(OperatorNotCompiled, match=r"'box_iou_rotated'.*--no-binary onedl-mmcv") as error:
        box_iou_rotated(torch.zeros(1, 5), torch.zeros(1, 5))
    assert isinstance(error.value, UserError)
    assert isinstance(error.value, NotImplementedError)


def test_every_operator_that_is_listed_exists_and_private_names_do_not():
    extension = build_extension()
    for names in OPERATORS.values():
        for name in names:
            assert getattr(extension, name).__module__.startswith("ovd.ops.")
    assert not hasattr(extension, "_private")
