"""A queue whose workers wait for a job: the machine answers them later, when there is one.

A worker that gives up waiting would still be given a job. A real queue watches its workers (see locks.py),
and takes the jobs of those that are gone back.
"""

import asyncio
from typing import Any

import msgspec
from three_nodes import three_nodes

import barque


class Put(msgspec.Struct, array_like=True, tag="put"):
    """Add a job."""

    job: str


class Take(msgspec.Struct, array_like=True, tag="take"):
    """Get a job, as soon as there is one."""


class State(msgspec.Struct):
    """The jobs that nobody has, or the workers that have none."""

    jobs: list[str] = []
    workers: list[barque.ReplyTo] = []


class Queue(barque.Machine[State]):
    """A queue of jobs."""

    command_type = Put | Take

    def init(self, args: dict[str, Any]) -> State:
        """Nothing to do."""
        return State()

    def apply(self, meta: barque.CommandMeta, command: Any, state: State) -> Any:
        """Bring jobs and workers together."""
        match command:
            case Put(job) if state.workers:
                return state, "given", barque.Reply(state.workers.pop(0), job)
            case Put(job):
                state.jobs.append(job)
                return state, "kept"
            case Take() if state.jobs:
                return state, state.jobs.pop(0)
            case Take() if meta.reply_from is not None:
                state.workers.append(meta.reply_from)
                return state, barque.LATER
            case _:
                return state, None


async def main() -> None:
    """A worker waits, and gets the job that comes later."""
    async with three_nodes(queue=Queue()) as (client, _):
        queue = client.cluster("queue")
        print("put:", await queue.process_command(Put("sweep")))
        print("take:", await queue.process_command(Take()))
        waiting = asyncio.create_task(queue.process_command(Take()))
        await asyncio.sleep(0)  # commands of one client are applied in the order of the calls
        print("put:", await queue.process_command(Put("wash")))
        print("the worker that waited got:", await waiting)


if __name__ == "__main__":
    asyncio.run(main())
