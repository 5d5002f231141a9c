"""The pool of Ray actors: what goes wrong in a worker costs a retry, or a failed trial, and never the run."""

import os

import numpy as np
import pytest
from slow_evaluator import Misbehaving

from nas.evaluators.base import Job

ray_pool = pytest.importorskip("nas.ray_pool")
FINE, DIES_ONCE, DIES, SLEEPS, RAISES = range(5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Evaluates the deeds on two workers, and gives the reports by number and the tries by deed."""

    def run(deeds: list[int]):
        folder = str(tmp_path_factory.mktemp("deeds"))
        pool = ray_pool.RayPool(Misbehaving(folder, np.zeros(2**20)), 2, trial_seconds=15.0)
        for number, deed in enumerate(deeds):
            pool.submit(Job(number, (deed, number), 0, 0))
        reports = [pool.wait() for _ in deeds]
        pool.close()
        tries = {name: os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)}
        return {report.number: report for report in reports}, tries

    yield run
    ray_pool.stop_ray()


def test_every_job_has_one_report(run):
    reports, _ = run([FINE] * 6)
    assert {number: report.evaluation.metrics["error"] for number, report in reports.items()} == {
        number: number / 10 for number in range(6)
    }


def test_arrays_of_the_evaluator_are_shared_and_read_only(run):
    reports, _ = run([FINE])
    assert reports[0].evaluation.metrics["writeable"] == 0.0


def test_a_killed_worker_costs_one_retry(run):
    reports, tries = run([FINE, DIES_ONCE, FINE])
    assert all(report.error is None for report in reports.values())
    assert tries["1-1"] == 2


def test_a_job_that_kills_its_workers_is_reported_with_the_reason(run):
    reports, tries = run([DIES, FINE, RAISES])
    assert "the worker died" in reports[0].error
    assert tries["2-0"] == 2
    assert reports[1].error is None
    assert reports[2].error == "ValueError: no good"
    assert tries["4-2"] == 1


@pytest.mark.slow
def test_a_job_past_its_time_limit_is_reported_with_the_reason(run):
    reports, tries = run([SLEEPS, FINE])
    assert "time limit of 15 s" in reports[0].error
    assert tries["3-0"] == 2
    assert reports[1].error is None


def test_out_of_memory_is_a_retry(run, monkeypatch):
    failures = [ray_pool.exceptions.OutOfMemoryError("worker")]
    get = ray_pool.ray.get

    def fails_once(reference):
        if failures:
            raise failures.pop()
        return get(reference)

    monkeypatch.setattr(ray_pool.ray, "get", fails_once)
    reports, tries = run([FINE])
    assert reports[0].error is None
    assert tries["0-0"] == 2
