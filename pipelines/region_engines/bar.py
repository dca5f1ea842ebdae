"""The progress bar of a run that embeds regions: crops, and how busy the encoders are."""

from typing import Any

from tqdm import tqdm

from ovd.clip.throughput import Work


class CropsBar(tqdm):
    """Counts crops; its rate is crops a second. Shows the throughput as a share of the bare encoders'.

    Args:
        encoders: That work side by side.
    """

    def __init__(self, *, encoders: int = 1, **options: Any) -> None:
        super().__init__(**{"desc": "embedding", "unit": " crops", "unit_scale": True, "smoothing": 0.1,
                            "dynamic_ncols": True, **options})
        self.encoders = encoders
        self.work = Work()

    @property
    def share(self) -> float:
        """Throughput so far in terms of what the bare encoders would reach, from 0 to 1."""
        return self.work.share(self._time() - self.start_t, self.encoders)

    def add(self, work: Work) -> None:
        """Take note of what an encoder did."""
        self.work += work
        if not self.disable:
            self.set_postfix_str(f"{self.share:.0%} of the bare encoder", refresh=False)
