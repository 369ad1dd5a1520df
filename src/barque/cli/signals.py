"""Run the work of a verb until it is done, or until a signal tells the process to stop."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from barque.cli.failures import CliError

Result = TypeVar("Result")


def run_until_told(work: Coroutine[Any, Any, Result], kept: str = "") -> Result:
    """Run `work` to its end. SIGTERM, and SIGHUP of a terminal that goes away, cancel it as Ctrl-C does.

    It then undoes what it has done. Raises `CliError` with the code of the signal; `kept` says what is left.
    """
    told: list[signal.Signals] = []

    async def cancellable() -> Result:
        task = asyncio.current_task()
        assert task is not None

        def stop(number: signal.Signals) -> None:
            told.append(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        if not told:
            raise
        raise CliError(f"stopped by {told[0].name}{kept}", 128 + told[0]) from None
