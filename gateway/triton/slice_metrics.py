"""SliceMetrics: asks every slice in service for its Prometheus page."""

import asyncio
from dataclasses import replace

from gateway.fleet.slices import Slice
from gateway.triton.asking import Asker
from gateway.triton.calls import HttpCall, Reply
from gateway.triton.crew import Crew
from gateway.triton.merge_metrics import merge_metrics

_HEAD = (
    "# HELP mig_gateway_slice_metrics_up Whether the slice's own metrics are on this page.\n"
    "# TYPE mig_gateway_slice_metrics_up gauge\n"
)


class SliceMetrics:
    """The slices' own metrics as one page."""

    def __init__(self, crew: Crew, asker: Asker, timeout_s: float) -> None:
        self._crew = crew
        self._asker = asker
        self._timeout_s = timeout_s

    async def page(self) -> str:
        """Return the page; a slice that does not answer is left out, and a gauge says so."""
        members = [member for member in self._crew.present if member.spec.metrics is not None]
        pages = await asyncio.gather(*(self._page_of(member) for member in members))
        by_name = {member.name: page for member, page in zip(members, pages, strict=True)}
        answered = {name: page for name, page in by_name.items() if page is not None}
        ups = "".join(
            f'mig_gateway_slice_metrics_up{{slice="{name}"}} {int(name in answered)}\n'
            for name in by_name
        )
        return (_HEAD + ups if ups else "") + merge_metrics(answered)

    async def _page_of(self, member: Slice) -> str | None:
        endpoint = member.spec.metrics
        assert endpoint is not None, "a slice without metrics was asked for them"
        spec = replace(member.spec, http=endpoint)
        outcome = await self._asker.ask(spec, HttpCall("GET", "/metrics"), self._timeout_s)
        if isinstance(outcome, Reply) and outcome.ok:
            return outcome.body.decode("utf-8", "replace")
        return None
