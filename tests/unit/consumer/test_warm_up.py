from __future__ import annotations

import importlib
import pkgutil

import model
from consumer.warm_up import warm_up
from tests.support import Worker, random_events, small_settings


def compiled_functions():
    modules = [importlib.import_module(f"model.{found.name}") for found in pkgutil.iter_modules(model.__path__)]
    values = [value for module in modules for value in vars(module).values()]
    return [value for value in values if hasattr(value, "nopython_signatures")]


def test_after_it_a_step_compiles_nothing():
    warm_up()
    before = {function.py_func.__qualname__: list(function.nopython_signatures) for function in compiled_functions()}
    assert sum(map(bool, before.values())) > 10
    worker = Worker(small_settings(model={"max_items": 40}))
    for seed in range(4):
        worker.step(random_events(60, seed=seed, items=100))
    after = {function.py_func.__qualname__: list(function.nopython_signatures) for function in compiled_functions()}
    assert after == before
