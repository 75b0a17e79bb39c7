"""The idle connections of a pool, beside a list of them."""

from __future__ import annotations

import random

import pytest

from harness.proxy_parts import Parts
from mainstay.proxy.idle import LOOKED_AT, IdleConnections
from mainstay.proxy.server import ServerConnection


@pytest.mark.parametrize("seed", range(20))
def test_the_last_one_with_the_same_settings_is_taken(seed: int) -> None:
    chance = random.Random(seed)
    pool = Parts().pool()
    versions = [object() for _ in range(3)]
    connections = [ServerConnection(pool) for _ in range(30)]
    for one in connections:
        one.applied_version = chance.choice(versions)
    idle, model = IdleConnections(), list[ServerConnection]()
    growing = 0.5
    for step in range(3000):
        if step % 300 == 0:
            growing = chance.choice([0.2, 0.5, 0.8])
        others = [one for one in connections if one not in model]
        if chance.random() < growing and others:
            idle.add(one := chance.choice(others))
            model.append(one)
        elif model and chance.random() < 0.2:
            idle.remove(one := chance.choice(model))
            model.remove(one)
        else:
            version = chance.choice(versions)
            fitting = [one for one in model[-LOOKED_AT:] if one.applied_version is version]
            wanted = next(reversed(fitting or model), None)
            assert idle.take(version) is wanted
            if wanted is not None:
                model.remove(wanted)
        assert idle.all() == model and len(idle) == len(model)
        one = chance.choice(connections)
        assert (one in idle) == (one in model)
    with pytest.raises(ValueError):
        idle.remove(ServerConnection(pool))
