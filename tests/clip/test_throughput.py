"""What an image tower did, and the share of its own throughput that a run reaches."""

import time

import pytest
import torch

from ovd.clip.throughput import Clock, Work


def test_work_adds_up():
    assert Work(3, 0.5) + Work(4, 1.0) == Work(7, 1.5)


def test_the_share_is_throughput_over_that_of_the_bare_encoders():
    work = Work(crops=600, seconds=12.0)  # 50 a second
    assert work.share(16.0) == pytest.approx((600 / 16) / (600 / 12))
    assert work.share(8.0, encoders=2) == pytest.approx((600 / 8) / (2 * 600 / 12))
    assert Work().share(1.0) == 0.0


def test_the_clock_counts_crops_and_the_functions_own_time():
    clock = Clock(torch.device("cpu"))

    def slow(pixels):
        time.sleep(0.02)
        return pixels + 1

    for _ in range(2):
        assert clock.time(slow, torch.zeros(2), crops=5).tolist() == [1, 1]
        time.sleep(0.05)  # what happens between the calls does not count
    work = clock.read()
    assert work.crops == 10 and work.seconds >= 0.04
    assert clock.read() == Work()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_clock_counts_the_devices_time():
    clock, matrix = Clock(torch.device("cuda")), torch.rand(2048, 2048, device="cuda")
    clock.time(lambda pixels: pixels @ pixels, matrix, crops=3)
    assert clock.read().seconds > 0
