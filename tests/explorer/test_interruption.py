from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from explorer.interruption import uninterrupted


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """Ctrl-C as a program has it that was not started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press(done: list[str], error: Exception | None = None) -> None:
    """Interrupt inside a block, and note how far the program comes."""
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("inside")
        if error:
            raise error
    done.append("after")


def test_an_interruption_inside_is_raised_at_the_end() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        press(done)
    assert done == ["inside"]


def test_afterwards_an_interruption_is_raised_at_once() -> None:
    with uninterrupted():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_outermost_of_nested_blocks_decides() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press(done)
    assert done == ["inside", "after"]


def test_an_error_of_the_block_passes_also_after_an_interruption() -> None:
    with pytest.raises(ValueError, match="no space left"):
        press([], ValueError("no space left"))


def test_the_second_interruption_is_raised_at_once() -> None:
    def press_twice() -> None:
        press(done)
        press(done)

    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press_twice()
    assert done == ["inside", "after"]


def test_errors_pass_where_nobody_interrupts() -> None:
    with pytest.raises(ValueError, match="no space left"), uninterrupted():
        raise ValueError("no space left")


def test_a_handler_of_the_users_own_stays() -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append("own"))
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
        assert seen == ["own"]


def test_other_threads_change_nothing() -> None:
    handlers = []

    def look() -> None:
        with uninterrupted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
