"""What the demo promises, held for three seeds; minutes long, so it runs with `make test-slow`."""

import resource
import time

import pytest

import lesioncam as lc
from lesioncam.files import read_json


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_keeps_its_promises(tmp_path, seed):
    begun = time.monotonic()
    run = lc.demo(tmp_path / "demo", seed=seed)
    seconds = time.monotonic() - begun
    metrics = run.metrics("test")
    macro = metrics[metrics["class"] == "macro"].set_index(["metric", "method"])["value"]
    best_control = max(macro["dice", name] for name in ("random_map", "centre_prior", "mean_mask"))
    cold = read_json(run.folder / "evaluate" / "test" / "summary.json")["healthy_cold"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"seed {seed}: {seconds:.0f} s, {memory:.1f} GiB, {macro.to_dict()}, {cold}")
    assert macro["auroc", "cam"] > 0.95
    assert macro["dice", "cam"] > best_control + 0.25
    assert cold["share"] >= 0.95
    assert memory < 4
