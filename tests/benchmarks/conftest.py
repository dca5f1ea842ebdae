"""Scripts of benchmarks/ as modules."""

import importlib.util
import sys
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def script(root):
    """Load a script of benchmarks/ by name."""
    sys.path.insert(0, str(root / "benchmarks"))  # as for a script that is run: they import one another

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", root / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    yield load
    sys.path.remove(str(root / "benchmarks"))
