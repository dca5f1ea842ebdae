"""The folder of results of `ovd detect`: one run at a time writes to it."""

from contextlib import closing

import pytest

from ovd.errors import UserError
from pipelines.detect.results import Results


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with closing(Results(tmp_path, {})), pytest.raises(UserError, match="another run writes its detections there"):
        Results(tmp_path, {})
    with pytest.raises(UserError, match="another threshold"):
        Results(tmp_path, {"threshold": 0.5})
    with closing(Results(tmp_path, {})) as again:
        assert len(again) == 0
