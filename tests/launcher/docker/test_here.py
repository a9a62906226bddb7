"""A launcher in a container names folders as the engine's machine has them."""

import pytest

from launcher.docker.here import own_container, source_of
from launcher.docker.spec import Source
from launcher.errors import StartError

ID = "4f" * 32
MOUNTINFO = f"""22 1 0:20 / / rw - overlay overlay rw
23 22 8:1 /var/lib/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda rw
24 22 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda rw
"""
MOUNTS = [
    {"Type": "bind", "Source": "/home/me/models", "Destination": "/models"},
    {"Type": "bind", "Source": "/big/flower", "Destination": "/models/flower"},
    {"Type": "volume", "Name": "mig_models", "Source": "/var/lib/x/_data", "Destination": "/v"},
]


def test_outside_a_container_paths_are_what_they_are(tmp_path):
    (tmp_path / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n")
    assert own_container(tmp_path / "mountinfo") is None
    assert own_container(tmp_path / "none") is None
    assert source_of("/home/me/models", None) == Source("bind", "/home/me/models")


def test_it_knows_its_own_container_also_on_the_hosts_network(tmp_path):
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    assert own_container(tmp_path / "mountinfo") == ID


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("/models", Source("bind", "/home/me/models")),
        ("/models/a/b", Source("bind", "/home/me/models/a/b")),
        ("/models/flower/1", Source("bind", "/big/flower/1")),
        ("/v", Source("volume", "mig_models")),
        ("/v/part", Source("bind", "/var/lib/x/_data/part")),
    ],
)
def test_the_innermost_mount_tells_where_a_path_is_from(path, source):
    assert source_of(path, MOUNTS) == source


def test_what_is_in_the_container_alone_cannot_be_given_to_others():
    with pytest.raises(StartError, match=r"/modelsx is in the launcher's own container.*-v /on"):
        source_of("/modelsx", MOUNTS)
