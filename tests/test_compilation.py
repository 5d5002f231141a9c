"""Compiler options: only one that XLA does not know is gone without, and never in silence."""

import warnings

import jax
import pytest

from nas.training import compilation
from nas.training.compilation import MissingOption, in_order, same_bits


def test_this_xla_knows_the_options_that_promises_rest_on():
    assert same_bits() == compilation._SAME_BITS
    assert in_order() == compilation._IN_ORDER


@pytest.mark.parametrize("name", ["same_bits", "in_order"])
def test_an_option_that_xla_does_not_know_is_gone_without_and_said_once(name, monkeypatch):
    monkeypatch.setattr(compilation, f"_{name.upper()}", {"xla_cpu_made_up": True})
    with pytest.warns(MissingOption, match="has no option xla_cpu_made_up: ") as said:
        assert getattr(compilation, name)() == {}
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(compilation, name)() == {}


def test_another_fault_of_an_option_is_raised(monkeypatch):
    monkeypatch.setattr(compilation, "_SAME_BITS", {"xla_cpu_experimental_ynn_fusion_type": "made up"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="not a valid enum value"):
        same_bits()


def test_elsewhere_than_on_a_cpu_there_is_nothing_to_miss(monkeypatch):
    monkeypatch.setattr(compilation, "_SAME_BITS", {"xla_cpu_made_up": True, "elsewhere": True})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert same_bits() == {}


def test_programs_are_dropped_before_a_process_has_no_room_for_more(monkeypatch):
    @jax.jit
    def program(x):
        return x + 1

    program(1.0)
    compilation.make_room()
    assert program._cache_size() == 1
    monkeypatch.setattr(compilation, "FULL", 0.0)
    compilation.make_room()
    assert program._cache_size() == 0
    assert program(1.0) == 2
