"""The comparison with nvidia-smi reads its listings, and finds what differs."""

from launcher import tables
from launcher.profiles import BOARDS
from launcher.simulator import Simulator
from tools.compare_with_nvidia_smi import Row, listed, ours, placed

LGIP = """
+-------------------------------------------------------------------------------+
| GPU instance profiles:                                                        |
| GPU   Name               ID    Instances   Memory     P2P    SM    DEC   ENC  |
|                                Free/Total   GiB              CE    JPEG  OFA  |
|===============================================================================|
|   0  MIG 1g.18gb         19     7/7        16.00      No     16     1     0   |
|                                                               1     1     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 1g.18gb+me      20     1/1        16.00      No     16     1     0   |
|                                                               1     1     1   |
+-------------------------------------------------------------------------------+
|   0  MIG 7g.141gb         0     1/1        140.00     No     132    7     0   |
|                                                               8     7     1   |
+-------------------------------------------------------------------------------+
"""
LGIPP = """
GPU  0 Profile ID 19 Placements: {0,1,2,3,4,5,6}:1
GPU  0 Profile ID  0 Placement : {0}:8
"""


def test_both_lines_of_a_profile_are_read():
    rows = listed(LGIP)
    assert rows[1] == Row(0, "1g.18gb+me", 20, 1, "16.00", 16, (1, 1, 0, 1, 1))
    assert rows[2] == Row(0, "7g.141gb", 0, 1, "140.00", 132, (8, 7, 0, 7, 1))


def test_placements_are_read():
    assert placed(LGIPP) == {(0, 19): [f"{at}:1" for at in range(7)], (0, 0): ["0:8"]}


def test_an_h200_on_paper_is_listed_as_the_real_one(tmp_path):
    document = tables.profiles_dict(Simulator(tmp_path / "gpu.json", BOARDS["h200-141gb"]))
    assert set(listed(LGIP)) <= set(ours([document]))
