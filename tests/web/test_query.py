"""Query strings, forms and links of the offers page."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket.market.money import MoneyError
from flopmarket_coordinator.web.model import OfferQuery
from flopmarket_coordinator.web.query import ORDERS, OfferForm
from flopmarket_coordinator.web.remote import conditions

FULL = {
    "work_class": "dot-int",
    "sort": "-memory",
    "memory": "12.5",
    "price": "0.02",
    "per_watt": "20",
    "reliability": "99",
    "region": "eu-north",
    "suited": "training",
    "device": "7900",
    "idle": "1",
    "rows": "7",
    "page": "token",
}


def test_a_full_form_is_a_full_question() -> None:
    assert OfferForm.read(FULL).query() == OfferQuery(
        work_class="dot-int",
        order_by="-memory",
        page_size=7,
        page_token="token",
        min_memory_bytes=int(12.5 * 2**30),
        max_price_nano=20_000_000,
        min_flops_per_watt=2e10,
        min_reliability=0.99,
        region="eu-north",
        suited_for="training",
        device_name="7900",
        idle_only=True,
    )


def test_empty_fields_do_not_filter() -> None:
    assert OfferForm.read({"memory": " ", "price": "", "region": ""}).query() == OfferQuery()


@pytest.mark.parametrize(
    "parameters",
    [
        {"colour": "red"},
        {"sort": "beauty"},
        {"sort": "--price"},
        {"memory": "-1"},
        {"memory": "NaN"},
        {"memory": "1e400"},
        {"memory": "many"},
        {"reliability": "101"},
        {"rows": "100000"},
        {"suited": "mining"},
        {"region": "x" * 300},
    ],
)
def test_nonsense_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        OfferForm.read(parameters).query()


def test_a_malformed_price_is_refused() -> None:
    with pytest.raises(MoneyError):
        OfferForm.read({"price": "1e-3"}).query()


def test_headings_sort_best_first_and_then_turn_round() -> None:
    form = OfferForm.read({"memory": "8"})
    assert form.sorted_by("memory") == "?sort=-memory&memory=8"
    assert OfferForm(sort="-memory").sorted_by("memory") == "?sort=memory"
    assert form.sorted_by("price") == "?sort=-price&memory=8"
    assert (form.direction("price"), form.direction("memory")) == ("ascending", "")


def test_a_new_order_starts_at_the_first_page() -> None:
    assert "page" not in OfferForm(page="token").sorted_by("memory")
    assert OfferForm().link(page="token") == "?page=token"


@given(
    st.sampled_from([sign + order for order in ORDERS for sign in ("", "-")]),
    st.text(max_size=40).map(str.strip),
    st.sampled_from(["", "1"]),
)
def test_a_link_says_what_its_form_said(sort: str, region: str, idle: str) -> None:
    form = OfferForm(sort=sort, region=region, idle=idle)
    assert OfferForm.read(dict(parse_qsl(form.link().removeprefix("?")))) == form


def test_conditions_are_those_of_the_coordinator() -> None:
    assert conditions(OfferForm.read(FULL).query()) == [
        "region=eu-north",
        "suited_for=training",
        "device_name~7900",
        "state=idle",
        f"memory>={int(12.5 * 2**30)}",
        "price<=20000000",
        "flops_per_watt>=20000000000.0",
        "reliability>=0.99",
    ]
    assert conditions(OfferQuery(account_id="me")) == ["account=me"]
    assert conditions(OfferQuery()) == []
