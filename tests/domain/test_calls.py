"""How a request ended is one word of a closed set, whatever it was."""

import asyncio
import inspect

import pytest

from gpu_autoscaler.clearml.transport import RejectedWithCode
from gpu_autoscaler.domain import errors
from gpu_autoscaler.domain.calls import OUTCOMES, kind_of
from gpu_autoscaler.domain.effects import Failure
from gpu_autoscaler.domain.errors import ApiError, Forbidden, OutOfStock, QuotaExceeded

KINDS = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, ApiError) and each not in (ApiError, Forbidden)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_has_its_own_word(kind: type[ApiError]) -> None:
    others = {kind_of(other("")) for other in KINDS if other is not kind}
    assert kind_of(kind("")) in set(OUTCOMES) - others


def test_a_narrower_error_has_the_word_of_the_wider_one() -> None:
    assert kind_of(Forbidden("")) == Failure.UNAUTHORIZED


def test_the_words_are_those_of_the_failures() -> None:
    assert kind_of(OutOfStock("")) == Failure.OUT_OF_STOCK
    assert kind_of(QuotaExceeded("")) == Failure.QUOTA
    assert set(OUTCOMES) == {"ok", *Failure} - {Failure.GUARD}


def test_an_adapters_own_error_counts_as_what_it_is() -> None:
    assert kind_of(RejectedWithCode("", 703)) == "rejected"


def test_what_was_cut_off_had_no_answer_in_time() -> None:
    assert kind_of(asyncio.CancelledError()) == "transient"
