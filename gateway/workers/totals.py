"""What one worker has counted since it last said so, and how the main process adds it up. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.fleet.histogram import Histogram
from gateway.fleet.slices import Slice
from gateway.metrics import Counters

_SLICE_GAUGES = ("abandoned", "sequences")
_SLICE_COUNTS = ("http_requests", "grpc_requests", "failures", *_SLICE_GAUGES)
_LATENCIES = ("http_latency", "grpc_latency")

Totals = dict[str, Any]
"""
{"counters": {name: more}, "keyed": {name: {key: more}}, "slices": {slice: {name: more}},
 "latencies": {slice: {name: [total_us, {bucket: more}]}},
 "paces": {slice: {key of a pool: [total_us, {bucket: more}]}}}; what has not changed is left out.
"""


class Meter:
    """Remembers what was told of one process's counters, and returns what is new."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._told: dict[str, int] = {}
        self._keyed: dict[str, dict[str, int]] = {}
        self._slices: dict[Slice, _SliceMeter] = {}

    def news(self, members: Iterable[Slice]) -> Totals:
        """Return what has been counted since the last call."""
        current = {member: self._slices.get(member) or _SliceMeter() for member in members}
        self._slices = current  # those that are gone are forgotten
        found: Totals = {
            "counters": {}, "keyed": {}, "slices": {}, "latencies": {}, "paces": {}
        }  # fmt: skip
        for name in Counters.__slots__:
            value = getattr(self._counters, name)
            if isinstance(value, int):
                if more := value - self._told.get(name, 0):
                    found["counters"][name] = more
                    self._told[name] = value
            elif more_by_key := _more(value, self._keyed.get(name, {})):
                found["keyed"][name] = more_by_key
                self._keyed[name] = dict(value)
        for member, meter in current.items():
            if counts := meter.counts(member):
                found["slices"][member.name] = counts
            if latencies := meter.latencies(member):
                found["latencies"][member.name] = latencies
            if paces := meter.paces(member):
                found["paces"][member.name] = paces
        return {key: value for key, value in found.items() if value}


class _SliceMeter:
    """Meter, for one slice."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_SLICE_COUNTS, 0)
        self._latencies = {name: Histogram() for name in _LATENCIES}
        self._paces: dict[str, Histogram] = {}

    def counts(self, member: Slice) -> dict[str, int]:
        found = {}
        for name, told in self._counts.items():
            value = getattr(member, name)
            if value != told:
                found[name] = value - told
                self._counts[name] = value
        return found

    def latencies(self, member: Slice) -> dict[str, Any]:
        return {
            name: more
            for name, told in self._latencies.items()
            if (more := _added(getattr(member, name), told))
        }

    def paces(self, member: Slice) -> dict[str, Any]:
        told = self._paces
        # Those of models that the slice no longer has are forgotten; see Slice.paces.
        self._paces = {key: told.get(key) or Histogram() for key in member.paces}
        return {
            key: more
            for key, pace in member.paces.items()
            if (more := _added(pace, self._paces[key]))
        }


def _added(latency: Histogram, told: Histogram) -> list[Any] | None:
    """Return [total_us, {bucket: more}] since `told`, which becomes equal; None when nothing is new."""
    if latency.total_us == told.total_us and latency.count == told.count:
        return None
    more = {
        str(i): n - t
        for i, (n, t) in enumerate(zip(latency.counts, told.counts, strict=True))
        if n != t
    }
    found = [latency.total_us - told.total_us, more]
    told.total_us, told.counts = latency.total_us, latency.counts.copy()
    return found


def add(totals: Totals, counters: Counters, slices: Mapping[str, Slice]) -> None:
    """Add what a worker has told to the main process's own counters."""
    for name, more in totals.get("counters", {}).items():
        setattr(counters, name, getattr(counters, name) + more)
    for name, more_by_key in totals.get("keyed", {}).items():
        kept = getattr(counters, name)
        for key, more in more_by_key.items():
            kept[key] = kept.get(key, 0) + more
    for slice_name, counts in totals.get("slices", {}).items():
        member = slices.get(slice_name)
        for name, more in counts.items() if member else ():
            setattr(member, name, getattr(member, name) + more)
    for slice_name, latencies in totals.get("latencies", {}).items():
        member = slices.get(slice_name)
        for name, more in latencies.items() if member else ():
            _add(more, getattr(member, name))
    for slice_name, paces in totals.get("paces", {}).items():
        member = slices.get(slice_name)
        for key, more in paces.items():
            pace = member.pace(key) if member is not None else None
            if pace is not None:
                _add(more, pace)


def _add(more: list[Any], latency: Histogram) -> None:
    latency.total_us += more[0]
    for bucket, n in more[1].items():
        latency.counts[int(bucket)] += n


class Gauges:
    """What a worker's totals leave behind when it ends without saying so: what was open or live."""

    def __init__(self) -> None:
        self._open = 0
        self._slices: dict[str, dict[str, int]] = {}

    def note(self, totals: Totals) -> None:
        """Take in what the worker has told; call it with all that is added."""
        counters = totals.get("counters", {})
        self._open += counters.get("accepted", 0) - counters.get("closed", 0)
        for name, counts in totals.get("slices", {}).items():
            of_slice = self._slices.setdefault(name, dict.fromkeys(_SLICE_GAUGES, 0))
            for gauge in _SLICE_GAUGES:
                of_slice[gauge] += counts.get(gauge, 0)

    def settle(self) -> Totals:
        """Return the totals that say that nothing of it is left."""
        slices = {
            name: {gauge: -n for gauge, n in gauges.items() if n}
            for name, gauges in self._slices.items()
        }
        return {"counters": {"closed": self._open}, "slices": slices}


def _more(now: Mapping[str, int], told: Mapping[str, int]) -> dict[str, int]:
    return {key: value - told.get(key, 0) for key, value in now.items() if value != told.get(key)}
