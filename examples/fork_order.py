"""Two tasks, and what comes when: ``silly examples/fork_order.py``."""

from silly import task, time


async def work(number: int, seconds: float) -> None:
    """Take some time."""
    await time.sleep(seconds)
    print(f"Task {number} completed", flush=True)


print("Main task started", flush=True)
task.fork(work, 1, 1)
task.fork(work, 2, 0.5)
print("Main task continues", flush=True)
