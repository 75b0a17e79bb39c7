"""`mainstay proxy stats --prometheus`."""

from __future__ import annotations

from mainstay.cli.proxy import exposition


def test_names_labels_and_values_are_those_of_the_text_format() -> None:
    values = {"ClientConnections": 3, "DatabaseConnectionsBorrowLatencyMicroseconds": 1.5, 'Pinned: a "reason"': 2}
    assert exposition("shop", values).splitlines() == [
        'mainstay_rds_proxy_client_connections{proxy="shop"} 3',
        'mainstay_rds_proxy_database_connections_borrow_latency_microseconds{proxy="shop"} 1.5',
        'mainstay_rds_proxy_pinned{proxy="shop",reason="a \\"reason\\""} 2',
    ]
