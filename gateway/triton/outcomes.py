"""What N outcomes of one call come to, and how the client is told. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import NO_SLICE
from gateway.triton.calls import Outcome, Reply, Silence
from gateway.triton.forms import Answer, Form


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The outcomes of one call, sorted.

    Attributes:
        took: Slices that did it.
        refused: Slices that answered with an error.
        silent: Slices that did not answer: they are out until they have been brought up to date.
    """

    took: tuple[Reply, ...]
    refused: tuple[Reply, ...]
    silent: tuple[Silence, ...]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Verdict":
        replies = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
        return cls(
            tuple(reply for reply in replies if reply.ok),
            tuple(reply for reply in replies if not reply.ok),
            tuple(outcome for outcome in outcomes if isinstance(outcome, Silence)),
        )


def answer(verdict: Verdict, form: Form, undone: bool = False) -> Answer:
    """
    Return the one answer for a change that was put to all slices.

    All that are there did it: the first one's answer. None did it and all say the same: that, as
    it was said. Otherwise an error, with the status of the first slice that refused, which names
    each slice and what it said.

    Args:
        verdict: What came of it.
        form: The client's protocol.
        undone: It was taken back where it had been done.
    """
    took, refused = verdict.took, verdict.refused
    if not refused:
        if took:
            return form.relay(took[0])
        reasons = "; ".join(f"{silence.slice} {silence.why}" for silence in verdict.silent)
        return form.fault(NO_SLICE.because(reasons) if reasons else NO_SLICE)
    if not took and len({(reply.status, reply.said) for reply in refused}) == 1:
        return form.relay(refused[0])
    message = f"failed on {_said_by(refused)}"
    if took:
        where = ", ".join(reply.slice for reply in took)
        message += f"; done on {where}" + (", and undone there" if undone else "")
    if verdict.silent:
        reasons = "; ".join(f"{silence.slice} {silence.why}" for silence in verdict.silent)
        message += f"; not reached: {reasons}"
    return form.failure(refused[0].status, message)


def _said_by(refused: Sequence[Reply]) -> str:
    """Return `s1: text; s2, s3: other text`."""
    by_text: dict[str, list[str]] = {}
    for reply in refused:
        by_text.setdefault(reply.said, []).append(reply.slice)
    return "; ".join(f"{', '.join(names)}: {said}" for said, names in by_text.items())
