"""Programs."""

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""How threads of PyTorch wait for each other: asleep. By default they spin for milliseconds, which takes the processor from
whatever else runs, their own partners included: beside two busy programs everything then takes several times as long."""

# OpenMP reads this when PyTorch is loaded, so it is set before any module of a program can load it. Workers inherit it, or
# import this package first.
for _name, _value in WAITING.items():
    os.environ.setdefault(_name, _value)
