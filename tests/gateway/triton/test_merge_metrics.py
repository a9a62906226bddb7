"""Prometheus pages of slices as one."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.triton.merge_metrics import merge_metrics

PAGE = """\
# HELP nv_x Things
# TYPE nv_x counter
nv_x{model="m",version="1"} 3
nv_x{model="n",version="1"} 4
# HELP nv_pool Bytes
# TYPE nv_pool gauge
nv_pool 268435456
# TYPE nv_h histogram
nv_h_bucket{le="+Inf"} 2
nv_h_sum 1.5
nv_h_count 2
"""


def test_each_family_is_described_once_and_each_sample_names_its_slice() -> None:
    assert (
        merge_metrics({"a": PAGE, "b": PAGE})
        == """\
# HELP nv_x Things
# TYPE nv_x counter
nv_x{slice="a",model="m",version="1"} 3
nv_x{slice="a",model="n",version="1"} 4
nv_x{slice="b",model="m",version="1"} 3
nv_x{slice="b",model="n",version="1"} 4
# HELP nv_pool Bytes
# TYPE nv_pool gauge
nv_pool{slice="a"} 268435456
nv_pool{slice="b"} 268435456
# TYPE nv_h histogram
nv_h_bucket{slice="a",le="+Inf"} 2
nv_h_sum{slice="a"} 1.5
nv_h_count{slice="a"} 2
nv_h_bucket{slice="b",le="+Inf"} 2
nv_h_sum{slice="b"} 1.5
nv_h_count{slice="b"} 2
"""
    )


def test_label_values_may_hold_anything() -> None:
    page = '# TYPE x gauge\nx{a="}\\" {",b="2"} 1 1700000000\n'
    assert merge_metrics({"s": page}).splitlines()[1] == (
        'x{slice="s",a="}\\" {",b="2"} 1 1700000000'
    )


def test_a_family_that_only_the_second_slice_has_is_described_by_it() -> None:
    assert merge_metrics({"a": "", "b": PAGE}).startswith("# HELP nv_x Things")


def test_garbage_is_left_out() -> None:
    assert merge_metrics({"a": "<html>\n{}\nx\n# EOF\n"}) == ""


def test_a_prometheus_client_reads_the_page() -> None:
    families = {f.name: f for f in text_string_to_metric_families(merge_metrics({"a": PAGE}))}
    assert {sample.labels["slice"] for f in families.values() for sample in f.samples} == {"a"}
    assert families["nv_x"].type == "counter"


@given(st.text())
def test_no_page_makes_it_raise(page: str) -> None:
    merge_metrics({"a": page, "b": page})
