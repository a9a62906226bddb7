"""Configuration files of NVIDIA's mig-parted are read as layouts."""

import pytest

from launcher import parted
from launcher.errors import ConfigError, PlanError
from launcher.mig import Gpu

FILE = """
version: v1
mig-configs:
  all-disabled:
    - devices: all
      mig-enabled: false
  all-enabled:
    - devices: all
      mig-enabled: true
      mig-devices: {}
  all-1g.5gb:
    - devices: all
      mig-enabled: true
      mig-devices: {"1g.5gb": 7}
  custom-config:
    - devices: [0]
      mig-enabled: true
      mig-devices: {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}
    - devices: [1]
      mig-enabled: true
      mig-devices: {"3g.20gb": 2}
  all-balanced:
    - device-filter: ["0x20B010DE", "0x20B110DE"]
      devices: all
      mig-enabled: true
      mig-devices: {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}
    - device-filter: "0x233010DE"
      devices: all
      mig-enabled: true
      mig-devices: {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1}
"""
A100 = Gpu("A100", "GPU-0", 7, 8, False, index=0, pci_id=0x20B010DE)
H100 = Gpu("H100", "GPU-1", 7, 8, False, index=1, pci_id=0x233010DE)


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    return parted.read(path)


def layouts(document, label, *gpus):
    return parted.layouts(document, label, gpus, "config.yaml")


def test_counts_are_slices(document):
    assert layouts(document, "all-1g.5gb", A100) == {"GPU-0": ("1g.5gb",) * 7}
    assert layouts(document, "all-enabled", A100) == {"GPU-0": ("none",)}


def test_gpus_are_chosen_by_index_or_by_their_pci_id(document):
    assert layouts(document, "custom-config", A100, H100)["GPU-1"] == ("3g.20gb", "3g.20gb")
    mixed = layouts(document, "all-balanced", A100, H100)
    assert mixed["GPU-0"] == ("1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb")
    assert mixed["GPU-1"] == ("1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb")


def test_what_is_for_none_of_these_gpus_is_told(document):
    stranger = Gpu("T4", "GPU-2", 0, 0, False, index=2, pci_id=0x1EB810DE)
    with pytest.raises(PlanError, match="is for none of these GPUs: 2 T4 0x1EB810DE"):
        layouts(document, "all-balanced", stranger)


def test_a_configuration_must_be_named_unless_there_is_one(document, tmp_path):
    with pytest.raises(ConfigError, match=r"several configurations; name one: all-disabled, .*"):
        layouts(document, None, A100)
    with pytest.raises(ConfigError, match="no configuration 'x'"):
        layouts(document, "x", A100)
    path = tmp_path / "one.yaml"
    path.write_text(
        "version: v1\nmig-configs:\n  only:\n  - {devices: all, mig-enabled: true,"
        " mig-devices: {1g.5gb: 1}}\n"
    )
    assert layouts(parted.read(path), None, A100) == {"GPU-0": ("1g.5gb",)}


def test_switching_mig_off_is_not_done_by_a_layout(document):
    with pytest.raises(PlanError, match="down --disable-mig"):
        layouts(document, "all-disabled", A100)


def test_a_gpu_that_is_to_be_off_and_is_stays_as_it_is(tmp_path):
    """As in mig-parted's own example: some GPUs whole, the others cut."""
    path = tmp_path / "mixed.yaml"
    path.write_text(
        "version: v1\nmig-configs:\n  mixed:\n  - {devices: [0], mig-enabled: false}\n"
        "  - {devices: [1], mig-enabled: true, mig-devices: {1g.10gb: 7}}\n"
    )
    mixed = parted.read(path)
    assert parted.layouts(mixed, None, (A100, H100), "x", off=["GPU-0"]) == {
        "GPU-1": ("1g.10gb",) * 7
    }
    with pytest.raises(PlanError, match="wants MIG mode off on GPU 0, which it is"):
        parted.layouts(mixed, None, (A100,), "x", off=["GPU-0"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: v2\nmig-configs: {}", "version"),
        ("version: v1\nmig-configs: {a: [{devices: all}]}", "mig-configs.a.0.mig-enabled"),
        ("version: v1\nmig-configs: {}\nother: 1", "other"),
        (
            "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: false,"
            " mig-devices: {1g.5gb: 1}}]}",
            "must be empty",
        ),
        (
            "version: v1\nmig-configs: {a: [{devices: all, mig-enabled: true,"
            " mig-devices: {1g.5gb: 0}}]}",
            "at least one count",
        ),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, text, words):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        parted.read(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        parted.read(tmp_path / "none.yaml")
