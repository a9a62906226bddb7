"""Every number is told with what it means and what to do."""

import pytest

from launcher import xid
from launcher.xid import Cure, explain


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (13, Cure.RESTART), (31, Cure.RESTART), (43, Cure.RESTART), (94, Cure.RESTART),
        (48, Cure.RESET), (64, Cure.RESET), (95, Cure.RESET), (119, Cure.RESET),
        (79, Cure.REBOOT), (45, Cure.NOTHING), (63, Cure.NOTHING), (92, Cure.NOTHING),
        (7, Cure.UNKNOWN), (999, Cure.UNKNOWN),
    ],
)  # fmt: skip
def test_the_cure_is_that_of_nvidias_catalogue(number, cure):
    assert explain(number).cure is cure


def test_no_number_is_listed_twice():
    tables = (xid.RESTART, xid.RESET, xid.REBOOT, xid.NOTHING)
    numbers = [*xid.COPY_ENGINES, *xid.VIDEO_ENGINES, *(n for table in tables for n in table)]
    assert len(numbers) == len(set(numbers)) == len(xid.KNOWN)


def test_a_sentence_names_the_gpu_that_is_to_be_reset():
    assert explain(95).sentence(3) == (
        "XID 95 (memory error, not contained to one program): the GPU must be reset: "
        "`mig-launcher down`, stop what else uses it, `nvidia-smi -i 3 --gpu-reset`, "
        "then `mig-launcher up`"
    )
    assert explain(999).name == "XID of unknown number (no meaning known here)"
