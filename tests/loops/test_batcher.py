"""The facts that TorchBeast's tests hold about BatchingQueue and DynamicBatcher, and a few more."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
import torch

from torchbeast.loops.batcher import AsyncError, ClosedBatchingQueue, DynamicBatcher


def in_threads(function, arguments):
    """Returns a started thread for each argument, and the dict of what they return or raise."""
    results = {}

    def call(x):
        try:
            results[x] = function(x)
        except Exception as error:
            results[x] = error

    threads = [threading.Thread(target=call, args=(x,), daemon=True) for x in arguments]
    for thread in threads:
        thread.start()
    return threads, results


def join(threads):
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def wait_for(batcher, size):
    end = time.monotonic() + 30
    while batcher.size() < size:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="Min batch size must be >= 1"):
        DynamicBatcher(minimum_batch_size=0)
    with pytest.raises(ValueError, match="Max batch size must be >= min batch size"):
        DynamicBatcher(minimum_batch_size=10, maximum_batch_size=5)


def test_inputs_that_cannot_be_batched_are_refused():
    batcher = DynamicBatcher(batch_dim=2)
    for bad, message in [
        (torch.ones(5), "must have more than batch_dim == 2 dimensions, but got 1"),
        ([torch.ones(1, 1, 1), torch.ones(1, 1)], "must have more than batch_dim == 2"),
        ([], "Cannot enqueue empty vector of tensors"),
        ([torch.ones(1, 1, 1), torch.ones(1, 1, 2)], "equal sizes along batch_dim == 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            batcher.compute(bad)
    batcher.submit(torch.ones(1, 1, 1))
    with pytest.raises(ValueError, match="expected a nest"):
        batcher.compute([torch.ones(1, 1, 1)])
    assert batcher.size() == 1


def test_closing_discards_what_waits_and_wakes_everybody():
    batcher = DynamicBatcher(minimum_batch_size=5, timeout_ms=None)
    consumers, ends = in_threads(lambda i: list(batcher), range(3))
    callers, answers = in_threads(lambda i: batcher.compute(torch.ones(1, 1)), range(2))
    wait_for(batcher, 2)
    assert not batcher.is_closed()
    batcher.close()
    join(consumers + callers)
    assert batcher.is_closed()
    assert batcher.size() == 0
    assert ends == {0: [], 1: [], 2: []}
    for error in answers.values():
        assert isinstance(error, ClosedBatchingQueue)
        assert str(error) == "Batching queue closed during compute"
    with pytest.raises(RuntimeError, match="Queue was closed already"):
        batcher.close()
    with pytest.raises(ClosedBatchingQueue, match="Enqueue to closed queue"):
        batcher.compute(torch.ones(1, 1))
    with pytest.raises(StopIteration):
        next(batcher)


def test_one_compute_there_and_back():
    batcher = DynamicBatcher(timeout_ms=5)
    callers, answers = in_threads(batcher.compute, [torch.full((1, 1, 3), 42.0)])
    batch = next(batcher)
    batch.set_outputs({"a": batch.get_inputs() + 1})
    join(callers)
    (answer,) = answers.values()
    assert torch.equal(answer["a"], torch.full((1, 1, 3), 43.0))


def test_a_request_alone_waits_for_the_timeout_and_no_longer():
    batcher = DynamicBatcher(batch_dim=0, minimum_batch_size=5, timeout_ms=300)
    began = time.monotonic()
    answer = batcher.submit(torch.ones(1))
    assert batcher._waiting.due() <= 0.3
    batch = next(batcher)
    assert time.monotonic() - began >= 0.3
    batch.set_outputs(batch.get_inputs())
    assert answer.result(0) == 1
    assert batcher._waiting.due() is None
    # The clock runs from the request, not from when somebody comes to take it.
    batcher.submit(torch.ones(1))
    time.sleep(0.3)
    assert batcher._waiting.due() == 0


def test_as_many_as_are_wanted_need_not_wait():
    batcher = DynamicBatcher(batch_dim=0, minimum_batch_size=2, timeout_ms=None)
    batcher.submit(torch.ones(1))
    assert batcher._waiting.due() is None
    batcher.submit(torch.ones(1))
    assert batcher._waiting.due() == 0
    assert next(batcher).get_inputs().tolist() == [1, 1]


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_ten_requests_are_one_batch_in_order(library):
    batcher = DynamicBatcher(batch_dim=0, minimum_batch_size=10, timeout_ms=None)

    def compute(i):
        wait_for(batcher, i)  # in order
        own = torch.full((1, 2), float(i))
        return batcher.compute({"x": own if library == "torch" else own.numpy()})

    callers, answers = in_threads(compute, range(10))
    batch = next(batcher)
    x = batch.get_inputs()["x"]
    assert x[:, 0].tolist() == list(range(10))
    batch.set_outputs((x * 2, x[:, :1]))
    join(callers)
    for i, (double, same) in answers.items():
        assert (double.tolist(), same.tolist()) == ([[2 * i, 2 * i]], [[i]])
        assert isinstance(double, torch.Tensor if library == "torch" else np.ndarray)


def test_requests_may_be_wide_and_the_largest_batch_counts_requests():
    batcher = DynamicBatcher(batch_dim=1, maximum_batch_size=2)
    answers = [batcher.submit(torch.full((1, width), float(width))) for width in (3, 1, 2)]
    batch = next(batcher)
    assert batch.get_inputs().tolist() == [[3, 3, 3, 1]]
    batch.set_outputs(batch.get_inputs())
    assert [a.done() for a in answers] == [True, True, False]
    assert (answers[0].result(0).shape, answers[1].result(0).shape) == ((1, 3), (1, 1))
    assert batcher.size() == 1


def test_a_dropped_batch_raises_in_every_caller():
    batcher = DynamicBatcher(minimum_batch_size=2, timeout_ms=None)
    callers, answers = in_threads(lambda i: batcher.compute(torch.ones(1, 1)), range(2))
    next(batcher)
    gc.collect()
    join(callers)
    for error in answers.values():
        assert isinstance(error, AsyncError)
        assert "broken promise" in str(error)


def test_outputs_that_do_not_fit_are_refused_and_can_be_set_again():
    batcher = DynamicBatcher(batch_dim=2, timeout_ms=5)
    answer = batcher.submit(torch.ones(1, 1, 2))
    batch = next(batcher)
    with pytest.raises(ValueError, match="output shape must have at least 3 dimensions"):
        batch.set_outputs(torch.ones(1, 2))
    with pytest.raises(ValueError, match="must have the same batch dimension as the input"):
        batch.set_outputs([torch.ones(1, 1, 2), torch.ones(1, 1, 3)])
    assert not answer.done()
    batch.set_outputs(torch.ones(1, 1, 2))
    assert answer.result(0).tolist() == [[[1, 1]]]
    with pytest.raises(RuntimeError, match="set_outputs called twice"):
        batch.set_outputs(torch.ones(1, 1, 2))


def test_outputs_that_cannot_be_cut_leave_nobody_waiting():
    batcher = DynamicBatcher(check_outputs=False)
    answer = batcher.submit(torch.ones(1, 1))
    batch = next(batcher)
    with pytest.raises(IndexError):
        batch.set_outputs(torch.ones(1))
    batch.set_outputs(torch.ones(1, 1))
    assert answer.result(0) == 1


@pytest.mark.parametrize("how", ["answered", "dropped", "closed"])
def test_a_caller_who_cancelled_is_in_nobodys_way(how):
    batcher = DynamicBatcher()
    cancelled, other = (batcher.submit(torch.ones(1, 1)) for _ in range(2))
    assert cancelled.cancel()
    if how == "closed":
        batcher.close()
        assert isinstance(other.exception(0), ClosedBatchingQueue)
        return
    batch = next(batcher)
    if how == "answered":
        batch.set_outputs(batch.get_inputs())
        assert other.result(0) == 1
    else:
        del batch
        gc.collect()
        assert isinstance(other.exception(0), AsyncError)


def test_many_threads_are_all_answered_once():
    batcher = DynamicBatcher(batch_dim=0)

    def consume(i):
        served = 0
        for batch in batcher:
            x = batch.get_inputs()
            served += len(x)
            batch.set_outputs(-x)
        return served

    def produce(i):
        for j in range(100):
            number = 100 * i + j
            assert batcher.compute(torch.tensor([number])).tolist() == [-number]
        return 100

    consumers, served = in_threads(consume, range(16))
    producers, made = in_threads(produce, range(64))
    join(producers)
    batcher.close()
    join(consumers)
    assert made == dict.fromkeys(range(64), 100)
    assert sum(served.values()) == 6400
